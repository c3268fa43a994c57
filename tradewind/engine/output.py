"""From token ids to what a client reads: text, stop strings, counts. One object per sequence, one table per engine.

This is the hot path of the client's process: a token costs one dict lookup, one `push`, and the detokeniser.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import Finish, PromptLogprobs, TokenLogprobs

if TYPE_CHECKING:
    from tradewind.protocol.messages import Step
    from tradewind.text.detokenizer import Detokenizer
    from tradewind.text.stops import StopStrings


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What is new in one sequence since the last read. A reader that falls behind gets fewer, larger ones.

    `text` may be empty (half a character, or text held back because it may become a stop string) while `token_ids` is
    not. `logprobs` has one entry per token of `token_ids` if the request asked for them, else it is None.
    """

    index: int  # which of the n sequences
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """One entry per prompt token (None at position 0); set once, in the first delta of index 0, if asked for."""
    finish_reason: FinishReason | None = None  # set in the last delta of this index
    stop_reason: str | int | None = None  # the stop string or stop token that ended it; None for an end of sequence
    message: str = ""  # with FinishReason.ERROR or REFUSED: why


class TextRules(msgspec.Struct, frozen=True, kw_only=True):
    """How one sequence's tokens become text. The same for all n sequences of a request."""

    silent_ids: frozenset[int]  # tokens that end the sequence and are not part of its text
    eos_ids: frozenset[int]  # ends of sequence: they are no stop_reason
    min_tokens: int = 0  # stop strings are not looked for in the first min_tokens tokens
    wants_logprobs: bool = False
    prompt_logprobs_of: int | None = None  # length of the prompt, if its logprobs were asked for


class SequenceOutput:
    """One sequence on its way to its reader. `detokenizer` None: ids only. `stops` None: no stop strings.

    `take` gives what is new since the last `take`; until then deltas merge, so a reader that does not read costs no
    more memory than the sequence is long.
    """

    __slots__ = (
        "_detokenizer",
        "_logprobs",
        "_new_ids",
        "_new_text",
        "_prompt_logprobs",
        "_push_text",
        "_rules",
        "_stops",
        "cached_tokens",
        "completion_tokens",
        "finish_reason",
        "finish_taken",
        "index",
        "last_token_s",
        "message",
        "queue_s",
        "request_id",
        "stop_reason",
        "submitted_s",
        "ttft_s",
        "wake",
    )

    def __init__(
        self,
        request_id: int,
        index: int,
        rules: TextRules,
        detokenizer: "Detokenizer | None",
        stops: "StopStrings | None",
        wake: Callable[[], None],
        submitted_s: float,
    ) -> None:
        self.request_id = request_id
        self.index = index
        self.wake = wake
        self.submitted_s = submitted_s
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.queue_s: float | None = None
        self.ttft_s: float | None = None
        self.last_token_s = submitted_s
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.message = ""
        self.finish_taken = False
        self._rules = rules
        self._detokenizer = detokenizer
        self._push_text = None if detokenizer is None else detokenizer.push
        self._stops = stops
        self._new_ids: list[int] = []
        self._new_text = ""
        self._logprobs: list[TokenLogprobs] | None = [] if rules.wants_logprobs else None
        self._prompt_logprobs: list[TokenLogprobs | None] | None = None
        if rules.prompt_logprobs_of is not None:
            self._prompt_logprobs = [None] * rules.prompt_logprobs_of

    def push(self, token: int) -> bool:
        """The next token. Returns whether its text completed a stop string, which ends the sequence."""
        self._new_ids.append(token)
        self.completion_tokens += 1
        if self._push_text is None or token in self._rules.silent_ids:
            return False
        text = self._push_text(token)
        if not text:
            return False
        if self._stops is None or self.completion_tokens <= self._rules.min_tokens:
            self._new_text += text
            return False
        scan = self._stops.push(text)
        self._new_text += scan.text
        if scan.stopped_by is None:
            return False
        self.finish_reason = FinishReason.STOP
        self.stop_reason = scan.stopped_by
        return True

    def push_logprobs(self, logprobs: TokenLogprobs) -> None:
        """The log probabilities of the token pushed last."""
        if self._logprobs is not None:
            self._logprobs.append(logprobs)

    def push_prompt_logprobs(self, part: PromptLogprobs) -> None:
        """Some of the prompt's log probabilities; all parts come before the first token."""
        if self._prompt_logprobs is not None:
            self._prompt_logprobs[part.start : part.start + len(part.positions)] = part.positions

    def finish(self, reason: FinishReason, stop_token: int | None = None, message: str = "") -> None:
        """The sequence ended: text held back until now is said."""
        self.finish_reason = reason
        self.message = message
        if stop_token is not None and stop_token not in self._rules.eos_ids:
            self.stop_reason = stop_token
        if self._detokenizer is None:
            return
        rest = self._detokenizer.flush()
        if self._stops is None:
            self._new_text += rest
            return
        scan = self._stops.push(rest)
        self._new_text += scan.text
        if scan.stopped_by is None:
            self._new_text += self._stops.flush()
        else:
            self.finish_reason, self.stop_reason = FinishReason.STOP, scan.stopped_by

    def take(self) -> Delta | None:
        """Everything new since the last time, or None."""
        if not self._new_ids and (self.finish_reason is None or self.finish_taken):
            return None
        delta = Delta(
            index=self.index,
            text=self._new_text,
            token_ids=self._new_ids,
            logprobs=self._logprobs,
            prompt_logprobs=self._prompt_logprobs,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            message=self.message,
        )
        self._new_ids, self._new_text, self._prompt_logprobs = [], "", None
        if self._logprobs is not None:
            self._logprobs = []
        self.finish_taken = self.finish_reason is not None
        return delta


class StepOutcome(msgspec.Struct):
    """What one step meant for the sequences of a table."""

    ended: list[SequenceOutput]
    stopped_ids: list[int]  # ended here by a stop string: the engine must be told
    ttft_s: list[float]
    inter_token_s: list[float]


class OutputTable:
    """All open sequences of one engine, by request id."""

    def __init__(self) -> None:
        self._open: dict[int, SequenceOutput] = {}
        self._admitted = 0  # of the open ones

    def __len__(self) -> int:
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Open sequences that have not run yet."""
        return len(self._open) - self._admitted

    def add(self, output: SequenceOutput) -> None:
        """A sequence that was given to the engine."""
        self._open[output.request_id] = output

    def forget(self, request_id: int) -> SequenceOutput | None:
        """Take a sequence out; what the engine may still say of it is ignored."""
        output = self._open.pop(request_id, None)
        if output is not None and output.queue_s is not None:
            self._admitted -= 1
        return output

    def apply(self, step: "Step", now_s: float) -> StepOutcome:
        """Hand a step's updates to their sequences, end those that ended, and wake the readers."""
        outcome = StepOutcome([], [], [], [])
        for admission in step.admitted:
            output = self._open.get(admission.request_id)
            if output is not None and output.queue_s is None:
                output.queue_s = admission.queue_s
                output.cached_tokens = admission.cached_tokens
                self._admitted += 1
        for request_id, prompt_part in step.prompt_logprobs.items():
            if (output := self._open.get(request_id)) is not None:
                output.push_prompt_logprobs(prompt_part)
        for request_id, logprobs in step.logprobs.items():
            if (output := self._open.get(request_id)) is not None:
                output.push_logprobs(logprobs)
        touched = self._apply_tokens(step, now_s, outcome)
        for finish in step.finished:
            self._finish(finish, touched, outcome)
        for output in touched:
            output.wake()
        return outcome

    def _apply_tokens(self, step: "Step", now_s: float, outcome: StepOutcome) -> list[SequenceOutput]:
        touched = []
        open_outputs, inter_token_s = self._open, outcome.inter_token_s
        ids, tokens = memoryview(step.request_ids).cast("q"), memoryview(step.tokens).cast("i")
        for request_id, token in zip(ids, tokens, strict=True):
            output = open_outputs.get(request_id)
            if output is None:
                continue
            touched.append(output)
            if output.completion_tokens:
                inter_token_s.append(now_s - output.last_token_s)
            else:
                output.ttft_s = now_s - output.submitted_s
                outcome.ttft_s.append(output.ttft_s)
            output.last_token_s = now_s
            if output.push(token):
                self.forget(request_id)
                outcome.stopped_ids.append(request_id)
                outcome.ended.append(output)
        return touched

    def _finish(self, finish: Finish, touched: list[SequenceOutput], outcome: StepOutcome) -> None:
        output = self.forget(finish.request_id)
        if output is not None:
            output.finish(finish.reason, finish.stop_token, finish.message)
            touched.append(output)
            outcome.ended.append(output)
