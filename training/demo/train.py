"""Make the demo model: text, tokenizer, training, files. From the repository root:

    python training/demo/train.py --out tradewind/demo

With an NVIDIA GPU this takes minutes. On a CPU give it fewer and shorter rows, and a time:

    python training/demo/train.py --out /tmp/demo --row-tokens 512 --rows 20000 --batch 16 --minutes 60

The text depends on the seed alone; the weights also on the hardware's rounding.
"""

import argparse
import dataclasses
import itertools
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import corpus
import numpy as np
import package
import torch
import torch.nn.functional as F  # noqa: N812
from model import Llama, Shape, save
from tokenizers import Tokenizer
from torch import Tensor

OTHER_WEIGHT = 0.1  # loss on what the user says: enough to continue a conversation, too little to learn names by heart
Rows = tuple[np.ndarray, np.ndarray]


def weights_of(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """1 for tokens that the model should produce, 0 for those that others say. `ids` is one document with its end."""
    _, start, stop = (tokenizer.token_to_id(text) for text in corpus.SPECIAL)
    if ids[0] != start:
        return np.ones(len(ids), np.uint8)
    weights = np.zeros(len(ids), np.uint8)
    assistant = tokenizer.token_to_id("assistant")
    for begin in np.flatnonzero(ids == start):
        if ids[begin + 1] == assistant:
            end = begin + 1 + np.flatnonzero(ids[begin + 1 :] == stop)[0]
            weights[begin + 3 : end + 1] = 1  # the answer and <|im_end|>, not the role and its line end
    weights[-1] = 1
    return weights


def pack(seed: int, directory: str, rows: int, row_tokens: int) -> Rows:
    """Rows of documents, each row beginning with one. The last document of a row is cut."""
    tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
    end = tokenizer.token_to_id(corpus.END)
    tokens = np.zeros((rows, row_tokens + 1), np.uint16)
    weights = np.zeros((rows, row_tokens + 1), np.uint8)
    row, place = 0, 0
    source = corpus.documents(seed)
    while True:
        for encoding in tokenizer.encode_batch_fast(list(itertools.islice(source, 512))):
            ids = np.array([*encoding.ids, end], np.uint16)
            fits = min(len(ids), row_tokens + 1 - place)
            tokens[row, place : place + fits] = ids[:fits]
            weights[row, place : place + fits] = weights_of(ids, tokenizer)[:fits]
            place += fits
            if place == row_tokens + 1:
                row, place = row + 1, 0
                if row == rows:
                    return tokens, weights


def make_rows(options: argparse.Namespace, directory: Path) -> tuple[Tensor, Tensor]:
    """The training rows, made by all processes together; shard i has the seed `seed * 10_000 + i`."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # one tokenizer thread in each process
    shards = max(1, options.rows // 500)
    jobs = [
        (options.seed * 10_000 + 1 + shard, str(directory), options.rows // shards, options.row_tokens)
        for shard in range(shards)
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        parts = pool.starmap(pack, jobs, chunksize=1)
    tokens = np.concatenate([part[0] for part in parts]).astype(np.int16)
    return torch.from_numpy(tokens), torch.from_numpy(np.concatenate([part[1] for part in parts]))


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal (Jordan et al. 2024), for the matrices inside the layers.

    Matrices of one shape are stacked, so that all layers are done by one product.
    """

    def __init__(self, matrices: list[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.02) -> None:
        groups: dict[tuple[int, ...], list[Tensor]] = {}
        for matrix in matrices:
            groups.setdefault(tuple(matrix.shape), []).append(matrix)
        super().__init__(
            [{"params": same} for same in groups.values()], {"lr": lr, "momentum": momentum, "decay": decay}
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = group["params"]
            grads = torch.stack([p.grad for p in params])
            state = self.state[params[0]]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(grads)
            state["momentum"].lerp_(grads, 1 - group["momentum"])
            update = orthogonal(grads.lerp(state["momentum"], group["momentum"]))
            scale = max(1.0, update.shape[-2] / update.shape[-1]) ** 0.5
            for param, change in zip(params, update, strict=True):
                param.mul_(1 - group["lr"] * group["decay"]).add_(change.to(param.dtype), alpha=-group["lr"] * scale)


def orthogonal(grads_NXY: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, by five Newton-Schulz steps."""
    x = grads_NXY.to(torch.bfloat16 if grads_NXY.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def rate(done: float, warmup: float = 0.01, decay: float = 0.5) -> float:
    """The learning rate's factor: up, level, then down to nothing over the last `decay` of the run."""
    return min(1.0, done / warmup if done < warmup else (1 - done) / decay)


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers, each row once per epoch."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].view(-1, size)


def loss_of(model: torch.nn.Module, tokens: Tensor, weights: Tensor) -> Tensor:
    """Mean loss over the tokens, those of others weighted less."""
    ids = tokens.long()
    scale = torch.where(weights[:, 1:] > 0, 1.0, OTHER_WEIGHT).flatten()
    logits = model(ids[:, :-1]).float().flatten(0, 1)
    return (F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none") * scale).sum() / scale.sum()


def train(model: Llama, rows: tuple[Tensor, Tensor], options: argparse.Namespace) -> None:
    """The training run. Its length is --steps, or --minutes where that is given."""
    device = model.embed_tokens.weight.device
    tokens, weights = (part.to(device) for part in rows)
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    optimizers = [
        Muon(matrices, options.lr),
        torch.optim.AdamW(others, options.embed_lr, (0.9, 0.97), weight_decay=0.0),
    ]
    peaks = [options.lr, options.embed_lr]
    gpu = device.type == "cuda"
    run = torch.compile(model) if gpu else model
    source = batches(len(tokens), options.batch, torch.Generator().manual_seed(options.seed))
    began = time.monotonic()
    for step in itertools.count():
        done = step / options.steps
        if step == 20:
            began = time.monotonic()  # after compiling
        if options.minutes:
            done = max(
                0.001 * min(step, 20) / 20, (time.monotonic() - began) / (60 * options.minutes) if step > 20 else 0.0
            )
        if done >= 1:
            break
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(done)
        picked = next(source).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
            loss = loss_of(run, tokens[picked], weights[picked])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % options.report == 0:
            per_s = step * options.batch * options.row_tokens / max(1e-9, time.monotonic() - began)
            print(f"step {step} done {done:.3f} loss {loss.item():.4f} tokens/s {per_s:,.0f}", flush=True)
            if not math.isfinite(loss.item()):
                raise SystemExit("the loss is not finite")
    print(f"trained {step} steps of {options.batch * options.row_tokens} tokens", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the demo model.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8277)
    parser.add_argument("--minutes", type=float, default=0, help="train for a time instead of a number of steps")
    parser.add_argument("--rows", type=int, default=80_000, help="training rows to generate")
    parser.add_argument(
        "--row-tokens", type=int, default=2048, help="tokens of a row; shorter rows cost less attention"
    )
    parser.add_argument("--batch", type=int, default=48, help="rows in a step")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--embed-lr", type=float, default=0.004)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--report", type=int, default=200)
    return parser.parse_args()


def main() -> None:
    """Text, tokenizer, training, files."""
    options = arguments()
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    shape = Shape()
    began = time.monotonic()
    tokenizer = package.train_tokenizer(options.seed, shape.vocab, min(60_000, 10 * options.rows))
    package.write(options.out, tokenizer, dataclasses.replace(shape, vocab=tokenizer.get_vocab_size()))
    print(f"tokenizer: {tokenizer.get_vocab_size()} entries, {time.monotonic() - began:.0f} s", flush=True)
    rows = make_rows(options, options.out)
    share = rows[1].float().mean().item()
    print(f"text: {rows[0].numel():,} tokens, {share:.0%} to be said, {time.monotonic() - began:.0f} s", flush=True)
    model = Llama(shape).to("cuda" if torch.cuda.is_available() else "cpu")
    print(f"model: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    train(model, rows, options)
    save(model, options.out / "model.safetensors")
    print(f"saved {options.out}, {time.monotonic() - began:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
