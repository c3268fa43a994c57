"""The application: routes, errors and the edge, put together."""

import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from tradewind import __version__
from tradewind.base.errors import NotFound, RequestError, TradewindError
from tradewind.config import ServerConfig
from tradewind.server import engine_state, system
from tradewind.server.anthropic import messages
from tradewind.server.anthropic.requests import CountRequest, MessagesRequest
from tradewind.server.edge import Edge, Gate
from tradewind.server.errors import Disconnected, MethodNotAllowed, error_body, error_headers, internal_error
from tradewind.server.key_file import open_keys
from tradewind.server.metrics import Metrics
from tradewind.server.openai import chat, completions, models, tokens
from tradewind.server.openai.requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from tradewind.server.responses import routes as responses
from tradewind.server.responses.requests import ResponsesRequest
from tradewind.server.responses.store import ResponseStore
from tradewind.server.service import Limits, Service
from tradewind.server.trace import trace_of

if TYPE_CHECKING:
    from tradewind.engine.client import AsyncEngine

Route = Callable[[Service, Request], Awaitable[Response]]

GETS: dict[str, Route] = {
    "/": system.root,
    "/health": system.health,
    "/ready": system.ready,
    "/version": system.version,
    "/metrics": system.metrics,
    "/playground/{digest}/{name}": system.playground_file,
    "/engine/state": engine_state.show_state,
    "/engine/requests/{request_id:path}": engine_state.show_timeline,
    "/v1/models": models.list_models,
    "/v1/models/{model:path}": models.show_model,
    "/v1/responses/{response_id}": responses.show_response,
    "/v1/responses/{response_id}/input_items": responses.list_input_items,
}
DELETES: dict[str, Route] = {"/v1/responses/{response_id}": responses.delete_response}
POSTS: dict[str, tuple[Route, type[BaseModel]]] = {
    "/v1/chat/completions": (chat.chat_completions, ChatRequest),
    "/v1/completions": (completions.completions, CompletionRequest),
    "/v1/responses": (responses.create_response, ResponsesRequest),
    "/v1/messages": (messages.messages, MessagesRequest),
    "/v1/messages/count_tokens": (messages.count_tokens, CountRequest),
    "/tokenize": (tokens.tokenize, TokenizeRequest),
    "/detokenize": (tokens.detokenize, DetokenizeRequest),
}
_REFERENCE = "#/components/schemas/{model}"
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def create_app(engine: "AsyncEngine", config: ServerConfig, limits: Limits | None = None) -> ASGIApp:
    """An ASGI application over `engine`, which may still be starting: until it is ready, its routes answer 503.

    `config.served_model_name` should name the model; without a name it is called `default`. Raises ConfigError for a
    file of keys that cannot be used.
    """
    metrics = Metrics()
    engine.subscribe(metrics)
    names = config.served_model_name or ("default",)
    limits = limits or Limits()
    stored = ResponseStore(limits.stored_responses, limits.stored_bytes)
    service = Service(engine, config, names, metrics, limits, int(time.time()), stored)
    app = FastAPI(title="Tradewind", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    for path, route in GETS.items():
        app.add_api_route(path, _endpoint(service, route), methods=["GET"], **_get_document(path, route))
    for path, route in DELETES.items():
        app.add_api_route(path, _endpoint(service, route), methods=["DELETE"], **_get_document(path, route))
    for path, (route, model) in POSTS.items():
        app.add_api_route(path, _endpoint(service, route), methods=["POST"], **_post_document(route, model))
    app.add_exception_handler(TradewindError, _on_typed)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    gate = Gate(open_keys(config), service.allowances, frozenset(POSTS))
    edge: ASGIApp = Edge(app, gate, metrics, frozenset((*GETS, *POSTS)))
    return _with_cors(edge, config.allowed_origins) if config.allowed_origins else edge


def _endpoint(service: Service, route: Route) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await route(service, request)

    return endpoint


def _with_cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=["X-Request-Id", "Retry-After", "X-Tradewind-Ignored"],
        max_age=600,
    )


# --- errors ----------------------------------------------------------------------------------------------------------


async def _on_typed(request: Request, error: Exception) -> Response:
    assert isinstance(error, TradewindError)
    trace_of(request).error = error.code or error.kind
    if isinstance(error, Disconnected):
        return Response(status_code=error.status)  # nobody reads it
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return _error_answer(request, error, error.status, headers)


def _error_answer(
    request: Request, error: TradewindError, status: int, headers: dict[str, str] | None = None
) -> Response:
    body = error_body(error, request.url.path)
    return Response(body, status, headers, media_type="application/json")


async def _on_http(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in the shape of all others."""
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.url.path[:200]}"
    typed: TradewindError
    if error.status_code == 404:
        typed = NotFound(f"no such route: {asked}; see GET / for those there are")
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        typed = MethodNotAllowed(f"no such method: {asked}; allowed: {allowed}")
    else:
        typed = RequestError(str(error.detail))
    trace_of(request).error = typed.code
    return _error_answer(request, typed, error.status_code, dict(error.headers or {}))


async def _on_fault(request: Request, _error: Exception) -> Response:
    """A fault of ours. The edge logs it."""
    return _error_answer(request, internal_error(), 500)


# --- the OpenAPI document --------------------------------------------------------------------------------------------


def _get_document(path: str, route: Route) -> dict[str, Any]:
    names = re.findall(r"{(\w+)", path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    return {**_common_document(route), "openapi_extra": {"parameters": parameters} if parameters else {}}


def _post_document(route: Route, model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(model=model.__name__)}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {**_common_document(route), "openapi_extra": {"requestBody": body}}


def _common_document(route: Route) -> dict[str, Any]:
    error = {
        "description": "an error",
        "content": {"application/json": {"schema": {"$ref": _REFERENCE[:-7] + "Error"}}},
    }
    function = getattr(route, "__name__", "route")
    return {
        "name": function,
        "operation_id": function,
        "description": (route.__doc__ or "").strip(),
        "response_model": None,
        "responses": {"4XX": error, "5XX": error},
    }


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        bodies = [(model, "validation") for _, model in POSTS.values()]
        _, definitions = models_json_schema(bodies, ref_template=_REFERENCE)  # type: ignore[arg-type]
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(definitions.get("$defs", {}))
        schemas["Error"] = _ERROR_SCHEMA
        app.openapi_schema = document
    return app.openapi_schema
