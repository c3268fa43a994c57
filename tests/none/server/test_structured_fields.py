"""`response_format` and `structured_outputs`, as the engine gets them."""

from typing import Any

import pytest
from http_fakes import Caller

from tradewind.protocol.sampling import StructuredOutputs

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("fields", "asked", "field"),
    [
        ({"response_format": {"type": "text"}}, None, "response_format"),
        ({"response_format": {"type": "json_object"}}, StructuredOutputs(json_object=True), "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
                }
            },
            StructuredOutputs(json=SCHEMA),
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"json": SCHEMA}}, StructuredOutputs(json=SCHEMA), "structured_outputs"),
        ({"structured_outputs": {"regex": "a+"}}, StructuredOutputs(regex="a+"), "structured_outputs"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, StructuredOutputs(choice=["a", "b"]), "structured_outputs"),
        (
            {"structured_outputs": {"json_object": True, "disable_any_whitespace": True}},
            StructuredOutputs(json_object=True, disable_any_whitespace=True),
            "structured_outputs",
        ),
    ],
)
async def test_both_fields(path: str, fields: dict[str, Any], asked: StructuredOutputs | None, field: str) -> None:
    caller = Caller()
    text: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"prompt": "x"}
    answer = await caller.post(path, {**text, **fields})
    assert answer.status == 200, answer.body
    assert caller.engine.submitted[0]["params"].structured_outputs == asked
    assert caller.engine.compiled == [(asked, field)]
