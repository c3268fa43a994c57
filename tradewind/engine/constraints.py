"""What one engine's sequences may say: grammars, built in threads, and budgets of reasoning.

They are advanced by each token, and asked for masks.

A sequence with a grammar waits here, outside the scheduler, until its grammar has been built; no step ever waits for
that. Sequences without one cost a look-up for each of their tokens, and that only while there are others.

Masks are computed between two halves of a step, for all its rows. Where one took long (`Matcher.is_costly`), the
sequence's others are prepared apart (`late_masks.py`), and no step has it until they are there: it alone waits.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import numpy as np

from tradewind.protocol.plan import TokenMasks
from tradewind.protocol.request import EngineRequest, FinishReason, RowGrammar
from tradewind.protocol.result import Finish, Updates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tradewind.engine.late_masks import LateMasks
    from tradewind.grammar.matcher import Matcher, Vocabulary

    Int64s = NDArray[np.int64]

log = logging.getLogger(__name__)

_KEPT = 256  # grammars that are kept built for the next request with the same
_BUILD_THREADS = 2  # so that one grammar that is slow to build does not hold up all others


class Constraint:
    """One sequence's matcher, and whether it is awake: while the model reasons, everything is allowed.

    That is, until its budget is spent: then the end of the reasoning is, alone.
    """

    def __init__(self, matcher: "Matcher | None", grammar: RowGrammar) -> None:
        """Without a `matcher`, anything may be said outside of reasoning too."""
        self.matcher = matcher
        self.is_masked = grammar.masks_at_once  # in the plans of the scheduler
        self._grammar = grammar
        self._reasons = grammar.reasoning_end is not None and grammar.reasoning_begin is None
        self._may_reason = grammar.reasoning_begin is not None  # it says its first token now
        self._left_tokens = grammar.reasoning_tokens

    def advance(self, token: int) -> bool:
        """Take the token that was said; whether more may follow."""
        if self._reasons:
            self._reasons = token != self._grammar.reasoning_end
            if self._left_tokens:
                self._left_tokens -= 1
            return True
        if self._may_reason:
            self._may_reason = False
            if token == self._grammar.reasoning_begin:
                self._reasons = True
                return True
        return self.matcher is None or self.matcher.advance(token)

    @property
    def awake(self) -> "Matcher | None":
        """The matcher, if it decides what may be said next."""
        return None if self._reasons else self.matcher

    @property
    def is_bent(self) -> bool:
        """Whether reasoning changes what may be said next from what the matcher knows: see the next two."""
        return self._may_reason or self._reasons

    @property
    def also_allowed(self) -> int | None:
        """A token that may be said although the matcher does not know it."""
        return self._grammar.reasoning_begin if self._may_reason else None

    @property
    def forced(self) -> int | None:
        """The only token that may be said, if it is the end of reasoning that has spent its budget."""
        return self._grammar.reasoning_end if self._reasons and self._left_tokens == 0 else None

    @property
    def error(self) -> str | None:
        """Why it cannot go on, where that is not simply the end."""
        return None if self.matcher is None else self.matcher.error

    @property
    def is_idle(self) -> bool:
        """Whether it allows everything from now on."""
        return self.matcher is None and not self._reasons and not self._may_reason

    @property
    def needs_mask(self) -> bool:
        """Whether the next token but one may need a mask: the plan of the next one may have been made."""
        if self.matcher is not None:
            return True
        return self._reasons and self._left_tokens is not None and self._left_tokens < 2


class Constraints:
    """See above. Belongs to the thread of the engine's loop; its own threads build."""

    def __init__(self, load: Callable[[], "Vocabulary"], late: "LateMasks", vocab_size: int) -> None:
        """`load` makes the vocabulary; it is called in a thread, when the first grammar comes.

        What it raises ends the sequences that waited for it; it is called again for the next one. `late` prepares
        masks that take long. `vocab_size`: of a mask.
        """
        self._load = load
        self._builders = ThreadPoolExecutor(_BUILD_THREADS, thread_name_prefix="grammar")
        self._vocabulary: Future[Vocabulary] | None = None
        self._building: dict[int, tuple[EngineRequest, Future[Matcher]]] = {}
        self._built: OrderedDict[str, Future[Matcher]] = OrderedDict()
        self._open: dict[int, Constraint] = {}
        self._turned: dict[bool, list[int]] = {}
        self._late = late
        self._words = -(-vocab_size // 32)

    @property
    def is_building(self) -> bool:
        """Whether any sequence waits for its grammar."""
        return bool(self._building)

    @property
    def is_preparing(self) -> bool:
        """Whether any sequence waits for its mask."""
        return bool(len(self._late))

    def open(self, request: EngineRequest) -> None:
        """Watch over a sequence without a grammar, which has a budget of reasoning alone."""
        assert request.grammar is not None
        assert request.grammar.text is None
        self._open[request.request_id] = Constraint(None, request.grammar)

    def begin(self, request: EngineRequest) -> None:
        """Start to build the grammar of `request`, which comes out of `ready` later."""
        assert request.grammar is not None
        assert request.grammar.text is not None
        if self._vocabulary is None:
            self._vocabulary = self._builders.submit(self._load)
        text = request.grammar.text
        built = self._built.get(text)
        if built is None:
            built = self._built[text] = self._builders.submit(_build, self._vocabulary, text)
            if len(self._built) > _KEPT:
                self._built.popitem(last=False)
        else:
            self._built.move_to_end(text)
        self._building[request.request_id] = (request, built)

    def wait(self, timeout_s: float) -> None:
        """With nothing else to do: until a grammar has been built or a mask prepared, at most so long."""
        if self.is_preparing:
            self._late.wait(timeout_s)
        else:
            wait([built for _, built in self._building.values()], timeout_s, FIRST_COMPLETED)

    def ready(self) -> tuple[list[EngineRequest], list[Finish]]:
        """Sequences whose grammar has been built, and the ends of those for which it could not be."""
        done = [request for request, built in self._building.values() if built.done()]
        runnable, finishes = [], []
        for request in done:
            _, built = self._building.pop(request.request_id)
            fault = built.exception() or built.result().error
            assert request.grammar is not None
            assert request.grammar.text is not None
            if fault is None:
                self._open[request.request_id] = Constraint(built.result().copy(), request.grammar)
                runnable.append(request)
            else:
                reason = FinishReason.ERROR if built.exception() else FinishReason.REFUSED
                finishes.append(Finish(request.request_id, reason, message=f"its grammar cannot be built: {fault}"))
                self._forget_built(request.grammar.text)
        return runnable, finishes

    def _forget_built(self, text: str) -> None:
        """Build it anew when it is asked for again, and load the vocabulary anew if that is what failed."""
        self._built.pop(text, None)
        if self._vocabulary is not None and self._vocabulary.done() and self._vocabulary.exception() is not None:
            log.error("no grammar can be built: the vocabulary cannot be loaded", exc_info=self._vocabulary.exception())
            self._vocabulary = None

    def forget(self, request_ids: Iterable[int]) -> None:
        """These are over. Ids without a grammar are ignored."""
        if self._open or self._building:
            for request_id in request_ids:
                self._open.pop(request_id, None)
                self._building.pop(request_id, None)
                self._late.forget(request_id)

    def advance(self, updates: Updates) -> list[Finish]:
        """Take in what was said. Returns the ends of the sequences that can say no more."""
        if self._open and updates.finished:
            said = dict(zip(updates.request_ids.tolist(), updates.tokens.tolist(), strict=True))
            updates.finished[:] = [self._explained(finish, said.get(finish.request_id)) for finish in updates.finished]
        self.forget([finish.request_id for finish in updates.finished])
        if not self._open:
            return []
        ends = []
        for request_id, token in zip(updates.request_ids.tolist(), updates.tokens.tolist(), strict=True):
            constraint = self._open.get(request_id)
            if constraint is None:
                continue
            if not constraint.advance(token):
                ends.append(self._end(request_id))
            elif constraint.matcher is None:
                self._turn(request_id, constraint)
            elif constraint.matcher.is_costly:
                self._late.begin(request_id, constraint.matcher)
        return ends

    def _turn(self, request_id: int, constraint: Constraint) -> None:
        """While its budget is far away, a sequence without a grammar costs no masks."""
        if constraint.needs_mask != constraint.is_masked:
            constraint.is_masked = not constraint.is_masked
            self._turned.setdefault(constraint.is_masked, []).append(request_id)
        if constraint.is_idle:
            del self._open[request_id]

    def turned(self) -> Iterable[tuple[bool, list[int]]]:
        """Which sequences' rows have to be masked from now on (True), or need not be any more, since the last time."""
        turned, self._turned = self._turned, {}
        return turned.items()

    def _explained(self, finish: Finish, token: int | None) -> Finish:
        """The end of a sequence, as its grammar sees it: what had nothing to say because that failed says why, and what
        is complete with the last token that it was allowed did not end for want of more.
        """
        constraint = self._open.get(finish.request_id)
        if constraint is None:
            return finish
        if constraint.error is not None:
            return Finish(finish.request_id, FinishReason.REFUSED, message=_failure(constraint.error))
        if token is None or finish.reason is not FinishReason.LENGTH:
            return finish
        is_complete = not constraint.advance(token) and constraint.error is None
        return Finish(finish.request_id, FinishReason.STOP) if is_complete else finish

    def _end(self, request_id: int) -> Finish:
        error = self._open.pop(request_id).error
        if error is None:
            return Finish(request_id, FinishReason.STOP)
        return Finish(request_id, FinishReason.REFUSED, message=_failure(error))

    def masks(self, request_ids: "Int64s") -> tuple[TokenMasks, list[int]]:
        """What these sequences may say next, and which of them will have to wait for their masks after that.

        A sequence that is over meanwhile, and whose token nobody will see, may say anything.
        """
        constraints = [self._open.get(request_id) for request_id in request_ids.tolist()]
        bits_MW = self._bits([None if one is None else one.awake for one in constraints])
        costly = []
        for row, constraint in enumerate(constraints):
            if constraint is None:
                continue
            if constraint.is_bent:
                _bend(bits_MW[row], constraint)
            if constraint.matcher is not None and constraint.matcher.is_costly:
                costly.append(row)
        return TokenMasks(bits_MW), request_ids[costly].tolist() if costly else []

    def _bits(self, matchers: "list[Matcher | None]") -> "NDArray[np.int32]":
        """What these allow; where there is none, everything."""
        if all(matcher is None for matcher in matchers):
            return np.full((len(matchers), self._words), -1, np.int32)
        assert self._vocabulary is not None
        return self._vocabulary.result().masks(matchers)

    def prepared(self) -> list[int]:
        """Whose masks are there now."""
        return self._late.ready()

    def close(self) -> None:
        """End the threads."""
        self._builders.shutdown(wait=False, cancel_futures=True)
        self._late.close()


def _bend(bits_W: "NDArray[np.int32]", constraint: Constraint) -> None:
    """Allow what a sequence's reasoning may say beside its grammar, or has to say instead of it."""
    forced = constraint.forced
    if forced is not None:
        bits_W[:] = 0
    token = constraint.also_allowed if forced is None else forced
    if token is not None:
        bits_W.view(np.uint32)[token // 32] |= np.uint32(1 << token % 32)


def _failure(error: str) -> str:
    return f"structured_outputs: its grammar cannot go on: {error}"


def _build(vocabulary: "Future[Vocabulary]", text: str) -> "Matcher":
    return vocabulary.result().begin(text)  # it was submitted before, so it is being loaded at the latest now
