"""The shipped table of tactics, and how a shape finds its own."""

from tradewind.kernels.linear.tactics import Measured, Tactic, Tactics

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


def test_the_vendor_runs_where_it_is_faster() -> None:
    table = Tactics("", (entry(4096, 16, NARROW, us=3.0),))
    assert table.find(16, 1, 4096, 4096) is None


def test_the_shipped_table_serves_decodes_of_both_kinds() -> None:
    table = Tactics.shipped()
    assert "H100" in table.about
    for bits in (8, 16):
        for rows in (1, 16, 40, 64):
            tactic = table.find(bits, rows, 128256, 4096)
            assert tactic is not None
            block_t = max(64, rows) if tactic.rows_first else max(16, rows)
            shared = (tactic.outputs + block_t) * tactic.inputs * tactic.stages * bits // 8
            assert shared <= 227 * 1024
