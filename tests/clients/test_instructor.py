"""instructor: objects of a model, in each of its modes."""

import pytest
from pydantic import BaseModel, Field

instructor = pytest.importorskip("instructor")
openai = pytest.importorskip("openai")


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=12)
    people: int = Field(ge=0, le=99)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA", "TOOLS_STRICT"])
def test_an_object(url: str, mode: str) -> None:
    plain = openai.OpenAI(base_url=url, api_key="none")
    client = instructor.from_openai(plain, mode=getattr(instructor.Mode, mode))
    asked = [{"role": "user", "content": "Tell me of a city."}]
    city = client.chat.completions.create(
        model="demo", response_model=City, messages=asked, max_tokens=200, temperature=0
    )
    assert isinstance(city, City)


def test_partial_objects_of_a_stream(url: str) -> None:
    plain = openai.OpenAI(base_url=url, api_key="none")
    client = instructor.from_openai(plain, mode=instructor.Mode.JSON_SCHEMA)
    asked = [{"role": "user", "content": "Tell me of a city."}]
    cities = list(
        client.chat.completions.create_partial(
            model="demo", response_model=City, messages=asked, max_tokens=200, temperature=0
        )
    )
    assert len(cities) > 1
    City.model_validate(cities[-1].model_dump())
