"""The shipped tables of tactics, how a card finds its own, and in it a shape."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch

from tradewind.bench import gpu_tune
from tradewind.bench.gpu_tune import ROWS, rows_of_table
from tradewind.kernels.chained_linear import diagonal
from tradewind.kernels.fused_attention.one_row import tile_on
from tradewind.kernels.fused_attention.some_rows import registers_of
from tradewind.kernels.fused_linear.triton import Reading
from tradewind.kernels.gpu import ABSENT_GPUS, Chip
from tradewind.kernels.linear import LinearWeight, choose
from tradewind.kernels.linear.gpu import find_exact
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.linear.tactics import (
    ChainedTactic,
    FusedTactic,
    Measured,
    MeasuredChained,
    MeasuredFused,
    Tactic,
    Tactics,
    key_of,
)
from tradewind.kernels.linear.triton import fitted, is_exact, rows_of_program
from tradewind.kernels.ops import choose_ops
from tradewind.kernels.paged_attention.triton import LARGE, resident, small_tile
from tradewind.kernels.paged_attention.triton import fitted as fitted_tile

each_table = pytest.mark.parametrize("table", Tactics.all_shipped(), ids=lambda table: table.card)
NARROW, WIDE = Tactic(16, 256), Tactic(128, 128)


def entry(outputs: int, rows: int, tactic: Tactic, us: float = 1.0, vendor_us: float = 2.0) -> Measured:
    return Measured(16, rows, outputs, 4096, tactic, us, vendor_us)


def test_the_nearest_shape_of_the_least_bucket_that_holds_the_rows() -> None:
    table = Tactics("", (entry(4096, 16, NARROW), entry(28672, 16, WIDE), entry(4096, 64, WIDE)))
    assert table.find(16, 1, 5000, 4096) == NARROW
    assert table.find(16, 16, 20000, 4000) == WIDE
    assert table.find(16, 17, 4096, 4096) == WIDE
    assert table.find(16, 65, 4096, 4096) is None
    assert table.find(8, 1, 4096, 4096) is None


def test_attention_of_one_row_makes_room_for_what_begins_beside_it() -> None:
    """Where kernels overlap, over 8-bit pages of short contexts, unless it has many queries at once."""
    hopper, ada = Chip(132, overlaps=True, capability=(9, 0)), Chip(142, capability=(8, 9))
    short = tile_on(hopper, 4096, 256, 4, releases=True)
    assert (short.stages, short.releases, short.registers) == (2, True, 128)
    assert tile_on(hopper, 4096, 256, 16, releases=True).registers is None
    for tile in (tile_on(hopper, 100_000, 256, 4, releases=True), tile_on(hopper, 4096, 512, 4, releases=False)):
        assert (tile.stages, tile.registers) == (3, None)
    assert tile_on(ada, 4096, 256, 4, releases=True) == tile_on(ada, 4096, 256, 4, releases=False)


def test_the_vendor_runs_where_it_is_faster() -> None:
    table = Tactics("", (entry(4096, 16, NARROW, us=3.0),))
    assert table.find(16, 1, 4096, 4096) is None


@pytest.mark.parametrize(
    ("card", "capability", "measured_on", "why"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), "H100", None),
        ("NVIDIA H100 PCIe", (9, 0), "H100", None),
        ("NVIDIA H200", (9, 0), "H200", None),
        ("NVIDIA GH200 480GB", (9, 0), "H100", "another of its capability"),
        ("NVIDIA A100-SXM4-80GB", (8, 0), "H100", "the nearest: none is for capability 8.0"),
        ("NVIDIA B200", (10, 0), "H100", "the nearest: none is for capability 10.0"),
        ("", (9, 0), "H100", "another of its capability"),
    ],
)
def test_a_card_finds_the_table_that_was_measured_on_it_or_on_the_nearest(
    card: str, capability: tuple[int, int], measured_on: str, why: str | None
) -> None:
    table = Tactics.on(Chip(132, capability=capability, name=card))
    assert table.about.startswith(f"measured on NVIDIA {measured_on}")
    assert table.about.endswith(f", {why}" if why else "+cu130")


def test_the_card_of_a_gpu_that_is_not_there_is_known() -> None:
    for name in ("h100", "h200"):
        assert Tactics.on(Chip.of(ABSENT_GPUS[name])).card == name
        assert name.upper() in choose(ABSENT_GPUS[name], torch.bfloat16).reason


def test_layouts_that_a_table_does_not_have_come_from_the_next() -> None:
    """And it is said where from."""
    h100, h200 = (Tactics.on(Chip.of(ABSENT_GPUS[name])) for name in ("h100", "h200"))
    for table in (h100, h200):
        for rows in (1, 16, 100):
            tactic = table.find_fused("lossless", rows, 6144, 4096, normed=rows < 17)
            assert (tactic.rows == 1) == (rows == 1)
    assert h100.about_layout("lossless") == h200.about_layout("lossless") == h100.about != h200.about
    chosen = choose(ABSENT_GPUS["h200"], torch.bfloat16, quantisation=Quantisation.named("lossless"))
    assert h100.about in chosen.reason


def test_what_a_table_has_not_for_all_of_a_form_is_said_to_come_from_the_next() -> None:
    h100, h200 = (Tactics.on(Chip.of(ABSENT_GPUS[name])) for name in ("h100", "h200"))
    assert (h100.about_chained("fp8"), h200.about_chained("fp8")) == (h100.about, h200.about)
    assert h200.about_chained("int4-g128") == f"of up to 1, 2, 8, 16, 32: {h100.about}; of up to 64: {h200.about}"
    assert (h100.about_gated(8), h200.about_gated(8)) == (h100.about, h200.about)
    without = replace(h200, entries=tuple(entry for entry in h200.entries if not entry.gated))
    assert without._filled_up(h100).about_gated(8) == h100.about
    chosen = choose_ops(ABSENT_GPUS["h200"], torch.bfloat16, quantisation=Quantisation.named("int4-g128")).chosen
    assert h200.about_chained("int4-g128") in chosen["chained_linear"].reason
    chosen = choose_ops(ABSENT_GPUS["h200"], torch.bfloat16, quantisation=Quantisation.named("fp8")).chosen
    assert h200.about in chosen["gated_linear"].reason


@each_table
def test_no_shipped_table_has_two_entries_for_the_same(table: Tactics) -> None:
    keys = Counter(key_of(entry) for entry in (*table.entries, *table.fused, *table.chained))
    assert keys
    assert not [key for key, count in keys.items() if count > 1]


def test_of_two_that_are_for_the_same_a_table_has_the_first() -> None:
    first, second = entry(4096, 16, NARROW), entry(4096, 16, WIDE)
    other = MeasuredFused("int4-g32", 16, 4096, 4096, True, True, FusedTactic(32, 16, 128, 4, 4), 1.0)
    rows = rows_of_table([first, other, second, replace(other, layout="int4-g128"), other])
    assert [(row.get("layout"), row["tactic"]["outputs"]) for row in rows] == [
        (None, NARROW.outputs), ("int4-g32", 32), ("int4-g128", 32),
    ]  # fmt: skip


@each_table
def test_the_shipped_tables_serve_decodes_of_both_kinds(table: Tactics) -> None:
    for bits in (8, 16):
        for rows in (1, 16, 40, 64):
            tactic = table.find(bits, rows, 128256, 4096)
            assert tactic is not None
            block_t = max(64, rows) if tactic.rows_first else max(16, rows)
            shared = (tactic.outputs + block_t) * tactic.inputs * tactic.stages * bits // 8
            assert shared <= 227 * 1024


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_exact_rows_are_multiplied_with_exact_tactics_only(dtype: torch.dtype) -> None:
    """For any number of rows, also where the vendor's product is faster."""
    narrow = Measured(8 * dtype.itemsize, 16, 512, 4096, Tactic(16, 256), 1.0, 2.0)
    slower = Measured(8 * dtype.itemsize, 64, 512, 4096, Tactic(64, 256), 2.0, 1.0)
    weight = LinearWeight(torch.empty((512, 64), dtype=dtype), None, 512, 64)
    for rows in (1, 16, 17, 64, 65, 1024, 1025, 8192):
        for table in (Tactics("", (narrow, slower)), *Tactics.all_shipped()):
            assert is_exact(find_exact(table, rows, weight), 8 * dtype.itemsize)


def test_products_with_and_without_a_gate_are_apart() -> None:
    """Those of a table that has none with gates come from the next."""
    plain, gated = entry(4096, 16, NARROW), replace(entry(4096, 64, WIDE), gated=True, us=None, vendor_us=None)
    table = Tactics("", (plain, gated))
    bits = plain.bits
    assert table.find(bits, 9, 4096, 4096) == NARROW
    assert table.find(bits, 9, 4096, 4096, gated=True) == WIDE
    assert table.find(bits, 65, 4096, 4096, gated=True) is None
    assert Tactics("", (plain,)).find(bits, 9, 4096, 4096, gated=True) is None
    for name in ("h100", "h200"):
        shipped = Tactics.on(Chip.of(ABSENT_GPUS[name]))
        assert shipped.find(8, 40, 28672, 4096, gated=True) is not None
        assert shipped.find(16, 40, 28672, 4096, gated=True) is not None


def test_a_fused_product_finds_its_place_rows_and_shape() -> None:
    def of(layout: str, rows: int, outputs: int, normed: bool, gated: bool, tactic: FusedTactic) -> MeasuredFused:
        return MeasuredFused(layout, rows, outputs, 4096, normed, gated, tactic, 1.0)

    one, few, many, gate = (FusedTactic(number, rows, 64, 4, 1) for number, rows in ((1, 1), (2, 16), (3, 64), (4, 16)))
    table = Tactics(
        "",
        (),
        (
            of("int4-g128", 1, 4096, False, False, one),
            of("int4-g128", 16, 4096, True, False, few),
            of("int4-g128", 64, 4096, False, False, many),
            of("int4-g128", 16, 4096, True, True, gate),
        ),
    )
    assert table.find_fused("int4-g32-quarters", 1, 4096, 4096) == one
    assert table.find_fused("int4-g128-quarters", 7, 4096, 4096, normed=True) == few
    assert table.find_fused("int4-g128-quarters", 7, 4096, 4096) == many
    assert table.find_fused("int4-g128-quarters", 500, 4096, 4096) == many
    assert table.find_fused("int4-g128-quarters", 1, 28672, 4096, gated=True) == gate


@each_table
def test_the_shipped_tables_have_fused_tactics_for_all_that_is_fused(table: Tactics) -> None:
    for layout, most in (("dense", 16), ("fp8", 1), ("fp8-blocks", 16), ("int4-g64-quarters", 256)):
        for rows in (1, 2, 16, 17, 256):
            for gated in (False, True):
                if rows <= most and not (gated and rows > 16):
                    tactic = table.find_fused(layout, rows, 12288, 4096, normed=gated, gated=gated)
                    assert (tactic.rows == 1) == (rows == 1)


def test_a_chained_product_finds_its_layout_rows_and_shape() -> None:
    def of(layout: str, rows: int, outputs: int, gated: bool, tactic: ChainedTactic) -> MeasuredChained:
        return MeasuredChained(layout, rows, outputs, 4096, gated, tactic, 1.0)

    few, many, gate = (ChainedTactic(128, rows, 128, 8, 4, programs) for rows, programs in ((16, 1), (64, 1), (64, 0)))
    chained = (
        of("int4-g128", 16, 4096, False, few),
        of("int4-g128", 64, 4096, False, many),
        of("int4-g128", 64, 8192, True, gate),
    )
    table = Tactics("", (), (), chained)
    assert table.find_chained("int4-g128-quarters", 3, 6144, 4096) == few
    assert table.find_chained("int4-g32-quarters", 17, 4096, 4096) == many
    assert table.find_chained("int4-g32-quarters", 500, 4096, 4096) == many
    assert table.find_chained("int4-g128-quarters", 3, 28672, 4096, gated=True) == gate


def test_a_weight_of_4_bits_finds_its_group_or_the_nearest() -> None:
    groups = {group: FusedTactic(32, group, 128, 4, 4) for group in (32, 128)}
    fused = (MeasuredFused(f"int4-g{group}", 16, 4096, 4096, False, False, it, 1.0) for group, it in groups.items())
    table = Tactics("", (), tuple(fused))
    for group, nearest in ((32, 32), (64, 128), (128, 128)):
        assert table.find_fused(f"int4-g{group}-quarters", 16, 4096, 4096) == groups[nearest]


@each_table
def test_the_shipped_tables_serve_chained_products_of_all_layouts(table: Tactics) -> None:
    for gated in (False, True):
        assert table.find_chained("fp8", 1, 28672, 4096, gated=gated).rows == 1
    for layout in ("int4-g128-quarters", "fp8-blocks"):
        for rows in (2, 16, 17, 64):
            for gated in (False, True):
                tactic = table.find_chained(layout, rows, 28672, 4096, gated=gated)
                assert tactic.rows >= min(rows, 64)
                assert 128 % tactic.outputs == 0


CARDS = {name: gpu.chip for name, gpu in ABSENT_GPUS.items()}


@pytest.mark.parametrize("card", ["h100", "h200"])
@each_table
def test_where_tactics_were_measured_they_are_taken_as_they_are(table: Tactics, card: str) -> None:
    for entry in table.entries:
        assert fitted(entry.tactic, entry.rows, entry.bits // 8, CARDS[card]) == entry.tactic


@pytest.mark.parametrize("card", ["a100", "l40s"])
@each_table
def test_elsewhere_as_many_stages_are_taken_as_have_room(table: Tactics, card: str) -> None:
    chip, is_less = CARDS[card], []
    for entry in table.entries:
        tactic = fitted(entry.tactic, entry.rows, entry.bits // 8, chip)
        assert tactic == replace(entry.tactic, stages=tactic.stages)
        stage_bytes = (tactic.outputs + rows_of_program(entry.rows, tactic)) * tactic.inputs * entry.bits // 8
        assert (tactic.stages - 1) * stage_bytes <= chip.shared_bytes
        assert tactic.stages == entry.tactic.stages or tactic.stages * stage_bytes > chip.shared_bytes
        is_less.append(tactic.stages < entry.tactic.stages)
    assert any(is_less) == (card == "l40s")


@pytest.mark.parametrize(("card", "stages"), [("h100", 5), ("a100", 4), ("l40s", 3)])
def test_stages_of_fused_products(card: str, stages: int) -> None:
    """A stage of this one is 48 KB; of gates with 4-bit weights 80 KB, and then two have to do."""
    tall = FusedTactic(32, 16, 512, 4, 5)
    assert Reading().fitted(tall, CARDS[card], 2, gated=False) == replace(tall, stages=stages)
    gates = FusedTactic(128, 16, 128, 8, 2)
    assert Reading(parts=4, group=128).fitted(gates, CARDS[card], 2, gated=True) == gates


@pytest.mark.parametrize("card", CARDS)
def test_a_search_has_candidates_that_a_card_has_room_for(card: str) -> None:
    chip = CARDS[card]
    for size, rows in itertools.product((1, 2), ROWS):
        some = list(gpu_tune.candidates(size, rows, chip))
        assert some
        some += (gated := list(gpu_tune.gated_candidates(size, rows, chip)))
        assert gated
        assert all(fitted(tactic, rows, size, chip) == tactic and tactic.tma <= chip.has_tma for tactic in some)
    for form, rows, gated in itertools.product(("bf16", "lossless", "fp8-blocks", "int4"), (1, *ROWS), (False, True)):
        assert any(gpu_tune.fused_candidates(gpu_tune.FusedWork(form, rows, gated, gated), chip))
    for form, rows, place in itertools.product(("fp8-blocks", "int4-g128"), ROWS, ("qkv", "out", "gate_up")):
        assert any(gpu_tune.chained_candidates(gpu_tune.ChainedWork(form, rows, place), chip))
    for form, rows in itertools.product(("fp8", "int4-g128"), (1, 2)):
        assert all(map(diagonal.takes, gpu_tune.chained_candidates(gpu_tune.ChainedWork(form, rows, "out"), chip)))


def test_a_product_without_stages_stays_so() -> None:
    assert CARDS["l40s"].stages(1, 1 << 20) == 1


def test_wide_heads_take_fewer_keys_at_a_time_where_there_is_little_room() -> None:
    tile = LARGE[2]
    kept = {card: fitted_tile(tile, CARDS[card], 256, 2) for card in ("h100", "a100", "l40s")}
    assert [(one.keys, one.stages) for one in kept.values()] == [(64, 3), (64, 2), (32, 2)]
    assert fitted_tile(tile, CARDS["l40s"], 128, 2).keys == 64


@pytest.mark.parametrize("card", CARDS)
def test_all_programs_that_wait_for_each_other_have_a_place(card: str) -> None:
    chip = CARDS[card]
    for itemsize, rows, width in itertools.product((1, 2), (2, 16, 17, 64), (64, 128, 256)):
        tile = fitted_tile(small_tile(itemsize, rows, width, 4), chip, width, itemsize)
        each = resident(tile, chip, width, itemsize) // chip.processors
        tile_bytes = 2 * tile.rows * (width + tile.keys) + (tile.stages - 1) * 2 * tile.keys * width * itemsize
        assert 1 <= each <= tile.programs
        assert each * tile_bytes <= chip.shared_bytes
        assert each * 32 * tile.warps * registers_of(tile, width) <= 65_536


def test_a_row_leaves_no_multiprocessor_without_work() -> None:
    tactic, chip = ChainedTactic(16, 1, 256, 8, 2, 0), Chip(132)
    for outputs, owned, warps in ((6144, 16, 8), (2048, 8, 4), (1024, 8, 4), (256, 8, 4)):
        assert diagonal.fitted(tactic, outputs, chip) == replace(tactic, outputs=owned, warps=warps)
    small = replace(tactic, outputs=4)
    assert diagonal.fitted(small, 256, chip) == small
