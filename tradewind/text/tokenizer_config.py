"""What the small files beside tokenizer.json say: special tokens, added tokens, BOS, chat templates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tradewind.base.errors import CheckpointError
from tradewind.text.files import read_object_if_there, read_text

_CONFIG = "tokenizer_config.json"
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_ADDED_TOKEN_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


@dataclass(frozen=True)
class AddedTokenSpec:
    """One entry of `added_tokens_decoder`: a token, its id, and the flags of tokenizers.AddedToken."""

    token_id: int
    content: str
    flags: dict[str, bool]


@dataclass(frozen=True)
class TokenizerConfig:
    """The files' contents, checked. `templates` maps names to Jinja sources; the usual one is called 'default'."""

    special_tokens: dict[str, str]
    extra_special_tokens: tuple[str, ...]
    added_tokens: tuple[AddedTokenSpec, ...]
    add_bos_token: bool
    templates: dict[str, str]

    @classmethod
    def load(cls, directory: Path) -> "TokenizerConfig":
        """All of the files are optional. Raises CheckpointError naming the one that is malformed."""
        config = read_object_if_there(directory / _CONFIG)
        special_map = read_object_if_there(directory / "special_tokens_map.json")
        added = {**_added_tokens_file(directory), **_added_tokens_decoder(config)}
        return cls(
            special_tokens=_special_tokens(config, special_map),
            extra_special_tokens=_extra_special_tokens(config, special_map),
            added_tokens=tuple(sorted(added.values(), key=lambda token: token.token_id)),
            add_bos_token=config.get("add_bos_token") is True,
            templates=_templates(directory, config),
        )


def _token_content(value: Any) -> str | None:
    """Special tokens are written as text, or as an object with `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) and content else None


def _special_tokens(config: dict[str, Any], special_map: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name in _SPECIAL_NAMES:
        content = _token_content(config.get(name)) if name in config else _token_content(special_map.get(name))
        if content is not None:
            found[name] = content
    return found


def _extra_special_tokens(config: dict[str, Any], special_map: dict[str, Any]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for source in (config, special_map):
        for name in ("additional_special_tokens", "extra_special_tokens"):
            values = source.get(name)
            for value in values.values() if isinstance(values, dict) else values or ():
                content = _token_content(value)
                if content is not None:
                    found[content] = None
    return tuple(found)


def _added_tokens_file(directory: Path) -> dict[str, AddedTokenSpec]:
    name = "added_tokens.json"
    entries = read_object_if_there(directory / name)
    if not all(isinstance(token_id, int) and content for content, token_id in entries.items()):
        raise CheckpointError(f"{directory / name} must map tokens to their ids", field=name)
    return {content: AddedTokenSpec(token_id, content, {}) for content, token_id in entries.items()}


def _added_tokens_decoder(config: dict[str, Any]) -> dict[str, AddedTokenSpec]:
    found = {}
    entries = {} if config.get("added_tokens_decoder") is None else config["added_tokens_decoder"]
    if not isinstance(entries, dict):
        raise CheckpointError(f"{_CONFIG}: added_tokens_decoder must map ids to tokens", field=_CONFIG)
    for key, value in entries.items():
        content = _token_content(value)
        if content is None or not key.isascii() or not key.isdigit():
            raise CheckpointError(f"{_CONFIG}: added_tokens_decoder has a malformed entry {key!r}", field=_CONFIG)
        flags = {flag: value[flag] is True for flag in _ADDED_TOKEN_FLAGS if isinstance(value, dict) and flag in value}
        found[content] = AddedTokenSpec(int(key), content, flags)
    return found


def _templates(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """Files of their own come before tokenizer_config.json."""
    templates = _named_templates(config.get("chat_template"), _CONFIG)
    legacy = read_object_if_there(directory / "chat_template.json")
    templates |= _named_templates(legacy.get("chat_template"), "chat_template.json")
    main = directory / "chat_template.jinja"
    if main.exists():
        templates["default"] = read_text(main)
    for path in sorted((directory / "additional_chat_templates").glob("*.jinja")):
        templates[path.stem] = read_text(path)
    return templates


def _named_templates(value: Any, file: str) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, dict):
        return _named_templates([{"name": name, "template": source} for name, source in value.items()], file)
    named = {}
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "template")):
            raise CheckpointError(f"{file}: chat_template must be text or a list of named templates", field=file)
        named[entry["name"]] = entry["template"]
    return named
