"""One tree of typed errors.

A client of the API sees `status`, `kind` and `code` in OpenAI's error shape, with `field` naming what was wrong.
Start-up errors carry no status: the command prints their text and exits.
"""


class TradewindError(Exception):
    """The root. `message` must say what is wrong and, where there is one, what would be right."""

    status: int = 500
    kind: str = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


# --- errors of one request -------------------------------------------------------------------------------------------


class RequestError(TradewindError):
    """The request itself is wrong; sending it again unchanged will fail again."""

    status = 400
    kind = "invalid_request_error"


class ContextLengthExceeded(RequestError):
    """The prompt, or the prompt and the tokens asked for, do not fit the model's context."""

    code = "context_length_exceeded"


class NotFound(RequestError):
    """No such model or route."""

    status = 404
    code = "not_found"


class Unauthorized(RequestError):
    """The API key is missing or wrong."""

    status = 401
    kind = "authentication_error"
    code = "invalid_api_key"


class BodyTooLarge(RequestError):
    """The request body is over the limit."""

    status = 413
    code = "body_too_large"


class Overloaded(TradewindError):
    """The queue is full. `retry_after_s` is an estimate of when a place will be free."""

    status = 429
    kind = "rate_limit_error"
    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(Overloaded):
    """The server is shutting down and takes no new work."""

    status = 503
    kind = "server_error"
    code = "draining"


class DeadlineExceeded(TradewindError):
    """The request's own deadline passed before it was done."""

    status = 504
    kind = "timeout_error"
    code = "deadline_exceeded"


class EngineFailed(TradewindError):
    """The engine process died or hung while it held this request. Sending it again is safe."""

    status = 500
    code = "engine_failed"


class EngineUnavailable(Overloaded):
    """The engine is starting again after a failure, or has failed for good."""

    status = 503
    kind = "server_error"
    code = "engine_unavailable"


# --- errors that keep an engine from starting ------------------------------------------------------------------------


class StartupError(TradewindError):
    """What was asked for cannot be started."""


class ConfigError(StartupError):
    """A setting is unknown, malformed or out of range."""


class ModelNotFound(StartupError):
    """Neither a local directory nor a repository that can be reached."""


class UnsupportedModel(StartupError):
    """The model is of a family, or uses a feature, that is not supported."""


class CheckpointError(StartupError):
    """A file of the checkpoint is corrupt, truncated or does not match its config; `field` is the tensor or file."""


class NotEnoughMemory(StartupError):
    """The model or one sequence's KV cache does not fit; the message says how much is needed and what to change."""


class PortInUse(StartupError):
    """The address is taken by another program."""
