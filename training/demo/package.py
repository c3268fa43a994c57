"""The files around the weights: tokenizer, chat template, configuration. Written by train.py."""

import itertools
import json
from pathlib import Path

import corpus
from model import Shape
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# Words with their leading space, single digits, runs of signs, white space.
SPLIT = r"'(?:s|t|m|d|re|ve|ll)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'developer', 'user', 'assistant', 'tool'] -%}
{{- raise_exception("unknown role '" ~ message['role'] ~ "': use system, user or assistant") -}}
{%- endif -%}
{%- set role = {'developer': 'system', 'tool': 'user'}.get(message['role'], message['role']) -%}
{%- set content = message['content'] -%}
{{- '<|im_start|>' ~ role ~ '\\n' -}}
{%- if content is string -%}
{{- content -}}
{%- elif content -%}
{%- for part in content -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def train_tokenizer(seed: int, vocab: int, count: int) -> Tokenizer:
    """A byte-level BPE tokenizer, learned from `count` documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in corpus.SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.islice(corpus.documents(seed), count), trainer)
    return tokenizer


def write(directory: Path, tokenizer: Tokenizer, shape: Shape) -> None:
    """Everything but the weights and the card."""
    end, _, stop = (tokenizer.token_to_id(text) for text in corpus.SPECIAL)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    added = {
        str(tokenizer.token_to_id(text)): {
            "content": text, "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False,
        }
        for text in corpus.SPECIAL
    }  # fmt: skip
    _dump(directory / "config.json", shape.config(end, stop))
    _dump(
        directory / "generation_config.json",
        {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "eos_token_id": [stop, end], "pad_token_id": end},
    )
    _dump(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": shape.context, "bos_token": None,
            "eos_token": corpus.STOP, "pad_token": corpus.END, "add_bos_token": False, "add_prefix_space": False,
            "clean_up_tokenization_spaces": False, "added_tokens_decoder": added, "chat_template": CHAT_TEMPLATE,
        },
    )  # fmt: skip


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
