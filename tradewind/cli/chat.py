"""`tradewind chat`: a conversation in the terminal."""

import argparse
import asyncio
import contextlib
import readline
from typing import Any

import msgspec
from rich.console import Console

from tradewind.base.errors import ConfigError, TradewindError
from tradewind.cli.options import SAMPLING_HELP
from tradewind.cli.session import open_engine, sampling_of
from tradewind.config import suggestion
from tradewind.engine.client import AsyncEngine
from tradewind.protocol.sampling import SamplingParams

PARAMETERS = [name for name in SAMPLING_HELP if name != "stop"]  # those that one word can give

HELP = """\
/help             this text
/new              forget the conversation
/system TEXT      set the system prompt (nothing: remove it), and start again
/set NAME VALUE   change a sampling parameter: {names}
/history          show the conversation
/retry            answer the last question again
/quit             leave (so does Ctrl-D); Ctrl-C stops an answer"""


class Conversation:
    """The messages so far, and how to answer them."""

    def __init__(self, system: str | None, params: SamplingParams) -> None:
        self.params = params
        self.system = system
        self.messages: list[dict[str, Any]] = []
        self.reset(system)

    def reset(self, system: str | None) -> None:
        """Start again, with this system prompt."""
        self.system = system
        self.messages = [{"role": "system", "content": system}] if system else []

    def take_last_question(self) -> str | None:
        """Remove the last question and its answer; returns the question."""
        while self.messages and self.messages[-1]["role"] != "system":
            message = self.messages.pop()
            if message["role"] == "user":
                return str(message["content"])
        return None

    def set_parameter(self, name: str, value: str) -> None:
        """Change one sampling parameter. Raises ConfigError."""
        if name not in PARAMETERS:
            raise ConfigError(f"no parameter {name!r}{suggestion(name, PARAMETERS)}; /help lists them")
        fields = {**msgspec.to_builtins(self.params), name: value}
        try:
            self.params = msgspec.convert(fields, SamplingParams, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{name}: {error}") from None


def run(arguments: argparse.Namespace) -> int:
    """Talk until the user leaves; returns the exit status."""
    with contextlib.suppress(EOFError):
        asyncio.run(_talk(arguments, Console(highlight=False)))
    return 0


async def _talk(arguments: argparse.Namespace, console: Console) -> None:
    readline.parse_and_bind("set enable-bracketed-paste on")
    async with open_engine(arguments) as engine:
        if engine.tokenizer.chat_template is None:
            raise ConfigError("this model has no chat template; give one with --chat-template, or use generate")
        console.print(f"[dim]{arguments.model} on {engine.ready.device}. /help for commands, Ctrl-D to leave.[/dim]")
        conversation = Conversation(arguments.system, sampling_of(arguments, engine, max_tokens=1024))
        while True:
            line = (await asyncio.to_thread(input, "> ")).strip()
            question = _command(line, conversation, console) if line.startswith("/") else line
            if question is None:
                return
            if question:
                await _answer(engine, conversation, question, console)


def _command(line: str, conversation: Conversation, console: Console) -> str | None:
    """Obey a /command. Returns a question to ask, '' for none, None to leave."""
    name, _, rest = line.partition(" ")
    if name in ("/quit", "/exit"):
        return None
    if name == "/help":
        console.print(HELP.format(names=", ".join(PARAMETERS)), markup=False)
    elif name == "/new":
        conversation.reset(conversation.system)
    elif name == "/system":
        conversation.reset(rest.strip() or None)
    elif name == "/history":
        for message in conversation.messages:
            console.print(f"{message['role']}: {message['content']}", markup=False)
    elif name == "/retry":
        return conversation.take_last_question() or ""
    elif name == "/set":
        try:
            conversation.set_parameter(*rest.partition(" ")[::2])
        except ConfigError as error:
            console.print(error.message, markup=False)
    else:
        console.print(f"no command {name}; /help lists them", markup=False)
    return ""


async def _answer(engine: AsyncEngine, conversation: Conversation, question: str, console: Console) -> None:
    """Ask, print the answer as it comes, and remember both. Ctrl-C ends the answer, not the conversation."""
    conversation.messages.append({"role": "user", "content": question})
    parts: list[str] = []
    try:
        prompt_tokens = _encode(engine, conversation.messages)
        stream = engine.submit(prompt_tokens, _fitted(engine, conversation.params, len(prompt_tokens)))
        try:
            async for deltas in stream:
                parts += [delta.text for delta in deltas]
                console.print("".join(delta.text for delta in deltas), end="", markup=False, soft_wrap=True)
        except asyncio.CancelledError:
            stream.abort()
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
    except TradewindError as error:
        console.print(error.message, style="red", markup=False)
        conversation.messages.pop()
        return
    console.print()
    conversation.messages.append({"role": "assistant", "content": "".join(parts)})


def _encode(engine: AsyncEngine, messages: list[dict[str, Any]]) -> list[int]:
    template = engine.tokenizer.chat_template
    assert template is not None, "checked when the command starts"
    return engine.tokenizer.encode(template.render(messages, add_generation_prompt=True), add_special_tokens=False)


def _fitted(engine: AsyncEngine, params: SamplingParams, prompt_tokens: int) -> SamplingParams:
    """`params` with no more max_tokens than the context has left."""
    left_tokens = engine.ready.max_model_len - prompt_tokens
    if params.max_tokens is not None and params.max_tokens <= left_tokens:
        return params
    return msgspec.structs.replace(params, max_tokens=max(1, left_tokens))
