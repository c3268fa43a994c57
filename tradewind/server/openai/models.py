"""`GET /v1/models` and `/v1/models/{id}`."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tradewind.server.service import Service
from tradewind.server.sse import JsonAnswer


async def list_models(service: Service, _request: Request) -> Response:
    """Every name that the model answers to."""
    service.check_ready()
    return JsonAnswer({"object": "list", "data": [_model(service, name) for name in service.names]})


async def show_model(service: Service, request: Request) -> Response:
    """One of them."""
    service.check_ready()
    return JsonAnswer(_model(service, service.check_model(request.path_params["model"])))


def _model(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.created_s,
        "owned_by": "tradewind",
        "root": service.names[0],
        "parent": None,
        "max_model_len": service.engine.ready.max_model_len,
    }
