"""Errors as clients see them: OpenAI's shape, whoever raised them."""

import math
from typing import Any

import msgspec

from tradewind.base.errors import Overloaded, RequestError, TradewindError
from tradewind.server.anthropic import errors as anthropic

MESSAGES = "/v1/messages"

Headers = list[tuple[bytes, bytes]]


class MethodNotAllowed(RequestError):
    """The route exists, but not with this method."""

    status = 405
    code = "method_not_allowed"


class UnsupportedMediaType(RequestError):
    """The body is not JSON."""

    status = 415
    code = "unsupported_media_type"


class BodyTimeout(RequestError):
    """The client stopped sending in the middle of its request."""

    status = 408
    code = "body_timeout"


class ModelUnknown(RequestError):
    """No model of this name is served here."""

    status = 404
    code = "model_not_found"


class Disconnected(TradewindError):
    """The client went away before its answer; nobody is there to read this."""

    status = 499
    code = "client_disconnected"


def error_object(error: TradewindError) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.field, "code": error.code}}


def error_body(error: TradewindError, path: str = "") -> bytes:
    """The same, encoded; on Anthropic's routes in Anthropic's shape."""
    is_message = path == MESSAGES or path.startswith(MESSAGES + "/")
    return msgspec.json.encode(anthropic.error_object(error) if is_message else error_object(error))


def error_headers(error: TradewindError) -> Headers:
    """`Retry-After` where waiting helps, `WWW-Authenticate` where a key is missing."""
    if isinstance(error, Overloaded):
        return [(b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s)))]
    return [(b"www-authenticate", b"Bearer")] if error.status == 401 else []


def internal_error() -> TradewindError:
    """What a client hears of a fault in the server itself; the log has the rest."""
    return TradewindError("internal error; the server's log tells more under this request's id")
