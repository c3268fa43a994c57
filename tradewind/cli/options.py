"""Command-line options made from the tree of settings and from SamplingParams."""

import argparse
import typing
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec

from tradewind import config as settings_tree
from tradewind.base.errors import ConfigError
from tradewind.config import Config, Setting
from tradewind.protocol.sampling import SamplingParams

SAMPLING_HELP = {
    "max_tokens": "most tokens to generate",
    "temperature": "0 is greedy",
    "top_p": "keep the most likely tokens that together have this probability",
    "top_k": "keep the k most likely tokens (0: all)",
    "min_p": "drop tokens less likely than this share of the most likely one",
    "seed": "same seed, same request: same tokens",
    "presence_penalty": "lower tokens already said, once",
    "frequency_penalty": "lower tokens already said, by how often",
    "repetition_penalty": "divide the logits of tokens already seen",
    "stop": "end before this text (may be repeated)",
    "ignore_eos": "go on after the end-of-sequence token",
}


class Parser(argparse.ArgumentParser):
    """argparse that never guesses abbreviations, and names the nearest option for a mistyped one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def refuse(self, unknown: str) -> NoReturn:
        """Exit with status 2, naming what was not understood and the nearest option."""
        name = unknown.split("=")[0]
        known = [option for action in self._actions for option in action.option_strings]
        kind = "option" if name.startswith("-") else "argument"
        self.error(f"unknown {kind} {name}{settings_tree.suggestion(name, known)}")


def add_settings(parser: argparse.ArgumentParser, parts: Iterable[str]) -> None:
    """Add an option for each setting of the named parts of the tree; unset ones leave no trace in the namespace."""
    wanted = set(parts)
    for leaf in settings_tree.settings():
        if leaf.part not in wanted or leaf.name == "model":
            continue
        names = ["--" + name for name in leaf.option_names]
        options: dict[str, Any] = {"dest": leaf.name, "default": argparse.SUPPRESS, "help": _help(leaf)}
        if bool in (leaf.type, *typing.get_args(leaf.type)):
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, **options)
            continue
        if typing.get_origin(leaf.type) is tuple:
            options["nargs"] = "+"
        options["metavar"] = leaf.metadata["metavar"] or _metavar(leaf)
        parser.add_argument(*names, **options)


def read_settings(arguments: argparse.Namespace) -> Config:
    """The tree from a namespace made by `add_settings`. Raises ConfigError."""
    names = {leaf.name for leaf in settings_tree.settings()}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return settings_tree.from_flat(given)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add an option for each scalar field of SamplingParams that makes sense in a terminal."""
    group = parser.add_argument_group("sampling (default: what the model's generation_config.json says)")
    hints = typing.get_type_hints(SamplingParams)
    for name, text in SAMPLING_HELP.items():
        option = "--" + name.replace("_", "-")
        if hints[name] is bool:
            group.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=text)
        elif name == "stop":
            group.add_argument(option, action="append", default=argparse.SUPPRESS, help=text, metavar="TEXT")
        else:
            kind = int if int in (hints[name], *typing.get_args(hints[name])) else float
            letter = "N" if kind is int else "X"
            group.add_argument(option, type=kind, default=argparse.SUPPRESS, help=text, metavar=letter)


def read_sampling(arguments: argparse.Namespace, defaults: dict[str, Any]) -> SamplingParams:
    """SamplingParams from `defaults`, overridden by the options that were given."""
    given = {name: getattr(arguments, name) for name in SAMPLING_HELP if hasattr(arguments, name)}
    try:
        return msgspec.convert({**defaults, **given}, SamplingParams)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None


def _help(leaf: Setting) -> str:
    text = str(leaf.metadata["help"])
    if leaf.default in (None, ()) or "default" in text:
        return text.replace("%", "%%")
    return f"{text} (default: {leaf.default})".replace("%", "%%")


def _metavar(leaf: Setting) -> str:
    choices = [choice for arm in (leaf.type, *typing.get_args(leaf.type)) for choice in _literals(arm)]
    if choices:
        return "|".join(choices)
    if leaf.metadata["is_bytes"]:
        return "BYTES"
    arms = (leaf.type, *typing.get_args(leaf.type))
    return "N" if int in arms else "X" if float in arms else "TEXT"


def _literals(kind: Any) -> list[str]:
    return list(typing.get_args(kind)) if typing.get_origin(kind) is typing.Literal else []
