"""The page, in a real browser: it loads in silence, chats, shows the engine, and fits every screen."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, Page
from live import Program

from tradewind.server.key_file import add_key
from tradewind.server.keys import Rates

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

ESCAPE, ENTER, RIGHT = ("Escape", 27), ("Enter", 13), ("ArrowRight", 39)
KEY = "sesame"
# A phone's innerWidth grows with what does not fit: the width that it was given counts.
WIDTH = "Math.max(document.documentElement.scrollWidth, innerWidth, ...[...document.querySelectorAll('main, main > *')]"
WIDTH += ".map(part => part.getBoundingClientRect().right))"
ANSWERED = "document.querySelector('.message.assistant .foot button') !== null"


@pytest.fixture(scope="module")
def served(stories: Path, chat_template: Path) -> Iterator[Program]:
    """A server on the fake device, with a key."""
    options = ("--device", "fake", "--served-model-name", "tiny", "--max-model-len", "8192", "--api-key", KEY)
    program = Program(str(stories), "--chat-template", str(chat_template), *options)
    yield program
    program.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


def opened(browser: Browser, served: Program, **how: object) -> Page:
    """The page, with the key in its field."""
    page = browser.open(served.url + "/", **how)  # type: ignore[arg-type]
    page.until("!document.querySelector('#locked').hidden")
    page.type("#key", KEY)
    page.until("document.querySelector('#model').value == 'tiny'")
    assert page.run("sessionStorage.getItem('tradewind.key')") == KEY
    return page


def ask(page: Page, text: str) -> None:
    page.type("#question", text)
    page.press(*ENTER)


def text_of(page: Page, selector: str) -> str:
    return str(page.run(f"document.querySelector({json.dumps(selector)}).innerText"))


def set_value(page: Page, selector: str, value: str) -> None:
    script = f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
    page.run(f"{script}(document.querySelector({json.dumps(selector)}))")


def test_it_chats_shows_probabilities_and_what_it_cost(browser: Browser, program: Program) -> None:
    page = browser.open(program.url + "/")
    page.until("document.querySelector('#model').value == 'tiny'")
    page.click("#probabilities")
    set_value(page, "#max_tokens", "12")
    ask(page, "Hello")
    page.until(ANSWERED)
    assert text_of(page, ".message.user .body") == "Hello"
    assert "+ 12 tokens" in text_of(page, ".foot")
    assert page.run("document.querySelectorAll('.message.assistant .token').length") >= 8
    page.run("document.querySelector('.message.assistant .body').focus()")
    page.press(*RIGHT)
    assert page.run("!document.querySelector('#tip').hidden && document.querySelectorAll('#tip tr').length") >= 5
    assert "%" in text_of(page, "#tip .chosen")
    page.click(".foot button")
    page.until("document.querySelector('.timeline .t-decode') !== null")
    assert "queue" in text_of(page, ".timeline")
    page.run("location.reload()")
    page.until("document.querySelector('.message.user .body')?.innerText == 'Hello'")  # it is still there
    assert page.complaints() == []
    assert all(url.startswith(program.url) for url in page.requests())


def test_an_answer_streams_and_can_be_stopped_and_the_live_view_shows_it(browser: Browser, served: Program) -> None:
    page = opened(browser, served)
    set_value(page, "#seed", "4")  # with which the answer has no end of its own in the first thousands of tokens
    ask(page, "A very long story")
    page.until("document.querySelector('.message.assistant .body').innerText.length > 20")
    page.until("document.querySelector('#rows tr[data-id] td:nth-child(2)')?.innerText == 'decode'")
    assert page.run("Number(document.querySelector('#f-running').innerText)") == 1
    assert "by single requests" in page.run("document.querySelector('#map').getAttribute('aria-label')")
    before = page.run("document.querySelector('.message.assistant .body').innerText.length")
    page.until(f"document.querySelector('.message.assistant .body').innerText.length > {before}")
    page.press(*ESCAPE)
    page.until("!document.querySelector('#send').hidden")
    assert "stopped" in text_of(page, ".foot")
    page.until("document.querySelector('#rows .none') !== null")
    page.until("document.querySelector('#chart-throughput .a').getAttribute('d').length > 20")


def test_a_fast_answer_is_laid_out_once_a_frame(browser: Browser, served: Program) -> None:
    page = opened(browser, served)
    page.run(
        """{
        window.asked = window.frames = 0;
        const { get } = Object.getOwnPropertyDescriptor(Element.prototype, "scrollHeight");
        Object.defineProperty(Element.prototype, "scrollHeight", { get() { window.asked++; return get.call(this); } });
        const count = () => { window.frames++; requestAnimationFrame(count); };
        count();
        }"""
    )
    set_value(page, "#seed", "4")
    set_value(page, "#max_tokens", "300")
    ask(page, "A long story")
    page.until(ANSWERED)
    assert page.run("document.querySelector('.message.assistant .body').childNodes.length") == 1
    assert 0 < page.run("window.asked") <= page.run("window.frames")


def test_what_is_asked_for_reaches_the_server_and_its_errors_the_reader(browser: Browser, served: Program) -> None:
    page = opened(browser, served)
    page.send("Fetch.enable", patterns=[{"urlPattern": "*/v1/chat/completions"}])
    set_value(page, "#system", "Be brief")
    set_value(page, "#seed", "7")
    set_value(page, "#format", "json_schema")
    page.click("#tools-example")
    ask(page, "Hello")
    body = None
    while body is None:
        page.run("0")
        for event in browser.events:
            if event["method"] == "Fetch.requestPaused":
                body = json.loads(event["params"]["request"]["postData"])
                page.send("Fetch.continueRequest", requestId=event["params"]["requestId"])
                browser.events.remove(event)
                break
    page.send("Fetch.disable")
    assert body["messages"] == [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]
    assert (body["seed"], body["tool_choice"], body["stream"]) == (7, "auto", True)
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["name", "age"]
    assert body["tools"][0]["function"]["name"] == "get_weather"
    page.run("document.querySelector('#clear').click()")
    set_value(page, "#schema", "{no json")
    assert "not JSON" in text_of(page, "#schema-fault")
    set_value(page, "#format", "text")
    set_value(page, "#tools", "")
    set_value(page, "#max_tokens", "9000")
    ask(page, "Hello")
    page.until("document.querySelector('.message .error') !== null")
    assert "8192" in text_of(page, ".message .error").replace(",", "")


TOOL_CALL = (Path(__file__).parent / "tool_call.js").read_text()


def test_tool_calls_are_shown_and_answered(browser: Browser, served: Program) -> None:
    page = opened(browser, served)
    page.run(TOOL_CALL)
    ask(page, "Weather?")
    page.until("document.querySelector('.call .reply') !== null")
    assert "get_weather" in text_of(page, ".call")
    assert '"city": "Paris"' in text_of(page, ".call pre")
    assert "Hm." in page.run("document.querySelector('.reasoning').textContent")
    assert "ignored: tools" in text_of(page, ".note")
    page.type(".call .reply input", "rain")
    page.press(*ENTER)
    page.until("[...document.querySelectorAll('.message.assistant .body')].at(-1).innerText == 'It rains.'")
    messages = page.run("window.asked[1].messages")
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert (messages[2]["tool_call_id"], messages[2]["content"]) == ("c1", "rain")


def test_it_fits_a_phone(browser: Browser, served: Program) -> None:
    page = browser.open(served.url + "/", width=360, height=740)
    for view, part in (("chat", "#composer"), ("settings", "#system"), ("engine", "#map")):
        page.click(f"[data-show={view}]")
        assert page.run(f"document.querySelector('{part}').offsetWidth > 200"), view
        assert page.run(WIDTH) <= 360, view
        small = "[...document.querySelectorAll('button')].filter(b => b.offsetWidth && b.offsetHeight < 32).length"
        assert page.run(small) == 0


def test_a_map_that_is_not_seen_says_nothing_of_what_it_leaves_out(browser: Browser, program: Program) -> None:
    page = browser.open(program.url + "/", width=360, height=740)
    page.until("document.querySelector('#blocks-total').textContent != ''")
    assert page.run("document.querySelector('#map-detail').textContent") == ""
    page.click("[data-show=engine]")
    page.until("document.querySelector('#map-detail').textContent.includes('all free')")


CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_systems_colours_with_enough_contrast(browser: Browser, served: Program, scheme: str) -> None:
    page = browser.open(served.url + "/", scheme=scheme, width=1100)
    assert page.run(WIDTH) <= 1100
    shade = "getComputedStyle(document.documentElement).getPropertyValue('background-color')"
    lightness = float(page.run(shade).removeprefix("oklch(").split()[0])
    assert (lightness > 0.9) == (scheme == "light")
    assert page.run(CONTRAST) == []
    page.click("#theme")
    page.click("#theme")
    assert page.run("document.documentElement.dataset.theme") == "dark"
    assert float(page.run(shade).removeprefix("oklch(").split()[0]) < 0.3


UNNAMED = """[...document.querySelectorAll('button, input, select, textarea')].filter(node => {
    const label = node.labels?.[0]?.textContent.trim() || node.getAttribute('aria-label') || node.textContent.trim();
    return !label;
}).map(node => node.outerHTML)"""


def test_everything_has_a_name_and_nothing_moves(browser: Browser, served: Program) -> None:
    page = browser.open(served.url + "/", width=1440)
    page.run("new PerformanceObserver(list => window.shifts = list.getEntries().map(e => e.value))"
             ".observe({type: 'layout-shift', buffered: true})")  # fmt: skip
    page.type("#key", KEY)
    page.until("document.querySelector('#model').value == 'tiny'")
    page.until("document.querySelector('#f-running').innerText == '0'")
    assert page.run(UNNAMED) == []
    assert sum(page.run("window.shifts ?? []")) < 0.02


def test_the_state_has_a_small_size_and_programs_get_json(served: Program) -> None:
    with urllib.request.urlopen(served.url + "/") as answer:
        assert json.load(answer)["name"] == "tradewind"
    request = urllib.request.Request(served.url + "/engine/state", headers={"authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as answer:
        assert len(answer.read()) < 8192


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, str]]:
    """The built-in model on the CPU, behind a file of keys, and one of them."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    key = add_key(keys, "alice", Rates(concurrency=2))
    options = ("--device", "cpu", "--threads", "1", "--memory-bytes", "16MiB", "--api-key-file", str(keys))
    program = Program("demo", *options)
    yield program, key
    program.close()


def entered(browser: Browser, demo: tuple[Program, str], **how: object) -> Page:
    """The page, with a key that was asked for and typed."""
    program, key = demo
    page = browser.open(program.url + "/", **how)  # type: ignore[arg-type]
    page.until("!document.querySelector('#locked').hidden")
    page.click("#enter-key")
    assert page.run("document.activeElement.id") == "key"
    page.send("Input.insertText", text=key)
    page.until("document.querySelector('#model').value == 'demo' && document.querySelector('#locked').hidden")
    return page


@pytest.mark.parametrize("width", [1440, 390])
def test_a_key_is_asked_for_where_it_is_wanted(browser: Browser, demo: tuple[Program, str], width: int) -> None:
    page = browser.open(demo[0].url + "/", width=width, height=840)
    page.until("!document.querySelector('#locked').hidden")
    assert "wants an API key" in text_of(page, "#locked")
    ask(page, "Hello")
    page.until("document.querySelector('.message .error') !== null")
    assert "API key" in text_of(page, ".message .error")
    page.click("#enter-key")
    page.send("Input.insertText", text="tw-0-wrong")
    page.until("document.querySelector('#locked-text').textContent.includes('does not know')")
    page.run("document.querySelector('#key').select()")
    page.send("Input.insertText", text=demo[1])
    page.until("document.querySelector('#locked').hidden")
    page.press(*ENTER)
    assert page.run("document.activeElement.id") == "question"
    assert page.run(WIDTH) <= width
    page.click("#retry")
    page.until(ANSWERED)
    assert page.run("document.querySelector('.message.assistant .error')") is None


def test_an_answer_in_json_keeps_to_the_schema_and_is_laid_out(browser: Browser, demo: tuple[Program, str]) -> None:
    page = entered(browser, demo)
    set_value(page, "#format", "json_schema")
    assert page.run("document.querySelector('#schema').offsetHeight") > 100
    set_value(page, "#schema", json.dumps({"type": "object", "properties": {"age": {"type": "integer", "maximum": 99}},
                                           "required": ["age"], "additionalProperties": False}))  # fmt: skip
    ask(page, "How old is the fox?")
    page.until(ANSWERED)
    said = text_of(page, ".message.assistant .body pre")
    assert list(json.loads(said)) == ["age"]
    assert "\n" in said
    set_value(page, "#schema", '{"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}}')
    ask(page, "And now?")
    page.until("document.querySelector('.message .error') !== null")
    assert "/properties/a/uniqueItems" in text_of(page, ".message .error")
    assert page.complaints() == [each for each in page.complaints() if "400" in each or "401" in each]


def test_a_tool_is_called_answered_and_the_conversation_goes_on(browser: Browser, demo: tuple[Program, str]) -> None:
    page = entered(browser, demo)
    page.click("#tools-example")
    set_value(page, "#tool_choice", "required")
    ask(page, "What is the weather in Paris?")
    page.until("document.querySelector('.call .reply input') !== null")
    assert text_of(page, ".call header") == "get_weather()"
    assert "city" in json.loads(text_of(page, ".call pre"))
    assert "calls a tool" in text_of(page, ".foot")
    assert page.run("document.querySelector('.message.assistant .body').offsetHeight") == 0
    set_value(page, "#tool_choice", "auto")
    set_value(page, "#max_tokens", "8")
    page.type(".call .reply input", "rain")
    page.press(*ENTER)
    page.until("document.querySelectorAll('.message.assistant .foot button').length == 2")
    assert page.run("document.querySelectorAll('.message .error').length") == 0
