"""Reading the small JSON files of a checkpoint, with errors that name the file."""

import json
from pathlib import Path
from typing import Any

from tradewind.base.errors import CheckpointError


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises CheckpointError naming the file where it is missing or unreadable."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is missing from {path.parent}", field=path.name) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}", field=path.name) from error


def read_text(path: Path) -> str:
    """The file's text. As `read_bytes`, and raises CheckpointError where it is not UTF-8."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} cannot be read: {error}", field=path.name) from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file. Raises CheckpointError naming the file where it is missing or malformed."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", field=path.name) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(value).__name__}", field=path.name)
    return value


def read_object_if_there(path: Path) -> dict[str, Any]:
    """As `read_object`, but an absent file reads as an empty object."""
    return read_object(path) if path.exists() else {}
