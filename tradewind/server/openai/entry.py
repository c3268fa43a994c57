"""How every route begins: the engine is there, the body is right, the model is served."""

from typing import TypeVar

from starlette.requests import Request

from tradewind.server.body import read_json
from tradewind.server.openai.requests import ModelRequest
from tradewind.server.service import Service
from tradewind.server.trace import Trace, trace_of

Asked = TypeVar("Asked", bound=ModelRequest)


async def enter(service: Service, request: Request, kind: type[Asked]) -> tuple[Asked, Trace, str]:
    """The body, the request's trace, and the name of the model to answer with.

    Raises Draining, EngineUnavailable, RequestError or one of its kinds.
    """
    service.check_ready()
    asked = await read_json(request, kind, service.config.max_body_bytes)
    trace = trace_of(request)
    trace.rename(asked.request_id)
    trace.ignored = asked.ignored
    model = trace.model = service.check_model(asked.model)
    return asked, trace, model
