"""`POST /v1/messages` and `/v1/messages/count_tokens`."""

from starlette.requests import Request
from starlette.responses import Response

from tradewind.server.anthropic.conversation import as_chat
from tradewind.server.anthropic.requests import CountRequest, MessagesRequest
from tradewind.server.anthropic.shape import MessageShape
from tradewind.server.body import LARGE_LIST, aside
from tradewind.server.generation import Generation, collect
from tradewind.server.openai.chat import conversation_of, prepare
from tradewind.server.openai.entry import enter
from tradewind.server.openai.prompts import encode_chat
from tradewind.server.openai.reading import heeded
from tradewind.server.openai.tools import tool_use
from tradewind.server.service import Service
from tradewind.server.sse import EventStream, JsonAnswer


async def messages(service: Service, request: Request) -> Response:
    """The route."""
    asked, trace, model = await enter(service, request, MessagesRequest)
    chat = await aside(len(asked.messages) >= LARGE_LIST, lambda: as_chat(asked))
    budget_tokens = chat.thinking_token_budget
    chat.thinking_token_budget = heeded(budget_tokens, service.engine.tokenizer, trace, "thinking.budget_tokens")
    job, answering = await prepare(service, request, chat, trace)
    generation = Generation(service, job, trace)
    shape = MessageShape(f"msg_{trace.request_id}", model, answering.reading, answering.parallel, generation)
    if asked.stream:
        return EventStream(generation, shape, service.metrics, service.limits.write_timeout_s)
    (choice,) = await collect(generation, 1, request.receive)
    return JsonAnswer(shape.whole(choice))


async def count_tokens(service: Service, request: Request) -> Response:
    """How many tokens the conversation is in the model's template."""
    asked, _, _ = await enter(service, request, CountRequest)
    chat = await aside(len(asked.messages) >= LARGE_LIST, lambda: as_chat(asked))
    tokens = await encode_chat(service.engine.tokenizer, conversation_of(chat, tool_use(chat)))
    return JsonAnswer({"input_tokens": len(tokens)})
