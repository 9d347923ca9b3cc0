"""The device that models run on: what is chosen, that the trainer chooses the same, and what MPS lacks."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.utils import import_utils

from helpers.paths import GSM8K
from helpers.runs import SHORT, run
from tiny_math_solver.cli import main
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.rollouts import EngineRollouts
from tiny_math_solver.support import device
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.memory import available
from tiny_math_solver.training.checkpointing import RandomStates


@pytest.fixture
def mps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Mac's torch, as far as its answers go: nothing can be computed on it."""
    for question in ("is_available", "is_built", "is_macos_or_newer"):
        monkeypatch.setattr(torch.backends.mps, question, lambda *version: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10_000)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 3_000)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 4_000)
    for variable in ("ACCELERATE_USE_CPU", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    import_utils.is_torch_mps_available.cache_clear()
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    monkeypatch.undo()
    import_utils.is_torch_mps_available.cache_clear()
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("mps")
def test_mps_is_used_where_torch_has_it(monkeypatch: pytest.MonkeyPatch):
    assert device.default_device() == "mps"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert device.default_device() == "cpu"
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setenv("WORLD_SIZE", "2")  # gloo does not move tensors of MPS
    assert device.default_device() == "cpu"


@pytest.mark.usefixtures("mps")
@pytest.mark.parametrize(("dtype", "use_cpu"), [("auto", None), ("float16", None), ("bfloat16", None), ("auto", True)])
def test_the_trainer_runs_on_the_device_that_the_model_is_loaded_on(dtype: str, use_cpu: bool | None):
    """transformers picks MPS by itself: the model stayed on the CPU, and pinned memory and bf16 were asked for."""
    config = load_config(GSM8K, ["--model.dtype", dtype, *(["--grpo.use_cpu", "true"] if use_cpu else [])])
    args: Any = config.grpo_config
    assert args.device.type == ("cpu" if use_cpu else "mps")
    assert (args.bf16, args.fp16, args.dataloader_pin_memory) == (False, False, False)
    assert device.resolve_dtype("auto", args.device.type) == torch.float32


@pytest.mark.usefixtures("mps")
def test_accelerates_switch_holds_for_the_trainer_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    assert load_config(GSM8K).grpo_config.device.type == "cpu"


@pytest.mark.usefixtures("mps")
def test_bfloat16_needs_a_macos_that_has_it(monkeypatch: pytest.MonkeyPatch):
    assert device.resolve_dtype("bfloat16", "mps") == torch.bfloat16
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: False)
    with pytest.raises(UserError, match="needs macOS 14; use float32 or float16"):
        device.resolve_dtype("bfloat16", "mps")


@pytest.mark.usefixtures("mps")
def test_the_memory_of_mps_is_what_metal_recommends_and_the_machine_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=50_000))
    assert available("mps") == 10_000 - 3_000
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2_000))
    assert available("mps") == 2_000 + (4_000 - 3_000)  # what torch keeps for later can be used
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 12_000)
    assert available("mps") == 0


@pytest.mark.usefixtures("mps")
def test_the_engine_has_no_graphs_and_no_kernels_on_mps():
    engine: Any = EngineRollouts.__new__(EngineRollouts)
    engine.weights = SimpleNamespace(device=torch.device("mps"), no_kernels_reason="kernels are for CPUs, not for mps")
    assert engine.backend == "torch on MPS"
    assert engine._cache_budget() == int(0.6 * 7_000)


@pytest.mark.usefixtures("mps")
def test_random_states_of_mps_are_saved_and_restored(monkeypatch: pytest.MonkeyPatch):
    state = torch.arange(44, dtype=torch.uint8)
    restored: list[torch.Tensor] = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda device="mps": state)
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda value, device="mps": restored.append(value))
    saved = RandomStates().state_dict()
    RandomStates().load_state_dict(saved)
    with device.forked_rng(torch.device("mps")):
        pass
    assert [value.tolist() for value in restored] == [state.tolist()] * 2
    del saved["mps"]  # a checkpoint of a machine without MPS, or of an earlier version
    RandomStates().load_state_dict(saved)


@pytest.mark.usefixtures("mps")
def test_bench_says_that_it_does_not_measure_mps(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "--out", str(tmp_path / "bench.json")]) == 2
    assert "tiny-math: bench measures CPUs and CUDA GPUs" in capsys.readouterr().err


@pytest.mark.parametrize("error", [NotImplementedError, RuntimeError, TypeError])
def test_what_mps_cannot_do_is_said_in_one_line(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*arguments: Any) -> int:
        raise error("The operator 'aten::foo'\nis not currently implemented for the MPS device." + "." * 1000)

    monkeypatch.setattr("tiny_math_solver.cli.fields.run", fail)
    assert main(["fields"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tiny-math: MPS: The operator 'aten::foo' is not currently implemented")
    assert line.endswith("; ACCELERATE_USE_CPU=true computes on the CPU")


@pytest.mark.parametrize(
    ("error", "is_limit"),
    [
        (NotImplementedError("The operator 'aten::foo' is not currently implemented for the MPS device. If you"), True),
        (NotImplementedError("Could not run 'aten::foo' with arguments from the 'MPS' backend."), True),
        (TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."), True),
        (TypeError("Trying to convert Double to the MPS backend but there is no mapping for it."), True),
        (TypeError("BFloat16 is not supported on MPS"), True),
        (RuntimeError("Output channels > 65536 not supported at the MPS device."), True),
        (RuntimeError("MPS device does not support bmm for non-float inputs"), True),
        (ValueError("no column in data/MPS device.csv"), False),
        (RuntimeError("Error(s) in loading state_dict for MPSNet: size mismatch"), False),
        (RuntimeError("file /data/MPS/model.safetensors is cut short"), False),
        (RuntimeError("clamps device tensors"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_of_mps_are_known_by_their_wording(error: Exception, is_limit: bool):
    """Catches: a path or a class with MPS in its name, taken for the limit of a device that is not even there."""
    assert device.is_refused_by_mps(error) == is_limit


@pytest.mark.parametrize("words", ["MPS backend out of memory (MPS allocated: 9 GB)", "CUDA out of memory. Tried"])
def test_memory_that_runs_out_in_a_command_is_said_in_one_line(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*arguments: Any) -> int:
        raise RuntimeError(words)

    monkeypatch.setattr("tiny_math_solver.cli.fields.run", fail)
    assert main(["fields"]) == 2
    assert capsys.readouterr().err.startswith("tiny-math: out of memory: lower --batch-size")


class Doubles(TorchDispatchMode):
    """Collects the operators whose result MPS could not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if any(tensor.dtype in (torch.float64, torch.complex128) for tensor in tensors):
            self.found.add(str(func))
        return result


def test_the_search_finds_doubles():
    with Doubles() as doubles:
        torch.tensor([0.5], dtype=torch.float64) * 2
    assert doubles.found


@pytest.mark.parametrize("overrides", [[], ["--rollouts.engine", "false", "--grpo.beta", "0.05"]])
def test_a_run_in_torch_makes_no_doubles(tmp_path: Path, overrides: list[str]):
    """MPS has no float64: a single tensor of it ends the run, after minutes, with a TypeError."""
    options = ["--rollouts.native", "false", "--evaluation.samples", "2", "--evaluation.every", "1"]
    options += ["--grpo.max_completion_length", "32"]
    with Doubles() as doubles:
        run(tmp_path / "run", *SHORT, *options, *overrides)
    assert doubles.found == set()


@pytest.mark.parametrize(
    ("cuda", "hidden", "message"),
    [
        (None, None, f"this torch ({torch.__version__}) has no CUDA: install one that has"),
        ("12.8", "", "CUDA_VISIBLE_DEVICES hides it"),
        ("12.8", None, "torch with CUDA 12.8 cannot use it: its driver (470.57.02) may be too old; update it"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_named_with_the_remedy(
    cuda: str | None, hidden: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Catches a run of days on the CPU beside a GPU, without a word."""
    driver = tmp_path / "version"
    monkeypatch.setattr(device, "NVIDIA_DRIVER", driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert device.unused_gpu() == ""
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021\n")
    assert message in device.unused_gpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.unused_gpu() == ""
