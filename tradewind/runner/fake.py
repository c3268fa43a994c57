"""A runner that computes no model: it answers from a cost model, and proves the plans it is given.

It keeps state rows, block tables and a KV pool exactly as the plans say. What it stores for a token is a digest of the
token and of the entry before it, which it reads through the row's table; what it draws is a function of all entries
read back through that table and of the row's seed. A block that was given away too early, a table that is wrong, a
prefix that belongs to other tokens, a token that was lost: each of them shows as other tokens than `alone` gives.

Shape letters: R rows of the plan, T tokens of the step, B blocks, S block_tokens.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tradewind.base.clock import Clock, SystemClock
from tradewind.protocol.plan import RowStart, RunnerInfo, StepPlan, TokenMasks
from tradewind.protocol.request import EngineRequest, RowSampling
from tradewind.protocol.result import PromptLogprobs, StepResult, TokenLogprobs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]
    Int64s = NDArray[np.int64]
    Words = NDArray[np.uint64]

Sleep = Callable[[float], None]

POISON = np.uint64(0xBADBADBADBADBADB)
NAP_S = 0.05


@dataclass(frozen=True, slots=True)
class StepCost:
    """How long a step takes: `base_s`, and so much per token computed and per token of context that is read."""

    base_s: float = 0.0
    per_token_s: float = 0.0
    per_context_token_s: float = 0.0

    def of(self, plan: StepPlan) -> float:
        """Seconds for `plan`."""
        context_tokens = int(plan.computed_tokens.sum()) + plan.total_tokens if self.per_context_token_s else 0
        return self.base_s + self.per_token_s * plan.total_tokens + self.per_context_token_s * context_tokens


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong on purpose."""

    failed_slots: Mapping[int, Mapping[int, str]] = field(default_factory=dict)  # step -> slot -> message
    broken_steps: Mapping[int, Exception] = field(default_factory=dict)  # step -> what its result raises
    hung_steps: frozenset[int] = frozenset()  # steps that never end


NO_FAULTS = Faults()


def _mixed(words: "Words") -> "Words":
    """A bijection of 64-bit words that leaves no pattern (the finalizer of SplitMix64, Steele et al. 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _marks(tokens: "Int32s", positions: "Int64s") -> "Words":
    """What each token adds to the digest of its sequence."""
    return _mixed((tokens.astype(np.uint64) << np.uint64(32)) + positions.astype(np.uint64) + np.uint64(1))


def _weighed(entries: "Words", positions: "Int64s") -> "Words":
    """What each KV entry adds to the digest that a token is drawn from."""
    return _mixed(entries + positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _draw(digests: "Words", seeds: "Words", vocab_size: int) -> "Int32s":
    return (_mixed(digests ^ _mixed(seeds)) % np.uint64(vocab_size)).astype(np.int32)


def _mask_stops(token: int, stop_ids: frozenset[int], vocab_size: int) -> int:
    """The next token id that ends nothing."""
    for shift in range(vocab_size):
        if (token + shift) % vocab_size not in stop_ids:
            return (token + shift) % vocab_size
    return token


def alone(request: EngineRequest, vocab_size: int) -> list[int]:
    """The tokens that `request` gets when nothing else runs, its stop token included."""
    tokens = list(request.prompt_tokens)
    stops, sampling = frozenset(request.stop_token_ids), request.sampling
    seeds = np.array([sampling.seed], np.uint64)
    said: list[int] = []
    entry, digest = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
    position = 0
    while len(said) < request.max_tokens:
        positions = np.arange(position, len(tokens), dtype=np.int64)
        entries = entry + np.cumsum(_marks(np.array(tokens[position:], np.int32), positions))
        digest = digest + _weighed(entries, positions).sum(keepdims=True)
        entry, position = entries[-1:], len(tokens)
        token = int(_draw(digest, seeds, vocab_size)[0])
        if len(said) < sampling.min_tokens:
            token = _mask_stops(token, stops, vocab_size)
        said.append(token)
        tokens.append(token)
        if token in stops and len(said) > sampling.min_tokens:
            break
    return said


def _allow(token: int, bits_W: "Int32s") -> int:
    """The first token from this one on, in a circle, that a mask allows."""
    allowed = np.flatnonzero(np.unpackbits(bits_W.view(np.uint8), bitorder="little"))
    return int(allowed[np.searchsorted(allowed, token) % len(allowed)]) if len(allowed) else token


class FakePending:
    """A step of the fake device. It is done when the device would be. `remask` draws again, under masks."""

    def __init__(
        self,
        result: StepResult | Exception,
        ready_s: float,
        clock: Clock,
        sleep: Sleep,
        remask: "Callable[[StepResult, TokenMasks], StepResult] | None",
    ) -> None:
        self._result = result
        self._remask = remask
        self._ready_s = ready_s
        self._clock = clock
        self._sleep = sleep

    def mask(self, masks: TokenMasks) -> None:
        """See `protocol.runner.Pending`."""
        assert self._remask is not None, "the step waits for no mask"
        if not isinstance(self._result, Exception):
            self._result = self._remask(self._result, masks)
        self._remask = None

    def done(self) -> bool:
        """Whether the device's time has passed."""
        return self._clock.now_s() >= self._ready_s

    def result(self) -> StepResult:
        """Sleep until the step is done."""
        assert self._remask is None, "the step waits for its masks"
        while (left_s := self._ready_s - self._clock.now_s()) > 0:
            self._sleep(min(left_s, NAP_S) if left_s == float("inf") else left_s)
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


class FakeRunner:
    """Satisfies `protocol.runner.Runner`. Pass `sleep=clock.advance` with a ManualClock to run in virtual time.

    With `verify=False` it keeps no KV and no tables, and draws from seed and position only: cheap enough to measure the
    host by. The tokens are then others than `alone` gives, but still depend on the request only.
    """

    def __init__(
        self,
        info: RunnerInfo,
        cost: StepCost | None = None,
        *,
        clock: Clock | None = None,
        sleep: Sleep = time.sleep,
        verify: bool = True,
        faults: Faults = NO_FAULTS,
    ) -> None:
        self._info = info
        self._cost = cost or StepCost()
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._free_s = 0.0
        self._faults = faults
        self._device = FakeDevice(info) if verify else QuickDevice(info)
        self._next_step = 0

    @property
    def info(self) -> RunnerInfo:
        """As given."""
        return self._info

    @property
    def compiled_kernels(self) -> int:
        """It has none."""
        return 0

    @property
    def eager_steps(self) -> int:
        """It has no graphs."""
        return 0

    def tidy(self) -> bool:
        """There is nothing to do."""
        return False

    def run(self, plan: StepPlan) -> FakePending:
        """Check and execute `plan`. Raises AssertionError if it is not well formed."""
        assert plan.step == self._next_step, (plan.step, self._next_step)
        self._next_step += 1
        cost_s = self._cost.of(plan)
        self._free_s = max(self._free_s, self._clock.now_s()) + cost_s
        if plan.step in self._faults.hung_steps:
            self._free_s = float("inf")
        failed = dict(self._faults.failed_slots.get(plan.step, {}))
        failed = {slot: message for slot, message in failed.items() if slot in plan.slots}
        result: StepResult | Exception
        broken = self._faults.broken_steps.get(plan.step)
        result = broken if broken is not None else self._device.execute(plan, failed, cost_s)
        remask = partial(self._mask, plan) if len(plan.masked) else None
        pending = FakePending(result, self._free_s, self._clock, self._sleep, remask)
        if not self._info.asynchronous and cost_s and plan.step not in self._faults.hung_steps:
            self._sleep(max(0.0, self._free_s - self._clock.now_s()))
        return pending

    def _mask(self, plan: StepPlan, result: StepResult, masks: TokenMasks) -> StepResult:
        assert plan.step == self._next_step - 1, "a step was issued before the masks of the one before it"
        tokens = result.tokens.copy()
        for place, bits_W in zip(plan.masked.tolist(), masks.bits_MW, strict=True):
            tokens[place] = _allow(int(tokens[place]), bits_W)
        self._device.store(plan, tokens)
        return replace(result, tokens=tokens)

    def close(self) -> None:
        """Nothing to give back."""


class QuickDevice:
    """Draws without looking."""

    def __init__(self, info: RunnerInfo) -> None:
        self._vocab_size = info.vocab_size
        self._seeds: Words = np.zeros(info.max_running, np.uint64)
        self._logprobs: dict[int, int] = {}  # slot -> alternatives; prompts get none

    def execute(self, plan: StepPlan, failed: dict[int, str], cost_s: float) -> StepResult:
        """The result of `plan`."""
        for start in plan.starts:
            self._seeds[start.slot] = start.sampling.seed
            self._logprobs.pop(start.slot, None)
            if start.sampling.logprobs is not None:
                self._logprobs[start.slot] = start.sampling.logprobs
        ends = plan.computed_tokens + plan.new_tokens
        slots = plan.slots
        if not plan.sample.all():
            slots, ends = slots[plan.sample], ends[plan.sample]
        tokens = _draw(ends.astype(np.uint64), self._seeds[slots], self._vocab_size)
        logprobs = None
        if self._logprobs:
            logprobs = {
                slot: _flat_logprobs(token, self._logprobs[slot])
                for slot, token in zip(slots.tolist(), tokens.tolist(), strict=True)
                if slot in self._logprobs
            }
        return StepResult(plan.step, slots, tokens, logprobs or None, failed=failed or None, device_s=cost_s)

    def store(self, plan: StepPlan, tokens: "Int32s") -> None:
        """It keeps no tokens."""


class FakeDevice:
    """State rows, tables and KV pool, and the proof that plans use them well."""

    def __init__(self, info: RunnerInfo) -> None:
        self._info = info
        blocks_per_row = -(-info.max_model_len // info.block_tokens)
        rows = info.max_running
        self._tokens: Int32s = np.zeros((rows, info.max_model_len), np.int32)
        self._length: Int64s = np.zeros(rows, np.int64)  # tokens known
        self._computed: Int64s = np.zeros(rows, np.int64)
        self._tables: Int32s = np.zeros((rows, blocks_per_row), np.int32)
        self._table_blocks: Int64s = np.zeros(rows, np.int64)
        self._seeds: Words = np.zeros(rows, np.uint64)
        self._prompt_tokens: Int64s = np.zeros(rows, np.int64)
        self._starts: dict[int, RowStart] = {}
        self._special: set[int] = set()  # slots with logprobs or min_tokens: looked at one by one
        self._entries: Words = np.full((info.num_blocks, info.block_tokens), POISON, np.uint64)

    def execute(self, plan: StepPlan, failed: dict[int, str], cost_s: float) -> StepResult:
        """Write the KV of `plan` and draw its tokens."""
        self._check_columns(plan)
        for start in plan.starts:
            self._begin(start)
        self._append(plan)
        self._check_rows(plan)
        self._write(plan)
        tokens = self._sample(plan)
        slots = plan.slots[plan.sample]
        logprobs, prompt_logprobs = self._logprobs(plan, slots, tokens)
        for slot in failed:
            self._spoil(slot, plan)
        return StepResult(plan.step, slots, tokens, logprobs, prompt_logprobs, failed or None, cost_s)

    def store(self, plan: StepPlan, tokens: "Int32s") -> None:
        """These are the tokens of the plan that was executed last, instead of those that were drawn."""
        ends = (plan.computed_tokens + plan.new_tokens)[plan.sample]
        self._tokens[plan.slots[plan.sample], ends] = tokens

    def _begin(self, start: RowStart) -> None:
        slot, sampling = start.slot, start.sampling
        assert 0 < start.prompt_tokens <= len(start.tokens), start
        self._tokens[slot, : len(start.tokens)] = start.tokens
        self._length[slot] = len(start.tokens)
        self._computed[slot] = self._table_blocks[slot] = 0
        self._seeds[slot] = sampling.seed
        self._prompt_tokens[slot] = start.prompt_tokens
        self._starts[slot] = start
        self._special.discard(slot)
        if _is_special(sampling):
            self._special.add(slot)

    def _append(self, plan: StepPlan) -> None:
        """Tables grow at their end, or start again at 0 when a slot was preempted."""
        for slot, start, block in zip(
            plan.block_slots.tolist(), plan.block_starts.tolist(), plan.block_ids.tolist(), strict=True
        ):
            if start == 0:
                self._table_blocks[slot] = 0
                self._computed[slot] = -1
            assert start == self._table_blocks[slot], f"slot {slot}: entry {start} after {self._table_blocks[slot]}"
            assert 0 <= block < self._info.num_blocks, f"slot {slot}: no block {block}"
            self._tables[slot, start] = block
            self._table_blocks[slot] += 1

    def _check_columns(self, plan: StepPlan) -> None:
        rows = len(plan.slots)
        assert rows == len(plan.computed_tokens) == len(plan.new_tokens) == len(plan.sample), "columns differ in length"
        columns = (plan.slots, plan.computed_tokens, plan.new_tokens, plan.block_slots, plan.block_starts)
        assert all(column.dtype == np.int32 for column in (*columns, plan.block_ids)), "columns must be int32"
        assert plan.sample.dtype == np.bool_, plan.sample.dtype
        assert rows > 0, "an empty plan"
        assert len(np.unique(plan.slots)) == rows, f"a slot appears twice in {plan.slots}"
        assert (plan.new_tokens > 0).all(), f"rows without tokens: {plan.new_tokens}"
        assert plan.total_tokens <= self._info.step_tokens, f"{plan.total_tokens} tokens in one step"
        mentioned = set(plan.block_slots.tolist()) | {start.slot for start in plan.starts}
        assert mentioned <= set(plan.slots.tolist()), "blocks or starts for rows that are not in the plan"

    def _check_rows(self, plan: StepPlan) -> None:
        slots, computed = plan.slots, plan.computed_tokens
        ends = computed + plan.new_tokens
        before = self._computed[slots]
        begins = before <= 0  # a new table: whatever its first blocks hold counts as computed
        assert ((computed == before) | begins).all(), f"slots {slots[(computed != before) & ~begins]} skip tokens"
        length = self._length[slots]
        assert (ends <= length).all(), f"slots {slots[ends > length]} compute tokens that nobody knows"
        assert (plan.sample == (ends == length)).all(), "a row samples exactly when all its known tokens are computed"
        room = self._table_blocks[slots] * self._info.block_tokens
        assert (ends <= room).all(), f"slots {slots[ends > room]} have no block for their tokens"
        assert (length[plan.sample] < self._info.max_model_len).all(), "a row grows beyond the model's context"
        self._computed[slots] = ends

    def _places(self, slots: "Int64s", positions: "Int64s") -> "tuple[Int32s, Int64s]":
        """Block and offset of each position, through the slot's table."""
        return self._tables[slots, positions // self._info.block_tokens], positions % self._info.block_tokens

    def _write(self, plan: StepPlan) -> None:
        slots_T, positions_T, firsts_R = _spread(plan.slots, plan.computed_tokens, plan.new_tokens)
        marks = _marks(self._tokens[slots_T, positions_T], positions_T)
        sums = np.cumsum(marks)
        before = np.zeros(len(plan.slots), np.uint64)
        continued = plan.computed_tokens > 0
        last = plan.computed_tokens[continued].astype(np.int64) - 1
        before[continued] = self._entries[self._places(plan.slots[continued].astype(np.int64), last)]
        offsets = before - (sums[firsts_R] - marks[firsts_R])
        self._entries[self._places(slots_T, positions_T)] = sums + np.repeat(offsets, plan.new_tokens)

    def _sample(self, plan: StepPlan) -> "Int32s":
        slots = plan.slots[plan.sample]
        if not len(slots):
            return np.zeros(0, np.int32)
        ends = (plan.computed_tokens + plan.new_tokens)[plan.sample]
        slots_T, positions_T, firsts_R = _spread(slots, np.zeros_like(ends), ends)
        weighed = _weighed(self._entries[self._places(slots_T, positions_T)], positions_T)
        tokens = _draw(np.add.reduceat(weighed, firsts_R), self._seeds[slots], self._info.vocab_size)
        if self._special:
            for index, slot in enumerate(slots.tolist()):
                start = self._starts[slot]
                if self._length[slot] - start.prompt_tokens < start.sampling.min_tokens:
                    stops = frozenset(start.stop_token_ids)
                    tokens[index] = _mask_stops(int(tokens[index]), stops, self._info.vocab_size)
        self._tokens[slots, ends] = tokens
        self._length[slots] = ends + 1
        return tokens

    def _logprobs(
        self, plan: StepPlan, slots: "Int32s", tokens: "Int32s"
    ) -> tuple[dict[int, TokenLogprobs] | None, dict[int, PromptLogprobs] | None]:
        if not self._special:
            return None, None
        logprobs = {
            slot: _flat_logprobs(token, alternatives)
            for slot, token in zip(slots.tolist(), tokens.tolist(), strict=True)
            if (alternatives := self._starts[slot].sampling.logprobs) is not None
        }
        prompt_logprobs = {}
        for slot, start, count in zip(
            plan.slots.tolist(), plan.computed_tokens.tolist(), plan.new_tokens.tolist(), strict=True
        ):
            alternatives = self._starts[slot].sampling.prompt_logprobs
            end = min(start + count + 1, int(self._prompt_tokens[slot]))
            if alternatives is not None and start + 1 < end:
                said = self._tokens[slot, start + 1 : end].tolist()
                prompt_logprobs[slot] = PromptLogprobs(
                    start + 1, [_flat_logprobs(token, alternatives) for token in said]
                )
        return logprobs or None, prompt_logprobs or None

    def _spoil(self, slot: int, plan: StepPlan) -> None:
        """A row that fails leaves rubbish in all its own entries of this step."""
        (row,) = np.flatnonzero(plan.slots == slot)
        start = int(plan.computed_tokens[row])
        positions = np.arange(start, start + int(plan.new_tokens[row]), dtype=np.int64)
        self._entries[self._places(np.full(len(positions), slot, np.int64), positions)] = POISON


def _is_special(sampling: RowSampling) -> bool:
    return bool(sampling.min_tokens) or sampling.logprobs is not None or sampling.prompt_logprobs is not None


def _flat_logprobs(token: int, alternatives: int) -> TokenLogprobs:
    return TokenLogprobs([token, *range(alternatives)], [-1.0] * (1 + alternatives), 1)


def _spread(slots: "Int32s", starts: "Int32s", counts: "Int32s") -> "tuple[Int64s, Int64s, Int64s]":
    """Slot and position of each token of ragged rows, and where each row begins among them."""
    ends = np.cumsum(counts, dtype=np.int64)
    firsts = ends - counts
    positions = np.arange(ends[-1], dtype=np.int64) - np.repeat(firsts - starts, counts)
    return np.repeat(slots.astype(np.int64), counts), positions, firsts
