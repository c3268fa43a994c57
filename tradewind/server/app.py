"""The application: routes, errors and the edge, put together."""

import time
from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from tradewind import __version__
from tradewind.base.errors import NotFound, RequestError, TradewindError
from tradewind.config import ServerConfig
from tradewind.server import engine_state, system
from tradewind.server.allowance import RATE_HEADERS
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
from tradewind.server.spans import Spans
from tradewind.server.trace import trace_of

if TYPE_CHECKING:
    from tradewind.engine.client import AsyncEngine

Route = Callable[[Service, Request], Awaitable[Response]]

GETS: dict[str, Route] = {
    "/": system.root,
    "/health": system.health,
    "/ping": system.ping,
    "/ready": system.ready,
    "/load": system.load,
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
ACTIONS: dict[str, Route] = {"/v1/responses/{response_id}/cancel": responses.cancel_response}
"""POST requests without a body."""
DELETES: dict[str, Route] = {"/v1/responses/{response_id}": responses.delete_response}
POSTS: dict[str, tuple[Route, type[BaseModel]]] = {
    "/v1/chat/completions": (chat.chat_completions, ChatRequest),
    "/v1/completions": (completions.completions, CompletionRequest),
    "/v1/responses": (responses.create_response, ResponsesRequest),
    "/v1/responses/input_tokens": (responses.count_input_tokens, ResponsesRequest),
    "/v1/messages": (messages.messages, MessagesRequest),
    "/v1/messages/count_tokens": (messages.count_tokens, CountRequest),
    "/tokenize": (tokens.tokenize, TokenizeRequest),
    "/detokenize": (tokens.detokenize, DetokenizeRequest),
}


def create_app(
    engine: "AsyncEngine", config: ServerConfig, limits: Limits | None = None, spans: Spans | None = None
) -> ASGIApp:
    """An ASGI application over `engine`, which may still be starting: until it is ready, its routes answer 503.

    `config.served_model_name` should name the model; without a name it is called `default`. Raises ConfigError for a
    file of keys that cannot be used. Closing `spans` is the caller's.
    """
    metrics = Metrics()
    engine.subscribe(metrics)
    names = config.served_model_name or ("default",)
    limits = limits or Limits()
    stored = ResponseStore(limits.stored_responses, limits.stored_bytes, limits.background_responses)
    service = Service(engine, config, names, metrics, limits, int(time.time()), stored)
    app = FastAPI(title="Tradewind", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    for path, route in GETS.items():
        app.add_api_route(path, _endpoint(service, route), methods=["GET"], response_model=None)
    for path, route in DELETES.items():
        app.add_api_route(path, _endpoint(service, route), methods=["DELETE"], response_model=None)
    for path, route in ACTIONS.items():
        app.add_api_route(path, _endpoint(service, route), methods=["POST"], response_model=None)
    for path, (route, _) in POSTS.items():
        app.add_api_route(path, _endpoint(service, route), methods=["POST"], response_model=None)
    app.add_exception_handler(TradewindError, _on_typed)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)
    app.openapi = cache(partial(_document, names))  # type: ignore[method-assign]
    gate = Gate(open_keys(config), service.allowances, frozenset(POSTS))
    if spans is not None:
        spans.engine = engine
    edge: ASGIApp = Edge(app, gate, metrics, frozenset((*GETS, *POSTS)), spans)
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
        expose_headers=["X-Request-Id", "Retry-After", "X-Tradewind-Ignored", *RATE_HEADERS],
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


def _document(names: tuple[str, ...]) -> dict[str, Any]:
    from tradewind.server import document  # here: most servers are never asked for it

    routes = [document.Route("get", path, route.__name__, route.__doc__ or "") for path, route in GETS.items()]
    for path, route in DELETES.items():
        routes.append(document.Route("delete", path, route.__name__, route.__doc__ or ""))
    for path, route in ACTIONS.items():
        routes.append(document.Route("post", path, route.__name__, route.__doc__ or ""))
    for path, (route, model) in POSTS.items():
        routes.append(document.Route("post", path, route.__name__, route.__doc__ or "", model))
    return document.build(routes, names, __version__)
