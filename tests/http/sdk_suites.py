"""The tests that the SDKs ship in their source archives: which of them are run, and what must come of it."""

import ast
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(sys.prefix) / "sdists"
DOWNLOAD_S = 120
RUN_S = 120


@dataclass(frozen=True, slots=True)
class Suite:
    """`package`'s tests in `files`.

    `unserved`: tests that are not run, by their file and a part of their names, for they are of routes that are not
    served here. `refused`: tests that send what this server refuses, by file and name, and the parameter that the
    refusal must name. `models`: the names that the tests ask for. `context`: tokens of a prompt and its answer, which
    in most tests has no other limit. `path`: after the server's address.
    """

    package: str
    files: tuple[str, ...]
    models: tuple[str, ...]
    context: int
    unserved: tuple[tuple[str, str], ...] = ()
    refused: tuple[tuple[str, str, str], ...] = ()
    path: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many tests passed, were refused as they must be, or were skipped by the suite; and what went wrong."""

    counts: Counter[str]
    wrong: list[str]


def download(package: str) -> Path | str:
    """The unpacked source archive of the version of `package` that is installed; or why there is none."""
    name = f"{package}-{version(package)}"
    archive = FOLDER / f"{name}.tar.gz"
    if not archive.exists():
        wanted = f"{package}=={version(package)}"
        options = ["--quiet", "--no-deps", "--no-binary", package, "--dest", str(FOLDER)]
        command = [sys.executable, "-m", "pip", "download", *options, wanted]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False)
        except subprocess.TimeoutExpired:
            return f"the source archive of {wanted} did not come within {DOWNLOAD_S} s"
        if done.returncode:
            return f"no source archive of {wanted}: {done.stderr[-400:]}"
    if not (FOLDER / name).is_dir():
        with tarfile.open(archive) as tar:
            tar.extractall(FOLDER, filter="data")
    return FOLDER / name


def run(suite: Suite, folder: Path, url: str, report: Path) -> Outcome:
    """Run `suite`, as it lies in `folder`, against the server at `url`."""
    left_out = [option for test in _unserved(suite, folder) for option in ("--deselect", test)]
    options = ["-q", "--tb=line", "-p", "no:cacheprovider", "-o", "addopts=", *suite.options]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *suite.files, *left_out],
        cwd=folder,
        env={**os.environ, "TEST_API_BASE_URL": url + suite.path},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    return _judge(suite, report)


def _unserved(suite: Suite, folder: Path) -> Iterator[str]:
    for file, part in suite.unserved:
        for group in ast.parse((folder / file).read_text()).body:
            if isinstance(group, ast.ClassDef):
                names = (test.name for test in group.body if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef))
                yield from (f"{file}::{group.name}::{name}" for name in names if part in name)


def _judge(suite: Suite, report: Path) -> Outcome:
    outcome = Outcome(Counter(), [])
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        faults = [*case.iter("failure"), *case.iter("error")]
        said = " ".join(str(fault.get("message")) for fault in faults)
        wanted = next((field for file, test, field in suite.refused if _is(name, file, test)), None)
        if wanted is not None and "BadRequestError" in said and wanted in said:
            outcome.counts["refused"] += 1
        elif wanted is None and not faults:
            outcome.counts["passed" if case.find("skipped") is None else "skipped"] += 1
        else:
            outcome.wrong.append(f"{name}: {said or f'should have been refused for its {wanted}'}"[:400])
    return outcome


def _is(name: str, file: str, test: str) -> bool:
    return name.startswith(file.removesuffix(".py").replace("/", ".") + ".") and f"::{test}[" in name
