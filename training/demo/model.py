"""The demo model as it is trained and evaluated: a Llama in plain PyTorch, with the tensor names of Hugging Face's one.

Shapes: B sequences, T tokens, D hidden, H query heads, G key-value heads, K head_dim, F ffn, V vocab.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The sizes of the model: 3.74 million parameters."""

    vocab: int = 2048
    hidden: int = 192
    layers: int = 8
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 512
    context: int = 2048
    rope_theta: float = 10_000.0
    eps: float = 1e-5

    def config(self, end_id: int, stop_id: int) -> dict[str, Any]:
        """config.json, as `LlamaForCausalLM` has it."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": self.vocab, "hidden_size": self.hidden,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim, "intermediate_size": self.ffn, "max_position_embeddings": self.context,
            "rope_theta": self.rope_theta, "rms_norm_eps": self.eps, "hidden_act": "silu", "tie_word_embeddings": True,
            "attention_bias": False, "mlp_bias": False, "bos_token_id": end_id, "eos_token_id": stop_id, "pad_token_id": end_id,
            "torch_dtype": "bfloat16",
        }  # fmt: skip


Cache = list[tuple[Tensor, Tensor]]


class Attention(nn.Module):
    """Causal attention with grouped heads and rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=False)

    def forward(
        self, x_BTD: Tensor, angles: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ):  # type: ignore[no-untyped-def]
        batch, count, _ = x_BTD.shape
        q, k, v = (
            proj(x_BTD).view(batch, count, -1, self.shape.head_dim).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, angles), rotate(k, angles)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        share = self.shape.heads // self.shape.kv_heads
        wide_k, wide_v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)  # every backend has a fast path
        out = F.scaled_dot_product_attention(q, wide_k, wide_v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(out.transpose(1, 2).reshape(batch, count, -1)), (k, v)


def rotate(x_BHTK: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions on the two halves of each head, as Llama's checkpoints have them."""
    cos, sin = angles
    first, second = x_BHTK.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x_BHTK.dtype)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, shape.hidden, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, shape.eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, shape.eps)
        self.mlp = FeedForward(shape)

    def forward(
        self, x_BTD: Tensor, angles: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ):  # type: ignore[no-untyped-def]
        out, present = self.self_attn(self.input_layernorm(x_BTD), angles, past, mask)
        x_BTD = x_BTD + out
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD)), present


class Llama(nn.Module):
    """The whole model; input and output embeddings are one tensor."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, shape.eps)
        steps = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        angles_TK = torch.outer(torch.arange(shape.context, dtype=torch.float32), shape.rope_theta**-steps)
        self.register_buffer("cos_TK", angles_TK.cos(), persistent=False)
        self.register_buffer("sin_TK", angles_TK.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                scale = (
                    0.02 / (2 * shape.layers) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                )
                nn.init.normal_(weight, std=scale)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits for training: whole rows from position 0."""
        count = ids_BT.shape[1]
        angles = (self.cos_TK[:count], self.sin_TK[:count])
        x_BTD = self.embed_tokens(ids_BT)
        for layer in self.layers:
            x_BTD, _ = layer(x_BTD, angles, None, None)
        return F.linear(self.norm(x_BTD), self.embed_tokens.weight)

    def step(self, ids_BT: Tensor, positions_BT: Tensor, mask: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        """Logits of the last token of every row, and the grown cache, for generating."""
        angles = (self.cos_TK[positions_BT][:, None], self.sin_TK[positions_BT][:, None])
        x_BTD = self.embed_tokens(ids_BT)
        grown: Cache = []
        for index, layer in enumerate(self.layers):
            x_BTD, present = layer(x_BTD, angles, None if cache is None else cache[index], mask)
            grown.append(present)
        return F.linear(self.norm(x_BTD[:, -1]), self.embed_tokens.weight), grown


@torch.no_grad()
def generate(model: Llama, prompts: list[list[int]], stops: set[int], max_tokens: int) -> list[list[int]]:
    """Greedy continuations of a batch of prompts, each up to a stop token (left out) or `max_tokens`."""
    device = model.embed_tokens.weight.device
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    pads = torch.tensor([longest - len(p) for p in prompts], device=device)
    places = torch.arange(longest, device=device)
    positions = (places[None] - pads[:, None]).clamp(min=0)
    visible = (places[None] >= pads[:, None])[:, None, None]
    mask = visible & torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    mask = mask | torch.eye(longest, dtype=torch.bool, device=device)
    cache: Cache | None = None
    results: list[list[int]] = [[] for _ in prompts]
    done = [False] * len(prompts)
    for _ in range(min(max_tokens, model.shape.context - longest)):
        logits, cache = model.step(ids, positions, mask, cache)
        chosen = logits.argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            done[row] = done[row] or token in stops
            if not done[row]:
                results[row].append(token)
        if all(done):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        visible = F.pad(visible, (0, 1), value=True)
        mask = visible
    return results


def save(model: Llama, path: Path) -> None:
    """The weights as bfloat16, under the names that `LlamaForCausalLM` has."""
    tensors = {
        f"model.{name}": weight.detach().cpu().to(torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Llama:
    """The packaged model, for evaluation."""
    config = json.loads((directory / "config.json").read_text())
    shape = Shape(
        config["vocab_size"], config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"],
        config["num_key_value_heads"], config["head_dim"], config["intermediate_size"], config["max_position_embeddings"],
        config["rope_theta"], config["rms_norm_eps"],
    )  # fmt: skip
    model = Llama(shape)
    tensors = load_file(directory / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): weight for name, weight in tensors.items()})
    return model.to(dtype).eval()
