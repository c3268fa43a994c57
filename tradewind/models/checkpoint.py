"""The weights of a directory: one safetensors file, or several with an index. Checked whole before any is read."""

import json
from pathlib import Path
from types import TracebackType

from torch import Tensor

from tradewind.base.errors import CheckpointError
from tradewind.models.declaration import Declaration, TensorSpec
from tradewind.models.safetensors_file import SafetensorsFile

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"

# Tables that older exports saved along with the weights; they are computed here.
_COMPUTED = (".rotary_emb.inv_freq", ".masked_bias", ".attn.bias")


class Checkpoint:
    """Which file each tensor is in. Use as a context manager: leaving it unmaps the files."""

    def __init__(self, places: dict[str, SafetensorsFile], files: list[SafetensorsFile]) -> None:
        self._places = places
        self._files = files

    @classmethod
    def open(cls, directory: Path) -> "Checkpoint":
        """Open the directory's files and check them against their index. CheckpointError names what is wrong."""
        if (directory / _SINGLE).exists():
            file = SafetensorsFile(directory / _SINGLE)
            return cls(dict.fromkeys(file.entries, file), [file])
        if (directory / _INDEX).exists():
            return cls._open_sharded(directory)
        raise _no_weights(directory)

    @classmethod
    def _open_sharded(cls, directory: Path) -> "Checkpoint":
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
        return cls({name: files[shard] for name, shard in weight_map.items()}, list(files.values()))

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
        extra = [name for name in self._places if name not in declared and not self._ignored(name, declaration)]
        if extra:
            raise CheckpointError(
                f"the checkpoint has tensor {_some(extra)}, which a model of this config.json does not have",
                field=extra[0],
            )
        for tensor in declared.values():
            self._verify_tensor(tensor)

    def read(self, tensor: TensorSpec, into: Tensor) -> None:
        """See tradewind.models.loader.WeightSource."""
        self._places[tensor.name].read(tensor.name, into)

    def _verify_tensor(self, tensor: TensorSpec) -> None:
        file = self._places[tensor.name]
        entry = file.entries[tensor.name]
        if entry.shape != tensor.shape:
            raise CheckpointError(
                f"tensor {tensor.name} has shape {list(entry.shape)} in {file.path.name}; by config.json it should be "
                f"{list(tensor.shape)}",
                field=tensor.name,
            )
        if not file.is_float(tensor.name):
            raise CheckpointError(
                f"tensor {tensor.name} is {entry.dtype} in {file.path.name}; only F64, F32, F16 and BF16 can be loaded",
                field=tensor.name,
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
