"""Log lines: written in their order, at the end too, and nobody waits for a reader that there is not."""

import json
import subprocess
import sys

LOG = """
import logging, sys
from tradewind.base.log import configure, fields
configure("info", as_json=True)
log = logging.getLogger("tradewind.test")
for number in range({lines}):
    log.info("line", extra=fields(number=number))
print("done", flush=True)
sys.stdin.readline()
log.info("last")
"""


def start(lines: int) -> subprocess.Popen[str]:
    code = LOG.format(lines=lines)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_all_lines_are_written() -> None:
    process = start(5000)
    _, lines = process.communicate("\n", timeout=60)
    events = [json.loads(line) for line in lines.splitlines()]
    assert [event.get("number") for event in events] == [*range(5000), None]
    assert events[-1]["message"] == "last"


def test_nobody_waits_for_a_reader() -> None:
    """More than a pipe and the lines that may wait can hold: the process goes on, and says what is missing."""
    lines = 50_000
    process = start(lines)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"  # with nothing read of its log
    _, rest = process.communicate("\n", timeout=60)
    events = [json.loads(line) for line in rest.splitlines()]
    numbers = [event["number"] for event in events if "number" in event]
    assert numbers == list(range(len(numbers)))
    told = [event["lines"] for event in events if "dropped" in event["message"]]
    assert told
    assert len(events) - len(told) + sum(told) == lines + 1
