"""The memory plan against what a run takes, and what it does where the machine has less."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from helpers.models import FAMILIES, adapted, small
from helpers.paths import QUICKSTART, ROOT
from helpers.runs import SHORT, run
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.preflight import memory
from tiny_math_solver.preflight.memory import Longest, MemoryPlan, Part, fitted_plan, memory_plan
from tiny_math_solver.rollouts import engine
from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support import memory as process_memory
from tiny_math_solver.support.console import QuietConsole
from tiny_math_solver.support.memory import readable
from tiny_math_solver.training.build import build_training
from tiny_math_solver.training.plan import prepare
from tiny_math_solver.training.trainer import MathGRPOTrainer
from tiny_math_solver.update.torch_scorer import TorchScorer, completion_logprobs, kept_bytes, logits_tokens

TOLERANCE = 0.15
# the plan's peak and the process's own, of a run in a process of its own
MEASURE = """
import json, sys
from tiny_math_solver import train
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.runs.resume import ResumeOptions
from tiny_math_solver.support.console import QuietConsole
from tiny_math_solver.support.memory import readable
found = []
inner = train.preflight
train.preflight = lambda *a, **k: found.append(inner(*a, **k)) or found[-1]
train.train(load_config(sys.argv[1], sys.argv[2:]), QuietConsole(), ResumeOptions(force=True))
import torch
if torch.cuda.is_available():
    peak = torch.cuda.max_memory_allocated()
else:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"planned": found[0].memory.peak, "peak": peak, "plan": str(found[0].memory)}))
"""


def measured(config: Path, *overrides: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", MEASURE, str(config), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="another unit and another meaning elsewhere")
@pytest.mark.parametrize("settings", [[], ["--model.dtype", "bfloat16"], ["--rollouts.native", "false"]], ids=str)
def test_the_shipped_model_takes_what_the_plan_says(settings: list[str], tmp_path: Path):
    found = measured(QUICKSTART, *settings, "--grpo.max_steps", "2", "--problems.test", "100", "--problems.dev", "50",
                     "--grpo.output_dir", str(tmp_path / "run"))  # fmt: skip
    assert found["planned"] == pytest.approx(found["peak"], rel=TOLERANCE), found["plan"]


FOLDER = Path(os.environ.get("TINY_MATH_MODELS", ROOT.parent / "shared" / "models"))


@pytest.mark.large
@pytest.mark.skipif(sys.platform != "linux", reason="another unit and another meaning elsewhere")
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-coder-0.5b"])
def test_a_real_model_takes_what_the_plan_says(name: str, dtype: str, tmp_path: Path):
    if not (FOLDER / name / "config.json").is_file():
        pytest.skip(f"no model in {FOLDER / name}: TINY_MATH_MODELS names the folder")
    found = measured(
        QUICKSTART, "--model.name", str(FOLDER / name), "--model.dtype", dtype, "--problems.test", "8",
        "--problems.dev", "4", "--evaluation.samples", "0", "--evaluation.forecast_seconds", "1",
        "--grpo.max_steps", "1", "--grpo.num_generations", "4", "--grpo.per_device_train_batch_size", "16",
        "--grpo.gradient_accumulation_steps", "1", "--grpo.max_completion_length", "128",
        "--update.tokens_per_pass", "4096", "--grpo.output_dir", str(tmp_path / "run"),
        "--grpo.beta", "0.01",  # so that no row is left out and a pass is as large as planned
        "--guards.rescue", "false",  # whose states one step does not fill
    )  # fmt: skip
    assert found["planned"] == pytest.approx(found["peak"], rel=TOLERANCE), found["plan"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_plan_holds_on_a_gpu(dtype: str, tmp_path: Path):
    """On a model that is large enough to outweigh what libraries set up: 12 layers of a 0.5B model's width."""
    model = tmp_path / "model"
    config = Qwen2Config(
        vocab_size=32_000, hidden_size=896, intermediate_size=4864, num_hidden_layers=12, num_attention_heads=14,
        num_key_value_heads=2, eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    AutoTokenizer.from_pretrained(ROOT / "src" / "tiny_math_solver" / "embedded").save_pretrained(model)
    found = measured(
        QUICKSTART, "--model.name", str(model), "--model.dtype", dtype, "--grpo.max_steps", "2", "--problems.test",
        "64", "--problems.dev", "32", "--evaluation.samples", "0", "--grpo.max_completion_length", "256",
        "--update.tokens_per_pass", "8192", "--grpo.output_dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert found["planned"] == pytest.approx(found["peak"], rel=TOLERANCE), found["plan"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_autograd_keeps_what_the_plan_counts(kind: str, dtype: torch.dtype):
    """The bytes that a forward pass leaves for its backward pass, counted by autograd's own hook."""
    model = adapted(small(FAMILIES[kind]).to(dtype), r=1).train()
    frozen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.arange(2048).view(4, 512) % 1000
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = completion_logprobs(model.get_base_model(), ids, torch.ones_like(ids), 256, 1.0)
    assert alive.requires_grad
    layers = sum(kept.values()) / 2048 / model.config.num_hidden_layers
    assert kept_bytes(model.config, dtype) == pytest.approx(layers, rel=0.1)


def test_logits_of_a_large_vocabulary_are_made_in_small_parts():
    """Of 152,000 tokens and 2,048 rows they would take 1.2 GB in float32, several times over."""
    assert logits_tokens(151_936) * 151_936 * 4 <= 1 << 28
    assert logits_tokens(1024) == 2048


# -- A plan -----------------------------------------------------------------------------------------------------


def test_the_peak_is_that_of_the_larger_phase():
    parts = [
        Part("weights", 100, held=True),
        Part("optimizer", 10),
        Part("keys and values", 40, phase=memory.ROLLOUTS),
        Part("a step", 5, phase=memory.ROLLOUTS),
        Part("a pass", 30, phase=memory.UPDATE),
    ]
    plan = MemoryPlan(parts, 55)
    assert (plan.needed, plan.peak, plan.fits) == (55, 155, True)
    assert not MemoryPlan(parts, 54).fits


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("m") / "run"
    config = load_config(QUICKSTART, ["--problems.test", "8", "--grpo.output_dir", str(folder)])
    run, console = RunFolder(config.output_dir), QuietConsole()
    return build_training(prepare(config), run, console, EventLog(run, console))


@pytest.fixture
def trainer(training: Any) -> Any:
    trainer = training.trainer
    tokens = trainer.update.tokens_per_pass.value
    yield trainer
    trainer.update.tokens_per_pass.value = tokens


def test_passes_are_halved_until_they_fit_a_smaller_machine(trainer: Any, monkeypatch: pytest.MonkeyPatch):
    tokens = trainer.update.tokens_per_pass
    monkeypatch.setattr(memory, "pass_bytes", lambda trainer, longest: 400_000 * tokens.value)
    whole = memory_plan(trainer, Longest(50, 112), 8)
    taken = next(part.size for part in whole.parts if part.name == memory.PASS)
    monkeypatch.setattr(memory, "available", lambda device: whole.needed - taken // 3)
    plan = fitted_plan(trainer, Longest(50, 112), 8)
    assert plan.fits
    assert tokens.value == 1024
    assert str(plan).endswith(f"; update.tokens_per_pass is 1024, since 2048 would take {readable(taken)}")


def test_passes_are_never_shorter_than_the_longest_row(trainer: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "available", lambda device: 0)
    assert not fitted_plan(trainer, Longest(50, 112), 8).fits
    assert trainer.update.tokens_per_pass.value == 162


def test_a_pass_that_only_takes_memory_is_made_smaller_on_a_cpu(trainer: Any, monkeypatch: pytest.MonkeyPatch):
    assert fitted_plan(trainer, Longest(50, 112), 8).note == ""  # the quickstart keeps its passes, and its bytes
    monkeypatch.setattr(memory, "LARGE_PASS", 1)
    fitted_plan(trainer, Longest(50, 112), 8)
    assert trainer.update.tokens_per_pass.value == memory.EFFICIENT_PASS


def test_what_depends_on_the_configuration_alone_shapes_the_passes(trainer: Any, monkeypatch: pytest.MonkeyPatch):
    """Libraries that take more on one start than on another must not change the sums of a resumed run."""
    monkeypatch.setattr(memory, "LARGE_PASS", 1)
    sizes = []
    for resident in (1 << 20, 1 << 40):
        monkeypatch.setattr(memory, "resident", lambda resident=resident: resident)
        trainer.update.tokens_per_pass.value = 1 << 16
        fitted_plan(trainer, Longest(50, 112), 8)
        sizes.append(trainer.update.tokens_per_pass.value)
    assert sizes[0] == sizes[1] < 1 << 16


def test_large_keys_and_values_are_gone_while_the_update_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The cache and the activations were both there at the peak, and freed memory stayed with the process."""
    plain = run(tmp_path / "plain", *SHORT)
    monkeypatch.setattr(engine, "SMALL_CACHE_BYTES", 0)
    monkeypatch.setattr(engine, "give_back", lambda: given.append(True))
    given: list[bool] = []
    held: list[int] = []
    inner = MathGRPOTrainer._update_policy

    def update(trainer: Any, model: Any) -> Any:
        loss = inner(trainer, model)
        held.append(len(trainer.rollouts._decoders))
        return loss

    monkeypatch.setattr(MathGRPOTrainer, "_update_policy", update)
    freed = run(tmp_path / "freed", *SHORT)
    assert held == [0]
    assert given
    assert (tmp_path / "plain" / "rollouts.jsonl").read_bytes() == (tmp_path / "freed" / "rollouts.jsonl").read_bytes()
    assert freed.summary["after"] == plain.summary["after"]


def test_freed_memory_returns_to_the_system():
    if process_memory._glibc("malloc_trim") is None:
        pytest.skip("another C library")
    blocks = [bytearray(100_000) for _ in range(1000)]  # below the size that malloc maps on its own
    kept = blocks[::100]
    full = process_memory.resident()
    del blocks
    process_memory.give_back()
    assert full - process_memory.resident() > 50_000_000
    assert len(kept) == 10


def test_the_scorer_knows_if_its_passes_run_under_autocast():
    model = small(Qwen2Config(tie_word_embeddings=False)).to(torch.bfloat16)
    plain = TorchScorer(model, 1.0, lambda: torch.autocast("cpu", enabled=False), torch.bfloat16)
    cast = TorchScorer(model, 1.0, lambda: torch.autocast("cpu", torch.bfloat16), torch.bfloat16)
    assert cast.pass_bytes(1000) < plain.pass_bytes(1000)  # adapters keep their inputs in float32 only without
