"""Reading config.json: every field by type, every error with the field's name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tradewind.base.errors import CheckpointError, ModelNotFound, UnsupportedModel


class ConfigReader:
    """The fields of a config.json (or of a mapping inside it, with `prefix` for messages).

    A field that is missing or null has its default; without a default, and for wrong types, CheckpointError is raised.
    """

    def __init__(self, values: Mapping[str, Any], path: Path, prefix: str = "") -> None:
        self._values = values
        self._path = path
        self._prefix = prefix

    @classmethod
    def load(cls, directory: Path) -> "ConfigReader":
        """Read directory/config.json."""
        path = directory / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelNotFound(
                f"{directory} has no config.json: not the directory of a model", field="model"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read as JSON: {error}", field="config.json") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} is not a JSON object", field="config.json")
        return cls(values, path)

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(name) is not None

    def raw(self, name: str, missing: Any = None) -> Any:
        """The field as it is (null gives None), or `missing`."""
        return self._values.get(name, missing)

    def integer(self, name: str, default: int | None = None, low: int = 1) -> int:
        """An integer of at least `low`."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self.error(name, value, f"an integer of at least {low}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive, finite number."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.error(name, value, "a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.error(name, value, "a string")
        return value

    def ids(self, name: str) -> tuple[int, ...]:
        """A token id, a list of them, or nothing."""
        value = self._values.get(name)
        listed = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in listed):
            raise self.error(name, value, "a token id or a list of token ids")
        return tuple(item for item in listed if item >= 0)

    def inside(self, name: str) -> "ConfigReader":
        """A mapping inside this one (empty if missing or null)."""
        value = self._get(name, {})
        if not isinstance(value, dict):
            raise self.error(name, value, "an object")
        return ConfigReader(value, self._path, f"{self._prefix}{name}.")

    def refuse(self, name: str, why: str) -> UnsupportedModel:
        """The error for a field whose meaning is not supported."""
        shown = json.dumps(self._values.get(name))
        return UnsupportedModel(f"{self._prefix}{name} = {shown} is not supported: {why}", field=self._prefix + name)

    def error(self, name: str, value: Any, right: str) -> CheckpointError:
        """The error for a field with a wrong value."""
        field = self._prefix + name
        return CheckpointError(f"{self._path}: {field} is {json.dumps(value)}, and must be {right}", field=field)

    def _get(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is None:
            value = default
        if value is None:
            field = self._prefix + name
            raise CheckpointError(f"{self._path}: {field} is missing", field=field)
        return value
