"""langchain-openai: a chat, a stream, structured output and a tool."""

import pytest
from pydantic import BaseModel, Field

langchain_openai = pytest.importorskip("langchain_openai")
QUESTION = "What is 17 + 25?"


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=12)
    people: int = Field(ge=0, le=99)


def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


@pytest.fixture
def model(url: str):
    return langchain_openai.ChatOpenAI(model="demo", base_url=url, api_key="none", temperature=0, max_tokens=200)


def test_a_chat_whole_streamed_and_in_a_batch(model) -> None:
    answer = model.invoke(QUESTION)
    assert "42" in answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] == "stop"
    pieces = [chunk.content for chunk in model.stream(QUESTION)]
    assert len(pieces) > 2
    assert "".join(pieces) == answer.content
    assert [one.content for one in model.batch([QUESTION, QUESTION])] == [answer.content] * 2


async def test_async(model) -> None:
    assert "42" in (await model.ainvoke(QUESTION)).content


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model, method: str) -> None:
    city = model.with_structured_output(City, method=method).invoke("Tell me of a city.")
    assert isinstance(city, City)


def test_a_tool_that_must_be_called(model) -> None:
    answer = model.bind_tools([weather], tool_choice="any").invoke("How is the weather in Paris?")
    (call,) = answer.tool_calls
    assert call["name"] == "weather"
    assert isinstance(call["args"]["city"], str)


def test_text(url: str) -> None:
    model = langchain_openai.OpenAI(model="demo", base_url=url, api_key="none", temperature=0, max_tokens=12)
    assert model.invoke("Once upon a time")
    assert "".join(model.stream("Once upon a time")) == model.invoke("Once upon a time")
