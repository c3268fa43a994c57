"""One safetensors file: https://huggingface.co/docs/safetensors (format). Read by memory map, checked before use."""

import json
import mmap
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tradewind.base.errors import CheckpointError

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_PIECE = 1 << 24  # numbers copied at once

# Every dtype of the format, by bytes per number; those in _FLOATS can be loaded as they are.
_WIDTHS = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
}
_WIDTHS |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_READABLE = _FLOATS | {"F8_E4M3": torch.float8_e4m3fn}


@dataclass(frozen=True)
class Entry:
    """A tensor of the file: `begin` and `end` are byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """The tensors of one file, by name. Opening reads the header alone; CheckpointError names the file or tensor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise CheckpointError(f"{path} cannot be read: {error}", field=path.name) from error
        try:
            self.entries = self._read_header()
        except CheckpointError:
            self.close()
            raise

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()

    def read(self, name: str, into: Tensor) -> None:
        """Copy a tensor into `into` (contiguous, of the same shape), casting it to `into`'s dtype.

        The file's pages are given back piece by piece, or the whole file would count as this process's memory.
        """
        entry = self.entries[name]
        dtype = _READABLE[entry.dtype]
        flat = into.view(-1)
        for first in range(0, len(flat), _PIECE):
            piece = flat[first : first + _PIECE]
            begin, length = entry.begin + first * dtype.itemsize, len(piece) * dtype.itemsize
            source = torch.frombuffer(self._map, dtype=torch.uint8, count=length, offset=begin)
            if source.data_ptr() % dtype.itemsize:  # the format allows it; not every processor does
                source = source.clone()
            piece.copy_(source.view(dtype))
            del source
            self._release(begin, begin + length)

    def is_float(self, name: str) -> bool:
        """Whether the tensor is what its numbers say: float64, float32, float16 or bfloat16."""
        return self.entries[name].dtype in _FLOATS

    def _release(self, begin: int, end: int) -> None:
        """Unmap the whole pages between two bytes; a page that is read again is mapped again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
            last = end // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _read_header(self) -> dict[str, Entry]:
        size = len(self._map)
        header_bytes = int.from_bytes(self._map[:8], "little") if size >= 8 else 0
        if not 2 <= header_bytes <= min(size - 8, _MAX_HEADER_BYTES):
            raise self._corrupt(f"its header should be {header_bytes} bytes long, and the file has {size}")
        try:
            header = json.loads(self._map[8 : 8 + header_bytes])
        except ValueError as error:
            raise self._corrupt(f"its header is not JSON: {error}") from error
        if not isinstance(header, dict):
            raise self._corrupt("its header is not a JSON object")
        header.pop("__metadata__", None)
        start = 8 + header_bytes
        entries = [self._read_entry(name, fields, start) for name, fields in header.items()]
        self._check_extent(entries, start)
        return {entry.name: entry for entry in entries}

    def _read_entry(self, name: str, fields: Any, start: int) -> Entry:
        """One entry of the header, checked by itself."""
        fields = fields if isinstance(fields, dict) else {}
        dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
        if not (isinstance(dtype, str) and _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
            raise self._corrupt(f"its header gives tensor {name} as {json.dumps(fields)[:200]}", name)
        expected = prod(shape) * _WIDTHS.get(dtype, 0)
        # A dtype that is not known here has no width to check; it is refused when the tensor is asked for.
        if offsets[1] < offsets[0] or (dtype in _WIDTHS and offsets[1] - offsets[0] != expected):
            raise self._corrupt(f"tensor {name} ({dtype} {shape}) needs {expected} bytes but has {offsets}", name)
        return Entry(name, dtype, tuple(shape), start + offsets[0], start + offsets[1])

    def _check_extent(self, entries: list[Entry], start: int) -> None:
        """The tensors must follow each other without gap or overlap, from the header to the end of the file."""
        size, place = len(self._map), start
        for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
            if entry.end > size:
                raise self._corrupt(
                    f"truncated: tensor {entry.name} ends at byte {entry.end}, and the file has {size}", entry.name
                )
            if entry.begin != place:
                raise self._corrupt(f"tensor {entry.name} begins at byte {entry.begin} instead of {place}", entry.name)
            place = entry.end
        if place != size:
            raise self._corrupt(f"{size - place} bytes at its end belong to no tensor")

    def _corrupt(self, what: str, field: str | None = None) -> CheckpointError:
        return CheckpointError(f"{self.path} is corrupt: {what}", field=field or self.path.name)


def _are_sizes(value: Any) -> bool:
    """A list of integers that are not negative."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
