"""`POST /tokenize` and `/detokenize`, in vLLM's shapes."""

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from tradewind.base.errors import RequestError
from tradewind.server.openai.entry import enter
from tradewind.server.openai.prompts import Conversation, encode, encode_chat
from tradewind.server.openai.requests import DetokenizeRequest, TokenizeRequest
from tradewind.server.service import Service
from tradewind.server.sse import JsonAnswer

if TYPE_CHECKING:
    from tradewind.engine.client import AsyncEngine


async def tokenize(service: Service, request: Request) -> Response:
    """A text, or a conversation in the model's template, as token ids."""
    asked, _, _ = await enter(service, request, TokenizeRequest)
    tokenizer = service.engine.tokenizer
    if (asked.prompt is None) == (asked.messages is None):
        raise RequestError("send either prompt or messages", field="prompt")
    if asked.messages is None:
        tokens = await encode(tokenizer, asked.prompt or "", asked.add_special_tokens is not False)
    else:
        talk = Conversation(
            messages=asked.messages,
            add_generation_prompt=asked.add_generation_prompt,
            continue_final_message=asked.continue_final_message,
            add_special_tokens=asked.add_special_tokens,
            variables=asked.chat_template_kwargs,
        )
        tokens = await encode_chat(tokenizer, talk)
    names = None
    if asked.return_token_strs:
        names = await asyncio.to_thread(lambda: [tokenizer.token_text(token) for token in tokens])
    max_model_len = service.engine.ready.max_model_len
    return JsonAnswer({"count": len(tokens), "max_model_len": max_model_len, "tokens": tokens, "token_strs": names})


async def detokenize(service: Service, request: Request) -> Response:
    """Token ids as text, special tokens included."""
    asked, _, _ = await enter(service, request, DetokenizeRequest)
    text = await asyncio.to_thread(_decode, service.engine, asked.tokens)
    return JsonAnswer({"prompt": text})


def _decode(engine: "AsyncEngine", tokens: list[int]) -> str:
    vocab_size = engine.ready.vocab_size
    for index, token in enumerate(tokens):
        if not 0 <= token < vocab_size:
            field = f"tokens[{index}]"
            raise RequestError(f"{field}: {token} is not a token id; they are 0 to {vocab_size - 1}", field=field)
    return engine.tokenizer.decode(tokens, skip_special_tokens=False)
