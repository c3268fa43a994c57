"""Loading takes little more memory than the model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tradewind.config import ModelConfig
from tradewind.kernels import native
from tradewind.models.declaration import declare
from tradewind.models.family import COMMON_NAMES
from tradewind.models.registry import load_spec

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 6,
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
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.ops import choose_ops
from tradewind.models.registry import load_model
peak_bytes = lambda: 1024 * int(re.search(r"VmHWM:\s*(\d+)", pathlib.Path("/proc/self/status").read_text())[1])
torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
before = peak_bytes()
ops = choose_ops("cpu", torch.bfloat16, sys.argv[3], quantisation=Quantisation.named(sys.argv[4]))
model = load_model(pathlib.Path(sys.argv[1]), ModelConfig(load_format=sys.argv[2]), "cpu", ops)
print((peak_bytes() - before) / model.weights_bytes)
"""


def _peak_share(directory: Path, load_format: str, prefer: str, quantisation: str = "none") -> float:
    command = [sys.executable, "-c", PROGRAM, str(directory), load_format, prefer, quantisation]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_peak_memory_is_near_the_models_size(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    declared = declare(load_spec(tmp_path, ModelConfig()), COMMON_NAMES).tensors()
    # float32 in the file, cast on the way to bfloat16.
    save_file({tensor.name: torch.zeros(tensor.shape) for tensor in declared}, tmp_path / "model.safetensors")
    # The embedding alone is 160 MB in the file, beside 230 MB of weights: whole tensors must not be mapped at once.
    assert 0.9 < _peak_share(tmp_path, "auto", "torch") < 1.2
    assert 0.9 < _peak_share(tmp_path, "dummy", "torch") < 1.2
    # What is packed is there twice for a moment: the largest tensors while there is little else, the others in turn.
    for quantisation in ("none", "lossless", "int8", "int4") if native.runnable() else ():
        assert 0.9 < _peak_share(tmp_path, "auto", "native", quantisation) < 1.3, quantisation
