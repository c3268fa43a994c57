"""What schemathesis is told of the server besides its OpenAPI document; see docs/guides/compatibility.md.

Cases are bent towards requests that are answered: most of those made from the schema alone ask for tokens that the
vocabulary does not have, or for more of them than the context holds, and never come to the engine. One in eight is
left as it was made.
"""

import json
import zlib
from typing import Any

import schemathesis

VOCAB = 2048
LIMITS = {"max_tokens": 40, "max_completion_tokens": 40, "min_tokens": 8, "n": 8, "best_of": 1, "top_k": VOCAB}
LIMITS |= {"logprobs": 20, "top_logprobs": 20, "prompt_logprobs": 20}
NEEDED = {"stream_options": "stream", "top_logprobs": "logprobs"}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Bend a body."""
    if not isinstance(body, dict):
        return body
    number = zlib.crc32(json.dumps(body, sort_keys=True, default=str).encode())
    if number % 8 == 0:
        return body
    bent = {name: _bent(name, value) for name, value in body.items()}
    for name, needed in NEEDED.items():
        if bent.get(name) is not None and not bent.get(needed):
            bent[needed] = True
    if number % 8 < 5:
        bent = {name: value for name, value in bent.items() if name not in ("suffix", "best_of", "timeout", "model")}
    if number % 8 < 3:
        for name in ("response_format", "structured_outputs", "allowed_token_ids"):
            bent.pop(name, None)
    return bent


def _bent(name: str, value: Any) -> Any:
    if name in LIMITS and type(value) is int and value > 0:
        return 1 + value % LIMITS[name]
    if name in ("prompt", "tokens", "allowed_token_ids", "stop_token_ids") and isinstance(value, list):
        return [_token(token) for token in value]
    return value


def _token(value: Any) -> Any:
    if isinstance(value, list):
        return [_token(token) for token in value]
    return abs(value) % VOCAB if type(value) is int else value


@schemathesis.check
def no_fault_of_the_server(ctx: Any, response: Any, case: Any) -> None:
    """No 5xx, except the 504 of a request whose own deadline has passed."""
    if response.status_code == 504:
        assert "deadline" in response.json()["error"]["message"], response.content[:500]
        return
    assert response.status_code < 500, f"{response.status_code}: {response.content[:500]!r}"
