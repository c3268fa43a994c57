"""Templates that reach for what is not theirs, go on for ever, or grow without bound."""

import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tradewind.base.errors import CheckpointError, RequestError
from tradewind.text.chat_template import ChatTemplate
from tradewind.text.sandbox import Limits, weigh

MESSAGES = [{"role": "user", "content": "Hi"}]
GROW = "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x | length }}"

BOMBS = {
    "range": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "output": "{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}",
    "data": "{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    "captured data": "{% set y %}{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endset %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "fibonacci": "{% macro f(n) %}{% if n > 0 %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for i in range(99) recursive %}{{ loop(range(99)) if loop.depth < 6 }}{% endfor %}",
    "repeat": "{{ 'a' * 10**10 }}",
    "repeat left": "{{ 10**10 * 'a' }}",
    "repeat list": "{{ [0] * 10**9 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "squares": GROW.replace("'ab'", "3").replace("STEP", "ns.x * ns.x"),
    "doubled +": GROW.replace("STEP", "ns.x + ns.x"),
    "doubled ~": GROW.replace("STEP", "ns.x ~ ns.x"),
    "doubled %": GROW.replace("STEP", "'%s%s' % (ns.x, ns.x)"),
    "doubled format": GROW.replace("STEP", "'{0}{0}'.format(ns.x)"),
    "doubled filter format": GROW.replace("STEP", "'%s%s' | format(ns.x, ns.x)"),
    "doubled join": GROW.replace("STEP", "[ns.x, ns.x] | join"),
    "doubled joiner": GROW.replace("STEP", "ns.x.join([ns.x, ns.x])"),
    "doubled replace": GROW.replace("STEP", "ns.x.replace('a', 'aa')"),
    "doubled filter replace": GROW.replace("STEP", "ns.x | replace('a', 'aa')"),
    "doubled set": GROW.replace("%}{% set ns.x = STEP", "%}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y"),
    "doubled list": GROW.replace("'ab'", "[1]").replace("STEP", "ns.x + ns.x"),
    "shared list": GROW.replace("STEP", "[ns.x, ns.x]").replace("length", "tojson"),
    "shared dict": GROW.replace("STEP", "dict(a=ns.x, b=ns.x)").replace("length", "string"),
    "shared display": GROW.replace("STEP", "{'a': ns.x, 'b': ns.x}"),
    "shared namespace": GROW.replace("STEP", "namespace(a=ns.x, b=ns.x)").replace("| length", ""),
    "kept lists": GROW.replace("'ab'", "[]").replace("STEP", "ns.x + [('a' * 10**6) | list]"),
    "huge join": "{{ ('a' * 10**6).join(range(9999) | map('string')) }}",
    "huge replace": "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
    "huge filter replace": "{{ ('a' * 10**6) | replace('a', 'b' * 10**6) }}",
    "pad": "{{ 'a'.ljust(10**10) }}",
    "pad by keyword": "{{ 'a\t'.expandtabs(tabsize=10**9) }}",
    "zfill": "{{ 'a'.zfill(10**9) }}",
    "indent": "{{ 'a\nb' | indent(10**9) }}",
    "indent lines": "{{ ('a\n' * 10**6) | indent(10**5) }}",
    "wide format": "{{ '{:1000000000}'.format(1) }}",
    "wide nested format": "{{ '{:{}}'.format(1, 10**9) }}",
    "wide keyword format": "{{ '{a:{b}}'.format(a=1, b=10**9) }}",
    "wide %": "{{ '%1000000000d' % 1 }}",
    "wide % star": "{{ '%*d' % (10**9, 1) }}",
    "wide filter": "{{ '%1000000000d' | format(1) }}",
    "wide time": "{{ strftime_now('%1000000000d') }}",
    "translate": "{{ ('a' * 10**6).translate({97: 'b' * 10**6}) }}",
    "to_bytes": "{{ (1).to_bytes(10**10, 'big') }}",
    "round": "{{ 5 | round(-10**9) }}",
    "json margin": "{{ range(99999) | list | tojson(indent=10**6) }}",
    "json margin text": "{{ range(99999) | list | tojson(indent='x' * 10**6) }}",
    "filters in filters": "{{ range(99999) | select('in', range(99999) | map('string') | list) | list | length }}",
    "sum of lists": "{{ range(99999) | map('list') | sum(start=[]) }}",
    "refund": "{% for i in range(99999) %}{{ [-10**9] | map(' tick') | list }}{{ 'x' * 9999 }}{% endfor %}",
    "deep display": GROW.replace("99", "9999").replace("STEP", "[ns.x]"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _address_space() -> Iterator[None]:
    """A template that gets through would take the machine's memory; here it takes 3 GB more at most."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + 3 * 10**9, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name: str) -> None:
    template = ChatTemplate(BOMBS[name], {}, limits=Limits(cpu_s=(0.3, 0.0)))
    start_s = time.thread_time()
    with pytest.raises(RequestError) as caught:
        template.render(MESSAGES)
    assert caught.value.field == "messages"
    assert "memory" not in caught.value.message  # refused before, not by the allocator
    assert time.thread_time() - start_s < 2


LOOP = "{% for i in range(50) %}{{ i ~ '....' }}{% endfor %}"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(steps=(49, 0)), "runs for too long"),
        (Limits(cpu_s=(0, 0)), "runs for too long"),
        (Limits(built=(100, 0)), "builds too much"),
        (Limits(output=(99, 0)), "longer than 99"),
    ],
)
def test_each_limit(limits: Limits, reason: str) -> None:
    assert len(ChatTemplate(LOOP, {}).render(MESSAGES)) == 290
    with pytest.raises(RequestError, match=reason):
        ChatTemplate(LOOP, {}, limits=limits).render(MESSAGES)


def test_a_template_cannot_refill_its_budget() -> None:
    template = ChatTemplate("{{ [-10**9] | map(' tick') | list }}{{ 'x' * 2000 }}", {}, limits=Limits(built=(1000, 0)))
    with pytest.raises(RequestError, match="builds too much"):
        template.render(MESSAGES)


def test_filters_over_filters_are_steps() -> None:
    source = "{{ range(50) | select('odd') | list | length }}{{ range(50) | map('abs') | list | length }}"
    assert ChatTemplate(source, {}, limits=Limits(steps=(110, 0))).render(MESSAGES) == "2550"
    with pytest.raises(RequestError, match="runs for too long"):
        ChatTemplate(source, {}, limits=Limits(steps=(90, 0))).render(MESSAGES)


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'].mro() }}",
    "{{ '' | attr('__class__') }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self._TemplateReference__context }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__closure__ }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
    "{{ [''] | map(attribute='__class__') | list }}",
    "{{ ''.format.__self__.__class__.__base__.__subclasses__() }}",
    "{{ (range(3) | map('string')).gi_frame.f_globals }}",
    "{{ messages.append({}) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ messages[0].pop('role') }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
    "{% extends '/etc/passwd' %}",
    "{{ [1] | map(' display', 1) | list }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_is_in_reach(source: str) -> None:
    template = ChatTemplate(source, {})
    try:
        text = template.render(MESSAGES)
    except RequestError:
        return
    assert text in ("", "[]", "[Undefined]")


@pytest.mark.parametrize(
    "name", ["open", "os", "sys", "environment", "lipsum", "__builtins__", "eval", "budget", "tick"]
)
def test_names_that_do_not_exist(name: str) -> None:
    assert ChatTemplate("{{ " + name + " is defined }}", {}).render(MESSAGES) == "False"


def test_a_source_that_is_too_long() -> None:
    with pytest.raises(CheckpointError, match="longer than"):
        ChatTemplate("x" * 2**21, {})


def test_long_conversations_are_not_bombs() -> None:
    source = (
        "{% set ns = namespace(all='') %}{% for m in messages %}{% for n in [1, 2] %}{% set ns.all = ns.all + m.role %}"
        "{% endfor %}{{ '<' + m.role + '>' + (m.content | trim) + '\n' }}{% endfor %}{{ ns.all | length }}"
    )
    messages = [{"role": "user", "content": "word " * 100}] * 10_000
    assert ChatTemplate(source, {}).render(messages).endswith("80000")


def test_one_large_message_is_not_a_bomb() -> None:
    messages = [{"role": "user", "content": "x" * 8_000_000}]
    source = "{{ messages[0].content | trim | replace('y', '') }}{{ messages[0].content }}"
    assert len(ChatTemplate(source, {}).render(messages)) == 16_000_000


def test_values_nested_too_deeply() -> None:
    nested: list[object] = []
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(RequestError, match="nested too deeply"):
        ChatTemplate("x", {}).render(MESSAGES, variables={"x": nested})


def test_weight() -> None:
    shared = ["ab"]
    assert weigh("ab") == 3
    assert weigh([shared, shared]) == 1 + 4 + 4
    assert weigh({"a": [1]}) == 1 + 2 + 9


def test_renders_share_nothing() -> None:
    template = ChatTemplate("{% for i in range(n) %}{{ i }}{% endfor %}", {})
    lengths: dict[int, int] = {}

    def run(n: int) -> None:
        lengths[n] = len(template.render(MESSAGES, variables={"n": n}))

    threads = [threading.Thread(target=run, args=(n,)) for n in (10, 100, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == {10: 10, 100: 190, 1000: 2890}
