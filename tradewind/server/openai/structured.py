"""`response_format` and `structured_outputs`: what the answer's text must be."""

from tradewind.base.errors import RequestError
from tradewind.protocol.sampling import StructuredOutputs
from tradewind.server.openai.requests import FORMATS, GenerationRequest, ResponseFormat


def structured_outputs(request: GenerationRequest) -> StructuredOutputs | None:
    """What the request asks for, by either of the two fields. Raises RequestError with the field that is wrong."""
    by_format = None if request.response_format is None else _of_format(request.response_format)
    asked = request.structured_outputs
    if asked is None:
        return by_format
    if by_format is not None:
        message = "response_format and structured_outputs both say what the answer must be; send one of them"
        raise RequestError(message, field="structured_outputs")
    if asked.ignored:
        name = asked.ignored[0]
        raise RequestError(f"structured_outputs.{name} is not supported", field=f"structured_outputs.{name}")
    return StructuredOutputs(
        json=asked.json_,
        json_object=bool(asked.json_object),
        regex=asked.regex,
        choice=asked.choice,
        grammar=asked.grammar,
        disable_any_whitespace=bool(asked.disable_any_whitespace),
        whitespace_pattern=asked.whitespace_pattern,
    )


def field_of(request: GenerationRequest) -> str:
    """Where the request says what the answer must be."""
    if request.structured_outputs is not None:
        return "structured_outputs"
    of_schema = request.response_format is not None and request.response_format.type == "json_schema"
    return "response_format.json_schema.schema" if of_schema else "response_format"


def _of_format(asked: ResponseFormat) -> StructuredOutputs | None:
    if asked.type == "text":
        return None
    if asked.type == "json_object":
        return StructuredOutputs(json_object=True)
    if asked.type != "json_schema":
        message = f"response_format.type should be one of {', '.join(FORMATS)}, not {asked.type[:40]!r}"
        raise RequestError(message, field="response_format.type")
    if asked.json_schema is None:
        raise RequestError("response_format.json_schema is missing", field="response_format.json_schema")
    schema = asked.json_schema.schema_
    return StructuredOutputs(json={} if schema is None else schema)
