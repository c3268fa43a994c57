"""Request bodies: read within a limit, decoded strictly, checked against a model, every fault named by its path."""

import asyncio
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from tradewind.base.errors import BodyTooLarge, RequestError
from tradewind.base.units import format_bytes
from tradewind.server.errors import BodyTimeout, Disconnected, UnsupportedMediaType

Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")

MAX_FIELDS = 1024
LARGE_BYTES = 64 * 1024
"""What takes longer to look at than a thread takes to start."""
LARGE_LIST = 256
"""The same, of messages or items."""
PAUSE_TIMEOUT_S = 30.0  # a client that sends nothing for so long in the middle of its body is given up


_OURS = dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "an object")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as it is known to be over `max_bytes`, keeping no more than that."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    pieces: list[bytes] = []
    size = 0
    more = True
    while more:
        try:
            async with asyncio.timeout(PAUSE_TIMEOUT_S):
                message = await request.receive()
        except TimeoutError:
            raise BodyTimeout(f"nothing came for {PAUSE_TIMEOUT_S:.0f} s in the middle of the body") from None
        if message["type"] == "http.disconnect":
            raise Disconnected("the client went away in the middle of its request")
        piece = message.get("body", b"")
        size += len(piece)
        if size > max_bytes:
            raise _too_large(max_bytes)
        pieces.append(piece)
        more = message.get("more_body", False)
    return b"".join(pieces)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than this server takes ({format_bytes(max_bytes)}; --max-body-bytes)")


async def read_json(request: Request, model: type[Body], max_bytes: int) -> Body:
    """The body as `model`. Raises RequestError (or one of its kinds) with the path of the offending field."""
    _check_content_type(request.headers.get("content-type"))
    body = await read_body(request, max_bytes)
    return await aside(len(body) >= LARGE_BYTES, lambda: validate(model, decode_json(body)))


async def aside(is_large: bool, work: Callable[[], Result]) -> Result:
    """What `work` gives. If it is large, a thread does it, and streams go on meanwhile."""
    return await asyncio.to_thread(work) if is_large else work()


def _check_content_type(content_type: str | None) -> None:
    """None is accepted: many small programs send JSON without saying so."""
    kind = (content_type or "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaType(f"the body must be JSON (content-type application/json), not {kind[:64]!r}")


def decode_json(body: bytes) -> Any:
    """RFC 8259 to the letter: no NaN or Infinity, no stray bytes, UTF-8 only."""
    if not body:
        raise RequestError("the body is empty; it must be a JSON object")
    try:
        return msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8: {error.reason}") from None
    except RecursionError:
        raise RequestError("the body's JSON is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise RequestError(f"the body holds a number out of range: {error}") from None
    except msgspec.DecodeError as error:
        hint = "; JSON has no NaN or Infinity" if re.search(rb"[:\[,]\s*-?(NaN|Infinity)", body) else ""
        raise RequestError(f"the body is not JSON: {error}{hint}") from None


def validate(model: type[Body], value: Any) -> Body:
    """`value` as `model`, or RequestError for the fault that lies deepest in it."""
    if not isinstance(value, dict):
        raise RequestError(f"the body must be a JSON object, not {_shown(value)}")
    if len(value) > MAX_FIELDS:
        raise RequestError(f"the body has {len(value)} fields; at most {MAX_FIELDS} are allowed")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False)
        faults = [(_steps(detail, value), detail) for detail in details]
        deepest = max(len(steps) for steps, _ in faults)
        steps = next(steps for steps, _ in faults if len(steps) == deepest)
        same = [detail for others, detail in faults if others == steps]
        raise RequestError(_sentence(steps, same), field=path_text(steps)) from None


def _steps(detail: ErrorDetails, value: Any) -> list[str | int]:
    """The part of pydantic's location that is in the request; the rest names arms of unions."""
    steps: list[str | int] = []
    missing = detail["loc"][-1] if detail["type"] == "missing" else None
    for step in detail["loc"]:
        if isinstance(step, int) and isinstance(value, list) and step < len(value):
            value = value[step]
        elif isinstance(step, str) and isinstance(value, dict) and (step in value or step == missing):
            value = value.get(step)
        else:
            continue
        steps.append(step)
    return steps


def _sentence(steps: list[str | int], details: list[ErrorDetails]) -> str:
    path = path_text(steps)
    if details[0]["type"] == "missing":
        return f"{path} is missing"
    for detail in details:
        if detail["type"] == "too_long":
            context = detail["ctx"]
            return f"{path} has {context['actual_length']} entries; at most {context['max_length']} are allowed"
        if detail["type"] == "too_short":
            least = detail["ctx"]["min_length"]
            return (
                f"{path} should have at least {least} entr{'y' if least == 1 else 'ies'}, not {_shown(detail['input'])}"
            )
    wanted: dict[str, None] = {}
    for detail in details:
        message = _OURS.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
        message = re.sub(r"^(?:Input|String) should (?:be )?", "", message)
        wanted[message[:1].lower() + message[1:]] = None
    verb = "should" if details[0]["type"].startswith("string_too_") else "should be"
    return f"{path} {verb} {' or '.join(wanted)}, not {_shown(details[0]['input'])}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an empty list" if not value else "a list"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def path_text(steps: list[str | int]) -> str:
    """`["messages", 0, "role"]` -> `"messages[0].role"`."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text
