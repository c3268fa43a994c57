"""`LLM`: the engine inside this process, for programs that have all their prompts at hand."""

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from tradewind.base.errors import EngineFailed, RequestError
from tradewind.config import Config, from_flat
from tradewind.engine.answers import (
    BeamSearchOutput,
    BeamSearchSequence,
    CompletionOutput,
    RequestOutput,
    completion_of,
    position_logprobs,
)
from tradewind.engine.beams import BeamSearch, step_params
from tradewind.engine.core import Engine, build_engine, to_message
from tradewind.engine.model_files import load_text, locate
from tradewind.engine.output import OutputTable, SequenceOutput
from tradewind.engine.resolve import Limits, Resolved, Resolver, Terms
from tradewind.engine.stream import Usage
from tradewind.protocol.result import TokenLogprobs
from tradewind.protocol.sampling import BeamSearchParams, SamplingParams

if TYPE_CHECKING:
    from rich.progress import Progress

    from tradewind.text.generation import GenerationDefaults
    from tradewind.text.tokenizer import Tokenizer

Prompt = str | list[int]
Message = Mapping[str, Any]
Params = SamplingParams | Sequence[SamplingParams] | None

_NO_BOUND = 2**31 - 1


class LLM:
    """A model, ready to generate. Not thread-safe.

        llm = LLM("Qwen/Qwen3-0.6B", max_model_len=4096)
        for answer in llm.generate(["The wind", "The sea"], SamplingParams(max_tokens=32)):
            print(answer.outputs[0].text)

    `defaults` are the model's own sampling settings, which `default_params` turns into SamplingParams.
    """

    tokenizer: "Tokenizer"
    defaults: "GenerationDefaults"

    def __init__(self, model: str = "demo", **settings: Any) -> None:
        """`model`: a local directory, a Hugging Face repository id, or 'demo'. `settings`: any of the settings by name.

        Raises ConfigError for a setting that does not exist, and StartupError (or one of its kinds) if it cannot start.
        """
        self.config = _offline(from_flat({"model": model, **settings}))
        parts = self.config.model
        with _boot_status(model) as on_progress:
            directory = locate(parts.model, parts.revision, on_progress, parts.load_format != "dummy")
            self.tokenizer, self.defaults = load_text(directory, parts)
            self._engine = build_engine(directory, self.config, on_progress)
        info = self._engine.runner.info
        limits = Limits(
            max_model_len=info.max_model_len,
            kv_tokens=info.num_blocks * info.block_tokens,
            vocab_size=info.vocab_size,
            max_logprobs=self.config.server.max_logprobs,
        )
        self._resolver = Resolver(self.tokenizer, self.defaults.eos_token_ids, limits)
        self._next_id = 0
        self._failure: str | None = None

    def default_params(self, **changes: Any) -> SamplingParams:
        """SamplingParams with what the model's generation_config.json recommends, and `changes` to that."""
        return SamplingParams(**{**self.defaults.sampling(), **changes})

    def generate(
        self, prompts: Prompt | Sequence[Prompt], params: Params = None, *, progress: bool = True
    ) -> list[RequestOutput]:
        """Answer every prompt (text, or token ids), in the order given.

        `params`: for all, or one for each; None means `default_params()`. `progress` shows a bar on standard error.
        Raises RequestError before anything is started if a prompt or parameter is wrong, and EngineFailed if a step
        fails. Ctrl-C ends all requests, and the LLM can be used again.
        """
        texts = cast("list[Prompt]", [prompts] if _is_single(prompts) else list(prompts))
        tokens = [self.tokenizer.encode(text) if isinstance(text, str) else list(text) for text in texts]
        return self._answer([text if isinstance(text, str) else None for text in texts], tokens, params, progress)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: Params = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        progress: bool = True,
    ) -> list[RequestOutput]:
        """Answer one conversation (a list of messages with role and content) or a list of them, as `generate` does.

        The conversation becomes a prompt by the model's chat template, which `chat_template_kwargs` are passed to.
        """
        template = self.tokenizer.chat_template
        if template is None:
            message = "this model has no chat template; use generate(), or give one with chat_template=FILE"
            raise RequestError(message, field="messages")
        single = not messages or isinstance(messages[0], Mapping)
        conversations = cast("Sequence[Sequence[Message]]", [messages] if single else messages)
        texts: list[str | None] = [
            template.render(
                conversation,
                tools=tools,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                continue_final_message=continue_final_message,
                variables=chat_template_kwargs,
            )
            for conversation in conversations
        ]
        tokens = [self.tokenizer.encode(text or "", add_special_tokens=False) for text in texts]
        return self._answer(texts, tokens, params, progress)

    def beam_search(self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams) -> list[BeamSearchOutput]:
        """The `beam_width` best continuations of every prompt (text, or token ids) that a beam search finds.

        All prompts advance together. Raises RequestError before anything is started if a prompt or parameter is wrong.
        """
        texts = cast("list[Prompt]", [prompts] if _is_single(prompts) else list(prompts))
        tokens = [self.tokenizer.encode(text) if isinstance(text, str) else list(text) for text in texts]
        searches = [self._resolver.begin_search(one, params) for one in tokens]
        while waiting := [(one, search) for one, search in zip(tokens, searches, strict=True) if search.live]:
            known = iter(
                self._next_logprobs([one + beam.tokens for one, search in waiting for beam in search.live], params)
            )
            for _, search in waiting:
                search.advance(list(islice(known, len(search.live))))
        return [self._found(one, search) for one, search in zip(tokens, searches, strict=True)]

    def _next_logprobs(self, prompts: list[list[int]], params: BeamSearchParams) -> list[TokenLogprobs]:
        """The probabilities of each prompt's next token."""
        _, outputs = self._generate(prompts, step_params(params), progress=False)
        known = []
        for (output,) in outputs:
            delta = output.take()
            assert delta is not None
            if not delta.logprobs:
                raise EngineFailed(f"a step of the beam search failed: {delta.message or delta.finish_reason}")
            known += delta.logprobs
        return known

    def _found(self, prompt: list[int], search: BeamSearch) -> BeamSearchOutput:
        before = self.tokenizer.decode(prompt)
        sequences = []
        for beam, delta in zip(search.best(), self._resolver.end_search(prompt, search), strict=True):
            assert not isinstance(delta.stop_reason, str)
            sequence = BeamSearchSequence(
                tokens=prompt + beam.tokens,
                logprobs=[position_logprobs(position, self.tokenizer) for position in beam.positions],
                cum_logprob=beam.logprob,
                text=before + delta.text,
                finish_reason=beam.finish_reason,
                stop_reason=delta.stop_reason,
            )
            sequences.append(sequence)
        return BeamSearchOutput(sequences)

    def close(self) -> None:
        """Give the device's memory back. The LLM cannot be used any more."""
        self._failure = "it was closed"
        self._engine.close()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _answer(
        self, texts: list[str | None], prompts: list[list[int]], params: Params, progress: bool
    ) -> list[RequestOutput]:
        requests, outputs = self._generate(prompts, params, progress)
        return [
            self._collect(text, resolved, sequences)
            for text, resolved, sequences in zip(texts, requests, outputs, strict=True)
        ]

    def _generate(
        self, prompts: list[list[int]], params: Params, progress: bool
    ) -> tuple[list[Resolved], list[list[SequenceOutput]]]:
        if self._failure is not None:
            raise EngineFailed(f"this LLM cannot be used any more: {self._failure}")
        requests = self._resolve(prompts, params)
        outputs = [self._resolver.outputs(resolved, _nobody_waits) for resolved in requests]
        with _progress_bar(len(requests), progress) as bar, _interruptible() as interrupted:
            self._run(requests, outputs, bar, interrupted)
        return requests, outputs

    def _resolve(self, prompts: list[list[int]], params: Params) -> list[Resolved]:
        if params is None or isinstance(params, SamplingParams):
            each: Sequence[SamplingParams] = [params or self.default_params()] * len(prompts)
        else:
            each = params
        if len(each) != len(prompts):
            message = f"there are {len(prompts)} prompts but {len(each)} params; give one for all, or one for each"
            raise RequestError(message, field="params")
        resolved = []
        terms = Terms(now_s=time.monotonic())
        for tokens, one in zip(prompts, each, strict=True):
            resolved.append(self._resolver.resolve(tokens, one, terms, self._next_id))
            self._next_id += one.n
        return resolved

    def _run(
        self,
        requests: list[Resolved],
        outputs: list[list[SequenceOutput]],
        bar: "Bar",
        interrupted: threading.Event,
    ) -> None:
        table, engine = OutputTable(), self._engine
        request_of = {output.request_id: place for place, group in enumerate(outputs) for output in group}
        open_of = [len(group) for group in outputs]
        try:
            for resolved, group in zip(requests, outputs, strict=True):
                for request, output in zip(resolved.requests, group, strict=True):
                    engine.add(request)
                    table.add(output)
            while len(table) and not interrupted.is_set():
                for ended in _turn(engine, table, bar):
                    place = request_of[ended.request_id]
                    open_of[place] -= 1
                    if not open_of[place]:
                        bar.done(len(requests[place].requests[0].prompt_tokens))
            engine.abort(list(request_of))  # the loop may have been left early, or by an error
            engine.settle()
        except Exception as error:  # the border of the loop: see core.py on why nothing can be saved
            self._failure = f"the engine failed in a step: {type(error).__name__}: {error}"
            raise EngineFailed(self._failure) from error
        except KeyboardInterrupt:
            self._failure = "it was interrupted twice, in the middle of a step"
            raise
        if interrupted.is_set():
            raise KeyboardInterrupt

    def _collect(self, text: str | None, resolved: Resolved, sequences: list[SequenceOutput]) -> RequestOutput:
        prompt_tokens = resolved.requests[0].prompt_tokens
        completions: list[CompletionOutput] = []
        prompt_logprobs: list[TokenLogprobs | None] | None = None
        for sequence in sequences:
            delta = sequence.take()
            assert delta is not None
            completions.append(completion_of(delta, self.tokenizer))
            prompt_logprobs = prompt_logprobs or delta.prompt_logprobs
        named = None
        if prompt_logprobs is not None:
            named = [None if one is None else position_logprobs(one, self.tokenizer) for one in prompt_logprobs]
        usage = Usage(
            prompt_tokens=len(prompt_tokens),
            completion_tokens=sum(sequence.completion_tokens for sequence in sequences),
            cached_tokens=sequences[0].cached_tokens,
        )
        return RequestOutput(text, list(prompt_tokens), completions, named, usage)


def _turn(engine: Engine, table: OutputTable, bar: "Bar") -> Iterator[SequenceOutput]:
    """One step of the engine. Gives the sequences that ended."""
    for updates in engine.step():
        outcome = table.apply(to_message(updates), time.monotonic())
        if outcome.stopped_ids:
            engine.abort(outcome.stopped_ids)
        bar.said(len(updates.tokens))
        yield from outcome.ended


def _offline(config: Config) -> Config:
    """Everything is at hand, so nothing is refused for having to wait."""
    return dataclasses.replace(config, scheduler=dataclasses.replace(config.scheduler, max_waiting=_NO_BOUND))


def _is_single(prompts: Prompt | Sequence[Prompt]) -> bool:
    return isinstance(prompts, str) or (bool(prompts) and isinstance(prompts[0], int))


def _nobody_waits() -> None:
    """All answers are read at the end."""


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of raising in the middle of a step; a second one raises at once."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    previous = signal.getsignal(signal.SIGINT)

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    if previous is not signal.default_int_handler:  # the program has its own way with Ctrl-C
        yield interrupted
        return
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


class Bar:
    """Requests done, and tokens a second in and out. Without a `progress` it shows nothing."""

    def __init__(self, progress: "Progress | None", requests: int) -> None:
        self._progress = progress
        self._started_s = time.monotonic()
        self._in_tokens = self._out_tokens = 0
        self._shown_s = 0.0
        self._task = None if progress is None else progress.add_task("generating", total=requests, speed="")

    def said(self, tokens: int) -> None:
        """So many tokens were generated."""
        self._out_tokens += tokens
        now_s = time.monotonic()
        if now_s - self._shown_s > 0.1:
            self._shown_s = now_s
            self._show(now_s)

    def done(self, prompt_tokens: int) -> None:
        """A request is complete."""
        self._in_tokens += prompt_tokens
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)
            self._show(time.monotonic())

    def _show(self, now_s: float) -> None:
        if self._progress is not None and self._task is not None:
            elapsed_s = max(now_s - self._started_s, 1e-6)
            speed = f"in {self._in_tokens / elapsed_s:,.0f} tok/s, out {self._out_tokens / elapsed_s:,.0f} tok/s"
            self._progress.update(self._task, speed=speed)


@contextmanager
def _progress_bar(requests: int, wanted: bool) -> Iterator[Bar]:
    if not wanted:
        yield Bar(None, requests)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    speed = TextColumn("{task.fields[speed]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), speed)
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
        yield Bar(progress, requests)


@contextmanager
def _boot_status(model: str) -> Iterator[Callable[[str, float], None]]:
    """A line on standard error, if that is a terminal, that says how far the boot is."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _stage, _share: None
        return
    with console.status(f"loading {model}") as status:
        yield lambda stage, share: status.update(f"{stage} {share:4.0%}")
