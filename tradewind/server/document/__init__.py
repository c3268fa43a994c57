"""The OpenAPI document: every route, what it takes, and what it answers with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tradewind.server.document import answers

Schema = dict[str, Any]

_REFERENCE = "#/components/schemas/{name}"
_PLACE = re.compile(r"{(\w+)(?::path)?}")
_HEADERS = {
    "X-Request-Id": (
        {"type": "string", "pattern": "^[!-~]{1,128}$"},
        "the id of this request, in the answer and the log",
    ),
    "X-Request-Timeout-S": ({"type": "number", "exclusiveMinimum": 0, "maximum": 86400}, "a deadline, in seconds"),
}


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `path` may have places of Starlette's kinds: `{name}` and `{name:path}`. `takes`: its body."""

    method: str
    path: str
    name: str
    description: str
    takes: type[BaseModel] | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What a route answers with.

    `body`: its JSON. `event`: the data of an event, where it streams; `last_data`: that of the last one, where that is
    no JSON. `texts`: media types of bodies that are no JSON. `unavailable`: the body of a 503 that is no error.
    `queries`: what may stand behind its path.
    """

    body: type | None = None
    event: type | None = None
    last_data: str | None = None
    texts: tuple[str, ...] = ()
    unavailable: type | None = None
    error: type = answers.Error
    queries: Mapping[str, Schema] = field(default_factory=dict)


SAID: dict[str, Said] = {
    "root": Said(answers.Index, texts=("text/html",)),
    "health": Said(answers.Health, unavailable=answers.Health),
    "ready": Said(answers.Readiness, unavailable=answers.Readiness),
    "ping": Said(answers.Health, unavailable=answers.Health),
    "load": Said(answers.Load),
    "version": Said(answers.Version),
    "metrics": Said(texts=("text/plain",)),
    "playground_file": Said(texts=("text/css", "text/javascript", "image/svg+xml")),
    "show_state": Said(answers.EngineState),
    "show_timeline": Said(answers.Timeline),
    "list_models": Said(answers.ModelList),
    "show_model": Said(answers.Model),
    "chat_completions": Said(answers.ChatCompletion, event=answers.ChatCompletionChunk, last_data="[DONE]"),
    "completions": Said(answers.Completion, event=answers.CompletionChunk, last_data="[DONE]"),
    "create_response": Said(answers.ResponseObject, event=answers.ResponseEvent),
    "show_response": Said(
        answers.ResponseObject,
        event=answers.ResponseEvent,
        queries={"stream": {"enum": ["false", "true"]}, "starting_after": {"type": "integer", "minimum": 0}},
    ),
    "count_input_tokens": Said(answers.InputTokens),
    "cancel_response": Said(answers.ResponseObject),
    "delete_response": Said(answers.DeletedResponse),
    "list_input_items": Said(
        answers.InputItems,
        queries={
            "limit": {"type": "integer", "minimum": 1, "maximum": 100},
            "order": {"enum": ["asc", "desc"]},
            "after": {"type": "string"},
        },
    ),
    "messages": Said(answers.MessageAnswer, event=answers.MessageEvent, error=answers.MessageError),
    "count_tokens": Said(answers.MessageTokens, error=answers.MessageError),
    "tokenize": Said(answers.Tokens),
    "detokenize": Said(answers.Text),
}
"""By the name of the route."""


def build(routes: list[Route], models: tuple[str, ...], version: str) -> Schema:
    """The whole document, in OpenAPI 3.1. `models`: what requests may call the model."""
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(_PLACE.sub(r"{\1}", route.path), {})[route.method] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tradewind", "version": version},
        "paths": paths,
        "components": {
            "schemas": _schemas([route.takes for route in routes if route.takes is not None], models),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(route: Route) -> Schema:
    said = SAID[route.name]
    places = [(name, {"type": "string"}) for name in _PLACE.findall(route.path)]
    parameters: list[Schema] = [
        *({"name": name, "in": "path", "required": True, "schema": schema} for name, schema in places),
        *({"name": name, "in": "query", "schema": schema} for name, schema in said.queries.items()),
    ]
    operation: Schema = {
        "operationId": route.name,
        "description": route.description,
        "parameters": parameters,
        "responses": _responses(said),
    }
    if route.takes is not None:
        body = {"schema": {"$ref": _REFERENCE.format(name=route.takes.__name__)}}
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
        parameters += [
            {"name": name, "in": "header", "schema": schema, "description": about}
            for name, (schema, about) in _HEADERS.items()
        ]
    return operation


def _responses(said: Said) -> Schema:
    content: Schema = {media_type: {"schema": {"type": "string"}} for media_type in said.texts}
    if said.body is not None:
        content["application/json"] = {"schema": _reference(said.body)}
    if said.event is not None:
        content["text/event-stream"] = {"schema": _event(said)}
    error = {"description": "an error", "content": {"application/json": {"schema": _reference(said.error)}}}
    responses = {"200": {"description": "the answer", "content": content}, "4XX": error, "5XX": error}
    if said.unavailable is not None:
        not_now = {"application/json": {"schema": _reference(said.unavailable)}}
        responses["503"] = {"description": "not now", "content": not_now}
    return responses


def _event(said: Said) -> Schema:
    """One server-sent event. A stream that began well may still end with an error."""
    assert said.event is not None
    either = {"anyOf": [_reference(said.event), _reference(said.error)]}
    data: Schema = {"type": "string", "contentMediaType": "application/json", "contentSchema": either}
    if said.last_data is not None:
        data = {"anyOf": [{"const": said.last_data}, data]}
    return {"type": "object", "required": ["data"], "properties": {"event": {"type": "string"}, "data": data}}


def _reference(body: type) -> Schema:
    return {"$ref": _REFERENCE.format(name=body.__name__)}


def _schemas(taken: list[type[BaseModel]], models: tuple[str, ...]) -> Schema:
    """Of all bodies, both ways."""
    known: list[tuple[type[BaseModel], str]] = [(model, "validation") for model in taken]
    _, definitions = models_json_schema(known, ref_template=_REFERENCE.replace("{name}", "{model}"))  # type: ignore[arg-type]
    requests: Schema = definitions.get("$defs", {})
    for model in taken:
        requests[model.__name__]["properties"]["model"] = {"enum": [*models, None], "description": "null: the first"}
    bodies = {kind for said in SAID.values() for kind in (said.body, said.event, said.unavailable, said.error) if kind}
    _, given = msgspec.json.schema_components(sorted(bodies, key=lambda kind: kind.__name__), ref_template=_REFERENCE)
    both = requests.keys() & given.keys()
    assert not both, f"two bodies of one name: {both}"
    return {**requests, **given}
