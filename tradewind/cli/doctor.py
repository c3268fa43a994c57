"""`tradewind doctor`: the machine, what each op would use and why, what memory allows."""

import argparse

from rich.console import Console
from rich.table import Table

from tradewind import __version__
from tradewind.base.units import format_bytes
from tradewind.bench.report import cpu_name
from tradewind.cli.options import read_settings
from tradewind.engine.model_files import locate
from tradewind.kernels.gpu import AbsentGpu
from tradewind.runner.survey import Survey, machine_facts, survey


def run(arguments: argparse.Namespace) -> int:
    """Print what a start would find and decide; 1 if it would not start."""
    config = read_settings(arguments)
    console = Console(highlight=False)
    facts = {"tradewind": __version__, "processor": cpu_name(), **machine_facts()}
    console.print(_pairs("Machine", facts), "")
    directory = locate(config.model.model, config.model.revision, weights=config.model.load_format != "dummy")
    found = survey(directory, config, arguments.gpu)
    console.print(_pairs(f"Model {config.model.model}", _model(found)), "", _ops(found), "")
    console.print(_pairs("Memory", _memory(found)))
    return 0 if found.plan else 1


def _pairs(title: str, facts: dict[str, str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _model(found: Survey) -> dict[str, str]:
    spec = found.spec
    windows = sorted({window for window in spec.windows if window})
    return {
        "family": spec.family,
        "shape": f"{spec.layers} layers, hidden {spec.hidden}, {spec.heads} heads on {spec.kv_heads} KV heads of "
        f"{spec.head_dim}, ffn {spec.ffn}, vocabulary {spec.vocab}",
        "context": f"{spec.max_position} tokens" + (f", sliding windows of {windows}" if windows else ""),
        "runs on": f"{found.described}, as {str(spec.dtype).removeprefix('torch.')}",
    }


def _ops(found: Survey) -> Table:
    table = Table(title="Ops", title_justify="left", title_style="bold", box=None, padding=(0, 2))
    table.add_column("op", no_wrap=True)
    table.add_column("runs as", no_wrap=True)
    table.add_column("because", overflow="fold")
    for op, chosen in found.chosen.items():
        table.add_row(op, chosen.kind, chosen.reason)
    return table


def _memory(found: Survey) -> dict[str, str]:
    ask = found.ask
    copied = f", and {format_bytes(found.copy_bytes)} of copies in 12 bits for steps of one row"
    here = "of the GPU, were it empty" if isinstance(found.device, AbsentGpu) else ""
    facts = {
        "free": f"{format_bytes(found.free_bytes)} {here}".rstrip(),
        "weights": f"{format_bytes(found.weights_bytes)} (the large matrices{copied if found.copy_bytes else ''})",
        "workspace": f"{format_bytes(found.workspace_bytes)} for steps of {ask.step_tokens} tokens"
        + (", twice, and graphs; at most: boot measures it" if found.device.type == "cuda" else ""),
    }
    if found.graphs is not None:
        budget = found.graphs.budget
        facts["graphs"] = (
            f"at most {found.graphs.wanted}, recorded at start within {budget.seconds:g} s (kernels may have to be "
            f"compiled before) and {format_bytes(budget.nbytes)} of the workspace; what comes too late is recorded "
            "when the engine is idle"
        )
    if found.plan is None:
        return {**facts, "KV cache": f"does not fit: {found.shortage}"}
    tokens = found.plan.num_blocks * ask.block_tokens
    full = tokens // max(1, found.plan.max_model_len)
    return {
        **facts,
        "KV cache": f"{format_bytes(found.plan.num_blocks * ask.block_bytes)}: {found.plan.num_blocks} blocks of "
        f"{ask.block_tokens} tokens ({format_bytes(ask.block_bytes)} each)",
        "holds": f"{tokens} tokens: {full} requests of the full {found.plan.max_model_len}, "
        f"{ask.max_running} at once at {tokens // ask.max_running} tokens each",
    }
