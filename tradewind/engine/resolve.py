"""From what a client asks to what the engine runs: validated, every default filled in, token ids only.

Used alike by AsyncEngine and LLM, so a request means the same wherever it is made.
"""

import math
import secrets
from array import array
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from tradewind.base.errors import ContextLengthExceeded, RequestError
from tradewind.engine.beams import BeamSearch
from tradewind.engine.output import Delta, SequenceOutput, TextRules
from tradewind.protocol.request import EngineRequest, FinishReason, RowGrammar, RowSampling
from tradewind.protocol.sampling import BeamSearchParams, SamplingParams, StructuredOutputs
from tradewind.protocol.validate import MAX_LOGPROBS, validate, validate_beams

if TYPE_CHECKING:
    from tradewind.grammar.compile import Compiler
    from tradewind.text.answer_format import AnswerFormat
    from tradewind.text.tokenizer import Tokenizer

_SEED_BITS = 64


def draw_seed() -> int:
    """A random seed for a request that names none."""
    return secrets.randbits(_SEED_BITS)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may ask for."""

    max_model_len: int
    kv_tokens: int  # of the whole KV cache
    vocab_size: int
    max_logprobs: int


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks of the scheduler. `now_s` is the moment of submission on the machine's monotonic clock."""

    now_s: float
    priority: int = 0
    timeout_s: float | None = None
    cache_salt: str = ""


class Resolved(msgspec.Struct, frozen=True):
    """One client request as n engine requests, and how their tokens become text."""

    requests: list[EngineRequest]
    params: SamplingParams
    rules: TextRules


class Resolver:
    """Resolves requests for one model."""

    def __init__(
        self,
        tokenizer: "Tokenizer",
        eos_ids: frozenset[int],
        limits: Limits,
        draw_seed: Callable[[], int] = draw_seed,
    ) -> None:
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._limits = limits
        self._draw_seed = draw_seed
        self._compiler: Compiler | None = None
        self._answers: AnswerFormat | None = None

    def compile(self, asked: StructuredOutputs, field: str = "structured_outputs") -> str:
        """The grammar of `asked`; safe to call in a thread, and remembered for `resolve`. RequestError with `field`."""
        if self._compiler is None:
            from tradewind.grammar.compile import Compiler  # here: it costs 50 ms that most processes can do without

            tokenizer = self._tokenizer
            # One that ends an answer would end it in the middle of a grammar.
            sayable_ids = sorted(tokenizer.special_ids - self._eos_ids)
            self._compiler = Compiler([tokenizer.token_text(token) for token in sayable_ids])
        return self._compiler.compile(asked, field)

    def resolve(self, prompt_tokens: list[int], params: SamplingParams, terms: Terms, first_id: int) -> Resolved:
        """The n engine requests, with ids from `first_id` on.

        Raises RequestError naming the field, or ContextLengthExceeded.
        """
        validate(params, self._limits.vocab_size, self._limits.max_logprobs)
        _check_terms(terms)
        max_tokens = self._check_prompt(prompt_tokens, params.max_tokens)
        _check_min_tokens(params.min_tokens, max_tokens)
        _check_logprobs(params, len(prompt_tokens), max_tokens)
        eos_ids = frozenset() if params.ignore_eos else self._eos_ids
        stop_ids = eos_ids.union(params.stop_token_ids or ())
        seed = self._draw_seed() if params.seed is None else params.seed % 2**_SEED_BITS
        bad_word_ids = self._bad_word_ids(params.bad_words) if params.bad_words else None
        grammar = self._grammar(prompt_tokens, params, max_tokens)
        _check_end(grammar, params.allowed_token_ids)
        if params.top_k >= self._limits.vocab_size:
            params = msgspec.structs.replace(params, top_k=0)  # no limit; a device's integers are small
        first = EngineRequest(
            request_id=first_id,
            prompt_tokens=prompt_tokens,
            sampling=_row_sampling(params, seed, bad_word_ids),
            max_tokens=max_tokens,
            stop_token_ids=sorted(stop_ids),
            priority=terms.priority,
            deadline_s=None if terms.timeout_s is None else terms.now_s + terms.timeout_s,
            arrival_s=terms.now_s,
            cache_salt=terms.cache_salt,
            grammar=grammar,
        )
        requests = first.with_others(derived_seed(seed, index) for index in range(1, params.n))
        rules = TextRules(
            silent_ids=frozenset() if params.include_stop_str_in_output else stop_ids,
            eos_ids=eos_ids,
            min_tokens=params.min_tokens,
            wants_logprobs=params.logprobs is not None,
            prompt_logprobs_of=None if params.prompt_logprobs is None else len(prompt_tokens),
        )
        return Resolved(requests, params, rules)

    def _grammar(self, prompt_tokens: list[int], params: SamplingParams, max_tokens: int) -> RowGrammar | None:
        asked, budget_tokens = params.structured_outputs, params.thinking_token_budget
        if budget_tokens is not None and budget_tokens >= max_tokens:
            budget_tokens = None  # it is never spent
        if asked is not None:
            return RowGrammar(self.compile(asked), asked.reasoning_begin, asked.reasoning_end, budget_tokens)
        return None if budget_tokens is None else self._budget(prompt_tokens, budget_tokens)

    def _budget(self, prompt_tokens: list[int], budget_tokens: int) -> RowGrammar | None:
        """None after a prompt that has ended the reasoning."""
        if self._answers is None:
            from tradewind.text.answer_format import AnswerFormat

            template = self._tokenizer.chat_template
            self._answers = AnswerFormat.of("" if template is None else template.source)
        around = self._answers.reasoning_ids(self._tokenizer)
        if around is None:
            message = "thinking_token_budget: this model's chat template tells of no tokens around reasoning"
            raise RequestError(message, field="thinking_token_budget")
        marks, has_begun = self._answers.reasoning_after(prompt_tokens, self._tokenizer)
        if marks is None:
            return None
        begin, end = around
        return RowGrammar(None, None if has_begun else begin, end, budget_tokens)

    def outputs(self, resolved: Resolved, wake: Callable[[], None]) -> list[SequenceOutput]:
        """The reading ends of a resolved request's sequences. `wake` is called after each step that gave one news."""
        return [self._output(resolved, index, wake) for index in range(len(resolved.requests))]

    def _output(self, resolved: Resolved, index: int, wake: Callable[[], None]) -> SequenceOutput:
        from tradewind.text.detokenizer import Detokenizer
        from tradewind.text.stops import StopStrings

        request, params, rules = resolved.requests[index], resolved.params, resolved.rules
        detokenizer = None
        if params.detokenize:
            detokenizer = Detokenizer(self._tokenizer, request.prompt_tokens, params.skip_special_tokens)
        stops = StopStrings(params.stop, params.include_stop_str_in_output) if params.stop else None
        if index and rules.prompt_logprobs_of is not None:
            rules = msgspec.structs.replace(rules, prompt_logprobs_of=None)
        return SequenceOutput(request.request_id, index, rules, detokenizer, stops, wake, request.arrival_s)

    def begin_search(self, prompt_tokens: list[int], params: BeamSearchParams) -> BeamSearch:
        """A beam search after a prompt. Raises RequestError naming the field, or ContextLengthExceeded."""
        validate_beams(params, self._limits.vocab_size, self._limits.max_logprobs)
        max_tokens = self._check_prompt(prompt_tokens, params.max_tokens)
        eos_ids = frozenset() if params.ignore_eos else self._eos_ids
        return BeamSearch(params, max_tokens, eos_ids.union(params.stop_token_ids or ()))

    def end_search(self, prompt_tokens: list[int], search: BeamSearch) -> list[Delta]:
        """What a search has found, the best first, each as a delta from its first token to its end."""
        from tradewind.text.detokenizer import Detokenizer

        deltas = []
        for index, beam in enumerate(search.best()):
            ended_by = beam.tokens[-1] if beam.finish_reason is FinishReason.STOP else None
            shown = beam.tokens
            if ended_by is not None and not search.params.include_stop_str_in_output:
                shown = shown[:-1]
            detokenizer = Detokenizer(self._tokenizer, prompt_tokens, search.params.skip_special_tokens)
            delta = Delta(
                index=index,
                text="".join(map(detokenizer.push, shown)) + detokenizer.flush(),
                token_ids=beam.tokens,
                logprobs=beam.positions,
                finish_reason=beam.finish_reason,
                stop_reason=None if ended_by in self._eos_ids else ended_by,
            )
            deltas.append(delta)
        return deltas

    def _check_prompt(self, prompt_tokens: list[int], asked: int | None) -> int:
        """The most tokens that may follow. The length is looked at first: what is too long may be very long."""
        if not prompt_tokens:
            raise RequestError("the prompt is empty; it must have at least one token", field="prompt")
        max_tokens = self.max_tokens(len(prompt_tokens), asked)
        vocab_size = self._limits.vocab_size
        try:
            array("q", prompt_tokens)
        except (TypeError, OverflowError):
            message = f"the prompt must be a list of token ids, whole numbers from 0 to {vocab_size - 1}"
            raise RequestError(message, field="prompt") from None
        low, high = min(prompt_tokens), max(prompt_tokens)
        if low < 0 or high >= vocab_size:
            wrong = low if low < 0 else high
            message = f"the prompt has the token id {wrong}; this model's are 0 to {vocab_size - 1}"
            raise RequestError(message, field="prompt")
        return max_tokens

    def max_tokens(self, count_prompt: int, asked: int | None) -> int:
        """The most tokens that may follow a prompt of `count_prompt`. Raises ContextLengthExceeded."""
        # The last token is never computed, so it needs no place in the KV cache.
        context = min(self._limits.max_model_len, self._limits.kv_tokens + 1)
        whose = "this model's context" if context == self._limits.max_model_len else "what the KV cache has room for"
        room = context - count_prompt
        if room < 1:
            message = (
                f"the prompt has {count_prompt} tokens, but {whose} is {context} tokens, "
                f"of which the output needs at least one; shorten the prompt to {context - 1} tokens or fewer"
            )
            raise ContextLengthExceeded(message, field="prompt")
        if asked is not None and asked > room:
            message = (
                f"{whose} is {context} tokens, but the request needs {count_prompt + asked}: "
                f"{count_prompt} in the prompt and {asked} of max_tokens; "
                f"shorten the prompt, or ask for at most {room} tokens"
            )
            raise ContextLengthExceeded(message, field="max_tokens")
        return room if asked is None else asked

    def _bad_word_ids(self, words: list[str]) -> list[list[int]]:
        """Each word as it is written at the start of a text or inside a word, and as it is after a space."""
        ids: dict[tuple[int, ...], None] = {}
        for word in words:
            for text in (word.strip(), " " + word.strip()):
                tokens = tuple(self._tokenizer.encode(text, add_special_tokens=False))
                if tokens:
                    ids[tokens] = None
        return [list(tokens) for tokens in ids]


def derived_seed(seed: int, index: int) -> int:
    """The seed of the n-th sequence of a request; the first one has the request's own."""
    if index == 0:
        return seed
    digest = blake2b(seed.to_bytes(8, "little") + index.to_bytes(4, "little"), digest_size=8, person=b"tradewind-seed")
    return int.from_bytes(digest.digest(), "little")


def _row_sampling(params: SamplingParams, seed: int, bad_word_ids: list[list[int]] | None) -> RowSampling:
    return RowSampling(
        seed=seed,
        temperature=float(params.temperature),
        top_p=float(params.top_p),
        top_k=max(params.top_k, 0),
        min_p=float(params.min_p),
        presence_penalty=float(params.presence_penalty),
        frequency_penalty=float(params.frequency_penalty),
        repetition_penalty=float(params.repetition_penalty),
        logit_bias=params.logit_bias or None,
        allowed_token_ids=params.allowed_token_ids,
        bad_word_ids=bad_word_ids,
        min_tokens=params.min_tokens,
        logprobs=params.logprobs,
        prompt_logprobs=params.prompt_logprobs,
    )


def _check_end(grammar: RowGrammar | None, allowed_ids: list[int] | None) -> None:
    if grammar is None or grammar.reasoning_tokens is None or grammar.reasoning_end is None or allowed_ids is None:
        return
    if grammar.reasoning_end not in allowed_ids:
        message = (
            f"allowed_token_ids must have {grammar.reasoning_end} among them: with thinking_token_budget, "
            "it ends the reasoning"
        )
        raise RequestError(message, field="allowed_token_ids")


def _check_min_tokens(min_tokens: int, room: int) -> None:
    if min_tokens > room:
        message = f"min_tokens is {min_tokens}, but after this prompt the context has room for {room} tokens"
        raise ContextLengthExceeded(message, field="min_tokens")


def _check_logprobs(params: SamplingParams, prompt_tokens: int, max_tokens: int) -> None:
    of_output = 0 if params.logprobs is None else max_tokens * (params.logprobs + 1)
    of_prompt = 0 if params.prompt_logprobs is None else prompt_tokens * (params.prompt_logprobs + 1)
    wanted = params.n * (of_output + of_prompt)
    if wanted > MAX_LOGPROBS:
        field = "prompt_logprobs" if of_prompt > of_output else "logprobs"
        message = (
            f"{field}: up to {wanted} log probabilities are asked for in all; at most {MAX_LOGPROBS} can be given: "
            "ask for fewer alternatives, fewer sequences (n) or fewer tokens (max_tokens)"
        )
        raise RequestError(message, field=field)


def _check_terms(terms: Terms) -> None:
    if not -(2**63) <= terms.priority < 2**63:
        raise RequestError(f"priority must be a whole number of 64 bits, not {terms.priority}", field="priority")
    timeout_s = terms.timeout_s
    if timeout_s is not None and not (math.isfinite(timeout_s) and timeout_s > 0):
        raise RequestError(f"timeout must be a positive number of seconds, not {timeout_s!r}", field="timeout")
