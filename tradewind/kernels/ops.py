"""The ops that a model is run with, chosen once and passed on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tradewind.kernels import (
    add_rms_norm,
    chained_linear,
    decoder_layers,
    embedding,
    fused_attention,
    fused_linear,
    gated_linear,
    gpu,
    linear,
    linear_add_norm,
    native,
    paged_attention,
    qk_norm_rope_write,
    silu_mul,
)
from tradewind.kernels.add_rms_norm import AddRmsNorm, QuantisingAddRmsNorm
from tradewind.kernels.chained_linear import ChainedLinear
from tradewind.kernels.choice import Choice, Device
from tradewind.kernels.fused_attention import FusedAttention
from tradewind.kernels.fused_linear import FusedLinear
from tradewind.kernels.gated_linear import GatedLinear
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.linear_add_norm import LinearAddNorm

if TYPE_CHECKING:
    from tradewind.kernels.linear.tactics import Tactics


@dataclass(frozen=True)
class Chosen:
    """What was chosen for one op: the kind of implementation, and why."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Ops:
    """The chosen implementations. Their contracts are in the folders of the ops."""

    pack: linear.Pack
    packed_embedding: linear.PackedEmbedding | None  # reads rows of what `pack` made; None where they stay dense
    logits: linear.Logits
    fill_logits: linear.FillLogits | None
    masked_logits: linear.MaskedLogits | None  # None where masks are applied to the logits of all tokens
    linear: linear.Linear
    add_rms_norm: add_rms_norm.AddRmsNorm
    norm_for_linear: AddRmsNorm | QuantisingAddRmsNorm  # what comes out is for `linear` alone
    qk_norm_rope_write: qk_norm_rope_write.QkNormRopeWrite
    paged_attention: paged_attention.PagedAttention
    silu_mul: silu_mul.SiluMul | silu_mul.QuantisingSiluMul  # what comes out is for `linear` alone
    embedding: embedding.Embedding
    bind_layers: decoder_layers.BindLayers | None  # all layers in one call; None where they run op by op
    quantises_rows: bool  # whether `linear` takes rows in 8 bits, which norms, gates and attention then give it
    takes_stored: bool  # `linear` reads a checkpoint's own 8-bit floats (fp8.py, fp8_blocks.py)
    fused_linear: FusedLinear | None  # for up to `fused_rows` rows, where one kernel is faster than its parts
    fused_rows: int
    fused_attention: FusedAttention | None  # for steps that it `takes`, instead of its parts
    gated_linear: GatedLinear | None  # for rows and weights that it `takes`, instead of its parts
    linear_add_norm: LinearAddNorm | None  # for decodes of as many rows, and weights, as it `takes`
    chained_linear: ChainedLinear | None  # for as many rows as are in its `steps`, before the one above
    chosen: Mapping[str, Chosen]  # by op, for `tradewind doctor`


@dataclass(frozen=True)
class _WidenedLogits:
    """Logits by a `linear` that rounds to the activations' dtype."""

    run: linear.Linear

    def __call__(self, x_RD: Tensor, weight: linear.LinearWeight) -> Tensor:
        return self.run(x_RD, weight).float()


def choose_ops(
    device: Device | str,
    dtype: torch.dtype,
    prefer: str | None = None,
    level: str | None = None,
    quantisation: Quantisation | None = None,
    *,
    exact: bool = False,
    one_row_copy: bool = False,
) -> Ops:
    """The fastest implementation of every op for this device and dtype: the same arguments give the same choice.

    `prefer` names a kind ("native", "torch" or "reference"): faster kinds are passed over. ConfigError if there is no
    such kind. `level` names an instruction set of the native kernels (kernels/native), for a lower one than the
    machine's best; results are defined per instruction set. `quantisation`: of the weights of all linear layers.
    `exact`: what a row gets does not depend on the other rows, which costs speed on a GPU (CPUs always keep to it).
    `one_row_copy`: as in `tradewind.kernels.linear.choose`.
    """
    if isinstance(device, str):
        device = torch.device(device)
    matmul = linear.choose(device, dtype, prefer, level, quantisation, exact=exact, one_row_copy=one_row_copy)
    norm = add_rms_norm.choose(device, dtype, prefer, level)
    rope = qk_norm_rope_write.choose(device, dtype, prefer, level)
    attention = paged_attention.choose(device, dtype, prefer, level, exact=exact)
    quantises = quantisation is not None and quantisation.quantises_rows
    gate: Choice[Any] = silu_mul.choose(device, dtype, prefer, level)
    layer_norm: Choice[Any] = norm
    if quantises:
        gate = silu_mul.choose_quantising(device, dtype, prefer)
        layer_norm = add_rms_norm.choose_quantising(device, dtype, prefer)
    lookup = embedding.choose(device, dtype, prefer, level)
    parts = (matmul, norm, rope, attention, gate)
    bind_layers = None
    if all(part.kind == "native" for part in parts):
        from tradewind.kernels.decoder_layers.cpu import Bind

        bind_layers = Bind(native.load(level), quantisation)
    # Of products whose tiles of weights the accelerator can bring as they are, a single row's alone are faster so.
    is_fp8 = quantisation is not None and quantisation.layout == "fp8"
    fused_rows = 1 if is_fp8 or quantisation is None else fused_linear.MOST_ROWS
    fuses = matmul.kind == "triton" and gpu.may_fuse(device, dtype, exact=exact)
    # Of several rows a norm's root is taken last: until then they may be too large for float16.
    fuses_norms = fuses and (fused_rows == 1 or dtype == torch.bfloat16)
    fused = fused_linear.choose(device, dtype, exact=exact) if fuses_norms else None
    chained = chained_linear.choose(device, dtype, quantisation, exact=exact) if matmul.kind == "triton" else None
    is_gated = matmul.kind == "triton" and (quantisation is None or quantises)
    gated = gated_linear.choose(device, dtype, exact=exact) if is_gated else None
    adds_norms = is_gated and quantises
    add_norm = linear_add_norm.choose(device, dtype, exact=exact) if adds_norms else None
    releases = is_fp8 and chained is not None
    whole = None
    if attention.kind == "triton":
        whole = fused_attention.choose(device, dtype, exact=exact, releases=releases)
    chosen = {
        "linear": Chosen(matmul.kind, matmul.reason),
        "add_rms_norm": Chosen(layer_norm.kind, _with_quantising(layer_norm.reason, quantises)),
        "qk_norm_rope_write": Chosen(rope.kind, rope.reason),
        "paged_attention": Chosen(attention.kind, attention.reason),
        "silu_mul": Chosen(gate.kind, _with_quantising(gate.reason, quantises)),
        "embedding": Chosen(lookup.kind, lookup.reason),
    }
    if fuses_norms:
        about = f"in steps of at most {fused_rows} token{'s' * (fused_rows > 1)}"
        about += ", by the copy of the weights" if one_row_copy else ""
        chosen["fused_linear"] = Chosen("triton", f"norm, product and gate in one kernel, {about}")
    if is_gated and fuses:
        about = f"product and gate in one kernel, in steps of up to {gpu.FEW_TOKENS} tokens where no other does it"
        chosen["gated_linear"] = Chosen("triton", f"{about} ({_tactics(device).about_gated(8 if quantises else 16)})")
    if attention.kind == "triton" and gpu.may_fuse(device, dtype, exact=exact):
        about = f"all of attention in one kernel, in decodes of up to {gpu.FEW_TOKENS} rows"
        chosen["fused_attention"] = Chosen("triton", about)
    if adds_norms and fuses:
        rows = f"{linear_add_norm.LEAST_ROWS} to {gpu.FEW_TOKENS} rows"
        about = f"product, residual sum and norm in one kernel, in decodes of {rows}, which it quantises by a bound"
        chosen["linear_add_norm"] = Chosen("triton", about)
    if matmul.kind == "triton" and chained_linear.is_faster(device, dtype, quantisation, exact=exact):
        assert quantisation is not None
        steps = chained_linear.steps_of(quantisation)
        tokens = f"{steps[0]} to {steps[-1]} tokens"
        about = f"what follows a product is done where it ends, in steps of {tokens}, where sizes allow it"
        origin = _tactics(device).about_chained(quantisation.layout)
        chosen["chained_linear"] = Chosen("triton", f"{about} ({origin})")
    return Ops(
        pack=matmul.run.pack,
        linear=matmul.run.linear,
        logits=matmul.run.logits or _WidenedLogits(matmul.run.linear),
        fill_logits=matmul.run.fill_logits,
        masked_logits=matmul.run.masked_logits,
        add_rms_norm=norm.run,
        norm_for_linear=layer_norm.run,
        qk_norm_rope_write=rope.run,
        paged_attention=attention.run,
        silu_mul=gate.run,
        embedding=lookup.run,
        packed_embedding=matmul.run.embedding,
        bind_layers=bind_layers,
        quantises_rows=quantises,
        takes_stored=quantisation is not None and quantisation.stored,
        fused_linear=fused,
        fused_rows=fused_rows,
        fused_attention=whole,
        gated_linear=gated,
        linear_add_norm=add_norm,
        chained_linear=chained,
        chosen=chosen,
    )


def _tactics(device: Device) -> "Tactics":
    from tradewind.kernels.linear.tactics import Tactics

    return Tactics.on(gpu.Chip.of(device))


def _with_quantising(reason: str, quantises: bool) -> str:
    return f"{reason}; quantises what comes out" if quantises else reason
