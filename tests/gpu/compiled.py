"""Compile every variant of the Triton kernels, without a GPU, and say what became of them.

    python -m tests.gpu.compiled [--arch 90 80 100] [--only NAME]

Prints registers, spilled bytes, shared memory and matrix instructions. Ends with 1 if a hot variant spills or has lost
its matrix instruction on Hopper (wgmma, or mma for narrow tiles), which the tiles are chosen for; elsewhere every
variant must compile. 8-bit floats need compute capability 8.9.
"""

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.experimental.gluon._runtime import GluonASTSource

from tradewind.kernels.add_rms_norm.triton import add_rms_norm_kernel
from tradewind.kernels.chained_linear import diagonal, registers
from tradewind.kernels.chained_linear.triton import chained_linear_kernel, prepare_kernel, scales_sums
from tradewind.kernels.embedding.triton import embedding_kernel
from tradewind.kernels.fused_attention import some_rows
from tradewind.kernels.fused_attention.one_row import one_row_kernel, tile_on
from tradewind.kernels.fused_attention.pieces import at_once, parts_of
from tradewind.kernels.fused_attention.some_rows import some_rows_kernel
from tradewind.kernels.fused_linear import MOST_ROWS
from tradewind.kernels.fused_linear.triton import Reading, fused_linear_kernel, launched
from tradewind.kernels.fused_linear.vector import vector_kernel
from tradewind.kernels.gated_linear.triton import gated_linear_kernel, quantise_parts_kernel
from tradewind.kernels.gpu import FEW_TOKENS, Chip
from tradewind.kernels.host_copy.triton import host_copy_kernel
from tradewind.kernels.linear import int4
from tradewind.kernels.linear.blocks import (
    TILE,
    blocks_kernel,
    put_exceptions_kernel,
    quantise_groups_kernel,
    restore_kernel,
    widen_kernel,
)
from tradewind.kernels.linear.gpu import OF_MANY
from tradewind.kernels.linear.tactics import ChainedTactic, FusedTactic, MeasuredChained, Tactic, Tactics
from tradewind.kernels.linear.triton import few_rows_kernel, fitted, quantise_rows_kernel, rows_of_program
from tradewind.kernels.linear_add_norm.triton import begin_kernel, linear_add_norm_kernel
from tradewind.kernels.paged_attention import triton as paged_attention
from tradewind.kernels.paged_attention import warp_specialised
from tradewind.kernels.paged_attention.triton import DEALT, EXACT, LARGE, paged_attention_kernel, small_tile
from tradewind.kernels.qk_norm_rope_write.triton import qk_norm_rope_write_kernel
from tradewind.kernels.rows import HeadShape
from tradewind.kernels.sample.triton import choose_kernel, chunks_kernel
from tradewind.kernels.silu_mul.triton import silu_mul_kernel
from tradewind.kernels.step_inputs.triton import step_inputs_kernel

BF16, FP8, F16, F32, I16, I32, I64 = "*bf16", "*fp8e4nv", "*fp16", "*fp32", "*i16", "*i32", "*i64"


@dataclass(frozen=True)
class Variant:
    """`types`: of the arguments that are not constants, "=16" after one that 16 divides. `matrix`: what it must use,
    "mma.sync" or "wgmma"; the latter instead of the former will do, which compilers choose differently.

    `least`: the capability that its instructions need, where its types do not tell, `only`: the one that has them, if
    others have not. `once`: what may stand only once in the assembly. The compiler repeats what it can compute anew
    wherever another layout of it is wanted; what waits for other programs would wait again for what they have written
    already. `waits_first`: it may not let the next kernel begin before it has waited for the one before it.
    """

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]
    matrix: str | None = None
    hot: bool = True
    least: int = 80
    only: int | None = None
    once: str = ""
    waits_first: bool = False

    def fits(self, arch: int) -> bool:
        return self.only in (None, arch) and arch >= (89 if FP8 in self.types.values() else self.least)


@dataclass
class Outcome:
    """What the compiler made of a variant."""

    variant: Variant
    arch: int
    registers: int = 0
    spilled_bytes: int = 0
    shared_bytes: int = 0
    instructions: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def faults(self) -> list[str]:
        """Why a hot variant cannot be accepted."""
        found = [self.error] if self.error else []
        most_bytes = Chip.like((self.arch // 10, self.arch % 10), 132).shared_bytes
        if self.shared_bytes > most_bytes:
            found.append(f"has room for {most_bytes} bytes of shared memory")
        if self.arch != 90:
            return found
        if self.variant.hot and self.spilled_bytes:
            found.append(f"spills {self.spilled_bytes} bytes")
        enough = {"wgmma", self.variant.matrix}
        if self.variant.matrix and not enough.intersection(self.instructions) and not self.error:
            found.append(f"no {self.variant.matrix}")
        return found


def variants(arch: int) -> list[Variant]:
    """Those of models with heads of 128 and a hidden size of 4096, as they are launched there."""
    chip = Chip.like((arch // 10, arch % 10), 132)
    return [
        *_rowwise(),
        *_attention(chip),
        *_specialised(),
        *_one_row(chip),
        *_some_rows(chip),
        *_linear(chip),
        *_gated(chip),
        *_fused(chip),
        *_chained(chip),
        *_blocks(),
        *_sampling(),
    ]


def _rowwise() -> list[Variant]:
    norm = {"x": BF16, "x_stride": "i32=16", "residual": BF16, "weight": BF16, "D": "i32=16", "eps": "fp32"}
    gate = {"gate_up": BF16, "stride": "i32=16", "F": "i32=16"}
    rope = {
        "qkv": BF16, "qkv_stride": "i32=16", "positions": I32, "write": I64, "cos_sin": F32, "block_stride": "i32=16",
        "eps": "fp32", "H": "i32=16", "G": "i32", "S": "i32=16",
    }  # fmt: skip
    on = {"OVERLAPS": True}
    lookup = {"ids": I32, "weight": BF16, "out": BF16, "D": "i32=16"}
    found = [Variant("embedding", embedding_kernel, lookup, {**on, "BLOCK": 2048}, {"num_warps": 4}, waits_first=True)]
    for q in (False, True):
        kind, out = ("fp8", {"out": FP8, "scales": F32}) if q else ("bf16", {"out": BF16})
        none = {} if q else {"scales": None}
        constants = {**none, "HAS_RESIDUAL": True, "QUANTISES": q, **on, "BLOCK": 4096}
        found.append(Variant(f"add_rms_norm {kind}", add_rms_norm_kernel, {**norm, **out}, constants, {"num_warps": 8}))
        block, warps = (16384, 32) if q else (1024, 2)
        constants = {**none, "QUANTISES": q, **on, "BLOCK": block}
        found.append(Variant(f"silu_mul {kind}", silu_mul_kernel, {**gate, **out}, constants, {"num_warps": warps}))
        pages = {"k_pages": FP8 if q else BF16, "v_pages": FP8 if q else BF16}
        for norms in (False, True):
            more = {"q_norm": BF16, "k_norm": BF16} if norms else {}
            constants = {**({} if norms else {"q_norm": None, "k_norm": None}), "K": 128, "HAS_NORM": norms}
            constants |= {"QUANTISES": q, **on, "RELEASES": True, "HEADS": 16, "HALF": 64}
            name = f"rope {'qk-norm ' if norms else ''}{kind} pages"
            found.append(
                Variant(name, qk_norm_rope_write_kernel, {**rope, **pages, **more}, constants, {"num_warps": 4})
            )
    types = {"x": BF16, "x_stride": "i32=16", "out": FP8, "scales": F32, "D": "i32=16"}
    found.append(Variant("quantise_rows", quantise_rows_kernel, types, {**on, "BLOCK": 4096}, {"num_warps": 8}))
    types = {
        "x": BF16, "gain": BF16, "out": FP8, "scales": F32, "squares": I64, "T": "i32", "D": "i32=16", "TURNS": "i32",
        "most_gain": "fp32",
    }  # fmt: skip
    constants = {**on, "BLOCK": 4096, "TURNS_PADDED": 128}
    found.append(Variant("linear_add_norm: begin", begin_kernel, types, constants, {"num_warps": 8}))
    return found


def _attention(chip: Chip) -> list[Variant]:
    types = {
        "q": BF16, "q_stride": "i32=16", "block_stride": "i32=16", "query_starts": I32, "context_lens": I32,
        "block_tables": I32, "table_stride": "i32=16", "out": BF16, "partials": F32, "marks": F32, "arrivals": I32,
        "dealt": I32, "R": "i32", "least": "i32", "most": "i32", "window": "i32=16", "least_split": "i32=16",
        "scale": "fp32", "softcap": "fp32",
    }  # fmt: skip
    found = []
    for kind, pages, head_dim, rows in (
        ("decode", BF16, 128, 1), ("decode", BF16, 64, 1), ("decode", FP8, 128, 1), ("decode", FP8, 64, 1),
        ("decode", BF16, 128, 16), ("decode", BF16, 128, 1024), ("decode", BF16, 64, 16), ("decode", FP8, 128, 16),
        ("decode", FP8, 128, 64), ("decode", FP8, 128, 256), ("decode", FP8, 128, 512), ("decode", FP8, 128, 1024),
        ("window decode", BF16, 128, 512), ("window decode", FP8, 128, 512),
        ("prefill", BF16, 128, 256), ("prefill", BF16, 128, 1024), ("prefill", FP8, 128, 256),
        ("prefill", FP8, 128, 1024), ("prefill", BF16, 64, 256), ("prefill", FP8, 64, 256),
        ("exact", BF16, 128, 256), ("exact", FP8, 128, 256), ("decode", BF16, 64, 64), ("decode", FP8, 64, 64),
        ("decode", BF16, 256, 64), ("prefill", BF16, 256, 64), ("prefill", FP8, 256, 64),
        ("16 queries decode", BF16, 128, 64), ("16 queries decode", FP8, 128, 16), ("16 queries decode", FP8, 128, 512),
    ):  # fmt: skip
        itemsize = 1 if pages is FP8 else 2
        is_small = kind.endswith("decode")
        group = 16 if kind.startswith("16") else 4
        tile = EXACT if kind == "exact" else LARGE[itemsize]
        if is_small:
            tile = small_tile(itemsize, rows, head_dim, group)
        tile = paged_attention.fitted(tile, chip, head_dim, itemsize)
        constants = {
            "G": 8, "GROUP": group, "K": head_dim, "KP": head_dim, "BM": tile.rows, "BN": tile.keys,
            "BLOCK_R": max(16, rows), "S": 16, "RUN": 16, "EARLY": is_small and rows <= FEW_TOKENS,
            "RELEASES": is_small and 1 < rows <= FEW_TOKENS,
            "HAS_WINDOW": kind.startswith("window"), "HAS_SOFTCAP": False, "EXACT_DOT": False,
            "EIGHT_BITS": pages is FP8, "IN_PAIRS": pages is FP8 and tile.in_pairs,
            "IN_TWO": pages is FP8 and tile.in_two, "IN_HARDWARE": True, "DEALS": not is_small or rows <= DEALT,
            "OVERLAPS": True, "STAGES": tile.stages, "COMBINES": tile.combines, "STEP": 16, "ROUNDS": tile.rounds,
        }  # fmt: skip
        found.append(
            Variant(
                f"attention {kind} {head_dim} {pages[1:]} R<={rows}", paged_attention_kernel,
                {**types, "k_pages": pages, "v_pages": pages}, constants,
                {"num_warps": tile.warps, "num_stages": tile.stages}, "mma.sync" if is_small else "wgmma",
                hot=head_dim <= 128,
            )
        )  # fmt: skip
    return found


def _specialised() -> list[Variant]:
    """They spill what they need once for each piece of work.

    From tile to tile those that multiply spill nothing with Triton 3.6, and read twelve numbers back with 3.9.
    """
    types = {
        "q": BF16, "q_stride": "i32=16", "block_rows": "i32=16", "query_starts": I32, "context_lens": I32,
        "block_tables": I32, "table_stride": "i32=16", "out": BF16, "partials": F32, "marks": F32, "arrivals": I32,
        "dealt": I32, "R": "i32", "least": "i32", "most": "i32", "window": "i32=16", "least_split": "i32=16",
        "scale": "fp32",
    }  # fmt: skip
    found = []
    for part, pages, head_dim, rows in (
        ("", BF16, 128, 256), ("", FP8, 128, 256), ("", BF16, 64, 256), ("", FP8, 64, 256), ("", FP8, 128, 1024),
        ("window ", BF16, 128, 256), ("window ", FP8, 128, 256),
    ):  # fmt: skip
        dtype = torch.bfloat16 if pages is BF16 else torch.float8_e4m3fn
        some_pages = torch.empty(1, 8, 16, head_dim, dtype=dtype, device="meta")
        constants = {
            **warp_specialised.constants(some_pages), "G": 8, "GROUP": 4, "BLOCK_R": rows, "ROUNDS": 2,
            "HAS_WINDOW": part == "window ", "OVERLAPS": True,
        }  # fmt: skip
        found.append(
            Variant(
                f"attention specialised {part}{head_dim} {pages[1:]} R<={rows}",
                warp_specialised.warp_specialised_kernel, {**types, "k_pages": pages, "v_pages": pages},
                constants, {"num_warps": constants["num_warps"]}, "wgmma", hot=False, only=90,
            )
        )  # fmt: skip
    return found


def _one_row(chip: Chip) -> list[Variant]:
    types = {
        "qkv": BF16, "positions": I32, "write": I64, "context_lens": I32, "table": I32, "cos_sin": F32, "eps": "fp32",
        "block_stride": "i32=16", "next_layer": "i32=16", "out": BF16, "partials": F32, "marks": F32,
        "window": "i32=16", "scale": "fp32", "softcap": "fp32",
    }  # fmt: skip
    found = []
    for pages, head_dim, group, part in (
        (BF16, 128, 4, ""), (FP8, 128, 4, ""), (FP8, 128, 4, "releases"), (FP8, 128, 4, "releases short"),
        (BF16, 128, 4, "qk-norm"), (FP8, 128, 4, "qk-norm"), (FP8, 128, 4, "qk-norm releases short"),
        (BF16, 128, 5, "window"), (FP8, 128, 16, "window"), (FP8, 128, 16, "window releases short"),
        (BF16, 64, 8, ""), (FP8, 64, 8, ""), (FP8, 64, 8, "releases short"), (BF16, 128, 1, ""), (FP8, 64, 2, ""),
    ):  # fmt: skip
        key_bytes = 2 * head_dim * (1 if pages is FP8 else 2)
        padded = 1 << (group - 1).bit_length()
        tile = tile_on(chip, 4096 if "short" in part else 131_072, key_bytes, padded, releases="releases" in part)
        norms = {"q_norm": BF16, "k_norm": BF16} if "qk-norm" in part else {}
        constants = {
            **({} if norms else {"q_norm": None, "k_norm": None}), "G": 8, "GROUP": group, "K": head_dim,
            "KP": head_dim, "BM": 16, "GP": padded, "BN": tile.keys, "S": 16, "RUN": 16, "STEP": 16,
            "HAS_NORM": bool(norms), "HAS_WINDOW": "window" in part, "HAS_SOFTCAP": False, "IN_PAIRS": pages is FP8,
            "IN_HARDWARE": True, "OVERLAPS": True, "RELEASES": tile.releases, "STAGES": tile.stages,
            "AT_ONCE": at_once(padded), "PARTS": parts_of(padded, head_dim, tile.warps), "IN_TURN": False,
        }  # fmt: skip
        name = f"attention of one row {head_dim}/{group} {pages[1:]} {part}".strip()
        options = {"num_warps": tile.warps, "num_stages": tile.stages, "maxnreg": tile.registers}
        types_here = {**types, **norms, "k_pages": pages, "v_pages": pages}
        found.append(Variant(name, one_row_kernel, types_here, constants, options, "mma.sync", once="LOOK:"))
    return found


def _some_rows(chip: Chip) -> list[Variant]:
    types = {
        "qkv": BF16, "qkv_stride": "i32=16", "positions": I32, "write": I64, "query_starts": I32, "context_lens": I32,
        "block_tables": I32, "table_stride": "i32=16", "cos_sin": F32, "eps": "fp32", "block_stride": "i32=16",
        "partials": F32, "marks": F32, "dealt": I32, "R": "i32", "shares": "i32", "window": "i32=16",
        "least_split": "i32=16", "scale": "fp32", "softcap": "fp32", "out_scale": "fp32", "factor": "fp32", "out": BF16,
    }  # fmt: skip
    found = []
    for pages, head_dim, rows, part in (
        (BF16, 128, 16, ""), (BF16, 128, 64, ""), (BF16, 128, 64, "qk-norm"), (BF16, 64, 64, ""),
        (FP8, 128, 16, ""), (FP8, 128, 64, ""), (FP8, 128, 64, "qk-norm"), (FP8, 64, 64, ""),
        (FP8, 128, 16, "quantises"), (FP8, 128, 64, "quantises"), (BF16, 128, 64, "quantises"),
        (BF16, 64, 64, "quantises"),
        (FP8, 128, 64, "window"), (BF16, 128, 64, "window"), (FP8, 128, 16, "16 queries"),
        (FP8, 128, 64, "16 queries"), (BF16, 128, 64, "16 queries"),
    ):  # fmt: skip
        itemsize = 1 if pages is FP8 else 2
        group = 16 if part.startswith("16") else 4
        tile = some_rows.tile_of(itemsize, rows, HeadShape(8 * group, 8, head_dim), quantises=part == "quantises")
        tile = paged_attention.fitted(tile, chip, head_dim, itemsize)
        more = {"q_norm": BF16, "k_norm": BF16} if "qk-norm" in part else {}
        more |= {"out": FP8, "out_scales": F32, "out_squares": F32} if part == "quantises" else {}
        parts = parts_of(group, head_dim, tile.warps)
        constants = {
            **{name: None for name in ("q_norm", "k_norm", "out_scales", "out_squares") if name not in more}, "G": 8,
            "GROUP": group, "K": head_dim, "KP": head_dim, "BM": tile.rows, "BN": tile.keys, "BLOCK_R": rows, "S": 16,
            "RUN": 16, "HAS_NORM": "q_norm" in more, "HAS_WINDOW": "window" in part, "HAS_SOFTCAP": False,
            "EIGHT_BITS": pages is FP8, "IN_PAIRS": pages is FP8 and tile.in_pairs, "IN_HARDWARE": True,
            "OVERLAPS": True, "STAGES": tile.stages, "STEP": 16, "ROUNDS": 4, "GP": group, "PARTS": parts,
            "AT_ONCE": some_rows.at_once(parts), "IN_TURN": False,
        }  # fmt: skip
        name = f"attention of some rows {head_dim} {pages[1:]} R<={rows} {part}".strip()
        types_here = {**types, **more, "k_pages": pages, "v_pages": pages}
        options = {
            "num_warps": tile.warps,
            "num_stages": tile.stages,
            "maxnreg": some_rows.registers_of(tile, head_dim),
        }
        found.append(Variant(name, some_rows_kernel, types_here, constants, options, "mma.sync", once="LOOK:"))
    return found


def _linear(chip: Chip) -> list[Variant]:
    """All that the shipped tables may launch, and what multiplies any number of rows when rows must be exact."""
    found: dict[str, Variant] = {}
    entries = [entry for table in Tactics.all_shipped() for entry in table.entries]
    launched = [(entry.bits, entry.rows, entry.tactic) for entry in entries if not entry.gated]
    launched += [(bits, 8192, tactic) for _, bits, tactic in OF_MANY]
    for bits, rows, measured in launched:
        tactic = fitted(measured, rows, bits // 8, chip)
        for tma in ("", " tma", " tma of rows too")[slice(1, None) if tactic.tma and chip.has_tma else slice(1)]:
            shape = f"{tactic.outputs}x{tactic.inputs}x{tactic.stages}x{tactic.warps}"
            kind = f"{'fp8' if bits == 8 else 'bf16'} T<={rows} {shape}"
            for rows_are in ("", " normed")[: 2 if bits == 8 and rows <= FEW_TOKENS else 1]:
                name = f"few rows{rows_are} {kind}{' rows first' * tactic.rows_first}{tma}"
                found[name] = _few_rows(name, bits, rows, tactic, chip)
                if rows_are:
                    name = f"linear_add_norm {kind}{' rows first' * tactic.rows_first}{tma}"
                    found[name] = _linear_add_norm(name, rows, tactic)
    return list(found.values())


def _few_rows(name: str, bits: int, rows: int, tactic: Tactic, chip: Chip) -> Variant:
    """`name`: says whether the rows' norm needs its root, and whether the accelerator brings tiles of weights, and of
    rows.
    """
    plain, block_t = FP8 if bits == 8 else BF16, rows_of_program(rows, tactic)
    types = {"x": plain, "w": plain, "y": BF16, "x_stride": "i32=16", "T": "i32", "N": "i32=16", "D": "i32=16"}
    types |= {"ahead": "i32=16", "x_unit": "fp32", "eps": "fp32"}
    types |= {"x_scales": F32, "w_scales": F32} if bits == 8 else {}
    types |= {"x_squares": I64} if "normed" in name else {}
    if " tma" in name:
        types["w_tiles"] = f"tensordesc<{plain[1:]}[{tactic.outputs},{tactic.inputs}]>"
    if " tma of rows" in name:
        types["x_tiles"] = f"tensordesc<{plain[1:]}[{block_t},{tactic.inputs}]>"
    every = ("x_tiles", "w_tiles", "x_scales", "x_squares", "w_scales", "bias", "residual")
    constants: dict[str, Any] = {name: None for name in every if name not in types}
    constants |= {
        "SCALED": bits == 8, "HAS_BIAS": False, "HAS_RESIDUAL": False, "EVEN": True, "EXACT_DOT": False,
        "OVERLAPS": True, "GROUPED": rows > 64, "ROWS_FIRST": tactic.rows_first, "BN": tactic.outputs, "BT": block_t,
        "BK": tactic.inputs, "STAGES": tactic.stages, "W_TMA": "w_tiles" in types, "X_TMA": "x_tiles" in types,
        "FEW": rows <= 64 and chip.overlaps, "RELEASES": tactic.releases,
    }  # fmt: skip
    matrix = "wgmma" if tactic.rows_first or tactic.outputs >= 64 else "mma.sync"
    options = {"num_warps": tactic.warps, "num_stages": tactic.stages}
    return Variant(name, few_rows_kernel, types, constants, options, matrix)


def _linear_add_norm(name: str, rows: int, tactic: Tactic) -> Variant:
    """`name`: as above."""
    block_t = rows_of_program(rows, tactic)
    types = {
        "x": FP8, "w": FP8, "y": FP8, "residual": BF16, "gain": BF16, "x_scales": F32, "w_scales": F32,
        "x_squares": F32, "before_scales": F32, "before_squares": I64, "y_scales": F32, "y_squares": I64,
        "before_unit": "fp32", "most_gain": "fp32", "of_rows": "fp32", "rise": "fp32", "x_stride": "i32=16",
        "T": "i32", "N": "i32=16", "D": "i32=16", "ahead": "i32=16",
    }  # fmt: skip
    if " tma" in name:
        types["w_tiles"] = f"tensordesc<fp8e4nv[{tactic.outputs},{tactic.inputs}]>"
    if " tma of rows" in name:
        types["x_tiles"] = f"tensordesc<fp8e4nv[{block_t},{tactic.inputs}]>"
    constants: dict[str, Any] = {name: None for name in ("x_tiles", "w_tiles", "bias") if name not in types}
    constants |= {
        "HAS_BIAS": False, "OVERLAPS": True, "RELEASES": tactic.releases, "ROWS_FIRST": tactic.rows_first,
        "BN": tactic.outputs, "BT": block_t, "BK": tactic.inputs, "STAGES": tactic.stages, "W_TMA": "w_tiles" in types,
        "X_TMA": "x_tiles" in types, "PARTS": 8, "PARTS_PADDED": 8,
    }  # fmt: skip
    matrix = "wgmma" if tactic.rows_first or tactic.outputs >= 64 else "mma.sync"
    options = {"num_warps": tactic.warps, "num_stages": tactic.stages}
    return Variant(name, linear_add_norm_kernel, types, constants, options, matrix)


def _gated(chip: Chip) -> list[Variant]:
    """All that the shipped tables may launch."""
    types = {"x": BF16, "largest": F32, "out": FP8, "scales": F32, "D": "i32=16", "COUNT": "i32"}
    types |= {"squares": F32, "out_squares": F32}
    parts = {"OVERLAPS": True, "COUNTS": 256, "BLOCK": 2048}
    found = {"quantise parts": Variant("quantise parts", quantise_parts_kernel, types, parts, {"num_warps": 4})}
    for entry in itertools.chain.from_iterable(table.entries for table in Tactics.all_shipped()):
        tactic = fitted(entry.tactic, entry.rows, entry.bits // 8, chip)
        for tma in ("", " tma", " tma of rows too")[slice(1, None) if tactic.tma and chip.has_tma else slice(1)]:
            shape = f"{tactic.outputs}x{tactic.inputs}x{tactic.stages}x{tactic.warps}"
            name = f"gated {'fp8' if entry.bits == 8 else 'bf16'} T<={entry.rows} {shape}{tma}"
            for rows_are in ("", " normed")[: 2 if entry.bits == 8 else 1] if entry.gated else ():
                found[name + rows_are] = _gated_variant(name + rows_are, entry.bits, entry.rows, tactic)
    return list(found.values())


def _gated_variant(name: str, bits: int, rows: int, tactic: Tactic) -> Variant:
    """`name`: says whether the accelerator brings tiles of weights, and of rows."""
    plain, block_t, own = FP8 if bits == 8 else BF16, rows_of_program(rows, tactic), tactic.outputs // 2
    types = {"x": plain, "w": plain, "y": BF16, "x_stride": "i32=16", "T": "i32", "N": "i32=16", "D": "i32=16"}
    types |= {"ahead": "i32=16", "x_unit": "fp32", "eps": "fp32"}
    types |= {"x_scales": F32, "w_scales": F32, "largest": F32, "y_squares": F32} if bits == 8 else {}
    types |= {"x_squares": I64} if "normed" in name else {}
    if " tma" in name:
        types["w_tiles"] = f"tensordesc<{plain[1:]}[{own},{tactic.inputs}]>"
    if " tma of rows" in name:
        types["x_tiles"] = f"tensordesc<{plain[1:]}[{block_t},{tactic.inputs}]>"
    every = ("x_tiles", "w_tiles", "x_scales", "x_squares", "w_scales", "bias", "largest", "y_squares")
    constants: dict[str, Any] = {name: None for name in every if name not in types}
    constants |= {
        "SCALED": bits == 8, "HAS_BIAS": False, "OVERLAPS": True, "ROWS_FIRST": tactic.rows_first, "BN": own,
        "BT": block_t, "BK": tactic.inputs, "STAGES": tactic.stages, "W_TMA": "w_tiles" in types,
        "X_TMA": "x_tiles" in types,
    }  # fmt: skip
    options = {"num_warps": tactic.warps, "num_stages": tactic.stages}
    return Variant(name, gated_linear_kernel, types, constants, options, "wgmma")


# What a layout gives to the kernel of fused products: the weight, its scales, and constants.
_LAYOUTS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "dense": (BF16, None, {"PARTS": 1, "GROUP": 0, "SPAN": 1}),
    "lossless": (I16, F32, {"PARTS": 4, "GROUP": 0, "SPAN": 1, "PLANES": 3, "EXCEPTIONS": 8}),
    "fp8": (FP8, F32, {"PARTS": 1, "GROUP": 0, "SPAN": 1}),
    "fp8-blocks": (FP8, F32, {"PARTS": 1, "GROUP": 128, "SPAN": 128}),
    "int4-g128": (I16, F16, {"PARTS": 4, "GROUP": 128, "SPAN": 1}),
    "int4-g32": (I16, F16, {"PARTS": 4, "GROUP": 32, "SPAN": 1}),
}


def _inputs(tactic: FusedTactic | ChainedTactic, constants: dict[str, Any]) -> int:
    """At a time: a tile has the scales of one group."""
    return min(tactic.inputs, constants["GROUP"] or tactic.inputs)


def _fused(chip: Chip) -> list[Variant]:
    """All that the shipped tables may launch."""
    found = {}
    for entry in itertools.chain.from_iterable(table.fused for table in Tactics.all_shipped()):
        tactic = launched(entry.tactic, chip, entry.layout, normed=entry.normed, gated=entry.gated)
        if tactic.rows > 1:
            tactic = _reading(entry.layout).fitted(tactic, chip, _itemsize(entry.layout), gated=entry.gated)
        residual = not entry.normed and entry.rows <= MOST_ROWS
        parts = ["norm"] * entry.normed + ["gate"] * entry.gated + ["residual"] * residual
        name = " ".join(("fused", entry.layout, *parts, _shape(tactic)))
        found[name] = _fused_variant(name, entry.layout, tuple(parts), tactic)
    return list(found.values())


def _fused_variant(name: str, layout: str, parts: tuple[str, ...], tactic: FusedTactic) -> Variant:
    types = {
        "x": BF16, "scale_stride_n": "i32=16", "scale_stride_k": "i32=16", "y": BF16, "N": "i32=16", "D": "i32=16",
        "WIDTH": "i32=16", "eps": "fp32",
    }  # fmt: skip
    weight, scales, constants = _LAYOUTS[layout]
    constants = {"PLANES": 1, "EXCEPTIONS": 0} | constants
    types |= {"w": weight} | ({"scales": scales} if scales else {})
    types |= {"exceptions": I32} if constants["EXCEPTIONS"] else {}
    types |= {name: BF16 for name, part in (("gain", "norm"), ("residual", "residual")) if part in parts}
    missing: dict[str, Any] = {
        name: None for name in ("gain", "scales", "exceptions", "bias", "residual") if name not in types
    }
    constants = constants | missing
    constants |= {
        "SCALED": scales is not None, "NORMED": "norm" in parts, "GATED": "gate" in parts, "HAS_BIAS": False,
        "HAS_RESIDUAL": "residual" in parts, "EVEN": True, "IN_PAIRS": True, "OVERLAPS": True, "BN": tactic.outputs,
        "BK": tactic.inputs,
    }  # fmt: skip
    options = {"num_warps": tactic.warps}
    if tactic.rows == 1:
        constants["VEC"] = 16 if weight is FP8 else 8
        return Variant(name, vector_kernel, types, constants, options)
    types |= {"x_stride": "i32=16", "T": "i32"}
    constants |= {"BT": tactic.rows, "BK": _inputs(tactic, constants), "STAGES": tactic.stages}
    matrix = "wgmma" if tactic.outputs >= 64 else "mma.sync"
    return Variant(name, fused_linear_kernel, types, constants, options | {"num_stages": tactic.stages}, matrix)


def _reading(layout: str) -> Reading:
    constants = _LAYOUTS[layout][2]
    return Reading(constants["PARTS"], constants.get("PLANES", 1), group=constants["GROUP"])


def _itemsize(layout: str) -> int:
    return 1 if _LAYOUTS[layout][0] is FP8 else 2


_UNEVEN = 3584  # inputs, of which the last part of an output is not full


def _chained(chip: Chip) -> list[Variant]:
    """All that the shipped tables may launch, cut into parts or not."""
    types = {"x": BF16, "gain": BF16, "out": FP8, "scales": F32, "squares": F32, "T": "i32", "D": "i32=16"}
    constants = {"NORMED": True, "QUANTISES": True, "OVERLAPS": True, "GROUPS": 32}
    found = {"prepare": Variant("prepare", prepare_kernel, types, constants, {"num_warps": 4})}
    for entry in itertools.chain.from_iterable(table.chained for table in Tactics.all_shipped()):
        tactic = entry.tactic
        parts = ("gated",) if entry.gated else ("plain", "adds")
        if registers.takes(tactic):
            names = {part: f"in registers {entry.layout} {part} {_shape(tactic)}" for part in parts}
            found |= {name: _in_registers(name, entry, part) for part, name in names.items()}
            continue
        if diagonal.takes(tactic):
            launches = [(part, inputs, tactic) for part, inputs in itertools.product(parts, (entry.inputs, _UNEVEN))]
            if "adds" in parts:  # the hidden size may be small
                launches.append(("adds", entry.inputs, diagonal.fitted(tactic, 1024, chip)))
            for part, inputs, owned in launches:
                name = f"diagonal {inputs} {entry.layout} {part} {_shape(owned)}"
                found[name] = _in_registers(name, replace(entry, inputs=inputs, tactic=owned), part)
            continue
        itemsize = _itemsize(entry.layout)
        row_itemsize = 1 if entry.layout == "fp8-blocks" else 2
        tactic = _reading(entry.layout).fitted(tactic, chip, itemsize, gated=entry.gated, row_itemsize=row_itemsize)
        if tactic.outputs < 128 and entry.layout == "fp8-blocks":  # what quantises owns a whole group
            parts = parts[:1]
        if entry.inputs > 2 * entry.outputs:  # that narrows what a gate widened, which is added always
            parts = parts[-1:]
        for part in parts:
            name = f"chained {entry.layout} {part} {_shape(tactic)}{' rows first' if tactic.rows_first else ''}"
            found[name] = chained_variant(name, entry.layout, part, tactic)
    return list(found.values())


def _shape(tactic: FusedTactic | ChainedTactic) -> str:
    return f"{tactic.outputs}x{tactic.rows}x{tactic.inputs}x{tactic.stages}x{tactic.warps}"


def _in_registers(name: str, entry: MeasuredChained, part: str) -> Variant:
    """`part`: "plain", "gated" or "adds"."""
    types = {
        "x": BF16, "w": I16, "scales": F16, "scale_stride": "i32=16", "y": BF16, "N": "i32=16", "D": "i32=16",
        "WIDTH": "i32=16", "COUNT": "i32", "eps": "fp32",
    }  # fmt: skip
    types |= {"T": "i32"} if entry.tactic.rows > 1 else {}
    is_fp8 = entry.layout == "fp8"
    types |= {"x": I32, "scales": F32, "scale_stride": "i32"} if is_fp8 else {}
    adds, tactic, group = part == "adds", entry.tactic, _LAYOUTS[entry.layout][2]["GROUP"]
    types |= {"residual": BF16, "gain": BF16, "y_squares": F32} if adds else {"squares": F32}
    every = ("squares", "bias", "residual", "gain", "y_squares")
    constants: dict[str, Any] = {name: None for name in every if name not in types}
    constants |= {
        "GROUP": group, "NORMED": not adds, "GATED": part == "gated", "HAS_BIAS": False, "ADDS": adds,
        "IN_PAIRS": True, "OVERLAPS": True, "COUNTS": 256, "BN": tactic.outputs, "num_warps": tactic.warps,
    }  # fmt: skip
    if diagonal.takes(tactic):
        kernel = diagonal.diagonal_kernel
        constants |= {"ROWS": tactic.rows, "T": 1}  # T: where there is one row, which Triton knows
        constants |= {"ASKED": diagonal.ASKED, "next_w": None}
        types |= {"askers": "i32"}
        is_last = entry.inputs > 2 * entry.outputs  # of a layer
        if part != "plain" and not is_last and diagonal.asks(entry.layout, tactic.rows, gated=not adds):
            types |= {"next_w": "*u8"}
        constants |= diagonal.steps_of(entry.inputs // (2 if is_fp8 else int4.PARTS), tactic)
    else:
        kernel = registers.registers_kernel
        types |= {"SHARE": "i32=16"}
        constants |= {"BK": _inputs(tactic, {"GROUP": group}), "TT": tactic.rows}
    least = 89 if is_fp8 else 80
    return Variant(name, kernel, types, constants, {"num_warps": tactic.warps}, "mma.sync", least=least)


def chained_variant(name: str, layout: str, part: str, tactic: ChainedTactic) -> Variant:
    """`part`: "plain", "gated" or "adds"."""
    types = {
        "scales": F32, "scale_stride_n": "i32=16", "scale_stride_k": "i32=16", "arrivals": I32, "T": "i32",
        "N": "i32=16", "D": "i32=16", "WIDTH": "i32=16", "STEPS": "i32", "COUNT": "i32", "eps": "fp32",
    }  # fmt: skip
    types["w"], types["scales"], constants = _LAYOUTS[layout]
    is_fp8, adds, gated = layout == "fp8-blocks", part == "adds", part == "gated"
    types |= {"x": FP8, "x_scales": F32} if is_fp8 else {"x": BF16}
    types |= {"residual": BF16, "gain": BF16, "y_squares": F32} if adds else {"squares": F32}
    types |= {"y": FP8, "y_scales": F32} if is_fp8 and part != "plain" else {"y": BF16}
    types |= {"partials": F32} if tactic.programs else {}
    every = ("x_scales", "squares", "bias", "residual", "gain", "y_scales", "y_squares", "partials")
    constants = constants | {name: None for name in every if name not in types}
    constants |= {
        "X_SCALED": is_fp8, "NORMED": not adds, "GATED": gated, "HAS_BIAS": False, "ADDS": adds,
        "QUANTISES": is_fp8 and part != "plain", "IN_PAIRS": True, "OVERLAPS": True, "SPLITS": tactic.programs > 0,
        "COUNTS": 64 if tactic.rows <= 32 else 32, "ROWS_FIRST": tactic.rows_first, "BN": tactic.outputs,
        "BT": tactic.rows, "BK": _inputs(tactic, constants), "STAGES": tactic.stages,
        "OF_SUMS": scales_sums(tactic, _reading(layout), gated=gated),
    }  # fmt: skip
    options = {"num_warps": tactic.warps, "num_stages": tactic.stages}
    return Variant(name, chained_linear_kernel, types, constants, options, "wgmma")


def _blocks() -> list[Variant]:
    block_n, block_t, warps, stages = TILE
    sizes = {"T": "i32", "N": "i32=16", "D": "i32=16"}
    product = {"x": FP8, "x_scales": F32, "w": FP8, "w_scales": F32, "y": BF16, **sizes}
    constants = {
        "bias": None, "residual": None, "HAS_BIAS": False, "HAS_RESIDUAL": False, "EVEN": True, "OVERLAPS": True,
        "BN": block_n, "BT": block_t, "STAGES": stages,
    }  # fmt: skip
    options = {"num_warps": warps, "num_stages": stages}
    quantise = {"x": BF16, "x_stride": "i32=16", "out": FP8, "scales": F32, "T": "i32", "D": "i32=16"}
    widen = {"w": I16, "scales": F16, "out": BF16, "N": "i32=16", "D": "i32=16", "WIDTH": "i32=16"}
    on = {"OVERLAPS": True}
    restore = {**widen, "scales": F32}
    put = {"exceptions": I32, "scales": F32, "out": BF16, "N": "i32=16", "D": "i32=16"}
    return [
        Variant("blocks fp8", blocks_kernel, product, constants, options, "wgmma"),
        Variant("quantise_groups", quantise_groups_kernel, quantise, {**on, "GROUPS": 32}, {"num_warps": 4}),
        Variant("widen int4", widen_kernel, widen, {**on, "GROUP": 128, "ROWS": 16}, {"num_warps": 4}),
        Variant("restore lossless", restore_kernel, restore, {**on, "IN_PAIRS": True, "ROWS": 16}, {"num_warps": 4}),
        Variant("put exceptions", put_exceptions_kernel, put, {**on, "COUNT": 8, "ROWS": 16}, {"num_warps": 4}),
    ]


def _sampling() -> list[Variant]:
    on = {"OVERLAPS": True, "CHUNK": 4096}
    common = {"logits": F32, "V": "i32=16", "count": I32, "temperatures": F32, "largest": F32, "masses": F32}
    choose = {
        **common, "top_ks": I32, "top_ps": F32, "min_ps": F32, "uniforms": "*fp64", "places": I32, "C": "i32=16",
        "drawn": I64, "told": I64, "turn": I32, "told_stride": "i32", "slots": I32, "positions": I32, "tokens": I32,
        "tokens_stride": "i32",
    }  # fmt: skip
    inputs = {
        "slots": I32, "computed": I32, "starts": I32, "new_blocks": I32, "block_places": I64, "block_ids": I32,
        "tokens": I32, "tokens_stride": "i32", "blocks": I32, "blocks_stride": "i32=16", "entries": "i32",
        "spare_place": "i32", "ids": I32, "positions": I32, "write": I64,
        "context_lens": I32, "block_tables": I32, "table_stride": "i32=16", "R": "i32", "T": "i32", "S": "i32=16",
    }  # fmt: skip
    copied = {"ring": I64, "turn": I32, "into": I64, "count": "i32=16", "turns": "i32"}
    sized, four = {"OVERLAPS": True, "BLOCK": 256}, {"num_warps": 4}
    return [
        Variant("draw: chunks", chunks_kernel, {**common, "places": I32}, on, {"num_warps": 8}),
        Variant("draw: choose", choose_kernel, choose, {**on, "CHUNKS": 32, "BLOCK": 2048}, {"num_warps": 16}),
        Variant("step inputs", step_inputs_kernel, inputs, sized, four),
        Variant("host copy", host_copy_kernel, copied, {"OVERLAPS": True, "BLOCK": 16384}, {"num_warps": 32}),
    ]


def compile_variant(variant: Variant, arch: int) -> Outcome:
    """Compile one, and read the assembler's report."""
    outcome = Outcome(variant, arch)
    names = variant.kernel.arg_names
    signature, attributes, constants = {}, {}, {}
    for place, name in enumerate(names):
        if name in variant.types:
            kind = variant.types[name].removesuffix("=16")
            signature[name] = kind
            if kind != variant.types[name] or kind.startswith("*"):
                attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "constexpr"
            # Kernels start before the one before is over from Hopper on.
            constants[(place,)] = variant.constants[name] if name != "OVERLAPS" else arch >= 90
    kind_of_source = GluonASTSource if variant.kernel.is_gluon() else ASTSource
    source = kind_of_source(variant.kernel, signature, constants, attributes)
    try:
        compiled = triton.compile(
            source, target=GPUTarget("cuda", arch, 32), options={**variant.options, **Chip(1, arch >= 90).launch}
        )
    except Exception as error:  # noqa: BLE001 - the table shows every variant, also one that the compiler refuses
        outcome.error = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}"
        return outcome
    outcome.shared_bytes = compiled.metadata.shared
    outcome.instructions = [
        word
        for word in ("wgmma", "tcgen05.mma", "mma.sync", "cp.async", "cp.async.bulk.tensor")
        if word in compiled.asm["ptx"]
    ]
    if variant.once and compiled.asm["ptx"].count(variant.once) != 1:
        outcome.error = f"{variant.once!r} stands {compiled.asm['ptx'].count(variant.once)} times in its assembly"
    waits, lets = (compiled.asm["ptx"].find(f"griddepcontrol.{word}") for word in ("wait", "launch_dependents"))
    if variant.waits_first and arch >= 90 and not 0 <= waits < lets:
        outcome.error = "it lets the next kernel begin before it has waited itself"
    _read_resources(outcome, compiled)
    return outcome


def _read_resources(outcome: Outcome, compiled: CompiledKernel) -> None:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    used = dict(re.findall(r"(\w+):(\d+)", text))
    outcome.registers = int(used.get("REG", 0))
    outcome.spilled_bytes = int(used.get("LOCAL", 0)) + int(used.get("STACK", 0))


def main() -> int:
    """Print a table for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[90])
    parser.add_argument("--only", default="", help="variants whose name has this in it")
    options = parser.parse_args()
    is_faulty = False
    for arch in options.arch:
        wanted = [variant for variant in variants(arch) if options.only in variant.name]
        fitting = [variant for variant in wanted if variant.fits(arch)]
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(lambda variant, arch=arch: compile_variant(variant, arch), fitting))
        _print(outcomes, arch)
        is_faulty |= any(outcome.faults for outcome in outcomes)
    return 1 if is_faulty else 0


def _print(outcomes: list[Outcome], arch: int) -> None:
    print(f"Triton {triton.__version__}, sm_{arch}")
    print(f"{'kernel':42} {'registers':>9} {'spilled':>8} {'shared':>8}  instructions")
    for outcome in outcomes:
        print(
            f"{outcome.variant.name:42} {outcome.registers:9} {outcome.spilled_bytes:8} {outcome.shared_bytes:8}  "
            f"{' '.join(outcome.instructions)}{'  FAULT: ' + '; '.join(outcome.faults) if outcome.faults else ''}"
        )


if __name__ == "__main__":
    sys.exit(main())
