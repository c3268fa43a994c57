"""Tiny random checkpoints of every family, made by transformers, whose greedy tokens are safe to compare.

The weights are scaled so that attention matters and the most likely token leads by far more than rounding in float32:
a different token is a bug, never noise.

    directory = make_tiny_model(tmp_path / "model", VARIANTS["qwen3-gqa7"])
    expected = transformers_greedy(directory, prompt, 64)
"""

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_CONFIG_CLASSES = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config"}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True)
class TinyModel:
    """The shape of a tiny model. `more` is passed to transformers' config class.

    `tokenizer`: also write a byte-level tokenizer.json with a chat template; the vocabulary must then be 300 or more.
    `max_shard_size`: as in save_pretrained; small sizes give several files and an index.
    """

    family: str = "llama"
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    hidden: int = 48
    ffn: int = 92
    layers: int = 3
    vocab: int = 211
    max_position: int = 512
    tied: bool = False
    window: int | None = None
    dtype: str = "float32"
    seed: int = 0
    tokenizer: bool = False
    max_shard_size: str = "1GB"
    more: dict[str, Any] = field(default_factory=dict)


VARIANTS: dict[str, TinyModel] = {
    "llama-gqa1": TinyModel("llama", heads=3, kv_heads=3, head_dim=8, hidden=51, vocab=211),
    "llama-gqa7-tied": TinyModel("llama", heads=7, kv_heads=1, head_dim=80, hidden=42, ffn=53, vocab=173, tied=True),
    "llama-gqa2-rope-llama3": TinyModel("llama", head_dim=128, more={"rope_parameters": LLAMA3_ROPE}),
    "llama-biases": TinyModel("llama", more={"attention_bias": True, "mlp_bias": True}),
    "llama-rope-linear": TinyModel(
        "llama", more={"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}
    ),
    "mistral-window": TinyModel("mistral", heads=4, kv_heads=2, head_dim=80, window=7, vocab=199, seed=1),
    "mistral-full": TinyModel("mistral", heads=6, kv_heads=6, head_dim=8, vocab=193),
    "qwen2-gqa7": TinyModel("qwen2", heads=7, kv_heads=1, head_dim=8, hidden=56, vocab=223),
    "qwen2-window-tied": TinyModel("qwen2", heads=4, kv_heads=2, head_dim=16, hidden=64, window=9, tied=True),
    "qwen3-gqa2": TinyModel("qwen3", heads=4, kv_heads=2, head_dim=128, vocab=227),
    "qwen3-gqa7-tied": TinyModel("qwen3", heads=14, kv_heads=2, head_dim=8, vocab=229, tied=True),
    "qwen3-gqa1-bias-window": TinyModel(
        "qwen3", heads=2, kv_heads=2, head_dim=80, window=11, more={"attention_bias": True}
    ),
}


def make_tiny_model(directory: Path, tiny: TinyModel) -> Path:
    """Write the checkpoint (and the tokenizer, if wanted) of a tiny model; the same shape gives the same files."""
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(tiny.seed)
    model = AutoModelForCausalLM.from_config(_config(tiny), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_random(name, parameter, tiny, generator))
    model.to(getattr(torch, tiny.dtype)).save_pretrained(directory, max_shard_size=tiny.max_shard_size)
    (directory / "generation_config.json").unlink(missing_ok=True)
    if tiny.tokenizer:
        make_tiny_tokenizer(directory, tiny.vocab)
    return directory


@functools.lru_cache(maxsize=4)
def transformers_model(directory: Path) -> Any:
    """transformers' own model of a directory, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@torch.inference_mode()
def transformers_logits(directory: Path, tokens: list[int]) -> Tensor:
    """float32 [n, V]: the logits at each position."""
    return transformers_model(directory)(torch.tensor([tokens])).logits[0]


@torch.inference_mode()
def transformers_greedy(directory: Path, prompt: list[int], count: int) -> list[int]:
    """`count` tokens after `prompt`, each the most likely; ends of sequence do not end it."""
    model = transformers_model(directory)
    tokens, cache, ids = [], None, torch.tensor([prompt])
    for _ in range(count):
        output = model(ids, past_key_values=cache, use_cache=True)
        cache, ids = output.past_key_values, output.logits[:, -1:].argmax(-1)
        tokens.append(int(ids))
    return tokens


def random_prompt(vocab: int, length: int, seed: int = 0) -> list[int]:
    """Token ids without meaning."""
    return torch.randint(0, vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def make_tiny_tokenizer(directory: Path, vocab: int) -> None:
    """A byte-level BPE tokenizer of exactly `vocab` tokens with <s> (0), </s> (1) and a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[AddedToken(text, special=True) for text in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Every pair of syllables, so that there are merges enough for any small vocabulary.
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"]
    tokenizer.train_from_iterator((f"{a}{b} {b}{a}" for a in syllables for b in syllables), trainer)
    assert tokenizer.get_vocab_size() == vocab, (tokenizer.get_vocab_size(), vocab)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False, "chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def _config(tiny: TinyModel) -> Any:
    import transformers

    values: dict[str, Any] = {
        "hidden_size": tiny.hidden,
        "intermediate_size": tiny.ffn,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads,
        "vocab_size": tiny.vocab,
        "max_position_embeddings": tiny.max_position,
        "tie_word_embeddings": tiny.tied,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    if tiny.family == "qwen2":  # its head_dim is always hidden / heads
        assert tiny.hidden == tiny.heads * tiny.head_dim, tiny
    else:
        values["head_dim"] = tiny.head_dim
    if tiny.family == "mistral":
        values["sliding_window"] = tiny.window
    elif tiny.window is not None:  # the first layer sees everything, the others have the window
        values |= {"use_sliding_window": True, "sliding_window": tiny.window, "max_window_layers": 1}
    return getattr(transformers, _CONFIG_CLASSES[tiny.family])(**(values | tiny.more))


def _random(name: str, parameter: Tensor, tiny: TinyModel, generator: torch.Generator) -> Tensor:
    """Values for one parameter: see the top of the file."""
    values = torch.randn(parameter.shape, generator=generator)
    if "norm" in name:
        return 1 + 0.2 * values
    if name.endswith(".bias"):
        return 0.5 * values
    if "embed_tokens" in name:
        # A tied output layer would repeat the last token, if the embedding were not small beside what layers add.
        return values * (0.5 if tiny.tied else 1.0)
    return 1.5 * parameter.shape[1] ** -0.5 * values
