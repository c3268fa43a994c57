"""Rendering: what templates can use, and which shapes of messages they get."""

from datetime import datetime
from typing import Any

import pytest

from tradewind.base.errors import CheckpointError, RequestError
from tradewind.text.chat_template import ChatTemplate

USER = [{"role": "user", "content": "Hi <b> & é"}]
CHAT = """
{%- for message in messages %}
    {{- '<' + message.role + '>' + message['content'] | trim + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<assistant>' }}
{%- endif %}
"""


def render(source: str, messages: Any = USER, **options: Any) -> str:
    return ChatTemplate(source, {"eos_token": "$"}, now=lambda: datetime(2026, 7, 5)).render(messages, **options)


def test_plain() -> None:
    assert render(CHAT) == "<user>Hi <b> & é$<assistant>"
    assert render(CHAT, add_generation_prompt=False) == "<user>Hi <b> & é$"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Hi <b> & é"}'),
        ("{{ {'a': [1]} | tojson(indent=2) }}", '{\n  "a": [\n    1\n  ]\n}'),
        ("{{ {'b': 'é', 'a': 1} | tojson(ensure_ascii=true, sort_keys=true) }}", '{"a": 1, "b": "\\u00e9"}'),
        ("{{ {'a': 1, 'b': 2} | tojson(separators=(',', ':')) }}", '{"a":1,"b":2}'),
        ("{{ strftime_now('%d %b %Y') }}", "05 Jul 2026"),
        ("{% generation %}{{ 'words' }}{% endgeneration %}", "words"),
        ("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "02345678"),
        ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1"),
        ("{% macro twice(x) %}{{ x ~ x }}{% endmacro %}{{ twice('ab') }}", "abab"),
        ("{% macro all(x) %}{{ x[0] }}{% if x[1:] %}{{ all(x[1:]) }}{% endif %}{% endmacro %}{{ all('abc') }}", "abc"),
        ("{% for x in [1, [2, [3]]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}", "123"),
        ("{{ messages[-1]['content'].split(' ')[0].lower().startswith('h') }}", "True"),
        ("{{ ['b', 'a'] | sort | join('-') }} {{ [{'n': 'x'}] | map(attribute='n') | join }}", "a-b x"),
        ("{{ [1, 2, 3] | select('odd') | list | length }} {{ [1, 2] | sum }}", "2 3"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ '%s=%d' % ('a', 3) }} {{ '{}-{:>3}'.format('a', 'b') }} {{ '%05.1f' | format(2.25) }}", "a=3 a-  b 002.2"),
        ("{{ 'a b' | replace(' ', '_') | upper }} {{ 'x\\ny' | indent(2) }}", "A_B x\n  y"),
        ("{{ {'a': 1}.items() | list }} {% for k, v in {'a': 1} | dictsort %}{{ k ~ v }}{% endfor %}", "[('a', 1)] a1"),
        ("{{ 2 ** 10 }} {{ 7 * 'ab' | length }} {{ '-' * 3 }} {{ 7 % 4 }} {{ 1.25 | round(1) }}", "1024 14 --- 3 1.2"),
        ("{{ tools is none }} {{ nothing is defined }} {{ nothing }}", "True False "),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x }}{% filter upper %}b{% endfilter %}", "a1B"),
        ("{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}x{% endcall %}", "[x]"),
        ("   {% if true %}\nline\n   {% endif %}\nend\n", "line\nend"),
        ("{{ '<' | safe + '>' }}{{ 'a' | e }}", "<&gt;a"),
    ],
)  # fmt: skip
def test_what_templates_can_use(source: str, expected: str) -> None:
    assert render(source) == expected


def test_variables() -> None:
    source = "{{ thinking }} {{ messages | length }} {{ documents | length }}"
    variables = {"thinking": True, "messages": [], "documents": [1, 2], " budget": None}
    assert render(source, variables=variables) == "True 1 2"


def test_tools_and_their_own_template() -> None:
    template = ChatTemplate("plain{{ tools }}", {}, tools_source="tools{{ tools | length }}")
    assert template.render(USER) == "plainNone"
    assert template.render(USER, tools=[]) == "plainNone"
    assert template.render(USER, tools=[{"type": "function"}]) == "tools1"


def test_a_template_that_raises() -> None:
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.field == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content + none }}",
        "{{ messages[7]['content'] }}",
        "{{ 1 / 0 }}",
        "{{ nothing.attribute }}",
        "{{ nothing() }}",
        "{{ nothing | tojson }}",
        "{{ raise_exception(nothing) }}",
        "{% include 'file' %}",
        "{{ [] | first | upper | list + 1 }}",
        "{{ 10 ** 30 * 1.5 ** 5000 }}",
        "{{ [[1], 2] | sum(start=[]) }}",
    ],
)
def test_a_template_that_fails(source: str) -> None:
    with pytest.raises(RequestError, match=r"the chat template refused the messages: .") as caught:
        render(source)
    assert caught.value.field == "messages"


@pytest.mark.parametrize("source", ["{% if %}", "{{ x | nofilter }}", "{% nothing %}", "{{", "{{ " + "(" * 9999])
def test_a_template_that_is_not_jinja(source: str) -> None:
    with pytest.raises(CheckpointError, match="not valid") as caught:
        ChatTemplate(source, {})
    assert caught.value.field == "chat_template"


PARTS = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]


def test_parts_are_joined_for_templates_that_want_text() -> None:
    assert render(CHAT, PARTS) == "<user>ab$<assistant>"


@pytest.mark.parametrize(
    "loop",
    [
        "{% for part in messages[0]['content'] %}",
        "{% for part in messages[0].content | list %}",
        "{% set c = messages[0].content %}{% for part in c %}",
    ],
)
def test_parts_are_kept_for_templates_that_want_parts(loop: str) -> None:
    source = loop + "[{{ part.text }}]{% endfor %}"
    assert render(source, PARTS) == "[a][b]"
    assert render(source, [{"role": "user", "content": "text"}]) == "[text]"
    either = "{% if messages[0].content is string %}{{ messages[0].content }}{% else %}" + source + "{% endif %}"
    assert render(either, PARTS) == "[a][b]"
    assert render(either, [{"role": "user", "content": "text"}]) == "text"


def test_the_messages_are_not_changed() -> None:
    call = {"function": {"name": "f", "arguments": '{"x": 1}'}}
    message = {"role": "assistant", "content": ["a", {"text": "b"}], "tool_calls": [call]}
    before = repr(message)
    render(CHAT, [message], continue_final_message=True)
    assert repr(message) == before


def test_arguments_of_tool_calls_are_objects() -> None:
    source = "{{ messages[0].tool_calls[0].function.arguments | tojson }}{{ messages[0].content is none }}"
    for arguments, expected in (
        ('{"x": [1]}', '{"x": [1]}'),
        ({"x": 1}, '{"x": 1}'),
        ("", "{}"),
        ("[1]", '"[1]"'),
        ("{x", '"{x"'),
    ):
        message = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
        assert render(source, [message]) == expected + "True"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "must not be empty"),
        (["hi"], r"messages\[0\] must be an object"),
        ([{"content": "x"}], r"messages\[0\]\.role"),
        ([{"role": "user", "content": 5}], r"messages\[0\]\.content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"messages\[0\]\.content\[0\].*image_url"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"\.text must be text"),
        ([{"role": "user", "content": [7]}], r"content\[0\]"),
    ],
)
def test_malformed_messages(messages: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        render(CHAT, messages)
    assert caught.value.message.startswith(str(caught.value.field))


@pytest.mark.parametrize(
    ("content", "expected"),
    [("Once upon", "Once upon"), ("two Once two", "two Once two"), ("ends in a space ", "ends in a space "), ("", "")],
)
def test_continue_final_message(content: Any, expected: str) -> None:
    messages = [*USER, {"role": "assistant", "content": content}]
    trimming = render(CHAT, messages, continue_final_message=True)
    assert trimming == ("<user>Hi <b> & é$<assistant>" + expected).rstrip()
    keeping = render(CHAT.replace("| trim", ""), messages, continue_final_message=True, add_generation_prompt=False)
    assert keeping == "<user>Hi <b> & é$<assistant>" + expected


def test_continue_parts() -> None:
    messages = [{"role": "assistant", "content": ["a", {"type": "text", "text": "b "}]}]
    source = "{% for part in messages[0].content %}[{{ part.text }}]{% endfor %}"
    assert render(source, messages, continue_final_message=True) == "[a][b "


def test_what_cannot_be_continued() -> None:
    with pytest.raises(RequestError, match="needs a last message with text"):
        render(CHAT, [{"role": "assistant", "content": None}], continue_final_message=True)
    with pytest.raises(RequestError, match="drops the last message"):
        render("{{ messages[0].role }}", continue_final_message=True)
