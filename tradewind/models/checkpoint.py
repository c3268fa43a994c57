"""The weights of a directory: one safetensors file, or several with an index. Checked whole before any is read."""

import json
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from tradewind.base.errors import CheckpointError
from tradewind.kernels.linear.fp8_blocks import spread
from tradewind.kernels.quantised_rows import FP8
from tradewind.models.declaration import Declaration, TensorSpec
from tradewind.models.safetensors_file import SafetensorsFile
from tradewind.models.spec import StoredFp8

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"

_ROWS_AT_ONCE = 1024  # of a weight in 8-bit floats: widening takes float32 copies

# Tables that older exports saved along with the weights; they are computed here.
_COMPUTED = (".rotary_emb.inv_freq", ".masked_bias", ".attn.bias")


class Checkpoint:
    """Which file each tensor is in. Use as a context manager: leaving it unmaps the files."""

    def __init__(
        self, places: dict[str, SafetensorsFile], files: list[SafetensorsFile], stored: StoredFp8 | None = None
    ) -> None:
        self._places = places
        self._files = files
        self._stored = stored

    @classmethod
    def open(cls, directory: Path, stored: StoredFp8 | None = None) -> "Checkpoint":
        """Open the directory's files and check them against their index. CheckpointError names what is wrong.

        `stored`: how weights in 8-bit floats are kept; None: there must be none.
        """
        if (directory / _SINGLE).exists():
            file = SafetensorsFile(directory / _SINGLE)
            return cls(dict.fromkeys(file.entries, file), [file], stored)
        if (directory / _INDEX).exists():
            return cls._open_sharded(directory, stored)
        raise _no_weights(directory)

    @classmethod
    def _open_sharded(cls, directory: Path, stored: StoredFp8 | None) -> "Checkpoint":
        weight_map = _read_index(directory / _INDEX)
        files: dict[str, SafetensorsFile] = {}
        try:
            for shard in sorted(set(weight_map.values())):
                if not (directory / shard).exists():
                    raise CheckpointError(f"{directory / shard} is missing; {_INDEX} names it", field=shard)
                files[shard] = SafetensorsFile(directory / shard)
            for name, shard in weight_map.items():
                if name not in files[shard].entries:
                    raise CheckpointError(f"{_INDEX} places tensor {name} in {shard}, which has none", field=name)
        except CheckpointError:
            for file in files.values():
                file.close()
            raise
        return cls({name: files[shard] for name, shard in weight_map.items()}, list(files.values()), stored)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()

    def verify(self, declaration: Declaration) -> None:
        """Check that exactly the declared tensors are there, in the declared shapes, as floating-point numbers."""
        declared = {tensor.name: tensor for tensor in declaration.tensors()}
        missing = [name for name in declared if name not in self._places]
        if missing:
            raise CheckpointError(f"the checkpoint has no tensor {_some(missing)}", field=missing[0])
        ignored = self._scales_of(declared)
        extra = [
            name
            for name in self._places
            if name not in declared and name not in ignored and not self._ignored(name, declaration)
        ]
        if extra:
            raise CheckpointError(
                f"the checkpoint has tensor {_some(extra)}, which a model of this config.json does not have",
                field=extra[0],
            )
        for tensor in declared.values():
            self._verify_tensor(tensor)

    def read(self, tensor: TensorSpec, into: Tensor) -> None:
        """See tradewind.models.loader.WeightSource."""
        quantised = self.read_quantised(tensor)
        if quantised is None:
            self._places[tensor.name].read(tensor.name, into)
            return
        values_ND, scales = quantised
        outputs, inputs = self._block(tensor, scales)
        blocks = max(1, _ROWS_AT_ONCE // outputs)
        for first in range(0, -(-len(values_ND) // outputs), blocks):
            part = slice(first * outputs, (first + blocks) * outputs)
            some = scales[first : first + blocks].view(-1, 1) if scales.ndim == 1 else scales[first : first + blocks]
            into[part] = spread(values_ND[part], some, outputs, inputs)

    def read_quantised(self, tensor: TensorSpec) -> tuple[Tensor, Tensor] | None:
        """See tradewind.models.loader.WeightSource."""
        file = self._places[tensor.name]
        if file.is_float(tensor.name):
            return None
        values_ND = torch.empty(tensor.shape, dtype=FP8)
        file.read(tensor.name, values_ND)
        place = self._scale_name(tensor.name)
        shape = self._places[place].entries[place].shape
        scales = torch.empty(shape, dtype=torch.float32)
        self._places[place].read(place, scales)
        if self._stored is None or self._stored.block is None:
            scales = scales.view(-1).expand(tensor.shape[0])
        return values_ND, scales

    def _block(self, tensor: TensorSpec, scales: Tensor) -> tuple[int, int]:
        """Outputs and inputs that share a scale."""
        block = self._stored.block if self._stored else None
        return (1, tensor.shape[1]) if block is None or scales.ndim == 1 else block

    def _scale_name(self, name: str) -> str:
        """Of a weight's scales; those that are called inverse are multiplied all the same."""
        return next((each for each in (f"{name}_scale_inv", f"{name}_scale") if each in self._places), "")

    def _scales_of(self, declared: dict[str, TensorSpec]) -> set[str]:
        """What belongs to weights in 8-bit floats, and is not a weight. Scales of activations are measured here."""
        if self._stored is None:
            return set()
        inputs = {f"{name.removesuffix('weight')}input_scale" for name in declared}
        return inputs | {self._scale_name(name) for name in declared}

    def _verify_tensor(self, tensor: TensorSpec) -> None:
        file = self._places[tensor.name]
        entry = file.entries[tensor.name]
        if entry.shape != tensor.shape:
            raise CheckpointError(
                f"tensor {tensor.name} has shape {list(entry.shape)} in {file.path.name}; by config.json it should be "
                f"{list(tensor.shape)}",
                field=tensor.name,
            )
        if self._stored is not None and entry.dtype == "F8_E4M3":
            self._verify_scales(tensor)
        elif not file.is_float(tensor.name):
            raise CheckpointError(
                f"tensor {tensor.name} is {entry.dtype} in {file.path.name}; only F64, F32, F16 and BF16 can be loaded",
                field=tensor.name,
            )

    def _verify_scales(self, tensor: TensorSpec) -> None:
        name = self._scale_name(tensor.name)
        if not name:
            raise CheckpointError(f"the checkpoint has no scales of tensor {tensor.name}", field=tensor.name)
        file = self._places[name]
        outputs, inputs = tensor.shape
        block = self._stored.block if self._stored else None
        fitting = [(1,), (), (1, 1), (outputs,), (outputs, 1)]
        if block is not None:
            fitting = [(-(-outputs // block[0]), -(-inputs // block[1]))]
        if file.entries[name].shape not in fitting or not file.is_float(name):
            raise CheckpointError(
                f"tensor {name} has shape {list(file.entries[name].shape)} of {file.entries[name].dtype} in "
                f"{file.path.name}; for {tensor.name} it should be {list(fitting[-1])} of F32 or BF16",
                field=name,
            )

    def _ignored(self, name: str, declaration: Declaration) -> bool:
        return name in declaration.ignored or name.endswith(_COMPUTED)


def _read_index(path: Path) -> dict[str, str]:
    """The weight_map of an index: tensor name -> file name in the same directory."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}", field=path.name) from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map", field=path.name)
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{path} places tensor {name} in {shard!r}, which is no file name", field=name)
    return weight_map


def _no_weights(directory: Path) -> CheckpointError:
    """The error for a directory without safetensors, saying what is there instead."""
    pickled = sorted(path.name for path in directory.glob("*.bin")) + sorted(
        path.name for path in directory.glob("*.pt*")
    )
    if pickled:
        what = f"it has {pickled[0]}, a pickle, which is not read: save the model as safetensors"
    else:
        what = "to run with random weights, ask for load_format 'dummy'"
    return CheckpointError(f"{directory} has neither {_SINGLE} nor {_INDEX}; {what}", field=_SINGLE)


def _some(names: list[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
