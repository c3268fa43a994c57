"""A roofline plot: how fast work runs over how much it computes for each byte, under what the machine can do."""

from collections.abc import Sequence
from pathlib import Path

from tradewind.bench.ceilings import Ceilings
from tradewind.bench.report import Row


def plot_roofline(rows: Sequence[Row], ceilings: Ceilings, path: Path) -> Path | None:
    """A point for each row with "GB/s" and "GFLOP/s", by the first word of its "work"; None without matplotlib.

    The lines are the ceilings: reading (the slope), multiplying floats, multiplying 8-bit integers.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    panel = figure.subplots()
    read, multiply, integers = ceilings.read / 1e9, ceilings.multiply / 1e9, ceilings.multiply_int8 / 1e9
    ends = (0.1, 2000.0)
    for name, roof, style in (("floats", multiply, "-"), ("8-bit integers", integers, "--")):
        corner = roof / read
        panel.plot((ends[0], corner, ends[1]), (ends[0] * read, roof, roof), style, color="black", lw=1, label=name)
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["GFLOP/s"] > 0 and row["GB/s"] > 0:
            kind = row["work"].split(",")[0]
            groups.setdefault(kind, []).append((row["GFLOP/s"] / row["GB/s"], row["GFLOP/s"]))
    for kind, points in groups.items():
        panel.plot(*zip(*points, strict=True), "o", label=kind)
    panel.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s", xlim=ends)
    panel.grid(alpha=0.3, which="both")
    panel.legend(fontsize=8)
    figure.suptitle("tradewind bench kernels")
    figure.savefig(path, dpi=120)
    return path
