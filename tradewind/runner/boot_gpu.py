"""Boot of a GPU, once the model is loaded: what a step takes, the KV pool in what is left, graphs."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from tradewind.base.log import fields
from tradewind.base.units import format_bytes
from tradewind.config import Config
from tradewind.kernels import host_copy, step_inputs
from tradewind.kernels import mask_logits as masking
from tradewind.kernels import sample as sampling
from tradewind.kernels.gpu.ready import ReadyKernels
from tradewind.kernels.pages import KVPool
from tradewind.kernels.rows import Rows
from tradewind.models.decoder import Model
from tradewind.models.spec import ModelSpec
from tradewind.protocol.plan import RunnerInfo
from tradewind.runner.graph_runner import GraphRunner, StepOps
from tradewind.runner.graphs import GraphBudget, Graphs, GraphsReport
from tradewind.runner.machine import usable_cpus
from tradewind.runner.memory import MemoryAsk

log = logging.getLogger(__name__)

GRAPH_SECONDS = 12.0  # for recording; graphs that come too late for this are recorded when the engine is idle
GRAPHS_BYTES = 3 << 29  # what all graphs take beside the memory of the largest step
_GRAPH_BYTES = 1 << 26  # what one may take beside it


@dataclass(frozen=True)
class Workspace:
    """What steps take beside weights and KV. `step_bytes`: of the largest, measured; `graphs_bytes`: of all graphs;
    `tables_bytes`: what is kept of slots.
    """

    step_bytes: int
    graphs_bytes: int
    tables_bytes: int

    @property
    def nbytes(self) -> int:
        """Together. What is not replayed (for rows that ask for logprobs, say) needs a step's memory of its own."""
        return 2 * self.step_bytes + self.graphs_bytes + self.tables_bytes

    @property
    def graph_budget(self) -> GraphBudget:
        """Of all graphs: they share the memory of the largest step, which is one of them."""
        return GraphBudget(GRAPH_SECONDS, self.step_bytes + self.graphs_bytes, self.step_bytes + _GRAPH_BYTES)

    def taken_from(self, ask: MemoryAsk, free_bytes: int) -> MemoryAsk:
        """`ask`, of what is left of `free_bytes` (after the weights) beside the workspace and a block of nobody's."""
        return replace(ask, free_bytes=max(0, free_bytes - self.nbytes - ask.block_bytes))


def tables_bytes(spec: ModelSpec, ask: MemoryAsk) -> int:
    """Of a GraphRunner's tokens and block tables, the latter once more for a step, and of a step's hidden states."""
    of_slot = 4 * (ask.max_model_len + 1 + 2 * ask.blocks_per_sequence)
    return ask.max_running * of_slot + ask.step_tokens * spec.hidden * spec.dtype.itemsize


@torch.inference_mode()
def measure_workspace(model: Model, ask: MemoryAsk, dtype: torch.dtype) -> Workspace:
    """Run the largest step there may be, on rows without tokens: its shapes are all that counts."""
    spec, device, step_tokens, max_running = model.spec, model.device, ask.step_tokens, ask.max_running
    pool = KVPool.allocate(spec.pool_shape(1, ask.block_tokens), dtype, device)

    def zeros(*size: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.zeros(size, dtype=dtype, device=device)

    rows = Rows(
        positions_T=zeros(step_tokens),
        write_T=zeros(step_tokens, dtype=torch.int64),
        query_starts_R1=zeros(max_running + 1),
        context_lens_R=zeros(max_running),
        block_tables_RM=zeros(max_running, ask.blocks_per_sequence),
        max_query=step_tokens,
        max_context=1,
    )
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    model.logits(model.forward(zeros(step_tokens), rows, pool)[:max_running])
    step_bytes = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    return Workspace(step_bytes, GRAPHS_BYTES, tables_bytes(spec, ask))


def boot_gpu(
    model: Model,
    config: Config,
    ask: MemoryAsk,
    dtype: torch.dtype,
    info_of: Callable[[MemoryAsk], RunnerInfo],
    progress: Callable[[str, float], None],
) -> GraphRunner:
    """The runner. `ask` is without the workspace, which is measured here; `dtype` is that of keys and values."""
    device, ready = model.device, ReadyKernels(config.runner.threads or usable_cpus())
    ready.watch()
    progress("compiling kernels", 0.0)
    ready.prepare(lambda: measure_workspace(model.thin, ask, dtype))
    workspace = measure_workspace(model, ask, dtype)
    info = info_of(workspace.taken_from(ask, torch.cuda.mem_get_info(device)[0]))
    pool = KVPool.allocate(model.spec.pool_shape(info.num_blocks + 1, info.block_tokens), dtype, device)
    draw, inputs, mask_logits = sampling.choose_draw(device), step_inputs.choose(device), masking.choose(device)
    copy = host_copy.choose(device)
    kinds = {"sample": draw.kind, "step_inputs": inputs.kind, "mask_logits": mask_logits.kind, "host_copy": copy.kind}
    info.implementations.update(kinds)
    graphs = Graphs(device, workspace.graph_budget) if config.runner.graphs else None
    runner = GraphRunner(model, pool, info, StepOps(inputs.run, draw.run, mask_logits.run, copy.run), graphs, ready)
    ready.prepare(runner.rehearse, lambda done, total: progress("compiling kernels", done / total))
    progress("recording graphs", 0.0)
    runner.record(lambda share: progress("recording graphs", share))
    runner.report.compiling_seconds += ready.seconds
    log.info(
        "memory of the GPU",
        extra=fields(
            weights=_weights_told(model),
            kv_cache=format_bytes(pool.nbytes),
            step=format_bytes(workspace.step_bytes),
            tables=format_bytes(workspace.tables_bytes),
            graphs=_told(runner.report, workspace.graph_budget) if graphs else "none, as asked",
            free=format_bytes(torch.cuda.mem_get_info(device)[0]),
        ),
    )
    return runner


def _weights_told(model: Model) -> str:
    """Their bytes, for people."""
    copy_bytes = model.copy_bytes
    copied = f", {format_bytes(copy_bytes)} of them a copy in 12 bits for steps of one row" if copy_bytes else ""
    return format_bytes(model.weights_bytes) + copied


def _told(report: GraphsReport, budget: GraphBudget) -> str:
    """What was recorded, within which budget, for people."""
    later = f", {report.postponed} when idle" if report.postponed else ""
    return (
        f"{report.recorded} of {report.wanted}{later}; {format_bytes(report.nbytes)} of at most "
        f"{format_bytes(budget.nbytes)}; {report.seconds:.1f} s of at most {budget.seconds:g}, and "
        f"{report.compiling_seconds:.1f} s of compiling"
    )
