"""Routes about the server itself: health, readiness, version, metrics, and what there is at `/`."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tradewind import __version__
from tradewind.server.metrics import EngineCollector
from tradewind.server.playground import wants_page
from tradewind.server.service import Service
from tradewind.server.sse import JsonAnswer


async def health(service: Service, _request: Request) -> Response:
    """200 while the engine lives (also while it drains), else 503; the body says which state and why."""
    state = service.engine.state
    body: dict[str, Any] = {"status": state}
    if service.engine.failure:
        body["message"] = service.engine.failure
    return JsonAnswer(body, 200 if state in ("ready", "draining") else 503)


async def ping(service: Service, request: Request) -> Response:
    """The same as `/health`, by the name that some platforms ask for."""
    return await health(service, request)


async def load(service: Service, _request: Request) -> Response:
    """How many sequences are open, running or waiting."""
    return JsonAnswer({"server_load": service.engine.open_sequences})


async def ready(service: Service, _request: Request) -> Response:
    """200 while new requests are taken, else 503."""
    state = service.engine.state
    return JsonAnswer({"ready": state == "ready", "status": state}, 200 if state == "ready" else 503)


async def version(_service: Service, _request: Request) -> Response:
    """The version of this software."""
    return JsonAnswer({"version": __version__})


async def metrics(service: Service, _request: Request) -> Response:
    """The Prometheus page."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(EngineCollector(service.metrics, service.engine, service.names[0], service.allowances))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def root(service: Service, request: Request) -> Response:
    """What there is; for a browser, the playground."""
    if wants_page(request):
        return service.playground.page(request)
    return JsonAnswer(
        {
            "name": "tradewind",
            "version": __version__,
            "status": service.engine.state,
            "models": service.names,
            "routes": [
                *("/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/responses"),
                *("/v1/messages", "/v1/messages/count_tokens", "/tokenize", "/detokenize"),
                *("/engine/state", "/engine/requests/{request_id}"),
                *("/health", "/ping", "/ready", "/load", "/version", "/metrics", "/openapi.json"),
            ],
        },
        headers={"vary": "accept"},
    )


async def playground_file(service: Service, request: Request) -> Response:
    """A file of the playground. The page at `/` knows the paths."""
    return service.playground.asset(request.path_params["digest"], request.path_params["name"])
