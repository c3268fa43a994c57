"""`tradewind bench quality`: what quantisation changes: perplexity, and how often the most likely token is the same.

The texts: the model's own (samples at temperature 1 of the model as its checkpoint has it), a short story in plain
words, and those of `--text` files. Each is cut into windows of `--window` tokens that are computed as one prompt each;
every variant sees the same tokens. `same token`: the share of positions whose most likely token is that of the first
variant.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tradewind.bench.report import Report, Row
from tradewind.bench.step import Variant, load_variant
from tradewind.engine.llm import LLM
from tradewind.engine.model_files import locate
from tradewind.kernels.rows import Rows
from tradewind.protocol.sampling import SamplingParams
from tradewind.text.tokenizer import Tokenizer

_VARIANTS = ("none/auto", "none/int8", "int8/auto", "int8/int8", "int4/auto", "int4-g64/auto", "int4-g128/auto")
_BLOCK_TOKENS = 16
_STORY = """
Once upon a time there was a little girl named Lily. She lived in a small house near the forest with her mother,
her father and a big brown dog named Max. Every morning Lily and Max went outside to play. They ran up the hill,
and they looked at the birds in the tall trees. One day Lily saw a shiny red ball under a bush. "Look, Max!" she
said. "Somebody has lost this ball." Max was very happy. He barked and ran around the bush three times. Lily
picked up the ball and threw it as far as she could. Max ran after it, but he did not come back. Lily waited and
waited. Then she was sad, and a little afraid. "Max!" she called. "Where are you?" She walked down the hill to
the river. There she saw Max. He was sitting next to a boy with yellow hair. The boy was crying. "I lost my red
ball," he said, "and your dog has found it. Thank you!" Lily smiled. "His name is Max," she said. "Do you want
to play with us?" The boy stopped crying. His name was Tom. Lily, Tom and Max played by the river all day long.
They made a small boat from a piece of wood and watched it float away. When the sun went down, Lily's mother
came to take her home. "Can Tom come again tomorrow?" asked Lily. "Of course he can," said her mother. That
night Lily was tired, but she was very happy. She had a new friend, and she knew that it is good to give back
what you have found.
"""


@dataclass
class Score:
    """Of one variant over one text: sums over positions."""

    loss: float = 0.0
    same: int = 0
    positions: int = 0


def main(arguments: list[str]) -> int:
    """Measure; prints a table, writes JSON."""
    options = _parse(arguments)
    report = Report("quality", vars(options))
    for model in options.models:
        directory = locate(model, None)
        texts = {"its own": own_text(model, options), **_written(directory, options.text)}
        variants = [load_variant(directory, name, _blocks(options.window)) for name in options.variants]
        for text, tokens in texts.items():
            report.rows.extend(_rows(Path(model).name, text, variants, _windows(tokens, options.window)))
    report.print()
    print(report.write(options.out))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tradewind bench quality", description=__doc__, allow_abbrev=False)
    parser.add_argument("models", nargs="*", default=["demo"], metavar="MODEL")
    parser.add_argument("--text", type=Path, nargs="*", default=[], metavar="FILE", help="further texts")
    parser.add_argument("--variants", nargs="+", default=_VARIANTS, metavar="QUANTIZATION/KV")
    parser.add_argument("--window", type=int, default=256, help="tokens of a window")
    parser.add_argument("--samples", type=int, default=64, help="windows of the model's own text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON file")
    return parser.parse_args(arguments)


def own_text(model: str, options: argparse.Namespace) -> list[int]:
    """Tokens that the model says of itself, from a beginning of nothing but its first token."""
    with LLM(model) as llm:
        params = [
            SamplingParams(temperature=1.0, max_tokens=options.window - 1, seed=options.seed + sample, ignore_eos=True)
            for sample in range(options.samples)
        ]
        answers = llm.generate([[1]] * options.samples, params, progress=False)
    return [token for answer in answers for token in (1, *answer.outputs[0].token_ids)]


def _written(directory: Path, paths: list[Path]) -> dict[str, list[int]]:
    tokenizer = Tokenizer.load(directory)
    texts = {"a story": " ".join(_STORY.split()), **{path.name: path.read_text() for path in paths}}
    return {name: tokenizer.encode(text) for name, text in texts.items()}


def _windows(tokens: list[int], window: int) -> list[list[int]]:
    return [part for at in range(0, len(tokens), window) if len(part := tokens[at : at + window]) > 1]


def _blocks(window: int) -> int:
    return -(-window // _BLOCK_TOKENS)


def _rows(model: str, text: str, variants: list[Variant], windows: list[list[int]]) -> list[Row]:
    scores = [Score() for _ in variants]
    for window in windows:
        best_T: Tensor | None = None
        for variant, score in zip(variants, scores, strict=True):
            logits_TV = _logits(variant, window)
            chosen_T = logits_TV.argmax(-1)
            best_T = chosen_T if best_T is None else best_T
            losses_T = torch.nn.functional.cross_entropy(logits_TV, torch.tensor(window[1:]), reduction="none")
            score.loss += float(losses_T.double().sum())
            score.same += int((chosen_T == best_T).sum())
            score.positions += len(window) - 1
    first = math.exp(scores[0].loss / scores[0].positions)
    return [_row(model, text, variant.name, score, first) for variant, score in zip(variants, scores, strict=True)]


def _row(model: str, text: str, variant: str, score: Score, first: float) -> Row:
    perplexity = math.exp(score.loss / score.positions)
    return {
        "model": model,
        "text": text,
        "positions": score.positions,
        "variant": variant,
        "perplexity": f"{perplexity:.4f}",
        "change": f"{perplexity / first - 1:+.2%}",
        "same token": f"{score.same / score.positions:.2%}",
    }


def _logits(variant: Variant, tokens: list[int]) -> Tensor:
    """For each token but the last, the logits of the one that follows: float32 [T, V]."""
    count = len(tokens) - 1
    rows = Rows(
        positions_T=torch.arange(count),
        write_T=torch.arange(count),
        query_starts_R1=torch.tensor([0, count], dtype=torch.int32),
        context_lens_R=torch.tensor([count], dtype=torch.int32),
        block_tables_RM=torch.arange(_blocks(count), dtype=torch.int32).unsqueeze(0),
        max_query=count,
        max_context=count,
    )
    hidden_TD = variant.model.forward(torch.tensor(tokens[:-1]), rows, variant.pool)
    return variant.model.logits(hidden_TD)
