"""What boot would decide about a model on this machine, without loading its weights."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tradewind.base.errors import ConfigError, NotEnoughMemory
from tradewind.config import Config
from tradewind.kernels import host_copy, step_inputs
from tradewind.kernels import mask_logits as masking
from tradewind.kernels import sample as sampling
from tradewind.kernels.choice import Device
from tradewind.kernels.gpu import ABSENT_GPUS, AbsentGpu
from tradewind.kernels.native.library import load as load_native
from tradewind.kernels.ops import Chosen
from tradewind.models.registry import load_spec
from tradewind.models.spec import ModelSpec
from tradewind.runner.boot_device import (
    choose_device,
    describe,
    estimate_weights_bytes,
    free_bytes,
    level_of,
    memory_ask,
    one_row_copy_bytes,
    ops_for,
    with_dtype,
    with_one_row_copy,
    workspace_bytes,
)
from tradewind.runner.boot_gpu import GRAPHS_BYTES, Workspace, tables_bytes
from tradewind.runner.buckets import wanted_graphs
from tradewind.runner.graphs import GraphBudget
from tradewind.runner.machine import cpu_features, usable_cpus
from tradewind.runner.memory import MemoryAsk, MemoryPlan, check_weights, plan_memory

# What the kernels and torch make use of, of the many features a processor lists.
_TELLING_FEATURES = (
    *("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"),
    *("asimd", "bf16", "i8mm", "sve"),
)


@dataclass(frozen=True)
class GraphsAsk:
    """How many graphs there may be, and within what they are recorded."""

    wanted: int
    budget: GraphBudget


@dataclass(frozen=True)
class Survey:
    """The decisions. `plan` is None where memory does not suffice: `shortage` says why. `graphs`: None without them.

    `copy_bytes`: of the weights' copies for one row, which are a part of `weights_bytes`; 0 if there are none.
    """

    device: Device
    described: str
    spec: ModelSpec
    chosen: Mapping[str, Chosen]
    free_bytes: int
    weights_bytes: int
    copy_bytes: int
    workspace_bytes: int
    ask: MemoryAsk
    graphs: GraphsAsk | None
    plan: MemoryPlan | None
    shortage: str | None


def machine_facts() -> dict[str, str]:
    """What there is, for people: processor, instruction sets, cores, GPU, versions."""
    features = cpu_features()
    library = load_native()
    facts = {
        "cores": f"{usable_cpus()} usable of {os.cpu_count()}",
        "instruction sets": " ".join(name for name in _TELLING_FEATURES if name in features) or "not known",
        "C++ kernels": library.why_not or f"built, {library.level}",
        "GPU": "none that torch can use",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts["GPU"] = (
            f"{properties.name}, sm_{properties.major}{properties.minor}, {properties.total_memory >> 30} GiB"
        )
    return facts


def survey(directory: Path, config: Config, gpu: str | None = None) -> Survey:
    """Decide as boot would. Raises what it raises, but for NotEnoughMemory, which is part of the answer.

    `gpu`: instead, as boot would on a GPU that is not there, by one of the names in ABSENT_GPUS.
    """
    device = choose_device(config.runner.device) if gpu is None else _absent(gpu)
    spec = load_spec(directory, with_dtype(directory, config.model, device))
    config = with_one_row_copy(config, spec, device)
    free, weights_bytes = free_bytes(device), estimate_weights_bytes(spec, config, device)
    ask = memory_ask(spec, config, device, free - weights_bytes)
    workspace = workspace_bytes(spec, ask.max_running, ask.step_tokens)
    if device.type == "cuda":
        on_gpu = Workspace(workspace, GRAPHS_BYTES, tables_bytes(spec, ask))
        ask, workspace = on_gpu.taken_from(ask, free - weights_bytes), on_gpu.nbytes
    plan, shortage, graphs = None, None, None
    if device.type == "cuda" and config.runner.graphs:
        graphs = GraphsAsk(len(wanted_graphs(ask.max_running, ask.step_tokens)), on_gpu.graph_budget)
    try:
        check_weights(weights_bytes, free)
        plan = plan_memory(ask)
    except NotEnoughMemory as error:
        shortage = error.message
    chosen = {**ops_for(config, device, spec).chosen, **_around_the_model(device, level_of(config.runner))}
    return Survey(
        device=device,
        described=describe(device, config.runner),
        spec=spec,
        chosen=chosen,
        free_bytes=free,
        weights_bytes=weights_bytes,
        copy_bytes=one_row_copy_bytes(spec) if config.model.one_row_copy == "on" else 0,
        workspace_bytes=workspace,
        ask=ask,
        graphs=graphs,
        plan=plan,
        shortage=shortage,
    )


def _absent(name: str) -> AbsentGpu:
    found = ABSENT_GPUS.get(name.lower())
    if found is None:
        raise ConfigError(f"--gpu {name}: known are {', '.join(ABSENT_GPUS)}", field="gpu")
    return found


def _around_the_model(device: Device, level: str | None) -> dict[str, Chosen]:
    mask_logits = masking.choose(device, level=level)
    masked = {"mask_logits": Chosen(mask_logits.kind, mask_logits.reason)}
    if device.type != "cuda":
        sample = sampling.choose(device, level=level)
        return {"sample": Chosen(sample.kind, sample.reason), **masked}
    draw, inputs, copy = sampling.choose_draw(device), step_inputs.choose(device), host_copy.choose(device)
    return {
        "step_inputs": Chosen(inputs.kind, inputs.reason),
        "sample": Chosen(draw.kind, draw.reason),
        "host_copy": Chosen(copy.kind, copy.reason),
        **masked,
    }
