"""Boot of a real device: threads, dtype, weights, KV pool, warm-up."""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tradewind.base.errors import ConfigError, NotEnoughMemory
from tradewind.base.log import fields
from tradewind.base.units import format_bytes
from tradewind.config import Config, ModelConfig, RunnerConfig
from tradewind.kernels import gpu, native
from tradewind.kernels import mask_logits as masking
from tradewind.kernels import sample as sampling
from tradewind.kernels.choice import Device
from tradewind.kernels.gpu import AbsentGpu, Chip
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.ops import Ops, choose_ops
from tradewind.kernels.pages import KVPool
from tradewind.kernels.quantised_rows import FP8
from tradewind.models.decoder import Model
from tradewind.models.registry import load_model, load_spec
from tradewind.models.spec import ModelSpec
from tradewind.protocol.cost import ContextCost
from tradewind.protocol.plan import RowStart, RunnerInfo, StepPlan
from tradewind.protocol.request import RowSampling
from tradewind.protocol.runner import Runner
from tradewind.runner.boot import Progress
from tradewind.runner.context_cost import context_cost
from tradewind.runner.machine import bfloat16_feature, cpu_features, usable_cpus
from tradewind.runner.memory import MemoryAsk, check_weights, free_host_bytes, leaves_enough, plan_memory
from tradewind.runner.runner import DeviceRunner
from tradewind.runner.sample import SampleOps

log = logging.getLogger(__name__)

DtypeName = Literal["float32", "bfloat16", "float16"]

DTYPE_NAMES: dict[torch.dtype, DtypeName] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_WARM_UP_S = 0.1  # a step slower than this is not repeated: it is slow because of its work


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a kind of device runs at once, if the user does not say."""

    max_running: int
    step_tokens: int
    memory_fraction: float


# CPU: a step of 512 tokens reads the weights once for so many tokens that they hardly count (a matrix product of 512
# rows reaches more of the peak than one of 256, one of 1024 no more), and it is over soon enough for the streams that
# wait for their next token. GPU: the same, two orders of magnitude faster.
DEFAULTS = {"cpu": Defaults(128, 512, 0.6), "cuda": Defaults(256, 8192, 0.92)}


def boot_device(directory: Path, config: Config, progress: Progress) -> Runner:
    """See tradewind.runner.boot.boot_runner."""
    try:
        return _boot(directory, config, progress)
    except torch.OutOfMemoryError as error:
        raise NotEnoughMemory(
            f"the device ran out of memory while starting ({str(error).partition('. ')[0]}); free some, or start with "
            "less for the KV cache (--memory-fraction, --memory-bytes) or a smaller --step-tokens",
            field="memory_fraction",
        ) from error


def _boot(directory: Path, config: Config, progress: Progress) -> Runner:
    device = choose_device(config.runner.device)
    threads = config.runner.threads or usable_cpus()
    torch.set_num_threads(threads)
    model_config = with_dtype(directory, config.model, device)
    spec = load_spec(directory, model_config)
    config = with_one_row_copy(config, spec, device)
    check_weights(estimate_weights_bytes(spec, config, device), free_bytes(device))
    ops = ops_for(config, device, spec)
    if spec.stored is not None and not ops.takes_stored:
        log.info(
            "the checkpoint's 8-bit floats are widened while loading",
            extra=fields(dtype=DTYPE_NAMES[spec.dtype], because="GPUs of compute capability 8.9 multiply them"),
        )
    progress("loading weights", 0.0)
    model = load_model(
        directory, model_config, device, ops, lambda done, total: progress("loading weights", done / max(total, 1))
    )
    progress("measuring memory", 0.0)
    ask = memory_ask(spec, config, device, free_bytes(device))
    described = describe(device, config.runner)
    kv = kv_dtype(spec, config, device)
    cost = context_cost(spec, device, quantisation_of(config, device, spec), kv)
    runner: Runner
    if device.type == "cuda":
        from tradewind.runner.boot_gpu import boot_gpu

        runner = boot_gpu(model, config, ask, kv, lambda ask: info_of(model, described, ask, cost), progress)
        progress("warming up", 0.0)
        warm_up(runner)
        progress("ready", 1.0)
        return runner
    level = level_of(config.runner)
    sample, mask_logits = sampling.choose(device, level=level), masking.choose(device, level=level)
    info = info_of(model, described, ask, cost)
    info.implementations.update(sample=sample.kind, mask_logits=mask_logits.kind)
    pool = KVPool.allocate(spec.pool_shape(info.num_blocks, info.block_tokens), kv, device)
    runner = DeviceRunner(model, pool, info, SampleOps(sample.run, mask_logits.run), threads=threads)
    progress("warming up", 0.0)
    warm_up(runner)
    progress("ready", 1.0)
    return runner


def ops_for(config: Config, device: Device, spec: ModelSpec) -> Ops:
    """The ops that the settings ask for. ConfigError for an instruction set that this machine lacks."""
    return choose_ops(
        device,
        spec.dtype,
        level=level_of(config.runner),
        quantisation=quantisation_of(config, device, spec),
        exact=config.runner.exact,
        one_row_copy=config.model.one_row_copy == "on",
    )


def quantisation_of(config: Config, device: Device, spec: ModelSpec) -> Quantisation | None:
    """Of the weights: what the settings ask for, or else the checkpoint's own where the device multiplies it."""
    asked = Quantisation.named(config.model.quantization)
    if asked is not None or spec.stored is None or config.model.load_format == "dummy":
        return asked
    if device.type != "cuda" or not Chip.of(device).has_fp8 or spec.dtype == torch.float32:
        return None
    return Quantisation(8, 128 if spec.stored.block else 0, is_float=True, stored=True)


def level_of(config: RunnerConfig) -> str | None:
    """The instruction set that the settings ask for; None for the best."""
    return None if config.instruction_set == "auto" else config.instruction_set


def choose_device(asked: str) -> torch.device:
    """`auto` takes a GPU if kernels run on one. Raises ConfigError if CUDA is asked for and cannot be used."""
    if asked == "cpu":
        return torch.device("cpu")
    why_not = why_no_cuda()
    if why_not is None:
        return torch.device("cuda", 0)
    if asked == "cuda":
        raise ConfigError(f"--device cuda: {why_not}; use --device cpu", field="device")
    if torch.cuda.is_available():
        log.warning("the CPU is used, and not the GPU", extra=fields(because=why_not))
    return torch.device("cpu")


def why_no_cuda() -> str | None:
    """What keeps a GPU from being used; None: nothing."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return gpu.why_not(torch.device("cuda", 0), torch.bfloat16)


def with_dtype(directory: Path, config: ModelConfig, device: Device) -> ModelConfig:
    """`config` with `dtype` decided.

    `auto` is the checkpoint's own type wherever the device computes with it fast; else float32, which holds every value
    of bfloat16 and float16. The C++ kernels are fast with bfloat16 at every instruction set: half the bytes to read are
    worth more than widening them costs.
    """
    if config.dtype != "auto":
        return config
    dtype = load_spec(directory, config).dtype
    own = DTYPE_NAMES[dtype]
    if device.type != "cpu" or dtype == torch.float32:
        return replace(config, dtype=own)
    if dtype == torch.bfloat16 and (native.load().why_not is None or bfloat16_feature(cpu_features())):
        return replace(config, dtype=own)
    log.info(
        "this CPU has no fast arithmetic for the model's dtype: float32 is used",
        extra=fields(model_dtype=own, instead="--dtype bfloat16 halves the memory"),
    )
    return replace(config, dtype="float32")


def with_one_row_copy(config: Config, spec: ModelSpec, device: Device) -> Config:
    """`config` with `one_row_copy` decided: "on" or "off". ConfigError where it is asked for and cannot be."""
    asked, why_not = config.model.one_row_copy, _why_no_copy(config, spec, device)
    if asked == "on" and why_not is not None:
        raise ConfigError(
            f"--one-row-copy on is for bfloat16 weights on a GPU, not quantised and without --exact, but {why_not}; "
            "use auto or off",
            field="one_row_copy",
        )
    decided = "off" if why_not is not None else asked
    if decided == "auto":
        left_bytes = free_bytes(device) - estimate_weights_bytes(spec, config, device)
        has_room = leaves_enough(one_row_copy_bytes(spec), memory_ask(spec, config, device, left_bytes))
        decided = "on" if has_room else "off"
    return replace(config, model=replace(config.model, one_row_copy=decided))


def _why_no_copy(config: Config, spec: ModelSpec, device: Device) -> str | None:
    if spec.dtype != torch.bfloat16:
        return f"they are in {DTYPE_NAMES[spec.dtype]}"
    if config.model.quantization != "none" or spec.stored is not None:
        return "they are quantised"
    return "--exact is given" if config.runner.exact else gpu.why_not(device, spec.dtype)


def kv_dtype(spec: ModelSpec, config: Config, device: Device) -> torch.dtype:
    """Of the KV pool; uint8 is the 8-bit pages of kernels/int8_pages.py. ConfigError where no kernel reads them."""
    asked = config.cache.kv_dtype
    if asked == "auto":
        return spec.dtype
    if asked == "fp8" and (device.type != "cuda" or not Chip.of(device).has_fp8):
        raise ConfigError("--kv-dtype fp8 needs a GPU of compute capability 8.9 or more", field="kv_dtype")
    if asked == "int8" and device.type != "cpu":
        raise ConfigError("--kv-dtype int8 is for CPUs; use fp8 on a GPU", field="kv_dtype")
    return FP8 if asked == "fp8" else torch.uint8


def describe(device: Device, config: RunnerConfig) -> str:
    """For people: `"cpu (2 threads, avx512_bf16)"`, the instruction set being that of the kernels."""
    if isinstance(device, AbsentGpu):
        return f"cuda ({device.name}, which is not here)"
    if isinstance(device, torch.device) and device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    threads = config.threads or usable_cpus()
    library = native.load(level_of(config))
    kernels = library.level if library.why_not is None else "torch's kernels"
    return f"cpu ({threads} thread{'s' if threads > 1 else ''}, {kernels})"


def free_bytes(device: Device) -> int:
    """Memory of the device that can still be taken; all of it, if the device is not there."""
    if isinstance(device, AbsentGpu):
        return device.memory_bytes
    if isinstance(device, torch.device) and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_host_bytes()


def estimate_weights_bytes(spec: ModelSpec, config: Config, device: Device) -> int:
    """Bytes of the big matrices: enough to know before loading that a model cannot fit."""
    quantisation = quantisation_of(config, device, spec)
    linear, embedding = _linear_numbers(spec), spec.vocab * spec.hidden
    if quantisation is None:
        copy_bytes = one_row_copy_bytes(spec) if config.model.one_row_copy == "on" else 0
        return (linear + (0 if spec.tied else embedding)) * spec.dtype.itemsize + copy_bytes
    # One packed copy may serve as embedding and as output layer.
    shared = spec.tied and device.type == "cpu" and quantisation.bits >= 8 and not quantisation.is_float
    quantised_bytes = linear * quantisation.bits_per_weight / 8
    return int(quantised_bytes) + (0 if shared else embedding * spec.dtype.itemsize)


def one_row_copy_bytes(spec: ModelSpec) -> int:
    """Of all linear weights in 12 bits, but for the per cent or so that exceptions take."""
    return _linear_numbers(spec) * 12 // 8


def _linear_numbers(spec: ModelSpec) -> int:
    """Weights of the layers and of the output layer."""
    attention = spec.hidden * spec.head_dim * 2 * (spec.heads + spec.kv_heads)
    return spec.layers * (attention + 3 * spec.hidden * spec.ffn) + spec.vocab * spec.hidden


def workspace_bytes(spec: ModelSpec, max_running: int, step_tokens: int) -> int:
    """What a step takes beside weights and KV: activations in float32 at worst, logits, and copies of logits."""
    qkv = (spec.heads + 2 * spec.kv_heads) * spec.head_dim
    per_token = 4 * (4 * spec.hidden + 2 * qkv + 3 * spec.ffn)
    return step_tokens * per_token + 3 * 4 * max_running * spec.vocab


def memory_ask(spec: ModelSpec, config: Config, device: Device, free_after_weights_bytes: int) -> MemoryAsk:
    """What is to be fitted into the memory that the weights leave."""
    defaults = DEFAULTS[device.type]
    max_running = config.scheduler.max_running or defaults.max_running
    step_tokens = config.scheduler.step_tokens or defaults.step_tokens
    return MemoryAsk(
        max_model_len=config.model.max_model_len or spec.max_position,
        user_set_len=config.model.max_model_len is not None,
        max_running=max_running,
        step_tokens=step_tokens,
        block_tokens=config.cache.block_tokens,
        block_bytes=spec.pool_shape(1, config.cache.block_tokens).block_bytes(kv_dtype(spec, config, device)),
        free_bytes=max(0, free_after_weights_bytes - workspace_bytes(spec, max_running, step_tokens)),
        memory_fraction=config.runner.memory_fraction or defaults.memory_fraction,
        memory_bytes=config.cache.memory_bytes,
    )


def info_of(model: Model, device: str, ask: MemoryAsk, cost: ContextCost) -> RunnerInfo:
    """What the loaded model can do in the memory that is left."""
    spec = model.spec
    plan = plan_memory(ask)
    kv_bytes = plan.num_blocks * ask.block_bytes
    log.debug("KV cache", extra=fields(blocks=plan.num_blocks, size=format_bytes(kv_bytes)))
    return RunnerInfo(
        num_blocks=plan.num_blocks,
        block_tokens=ask.block_tokens,
        max_model_len=plan.max_model_len,
        max_running=ask.max_running,
        step_tokens=ask.step_tokens,
        vocab_size=spec.vocab,
        asynchronous=model.device.type == "cuda",
        device=device,
        dtype=DTYPE_NAMES[spec.dtype],
        weights_bytes=model.weights_bytes,
        kv_bytes=kv_bytes,
        context_cost=cost,
        implementations={op: chosen.kind for op, chosen in model.ops.chosen.items()},
    )


def warm_up(runner: Runner) -> None:
    """A few steps, so that threads, libraries and code paths are ready for the first request."""
    tokens = min(32, runner.info.max_model_len - 1, runner.info.block_tokens, runner.info.step_tokens)
    sampled = RowSampling(seed=0, temperature=1.0, top_p=0.9)
    for step, (count, sampling_of_row) in enumerate([(1, RowSampling(seed=0, temperature=0.0)), (tokens, sampled)]):
        begun_s = time.perf_counter()
        runner.run(_warm_up_plan(step, count, sampling_of_row)).result()
        if time.perf_counter() - begun_s > _WARM_UP_S:
            return


def _warm_up_plan(step: int, tokens: int, row: RowSampling) -> StepPlan:
    """A prompt of zeros in slot 0 and block 0, which nobody owns yet."""
    zero, one = np.zeros(1, np.int32), np.ones(1, np.int32)
    return StepPlan(
        step=step,
        slots=zero,
        computed_tokens=zero,
        new_tokens=one * tokens,
        sample=np.ones(1, np.bool_),
        starts=(RowStart(0, np.zeros(tokens, np.int32), tokens, row, ()),),
        block_slots=zero,
        block_starts=zero,
        block_ids=zero,
    )
