"""The CPU as a runner: a model, its KV pool, and the state rows of its slots.

Legend: T tokens of a step, N rows that sample, D hidden, V vocabulary.
"""

import time

import torch
from torch import Tensor

from tradewind.kernels.memory import empty
from tradewind.kernels.pages import KVPool
from tradewind.models.decoder import Model
from tradewind.protocol.plan import RunnerInfo, StepPlan, TokenMasks
from tradewind.runner.batch import Batch, build_batch
from tradewind.runner.pending import Done, Finish, Halved, SecondHalf, result_of
from tradewind.runner.prompt_logprobs import prompt_columns
from tradewind.runner.sample import Mask, SampleOps, bits_of_all, choosing, draw, masking
from tradewind.runner.state import LOGPROBS, StateRows, StateShape
from tradewind.runner.transfer import to_device


class DeviceRunner:
    """Satisfies tradewind.protocol.runner.Runner; `run` returns when the step is done.

    A step's memory is bounded by info.step_tokens and info.max_running; plans must keep to both. `threads`: of the CPU,
    whichever thread calls (None: as torch has it).
    """

    def __init__(
        self, model: Model, pool: KVPool, info: RunnerInfo, ops: SampleOps, *, threads: int | None = None
    ) -> None:
        self._model = model
        self._pool: KVPool | None = pool
        self._info = info
        self._ops = ops
        self._threads = threads
        shape = StateShape(info.max_running, info.max_model_len, info.block_tokens, info.vocab_size)
        self._state = StateRows(shape, model.device)
        self._logits_NV = empty((info.max_running, model.spec.vocab), torch.float32, model.device)

    @property
    def info(self) -> RunnerInfo:
        """What was measured at boot."""
        return self._info

    @property
    def compiled_kernels(self) -> int:
        """None: the CPU's are compiled when the package is installed."""
        return 0

    @property
    def eager_steps(self) -> int:
        """None: the CPU has no graphs."""
        return 0

    def tidy(self) -> bool:
        """There is nothing to do."""
        return False

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> Done | Halved:
        """Issue a step. Errors of the whole step (of its inputs, or for want of memory) are raised here."""
        begun_s = time.perf_counter()
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # OpenMP keeps the number for each calling thread
        sample = self._forward(plan)
        if len(plan.masked):
            return Halved(sample, time.perf_counter() - begun_s)
        finish = sample(None)
        return Done(finish(time.perf_counter() - begun_s))

    def close(self) -> None:
        """Give the KV pool back. No step may follow."""
        self._pool = None

    def _forward(self, plan: StepPlan) -> SecondHalf:
        """Compute the first half of the step; what is returned computes the second: logits and the draw."""
        assert self._pool is not None, "the runner is closed"
        state = self._state
        refused = state.begin(plan)
        assert not refused, "memory of the CPU is never refused"
        if not len(plan.slots):
            return lambda _masks: lambda device_s: result_of(plan.step, None, [], device_s)
        batch = build_batch(plan, state)
        hidden_TD = self._model.forward(batch.ids_T, batch.rows, self._pool)
        prompts = prompt_columns(plan, batch.starts_R, hidden_TD, state, self._model)

        def sample(masks: TokenMasks | None) -> Finish:
            drawn = None
            if len(batch.slots_N):
                logits_NV, mask = self._logits(plan, batch, hidden_TD, masks)
                choose = choosing(batch.slots_N, batch.positions_N, state, self._ops.sample)
                drawn = draw(logits_NV, batch.slots_N, batch.positions_N, state, choose, mask)
            return lambda device_s: result_of(plan.step, drawn, prompts, device_s)

        return sample

    def _logits(
        self, plan: StepPlan, batch: Batch, hidden_TD: Tensor, masks: TokenMasks | None
    ) -> tuple[Tensor, Mask | None]:
        """Of the rows that draw; and what is to be forbidden in them, if that has not been done."""
        if batch.last_N is not None:
            hidden_TD = hidden_TD.index_select(0, to_device(batch.last_N, self._model.device))
        # Whoever wants log probabilities wants them of what is forbidden too.
        asks = (self._state.flags_S[batch.slots_N] & LOGPROBS).any()
        if masks is not None and not asks and self._model.ops.masked_logits is not None:
            bits_NW = torch.from_numpy(bits_of_all(plan, masks, len(hidden_TD)))
            return self._model.masked_logits(hidden_TD, bits_NW, self._logits_NV), None
        mask = masking(plan, masks, self._ops.mask_logits, self._state.device)
        return self._model.logits(hidden_TD, self._logits_NV).contiguous(), mask
