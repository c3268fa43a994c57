"""Budgets of reasoning, by the clients' own libraries, from the built-in model with a reasoning format put on it."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import anthropic
import jsonschema
import openai
import pytest
from live import Program

from tradewind.engine.model_files import locate

BEGIN, END = 2046, 2047
TALK: list[Any] = [{"role": "user", "content": "Tell me a short story about a fox."}]
COMMON: dict[str, Any] = {"model": "demo", "messages": TALK, "temperature": 1.2, "seed": 3, "max_tokens": 60}
SCHEMA = {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1, "maxItems": 3}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the built-in model, whose last two tokens are marks and whose prompts end with the first of them."""
    directory = tmp_path_factory.mktemp("reasons") / "demo"
    shutil.copytree(locate("demo"), directory)
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    model = tokenizer["model"]
    model["vocab"] = {piece: token for piece, token in model["vocab"].items() if token < BEGIN}
    model["merges"] = model["merges"][:-2]
    for token, text in ((BEGIN, "<think>"), (END, "</think>")):
        shape = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        tokenizer["added_tokens"].append({"id": token, "content": text, **shape})
    path.write_text(json.dumps(tokenizer))
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] += "{% if enable_thinking is false %}<think></think>{% else %}<think>{% endif %}"
    path.write_text(json.dumps(config))
    served = Program(str(directory), "--served-model-name", "demo", "--device", "cpu", "--threads", "1")
    yield served.url
    served.close()


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def budget(tokens: int | None, **more: Any) -> dict[str, Any]:
    return {"thinking_token_budget": tokens, "return_token_ids": True, **more}


def ids_of(client: openai.OpenAI, tokens: int | None, **fields: Any) -> list[list[int]]:
    done = client.chat.completions.create(**{**COMMON, **fields}, extra_body=budget(tokens))
    return [choice.token_ids for choice in done.choices]  # type: ignore[attr-defined]


def test_it_ends_after_so_many_tokens(client: openai.OpenAI) -> None:
    ((free,), (roomy,)) = ids_of(client, None), ids_of(client, 1000)
    assert END not in free
    assert roomy == free
    for tokens in (0, 1, 2, 17):
        (said,) = ids_of(client, tokens)
        assert said[: tokens + 1] == [*free[:tokens], END]
        assert END not in said[tokens + 1 :]
        done = client.chat.completions.create(**COMMON, extra_body=budget(tokens))
        message = done.choices[0].message
        assert bool(getattr(message, "reasoning_content", None)) == (tokens > 0)
        assert message.content
        assert "</think>" not in message.content


def test_each_of_several_answers_has_its_own(client: openai.OpenAI) -> None:
    answers = ids_of(client, 5, n=4)
    assert [said.index(END) for said in answers] == [5] * 4
    done = client.chat.completions.create(**COMMON, n=4, extra_body=budget(5))
    assert done.usage is not None
    assert done.usage.completion_tokens_details is not None
    assert done.usage.completion_tokens_details.reasoning_tokens == 20
    assert len({tuple(said) for said in answers}) == 4
    assert answers[0] == ids_of(client, 5)[0]


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**COMMON, extra_body=budget(9)).choices[0]
    parts = {"reasoning_content": "", "content": ""}
    tokens: list[int] = []
    options: Any = {"include_usage": True}
    usage = None
    for chunk in client.chat.completions.create(**COMMON, stream=True, stream_options=options, extra_body=budget(9)):
        usage = chunk.usage or usage
        if not chunk.choices:
            continue
        for name in parts:
            parts[name] += getattr(chunk.choices[0].delta, name, None) or ""
        tokens += getattr(chunk.choices[0], "token_ids", None) or []
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 9
    assert tokens == whole.token_ids  # type: ignore[attr-defined]
    assert parts["content"] == whole.message.content
    assert parts["reasoning_content"] == whole.message.reasoning_content  # type: ignore[attr-defined]


@pytest.mark.parametrize("tokens", [0, 1, 12])
def test_a_schema_begins_after_it(client: openai.OpenAI, tokens: int) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "colours", "schema": SCHEMA}}
    done = client.chat.completions.create(**COMMON, response_format=wanted, n=2, extra_body=budget(tokens))
    for choice in done.choices:
        assert choice.token_ids.index(END) == tokens  # type: ignore[attr-defined]
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)


def test_it_changes_nothing_where_the_prompt_ends_the_reasoning(client: openai.OpenAI) -> None:
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    said = [
        client.chat.completions.create(**COMMON, extra_body={**budget(tokens), **off}).choices[0].message.content
        for tokens in (3, None)
    ]
    assert said[0] == said[1]


def test_responses_count_the_tokens_of_reasoning(client: openai.OpenAI) -> None:
    done = client.responses.create(
        model="demo",
        input="Tell me a story.",
        max_output_tokens=40,
        temperature=0,
        extra_body={"thinking_token_budget": 9},
    )
    assert done.usage is not None
    assert done.usage.output_tokens_details.reasoning_tokens == 9


def test_anthropics_budget(url: str) -> None:
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    few, more = (
        client.messages.create(
            model="demo",
            max_tokens=40,
            messages=TALK,
            thinking={"type": "enabled", "budget_tokens": tokens},
            extra_body={"temperature": 0},
        )
        for tokens in (6, 30)
    )
    assert [block.type for block in few.content] == ["thinking", "text"]
    assert few.usage.output_tokens == 40 or few.stop_reason == "end_turn"
    thoughts = [answer.content[0].thinking for answer in (few, more)]  # type: ignore[union-attr]
    assert thoughts[1].startswith(thoughts[0])
