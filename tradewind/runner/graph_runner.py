"""A GPU as a runner: inputs that keep their place, prepared on the device, and steps that are replayed from graphs.

A step is two graphs. The first copies the row columns from where the host has written them, makes the step's inputs
from them and the slots' tables, runs the model, and leaves the hidden states that tokens are drawn from. The second
makes logits of them, draws, stores the tokens where the next step reads them, and tells the host. So the host writes a
few columns and starts two graphs, whatever the step is made of; it need not wait for anything. A step of one token a
row, all of which draw and ask for nothing beyond temperature and filters, is one graph. Steps of one token a row have
graphs by the number of rows, all others by the number of tokens; both are rounded up to a bucket (buckets.py).

Legend: T tokens of a step, R rows, N rows that sample, D hidden, V vocabulary, S slots, M blocks of a table, U turns.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tradewind.kernels.gpu.ready import ReadyKernels
from tradewind.kernels.host_copy import HostCopy
from tradewind.kernels.mask_logits import MaskLogits
from tradewind.kernels.pages import KVPool
from tradewind.kernels.rows import Rows
from tradewind.kernels.sample import Draw
from tradewind.kernels.step_inputs import SlotTables, StepInputs, StepTensors
from tradewind.models.decoder import Model
from tradewind.models.spec import ModelSpec
from tradewind.protocol.plan import RunnerInfo, StepPlan, TokenMasks
from tradewind.protocol.result import StepResult
from tradewind.runner.buckets import fitting, row_buckets, wanted_graphs
from tradewind.runner.graphs import Graphs, GraphsReport
from tradewind.runner.pending import Done, Finish, Halved, Issued, result_of
from tradewind.runner.prompt_logprobs import ROWS_AT_ONCE, PromptColumns, prompt_columns
from tradewind.runner.sample import Drawn, Mask, draw, masking
from tradewind.runner.state import StateRows, StateShape
from tradewind.runner.step_columns import IN_FLIGHT, StepColumns, StepShape
from tradewind.runner.transfer import to_device

T = TypeVar("T")

_NO_MEMORY = "the device ran out of memory for this request's step; send it again when less is running"


@dataclass(frozen=True)
class StepOps:
    """The ops around the model."""

    inputs: StepInputs
    draw: Draw
    mask_logits: MaskLogits
    host_copy: HostCopy


class GraphRunner:
    """Satisfies tradewind.protocol.runner.Runner. `pool` has a block more than info.num_blocks, which nobody owns.

    Without `graphs` every step is launched kernel by kernel. On the CPU (in tests) all works the same, slowly.
    """

    def __init__(
        self,
        model: Model,
        pool: KVPool,
        info: RunnerInfo,
        ops: StepOps,
        graphs: Graphs | None = None,
        ready: ReadyKernels | None = None,
    ) -> None:
        """`ready`: counts kernels, from before the first of this runner's was launched."""
        assert pool.num_blocks > info.num_blocks, "there is no spare block"
        self._model, self._info, self._ops, self._graphs = model, info, ops, graphs
        self._ready = ready or ReadyKernels()
        self._report = graphs.report if graphs is not None else GraphsReport()
        self._pool: KVPool | None = pool
        device, slots = model.device, info.max_running
        shape = StateShape(slots, info.max_model_len, info.block_tokens, info.vocab_size)
        self._state = StateRows(shape, device)
        blocks_SM = torch.zeros(slots, shape.max_blocks, dtype=torch.int32, device=device)
        self._tables = SlotTables(
            self._state.tokens_SP, blocks_SM, info.block_tokens, info.num_blocks * info.block_tokens
        )
        self._columns = StepColumns(slots, device, ops.host_copy)
        self._step = _step_tensors(info, shape, self._columns, device)
        self._last_ND = torch.zeros(slots, model.spec.hidden, dtype=model.spec.dtype, device=device)
        self._hidden_TD = self._last_ND.new_empty(info.step_tokens, model.spec.hidden)
        self._drawn_N = torch.zeros(slots, dtype=torch.int64, device=device)
        self._told_UN = torch.zeros(IN_FLIGHT, slots, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._turn = IN_FLIGHT - 1  # of the last step: the first one's is 0
        self._open: list[Issued | None] = [None] * IN_FLIGHT  # by turns
        self._sizes: dict[str, tuple[int, ...]] = {"plain": (), "decode": (), "mixed": (), "head": ()}

    @property
    def info(self) -> RunnerInfo:
        """What was measured at boot."""
        return self._info

    @property
    def compiled_kernels(self) -> int:
        """See tradewind.protocol.runner.Runner."""
        return self._ready.count

    @property
    def eager_steps(self) -> int:
        """See tradewind.protocol.runner.Runner."""
        return self._report.eager

    @property
    def spec(self) -> ModelSpec:
        """The shape of the model."""
        return self._model.spec

    @property
    def copy_bytes(self) -> int:
        """Of the weights' copies for one row; 0 if there are none."""
        return self._model.copy_bytes

    @property
    def report(self) -> GraphsReport:
        """What was recorded, and how steps have been run since."""
        return self._report

    @torch.inference_mode()
    def rehearse(self) -> None:
        """Launch the kernels of all graphs there might be once, in a layer of each kind, those of the output layer for
        as many prompt tokens as it may be asked for at once, and those around the graphs. Without graphs: nothing.
        """
        wanted = self._wanted()
        for kind, size in wanted:
            self._work(kind, size, self._model.thin)()
        if not wanted:
            return
        for rows in row_buckets(min(ROWS_AT_ONCE, len(self._hidden_TD))):
            self._model.logits(self._hidden_TD[:rows])
        self._take_up_turns()

    @torch.inference_mode()
    def record(self, progress: Callable[[float], None] = lambda _share: None) -> None:
        """Record graphs within their budget, the ones most worth having first. Without graphs: nothing."""
        if self._graphs is None:
            return
        self._clear_columns()
        wanted, thin = self._wanted(), self._model.thin
        for index, (kind, size) in enumerate(wanted):
            if self._graphs.record((kind, size), self._work(kind, size, self._model), self._work(kind, size, thin)):
                self._add_size(kind, size)
            progress((index + 1) / len(wanted))
        self._take_up_turns()

    @torch.inference_mode()
    def tidy(self) -> bool:
        """See tradewind.protocol.runner.Runner: records a graph that there was no time for at boot."""
        if self._graphs is None or not self._report.postponed:
            return False
        self._clear_columns()
        key = self._graphs.record_postponed()
        self._take_up_turns()
        if key is not None:
            self._add_size(*key)
        return self._report.postponed > 0

    def _wanted(self) -> list[tuple[str, int]]:
        return wanted_graphs(self._info.max_running, self._info.step_tokens) if self._graphs is not None else []

    def _add_size(self, kind: str, size: int) -> None:
        self._sizes[kind] = tuple(sorted((*self._sizes[kind], size)))

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> Done | Halved | Issued:
        """Issue a step. A step that memory does not suffice for fails for the rows that asked for too much."""
        begun, ended = self._events()
        state = self._state
        refused = state.begin(plan)
        places_B = plan.block_slots.astype(np.int64) * self._tables.blocks_SM.shape[1] + plan.block_starts
        if not len(plan.slots) or not self._columns.has_room(len(places_B)):
            self._append_blocks(places_B, plan.block_ids)
        if not len(plan.slots):
            return Done(result_of(plan.step, None, [], 0.0))
        shape = self._columns.fill(plan, state, places_B, self._take_turn())
        forward = _unless_memory_ends(lambda: self._forward(shape, not refused and self._is_plain(plan, shape)))
        if forward is None:
            self._take_up_turns()
            self._append_blocks(places_B, plan.block_ids)  # the device may not have got as far as the step's columns
            answer = self._shed_all(plan, shape)
            return Halved.failed(answer) if len(plan.masked) else Done(answer)
        hidden_TD, is_drawn = forward

        def sample(masks: TokenMasks | None) -> Finish:
            if is_drawn:
                drawn = self._told(shape)
                return lambda device_s: result_of(plan.step, drawn, [], device_s)
            return self._second_half(plan, shape, hidden_TD, masks, refused)

        if ended is None or begun is None:
            return Halved(sample, 0.0) if len(plan.masked) else Done(sample(None)(0.0))
        step = Issued(begun, ended, sample)
        self._open[shape.turn] = step
        if not len(plan.masked):
            step.mask(None)
        return step

    def _second_half(
        self, plan: StepPlan, shape: StepShape, hidden_TD: Tensor, masks: TokenMasks | None, refused: list[int]
    ) -> Finish:
        """Issue what follows the forward; what is returned reads the answer. `refused`: slots that fail in any case."""
        state = self._state
        shed = dict.fromkeys(refused, _NO_MEMORY)
        found = _unless_memory_ends(lambda: self._all_asked_for(plan, shape, hidden_TD, masks))
        if found is None:
            shed |= dict.fromkeys(plan.slots[state.flags_S[plan.slots] != 0].tolist(), _NO_MEMORY)
            shed |= dict.fromkeys(shape.slots_N[plan.masked].tolist(), _NO_MEMORY)
            found = _unless_memory_ends(lambda: ([], self._draw_plainly(shape) if len(shape.slots_N) else None))
        if found is None:
            nothing = self._shed_all(plan, shape)
            return lambda _device_s: nothing
        prompts, drawn = found

        def finish(device_s: float) -> StepResult:
            answer = result_of(plan.step, drawn, prompts, device_s)
            return replace(answer, failed={**(answer.failed or {}), **shed} or None)

        return finish

    def _all_asked_for(
        self, plan: StepPlan, shape: StepShape, hidden_TD: Tensor, masks: TokenMasks | None
    ) -> tuple[list[PromptColumns], Drawn | None]:
        """Log probabilities of prompts, and tokens, on their way to the host."""
        prompts = prompt_columns(plan, shape.starts_R, hidden_TD, self._state, self._model)
        if not len(shape.slots_N):
            return prompts, None
        return prompts, self._draw(shape, masking(plan, masks, self._ops.mask_logits, self._state.device))

    def _shed_all(self, plan: StepPlan, shape: StepShape) -> StepResult:
        """Nothing of the step was computed: all its rows fail, and those that wait take their place."""
        slots = shape.slots_N.astype(np.int32)
        # The next step may have been planned already: it must find a token where this one would have left it.
        self._state.store(shape.slots_N, shape.positions_N, torch.zeros_like(self._drawn_N[: len(slots)]))
        return StepResult(plan.step, slots, np.zeros_like(slots), failed=dict.fromkeys(plan.slots.tolist(), _NO_MEMORY))

    def close(self) -> None:
        """Give the device's memory back. No step may follow."""
        if self._graphs is not None:
            self._graphs.close()
        self._pool = None

    def _events(self) -> tuple[torch.Event, torch.Event] | tuple[None, None]:
        if self._model.device.type == "cpu":
            return None, None
        ended, before = torch.Event(self._model.device, enable_timing=True), self._open[self._turn]
        if before is not None and before.is_under_way:
            return before.ended, ended
        begun = torch.Event(self._model.device, enable_timing=True)
        begun.record()
        return begun, ended

    def _take_turn(self) -> int:
        """Which of the host's rows is told what the next step draws. Whoever was told there has read it then."""
        self._turn = (self._turn + 1) % IN_FLIGHT
        told = self._open[self._turn]
        if told is not None:
            told.result()
            self._open[self._turn] = None
        return self._turn

    def _clear_columns(self) -> None:
        """For recording: no step of the columns that are there is still to come."""
        self._wait()
        self._columns.clear()

    def _take_up_turns(self) -> None:
        """After work whose columns were sent, or may have been, without a turn being taken."""
        self._wait()
        self._columns.set_turn((self._turn + 1) % IN_FLIGHT)

    def _wait(self) -> None:
        """Until the device is through with all that was issued."""
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)

    def _append_blocks(self, places_B: NDArray[np.int64], ids_B: NDArray[np.int32]) -> None:
        """Put new blocks into the slots' tables."""
        if len(places_B):
            device = self._model.device
            self._tables.blocks_SM.view(-1).index_copy_(0, to_device(places_B, device), to_device(ids_B, device))

    # --- the first half of a step ------------------------------------------------------------------------------------

    def _is_plain(self, plan: StepPlan, shape: StepShape) -> bool:
        """One token a row, all of which draw, and no row asks for more than temperature and filters."""
        is_decode = shape.max_query == 1 and len(shape.slots_N) == shape.rows
        return is_decode and not len(plan.masked) and not self._state.flags_S[shape.slots_N].any()

    def _forward(self, shape: StepShape, is_plain: bool) -> tuple[Tensor, bool]:
        """hidden_TD of the step's tokens, and whether tokens were drawn, too; what comes after them is of nobody's."""
        if is_plain and (size := fitting(self._sizes["plain"], shape.tokens)) is not None:
            return self._replay("plain", size), True
        kind = "decode" if shape.max_query == 1 else "mixed"
        size = fitting(self._sizes[kind], shape.tokens)
        if self._graphs is None or size is None:
            self._report.eager += 1
            return self._compute(self._model, shape.tokens, shape.rows, shape.max_query), False
        return self._replay(kind, size), False

    def _replay(self, kind: str, size: int) -> Tensor:
        assert self._graphs is not None
        hidden_TD: Tensor = self._graphs.replay((kind, size))
        return hidden_TD

    def _work(self, kind: str, size: int, model: Model) -> Callable[[], Tensor]:
        if kind == "plain":
            return lambda: self._compute_and_draw(model, size)
        if kind == "decode":
            return lambda: self._compute(model, size, size, 1)
        if kind == "mixed":
            return lambda: self._compute(model, size, self._info.max_running, size)
        return lambda: self._head(size)

    def _compute(self, model: Model, tokens: int, rows: int, max_query: int) -> Tensor:
        hidden_TD = self._hidden(model, tokens, rows, max_query)
        torch.index_select(hidden_TD, 0, self._columns.last_N[:rows], out=self._last_ND[:rows])
        if max_query == 1:
            return hidden_TD
        # What a graph returns cannot be used by others as memory: the many tokens of mixed steps share theirs.
        return self._hidden_TD[:tokens].copy_(hidden_TD)

    def _compute_and_draw(self, model: Model, rows: int) -> Tensor:
        hidden_TD = self._hidden(model, rows, rows, 1)
        self._choose(self._model.logits(hidden_TD).contiguous())
        return hidden_TD

    def _hidden(self, model: Model, tokens: int, rows: int, max_query: int) -> Tensor:
        assert self._pool is not None, "the runner is closed"
        into = _part(self._step, tokens, rows, max_query)
        self._columns.send()
        self._ops.inputs(self._columns.rows, self._tables, into)
        return model.forward(into.ids_T, into.rows, self._pool)

    # --- the second half ---------------------------------------------------------------------------------------------

    def _draw(self, shape: StepShape, mask: Mask | None) -> Drawn:
        if mask is None and not self._state.flags_S[shape.slots_N].any():
            return self._draw_plainly(shape)
        count = len(shape.slots_N)

        def choose(logits_NV: Tensor) -> Tensor:
            return self._choose(logits_NV)[:count]

        logits_NV = self._model.logits(self._last_ND[:count]).contiguous()
        return draw(logits_NV, shape.slots_N, shape.positions_N, self._state, choose, mask)

    def _draw_plainly(self, shape: StepShape) -> Drawn:
        """Of rows that ask for no more than temperature and filters, or are to be treated so."""
        count = len(shape.slots_N)
        size = fitting(self._sizes["head"], count)
        if self._graphs is None or size is None:
            self._head(count)
        else:
            self._graphs.replay(("head", size))
        return self._told(shape)

    def _told(self, shape: StepShape) -> Drawn:
        return Drawn(shape.slots_N, self._told_UN[shape.turn, : len(shape.slots_N)], _nobody(), None)

    def _head(self, rows: int) -> Tensor:
        return self._choose(self._model.logits(self._last_ND[:rows]).contiguous())

    def _choose(self, logits_NV: Tensor) -> Tensor:
        """Tokens by the columns on the device, stored where the next step reads them. All rows are drawn alike."""
        self._ops.draw(logits_NV, self._columns.draw, self._tables.tokens_SP, self._drawn_N, self._told_UN)
        return self._drawn_N


def _step_tensors(info: RunnerInfo, shape: StateShape, columns: StepColumns, device: torch.device) -> StepTensors:
    """Room for the largest step."""

    def zeros(*size: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(size, dtype=dtype, device=device)

    tokens, slots = info.step_tokens, shape.slots
    rows = Rows(
        positions_T=zeros(tokens),
        write_T=zeros(tokens, dtype=torch.int64),
        query_starts_R1=columns.rows.starts_R1,
        context_lens_R=zeros(slots),
        block_tables_RM=zeros(slots, shape.max_blocks),
        max_query=tokens,
        max_context=info.max_model_len,
    )
    return StepTensors(zeros(tokens), rows)


def _part(step: StepTensors, tokens: int, rows: int, max_query: int) -> StepTensors:
    """The beginnings of all tensors."""
    whole = step.rows
    return StepTensors(
        step.ids_T[:tokens],
        Rows(
            positions_T=whole.positions_T[:tokens],
            write_T=whole.write_T[:tokens],
            query_starts_R1=whole.query_starts_R1[: rows + 1],
            context_lens_R=whole.context_lens_R[:rows],
            block_tables_RM=whole.block_tables_RM[:rows],
            max_query=max_query,
            max_context=whole.max_context,
        ),
    )


def _unless_memory_ends(work: Callable[[], T]) -> T | None:
    """What it gives. None: the device ran out of memory, and what was taken is free again.

    What comes next must not be done where the error is caught: it keeps all that the failed work had.
    """
    try:
        return work()
    except torch.OutOfMemoryError:
        return None


def _nobody() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)
