"""From a directory and a config to a runner."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.cpu.runner.driving import Session, request
from tests.cpu.tiny_models import VARIANTS, TinyModel, make_tiny_model, random_prompt, transformers_greedy
from tradewind.base.errors import CheckpointError, ConfigError, ModelNotFound, NotEnoughMemory
from tradewind.config import from_flat
from tradewind.kernels import native
from tradewind.kernels.gpu import ABSENT_GPUS, Chip
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.ops import choose_ops
from tradewind.runner import boot_device
from tradewind.runner.boot import boot_runner
from tradewind.runner.fake import FakeRunner


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", VARIANTS["llama-gqa1"])


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def half_directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / request.param, TinyModel(dtype=request.param))


@pytest.fixture(autouse=True)
def _threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_booted_runner_gives_the_models_tokens(directory: Path) -> None:
    stages: list[tuple[str, float]] = []
    config = from_flat({"device": "cpu", "threads": 1, "max_running": 4, "block_tokens": 4, "step_tokens": 50})
    runner = boot_runner(directory, config, lambda stage, share: stages.append((stage, share)))
    info = runner.info
    assert (info.max_running, info.block_tokens, info.step_tokens, info.vocab_size) == (4, 4, 50, 211)
    assert (info.max_model_len, info.num_blocks) == (512, 4 * 512 // 4)
    assert (info.dtype, info.asynchronous) == ("float32", False)
    assert info.device.startswith("cpu (1 thread")
    assert info.kv_bytes == info.num_blocks * 4 * 3 * 2 * 3 * 8 * 4
    assert info.weights_bytes > 0
    assert {"linear", "paged_attention", "sample"} <= set(info.implementations)
    assert stages[-1] == ("ready", 1.0)
    assert ("loading weights", 1.0) in stages
    prompt = random_prompt(211, 20)
    assert Session(runner).tokens([request(1, prompt, 16)])[1] == transformers_greedy(directory, prompt, 16)
    runner.close()


def test_memory_decides_the_length_or_says_what_to_change(directory: Path) -> None:
    block_bytes = 16 * 3 * 2 * 3 * 8 * 4
    runner = boot_runner(directory, from_flat({"device": "cpu", "threads": 1, "memory_bytes": 10 * block_bytes}))
    assert (runner.info.num_blocks, runner.info.max_model_len) == (10, 160)
    with pytest.raises(NotEnoughMemory, match="--max-model-len 160"):
        boot_runner(
            directory,
            from_flat({"device": "cpu", "threads": 1, "memory_bytes": 10 * block_bytes, "max_model_len": 161}),
        )
    with pytest.raises(NotEnoughMemory):
        boot_runner(directory, from_flat({"device": "cpu", "threads": 1, "memory_bytes": 10}))


def test_a_model_larger_than_memory_is_refused_before_it_is_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_device, "free_bytes", lambda device: 1000)
    with pytest.raises(NotEnoughMemory, match="the weights need"):
        boot_runner(directory, from_flat({"device": "cpu", "threads": 1}))


def test_auto_dtype_is_the_checkpoints_where_the_cpu_is_fast_with_it(
    half_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = half_directory.name
    config = from_flat({"device": "cpu", "threads": 1}).model
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    fast = "bfloat16" if own == "bfloat16" else "float32"
    missing = native.Library("none", "not built")
    for library, feature, expected in [
        (missing, "avx2", "float32"),
        (missing, "avx512_bf16", fast),
        (native.Library("avx2"), "avx2", fast),
    ]:
        monkeypatch.setattr(native, "load", lambda library=library: library)
        monkeypatch.setattr(boot_device, "cpu_features", lambda feature=feature: frozenset({feature}))
        assert boot_device.with_dtype(half_directory, config, cpu).dtype == expected
    assert boot_device.with_dtype(half_directory, config, gpu).dtype == own
    assert boot_device.with_dtype(half_directory, replace(config, dtype="float16"), cpu).dtype == "float16"


def test_a_half_precision_model_runs(half_directory: Path) -> None:
    for dtype in ("auto", half_directory.name):
        runner = boot_runner(
            half_directory, from_flat({"device": "cpu", "threads": 1, "dtype": dtype, "max_running": 2})
        )
        assert len(Session(runner).tokens([request(1, [5, 6, 7], 8)])[1]) == 8


def test_a_sequence_may_be_as_long_as_the_model_allows(directory: Path) -> None:
    runner = boot_runner(directory, from_flat({"device": "cpu", "threads": 1, "max_model_len": 48, "max_running": 2}))
    tokens = Session(runner, run_ahead=True).tokens([request(1, random_prompt(211, 47), 1), request(2, [9], 47)])
    assert [len(tokens[1]), len(tokens[2])] == [1, 47]


def test_fp8_weights_run_on_the_cpu_too_but_not_fp8_keys(directory: Path) -> None:
    settings = {"device": "cpu", "threads": 1, "max_running": 2}
    runner = boot_runner(directory, from_flat({**settings, "quantization": "fp8"}))
    assert runner.info.implementations["linear"] == "reference"
    plain = boot_runner(directory, from_flat(settings))
    assert runner.info.weights_bytes < 0.5 * plain.info.weights_bytes
    assert len(Session(runner).tokens([request(1, [5, 6, 7], 8)])[1]) == 8
    with pytest.raises(ConfigError, match="--kv-dtype fp8 needs a GPU"):
        boot_runner(directory, from_flat({**settings, "kv_dtype": "fp8"}))


def test_lossless_weights_are_for_bfloat16(directory: Path) -> None:
    settings = {"device": "cpu", "threads": 1, "max_running": 2, "dtype": "bfloat16"}
    runners = [boot_runner(directory, from_flat({**settings, "quantization": name})) for name in ("none", "lossless")]
    assert runners[1].info.weights_bytes < 0.9 * runners[0].info.weights_bytes
    asked = [request(1, [5, 6, 7], 8)]
    assert Session(runners[0]).tokens(asked) == Session(runners[1]).tokens(asked)
    with pytest.raises(ConfigError, match="lossless is for weights in bfloat16: use --dtype bfloat16, or none"):
        choose_ops(ABSENT_GPUS["h200"], torch.float16, quantisation=Quantisation.named("lossless"))


def test_cuda_without_a_gpu_is_refused(directory: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="--device cpu"):
        boot_runner(directory, from_flat({"device": "cuda"}))


def test_a_gpu_that_kernels_do_not_run_on_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, device in (((7, 5), "cpu"), ((8, 0), "cuda")):
        chip = Chip.like(capability, 40)
        monkeypatch.setattr(Chip, "of", lambda _device, chip=chip: chip)
        assert boot_device.choose_device("auto").type == device
        assert boot_device.choose_device("cpu").type == "cpu"
        if device == "cpu":
            assert "the CPU is used" in caplog.text
            with pytest.raises(ConfigError, match=r"compute capability 7\.5, and 8\.0 is needed; use --device cpu"):
                boot_device.choose_device("cuda")
        else:
            assert boot_device.choose_device("cuda").type == "cuda"


def test_memory_that_runs_out_at_boot_is_said_so(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_arguments: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has some.")

    monkeypatch.setattr(boot_device, "load_model", no_memory)
    with pytest.raises(NotEnoughMemory, match=r"while starting \(CUDA out of memory\); free some"):
        boot_runner(directory, from_flat({"device": "cpu", "threads": 1}))


def test_the_fake_device_has_the_models_shape(directory: Path, tmp_path: Path) -> None:
    runner = boot_runner(directory, from_flat({"device": "fake", "max_running": 7}))
    assert isinstance(runner, FakeRunner)
    assert (runner.info.vocab_size, runner.info.max_model_len, runner.info.max_running) == (211, 512, 7)
    assert len(Session(runner).tokens([request(1, [5, 6, 7], 8)])[1]) == 8
    with pytest.raises(ModelNotFound):
        boot_runner(tmp_path, from_flat({"device": "fake"}))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="vocab_size"):
        boot_runner(tmp_path, from_flat({"device": "fake"}))


def test_the_fake_device_needs_no_torch(directory: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tradewind.config import from_flat; "
        "from tradewind.runner.boot import boot_runner; "
        f"boot_runner(Path({str(directory)!r}), from_flat({{'device': 'fake'}})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
