"""Continuous batching: who computes what in the next step.

The order of a plan: decode rows first, one token each, then prompt chunks under what is left of the token budget (see
budget.py), admitting new and preempted sequences as room allows. Decode rows that need a block when there is none make
room by preemption (see policy.py); prompts never do, they take what is left and wait, unless nothing else runs.

Run-ahead: a step may be planned before the last one has been applied. The token a row draws in the step in flight lives
in its state row on the device, so the next step can compute it without the host knowing it. Each row's length is known
in any case, so max_tokens is never overrun; if the token turns out to end the sequence, the row in flight is discarded.
"""

from collections import deque
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from tradewind.base.clock import Clock
from tradewind.base.errors import ContextLengthExceeded, Overloaded, RequestError
from tradewind.cache.check import OwnershipCheck
from tradewind.config import CacheConfig, SchedulerConfig
from tradewind.protocol.plan import RowStart, RunnerInfo, StepPlan
from tradewind.protocol.request import EngineRequest, FinishReason
from tradewind.protocol.result import (
    NOTHING_TO_DRAW,
    Admission,
    EngineStats,
    Finish,
    PromptLogprobs,
    StepResult,
    TokenLogprobs,
    Updates,
)
from tradewind.protocol.snapshot import EngineView
from tradewind.scheduler.audit import audit
from tradewind.scheduler.budget import Budget, Rest, wants_more
from tradewind.scheduler.flight import Chunk, Flight
from tradewind.scheduler.pace import Pace
from tradewind.scheduler.policy import Victims, order_of
from tradewind.scheduler.residents import Residents, Verdict
from tradewind.scheduler.rows import Group
from tradewind.scheduler.sequence import NEVER, NO_SLOT, Sequence
from tradewind.scheduler.view import look

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]
    Int64s = NDArray[np.int64]
    Appends = tuple[Int32s, Int32s, Int32s]

MAX_IN_FLIGHT = 2
MAX_EXAMINED = 64
"""How many waiting sequences one plan looks at: bounds the host time of a step when very many are parked."""
MAX_EXAMINED_BLOCKS = 16384
"""How many blocks of theirs: each is looked up in the prefix cache."""

NO_INT32S = np.zeros(0, np.int32)
NO_INT64S = np.zeros(0, np.int64)
NO_APPENDS = (NO_INT32S, NO_INT32S, NO_INT32S)


class Scheduler:
    """The host's half of the engine loop.

    Up to two plans may be in flight; results are applied in the order of their plans. If `plan` gives None while
    nothing is in flight, there is no work but for sequences that are held. Not thread-safe.
    """

    def __init__(self, info: RunnerInfo, config: SchedulerConfig, cache: CacheConfig, clock: Clock) -> None:
        self._info = info
        self._config = config
        self._clock = clock
        self._budget = Budget(info, min(info.step_tokens, config.step_tokens or info.step_tokens))
        # No more rows than tokens in a step: every running sequence can then get a token in every step.
        max_running = min(info.max_running, config.max_running or info.max_running, self._budget.step_tokens)
        self._residents = Residents(
            info, max_running, shares_prefixes=cache.prefix_caching, has_priorities=config.policy == "priority"
        )
        self._rows = self._residents.rows
        self._cache = self._residents.cache
        self._victims = Victims(self._rows, self._cache.pool.holders)
        self._live: dict[int, Sequence] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._flights: deque[Flight] = deque()
        self._serials = count()
        self._next_step = 0
        self._pace = Pace(clock)
        self._admitted: list[Admission] = []
        self._preemptions = 0
        self._device_s = 0.0
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._newest: Sequence | None = None
        self._ownership = OwnershipCheck(self._cache)

    # --- requests ----------------------------------------------------------------------------------------------------

    def add(self, request: EngineRequest) -> None:
        """Queue a request.

        Raises Overloaded when the queue is full, and RequestError naming the field when it could never run.
        """
        prompt = np.array(request.prompt_tokens, np.int64)
        self._validate(request, prompt)
        if self._residents.queued() >= self._config.max_waiting + self._rows.free_slots:
            raise Overloaded(
                f"{self._residents.queued()} requests are waiting already; try again later",
                retry_after_s=self._pace.refuse(),
            )
        serial = next(self._serials)
        slim = msgspec.structs.replace(request, prompt_tokens=[], arrival_s=request.arrival_s or self._clock.now_s())
        sequence = Sequence(
            request=slim,
            prompt=prompt.astype(np.int32),
            order=order_of(self._config.policy, request.priority, serial),
            serial=serial,
        )
        newest = self._newest
        if newest is not None and newest.begins_as(sequence):
            sequence.prompt_chain = newest.prompt_chain
        self._newest = self._live[request.request_id] = sequence
        self._residents.waiting.push(sequence)
        if request.deadline_s is not None:
            heappush(self._deadlines, (request.deadline_s, request.request_id))

    def abort(self, request_ids: Iterable[int]) -> None:
        """Forget these; ids that are unknown or done are ignored. No Finish follows, and no token."""
        for request_id in request_ids:
            sequence = self._live.get(request_id)
            if sequence is not None:
                self._depart(sequence)
        self._trim_deadlines()

    def conclude(self, finishes: Iterable[Finish], updates: Updates) -> None:
        """End sequences for a reason that somebody else knows, and say so in `updates`. Those not there are ignored."""
        for finish in finishes:
            sequence = self._live.get(finish.request_id)
            if sequence is not None:
                self._depart(sequence)
                updates.finished.append(finish)
        self._trim_deadlines()

    def hold(self, request_ids: Iterable[int], *, is_held: bool = True) -> None:
        """Leave these out of the steps from the next plan on, as far as they draw a token there; or not any more.

        Those that are not there are ignored.
        """
        for request_id in request_ids:
            sequence = self._live.get(request_id)
            if sequence is not None and sequence.is_held != is_held:
                sequence.is_held = is_held
                if sequence.slot != NO_SLOT:
                    self._rows.set_held(sequence.slot, is_held)

    def mask(self, request_ids: Iterable[int], *, is_masked: bool = True) -> None:
        """Have these draw what a mask allows from the next plan on; or anything. Those that are not there are ignored.

        A sequence begins as its grammar says (`RowGrammar.masks_at_once`).
        """
        for request_id in request_ids:
            sequence = self._live.get(request_id)
            if sequence is not None:
                self._rows.set_masked(sequence.slot, is_masked)

    def expire(self) -> Updates:
        """End those whose deadline has passed."""
        updates = self._no_updates()
        now_s = self._clock.now_s()
        while self._deadlines and self._deadlines[0][0] <= now_s:
            _, request_id = heappop(self._deadlines)
            sequence = self._live.get(request_id)
            if sequence is not None:
                self._depart(sequence)
                updates.finished.append(Finish(request_id, FinishReason.DEADLINE, message="its deadline has passed"))
        return updates

    @property
    def max_running(self) -> int:
        """The most sequences that run at once."""
        return len(self._residents.by_slot)

    @property
    def has_work(self) -> bool:
        """Whether any request is queued or running, or a step in flight."""
        return bool(self._live or self._flights)

    def stats(self) -> EngineStats:
        """A snapshot. `host_s` is the loop's own to measure and stays 0."""
        residents, cache = self._residents, self._cache
        running = self._rows.count_decoding + len(residents.prefills)
        return EngineStats(
            running=running,
            waiting=len(self._live) - running,
            blocks_total=self._info.num_blocks,
            blocks_used=self._info.num_blocks - cache.available_blocks,
            blocks_cached=cache.cached_blocks,
            prefix_query_tokens=residents.query_tokens,
            prefix_hit_tokens=residents.hit_tokens,
            preemptions=self._preemptions,
            steps=self._next_step,
            device_s=self._device_s,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
        )

    def view(self, stats: EngineStats) -> EngineView:
        """Who runs, who waits and who holds which block, with the caller's `stats`. Costs O(blocks)."""
        return look(self._residents, self._live, stats, self._clock.now_s())

    def check(self) -> None:
        """Prove who owns each block, and that all books agree. Raises AssertionError; costs O(blocks)."""
        residents = self._residents
        self._ownership(
            {(sequence.request_id, sequence.lives): self._rows.table(sequence.slot) for sequence in residents.running()}
        )
        audit(residents, self._live)

    # --- plan --------------------------------------------------------------------------------------------------------

    def plan(self) -> StepPlan | None:
        """The next step, or None if there is nothing to compute now or two steps are in flight."""
        if len(self._flights) == MAX_IN_FLIGHT:
            return None
        while True:
            group, computed, appends = self._plan_decode()
            chunks = self._plan_prefill(computed)
            if chunks:
                return self._issue_mixed(group, computed, appends, chunks)
            if len(group):
                plan = StepPlan(
                    self._next_step, group.slots, computed, group.ones, group.trues, (), *appends, group.masked
                )  # fmt: skip
                return self._issue(plan, group, computed + group.ones, ())
            if self._flights or not any(self._remaining()):
                return None
            self._make_room()

    def masked_ids(self) -> "Int64s":
        """Whose the masked rows of the newest plan are. To be asked right after `plan`."""
        flight = self._flights[-1]
        return flight.sampled.request_ids[flight.plan.masked]

    def _plan_decode(self) -> "tuple[Group, Int32s, Appends]":
        """The rows that compute their newest token: which, at which positions, and the blocks they need for it."""
        rows = self._rows
        while True:
            group = rows.decoding()
            computed = rows.computed[group.slots]
            going = computed < group.last_tokens
            if not going.all():  # the others draw their last token in the step in flight
                group, computed = rows.group(group.slots[going]), computed[going]
            needy = np.flatnonzero(computed >= rows.capacity[group.slots])
            if not len(needy):
                return group, computed, NO_APPENDS
            if len(needy) <= self._cache.available_blocks:
                break
            self._make_room()
        slots, starts, blocks = group.slots[needy], computed[needy] // rows.block_tokens, self._cache.take(len(needy))
        rows.tables[slots, starts] = blocks
        rows.capacity[slots] += rows.block_tokens
        return group, computed, (slots, starts, blocks)

    def _make_room(self) -> None:
        """Stop somebody."""
        victim = self._victims.choose(self._residents.running(), self._clock.now_s())
        assert victim is not None, "a sequence that runs alone always fits: add() saw to it"
        self._residents.preempt(victim, self._applied_tokens(victim))
        self._preemptions += 1

    def _plan_prefill(self, decodes: "Int32s") -> list[Chunk]:
        """Chunks of prompts beside decode rows that have computed so many tokens each."""
        residents, rows = self._residents, self._rows
        budget_tokens = self._budget.step_tokens - len(decodes)
        if budget_tokens <= 0:
            return []
        self._admit(budget_tokens)
        if not residents.prefills:
            return []
        starts = [int(rows.computed[sequence.slot]) for sequence in residents.prefills]
        rests = [Rest(*rest) for rest in zip(starts, self._remaining(), strict=True)]
        sizes = self._budget.divide(rests, self._budget.beside(decodes))
        chunks = []
        for sequence, start, tokens in zip(residents.prefills, starts, sizes, strict=True):
            tokens = residents.grow(sequence, tokens) if tokens else 0
            if tokens > 0:
                chunks.append(Chunk(sequence, start, start + tokens))
        return chunks

    def _remaining(self) -> list[int]:
        """What each prompt in hand has to compute now: all but the last token, from which it draws, of one held."""
        computed = self._rows.computed
        return [
            sequence.known_tokens - int(computed[sequence.slot]) - sequence.is_held
            for sequence in self._residents.prefills
        ]

    def _admit(self, budget_tokens: int) -> None:
        residents = self._residents
        if len(residents.promises):
            residents.wake(residents.promises.impatient(self._rows))
        postponed = []
        examined_blocks = 0
        for _ in range(MAX_EXAMINED):
            if examined_blocks > MAX_EXAMINED_BLOCKS:
                break
            candidate = residents.next_in_line()
            if candidate is None or not wants_more(self._remaining(), budget_tokens):
                break
            queue, sequence = candidate
            if self._is_in_flight(sequence):
                queue.remove(sequence)
                postponed.append(sequence)
                continue
            is_new = sequence.slot == NO_SLOT
            verdict = residents.admit(queue, sequence)
            examined_blocks += sequence.known_tokens // self._rows.block_tokens
            if verdict is Verdict.NO_ROOM:
                break
            if is_new and verdict is Verdict.ADMITTED:
                queue_s = max(0.0, self._clock.now_s() - sequence.request.arrival_s)
                cached_tokens = int(self._rows.computed[sequence.slot])
                self._admitted.append(Admission(sequence.request_id, queue_s, cached_tokens))
        for sequence in postponed:
            residents.preempted.push(sequence)

    def _is_in_flight(self, sequence: Sequence) -> bool:
        """Whether a token of a preempted sequence is still to come from before it was preempted: until then the host
        does not know all its tokens, and could mistake that step for one of its next life."""
        return sequence.slot != NO_SLOT and any(
            flight.plan.step >= sequence.start_step > NEVER and sequence.slot in flight.plan.slots
            for flight in self._flights
        )

    def _issue_mixed(self, group: Group, computed: "Int32s", appends: "Appends", chunks: list[Chunk]) -> StepPlan:
        """A step with prompt chunks after the decode rows."""
        slots = np.array([chunk.sequence.slot for chunk in chunks], np.int32)
        starts = np.array([chunk.start for chunk in chunks], np.int32)
        ends = np.array([chunk.end for chunk in chunks], np.int32)
        samples = np.array([chunk.samples for chunk in chunks], np.bool_)
        sampled = self._rows.group(np.concatenate((group.slots, slots[samples]))) if samples.any() else group
        row_starts = tuple(self._row_start(chunk.sequence) for chunk in chunks if chunk.sequence.start_step == NEVER)
        plan = StepPlan(
            self._next_step,
            np.concatenate((group.slots, slots)),
            np.concatenate((computed, starts)),
            np.concatenate((group.ones, ends - starts)),
            np.concatenate((group.trues, samples)),
            row_starts,
            *self._send_tables(appends, chunks),
            sampled.masked,
        )
        self._rows.computed[slots] = ends
        for chunk in chunks:
            sequence = chunk.sequence
            if sequence.life_step == NEVER:
                sequence.life_step = self._next_step
            if chunk.samples:
                self._residents.start_decoding(sequence)
        drawn = np.concatenate((computed + group.ones, ends[samples]))
        return self._issue(plan, sampled, drawn, tuple(chunks))

    def _row_start(self, sequence: Sequence) -> RowStart:
        sequence.start_step = self._next_step
        request = sequence.request
        stops = tuple(request.stop_token_ids)
        return RowStart(sequence.slot, sequence.prompt, len(sequence.prompt), request.sampling, stops)

    def _send_tables(self, appends: "Appends", chunks: list[Chunk]) -> "Appends":
        """The decode rows' new blocks, and what the runner does not have yet of the tables of `chunks`."""
        columns = ([appends[0]], [appends[1]], [appends[2]])
        for sequence in (chunk.sequence for chunk in chunks):
            table, sent = self._rows.table(sequence.slot), sequence.sent_blocks
            if len(table) > sent:
                columns[0].append(np.full(len(table) - sent, sequence.slot, np.int32))
                columns[1].append(np.arange(sent, len(table), dtype=np.int32))
                columns[2].append(table[sent:])
                sequence.sent_blocks = len(table)
        return np.concatenate(columns[0]), np.concatenate(columns[1]), np.concatenate(columns[2])

    def _issue(self, plan: StepPlan, sampled: Group, ends: "Int32s", chunks: tuple[Chunk, ...]) -> StepPlan:
        # Decode rows come first in both, so that one scatter serves mixed steps too.
        self._rows.computed[sampled.slots] = ends
        self._flights.append(Flight(plan, sampled, ends, chunks, self._residents.departures))
        self._next_step += 1
        return plan

    # --- apply -------------------------------------------------------------------------------------------------------

    def apply(self, result: StepResult) -> Updates:
        """Take in the result of the oldest step in flight."""
        flight = self._flights.popleft()
        assert result.step == flight.plan.step, (result.step, flight.plan.step)
        assert len(result.tokens) == len(flight.sampled), (len(result.tokens), len(flight.sampled))
        self._device_s += result.device_s
        updates = self._no_updates()
        if result.failed:
            self._fail(flight, result.failed, updates)
        for chunk in flight.chunks:
            self._prompt_tokens += chunk.end - chunk.start
            # One that was preempted meanwhile does not run: it waits for this very moment (see _is_in_flight).
            if chunk.sequence.is_running:
                self._residents.publish(chunk.sequence, chunk.end)
        if result.logprobs or result.prompt_logprobs:
            self._deliver_logprobs(flight, result, updates)
        self._say(flight, result.tokens, updates)
        return updates

    def _say(self, flight: Flight, tokens: "Int32s", updates: Updates) -> None:
        """Store the drawn tokens of the sequences that are still there, and end those that are complete."""
        group, ends, rows = flight.sampled, flight.ends, self._rows
        if flight.departures != self._residents.departures:
            live = rows.request_ids[group.slots] == group.request_ids
            if not live.all():
                group, ends, tokens = rows.group(group.slots[live]), ends[live], tokens[live]
        updates.request_ids, updates.tokens = group.request_ids, tokens
        self._output_tokens += len(tokens)
        rows.tokens[group.slots, ends] = tokens
        ended = ends >= group.last_tokens
        is_stop = self._stop_mask(group, ends, tokens)
        if is_stop is not None:
            ended |= is_stop
        if ended.any():
            for index in np.flatnonzero(ended).tolist():
                token = int(tokens[index]) if is_stop is not None and is_stop[index] else None
                reason = FinishReason.LENGTH if token is None else FinishReason.STOP
                updates.finished.append(Finish(int(group.request_ids[index]), reason, token))
                self._depart(self._live[int(group.request_ids[index])])
            self._trim_deadlines()

    def _stop_mask(self, group: Group, ends: "Int32s", tokens: "Int32s") -> "NDArray[np.bool_] | None":
        """Which tokens end their sequence; None if none does."""
        if not group.stops:
            return None
        mask: NDArray[np.bool_] = group.stops[0] == tokens
        for stops in group.stops[1:]:
            mask |= stops == tokens
        if group.has_more_stops:
            for index, slot in enumerate(group.slots.tolist()):
                mask[index] |= int(tokens[index]) in self._rows.more_stops.get(slot, ())
        if not mask.any():
            return None
        mask &= ends >= group.first_stop
        return mask

    def _fail(self, flight: Flight, failed: dict[int, str], updates: Updates) -> None:
        for slot, message in failed.items():
            sequence = self._owner(flight, slot)
            if sequence is not None:
                self._depart(sequence, is_sound=False)
                is_own_fault = message == NOTHING_TO_DRAW and sequence.request.forbids_tokens
                reason = FinishReason.REFUSED if is_own_fault else FinishReason.ERROR
                updates.finished.append(Finish(sequence.request_id, reason, message=message))

    def _deliver_logprobs(self, flight: Flight, result: StepResult, updates: Updates) -> None:
        for slot, logprobs in (result.logprobs or {}).items():
            sequence = self._owner(flight, slot)
            if sequence is not None:
                updates.logprobs[sequence.request_id] = logprobs
        for slot, prompt_logprobs in (result.prompt_logprobs or {}).items():
            sequence = self._owner(flight, slot)
            if sequence is None:
                continue
            # After a preemption, positions are computed again: what was delivered is not delivered twice.
            fresh = _after(prompt_logprobs, sequence.next_prompt_logprob)
            if fresh is not None:
                updates.prompt_logprobs[sequence.request_id] = fresh
                sequence.next_prompt_logprob = fresh.start + len(fresh.positions)

    def _owner(self, flight: Flight, slot: int) -> Sequence | None:
        """The sequence that had `slot` in that step, if it still has it."""
        sequence = self._residents.by_slot[slot]
        if sequence is None or sequence.start_step == NEVER or sequence.start_step > flight.plan.step:
            return None
        return sequence

    # --- both --------------------------------------------------------------------------------------------------------

    def _depart(self, sequence: Sequence, *, is_sound: bool = True) -> None:
        self._residents.depart(sequence, self._applied_tokens(sequence), is_sound=is_sound)
        del self._live[sequence.request_id]
        self._pace.completed()

    def _applied_tokens(self, sequence: Sequence) -> int:
        """How many tokens of its present life have been computed by steps that were applied."""
        if not sequence.is_running:
            return 0
        computed = int(self._rows.computed[sequence.slot])
        return computed - sum(flight.tokens_of(sequence) for flight in self._flights)

    def _trim_deadlines(self) -> None:
        """Drop the deadlines of those that are done, when they are most of the heap."""
        if len(self._deadlines) > 2 * len(self._live) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._live]
            heapify(self._deadlines)

    def _no_updates(self) -> Updates:
        admitted, self._admitted = self._admitted, []
        return Updates(NO_INT64S, NO_INT32S, [], admitted, {}, {})

    def _validate(self, request: EngineRequest, prompt: "Int64s") -> None:
        prompt_tokens, block_tokens = len(prompt), self._info.block_tokens
        total_tokens = prompt_tokens + request.max_tokens
        if request.request_id in self._live:
            raise RequestError(f"request {request.request_id} is running already", field="request_id")
        if not prompt_tokens:
            raise RequestError("the prompt is empty; it needs at least one token", field="prompt")
        low, high = prompt.min(), prompt.max()
        if low < 0 or high >= self._info.vocab_size:
            raise RequestError(
                f"token {low if low < 0 else high} of the prompt is not in 0..{self._info.vocab_size - 1}",
                field="prompt",
            )
        if request.max_tokens < 1:
            raise RequestError(f"max_tokens must be at least 1, not {request.max_tokens}", field="max_tokens")
        if total_tokens > self._info.max_model_len:
            raise ContextLengthExceeded(
                f"the prompt has {prompt_tokens} tokens and max_tokens is {request.max_tokens}, together "
                f"{total_tokens}; the model's context is {self._info.max_model_len}",
                field="prompt" if prompt_tokens >= self._info.max_model_len else "max_tokens",
            )
        pool_tokens = self._info.num_blocks * block_tokens
        if total_tokens - 1 > pool_tokens:  # the last token is never computed
            raise ContextLengthExceeded(
                f"the prompt has {prompt_tokens} tokens and max_tokens is {request.max_tokens}; "
                f"the KV cache holds {pool_tokens} tokens in all",
                field="prompt" if prompt_tokens > pool_tokens else "max_tokens",
            )


def _after(logprobs: PromptLogprobs, first: int) -> PromptLogprobs | None:
    """The part of `logprobs` at and after position `first`, or None."""
    skip = max(0, first - logprobs.start)
    positions: list[TokenLogprobs] = logprobs.positions[skip:]
    return PromptLogprobs(logprobs.start + skip, positions) if positions else None
