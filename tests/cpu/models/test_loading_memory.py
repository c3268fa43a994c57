"""Loading takes little more memory than the model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tradewind.config import ModelConfig
from tradewind.models.declaration import declare
from tradewind.models.family import COMMON_NAMES
from tradewind.models.registry import load_spec

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "vocab_size": 40000,
    "max_position_embeddings": 256,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": True,
}

# In a process of its own: the peak is the process's, and torch's own share is taken off.
PROGRAM = r"""
import sys, pathlib, re, torch
from tradewind.config import ModelConfig
from tradewind.kernels.ops import choose_ops
from tradewind.models.registry import load_model
peak_bytes = lambda: 1024 * int(re.search(r"VmHWM:\s*(\d+)", pathlib.Path("/proc/self/status").read_text())[1])
torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
before = peak_bytes()
model = load_model(pathlib.Path(sys.argv[1]), ModelConfig(load_format=sys.argv[2]), "cpu",
                   choose_ops("cpu", torch.bfloat16, "torch"))
print((peak_bytes() - before) / model.weights_bytes)
"""


def _peak_share(directory: Path, load_format: str) -> float:
    command = [sys.executable, "-c", PROGRAM, str(directory), load_format]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_peak_memory_is_near_the_models_size(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    declared = declare(load_spec(tmp_path, ModelConfig()), COMMON_NAMES).tensors()
    # float32 in the file, cast on the way to bfloat16.
    save_file({tensor.name: torch.zeros(tensor.shape) for tensor in declared}, tmp_path / "model.safetensors")
    # The embedding alone is 160 MB in the file, beside 180 MB of weights: whole tensors must not be mapped at once.
    assert 0.9 < _peak_share(tmp_path, "auto") < 1.2
    assert 0.9 < _peak_share(tmp_path, "dummy") < 1.2
