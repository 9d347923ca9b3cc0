"""A run that was interrupted ends as if it had not been: same adapter byte for byte, same metrics, same records."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tiny_math_solver.config import load_config
from tiny_math_solver.grpo.resume import Asked
from tiny_math_solver.grpo.run import train
from tiny_math_solver.grpo.trainer import MathGRPOTrainer
from tiny_math_solver.terminal import Output

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
SHORT = [
    "--problems.train", "24", "--problems.test", "8", "--problems.dev", "8", "--evaluation.every", "2",
    "--evaluation.samples", "2", "--evaluation.sampled_problems", "4", "--grpo.save_steps", "1",
    "--grpo.gradient_accumulation_steps", "2", "--grpo.per_device_train_batch_size", "16",
]  # fmt: skip
ADAPTER = "adapter_model.safetensors"


class PowerCutError(Exception):
    pass


def run(folder: Path, *overrides: str, asked: Asked = Asked()) -> SimpleNamespace:  # noqa: B008  frozen
    lines: list[str] = []
    outcome = train(
        load_config(QUICKSTART, [*SHORT, *overrides, "--grpo.output_dir", str(folder)]), Output(lines.append), asked
    )
    return SimpleNamespace(folder=folder, lines=lines, summary=outcome.summary)


def interrupted(folder: Path, step: int, *overrides: str, asked: Asked = Asked()) -> None:  # noqa: B008  frozen
    """A run that ends within optimizer step `step` + 1, as at a power cut: nothing more is written."""
    training_step = MathGRPOTrainer.training_step

    def cut(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = training_step(self, *args, **kwargs)
        if self.state.global_step == step:
            raise PowerCutError
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MathGRPOTrainer, "training_step", cut)
        with pytest.raises(PowerCutError):
            run(folder, *overrides, asked=asked)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def timeless(path: Path) -> list[dict[str, Any]]:
    """Metrics without what the clock says, and without what Trainer says of the steps since it was started."""
    ours = ("time", "per_second", "train_loss")
    return [{k: v for k, v in row.items() if k != "seconds" and not any(o in k for o in ours)} for row in rows(path)]


def same(one: Path, other: Path) -> None:
    assert (one / ADAPTER).read_bytes() == (other / ADAPTER).read_bytes()
    assert timeless(one / "metrics.jsonl") == timeless(other / "metrics.jsonl")
    assert (one / "rollouts.jsonl").read_text() == (other / "rollouts.jsonl").read_text()
    assert sorted(p.name for p in (one / "eval").iterdir()) == sorted(p.name for p in (other / "eval").iterdir())
    for name in ("before.jsonl", "after.jsonl", "after-unseen.jsonl"):
        assert (one / "eval" / name).read_text() == (other / "eval" / name).read_text()
    summaries = [json.loads((folder / "summary.json").read_text()) | {"train_seconds": 0} for folder in (one, other)]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["--lora.lora_dropout", "0.2", "--grpo.lr_scheduler_type", "cosine"],  # draws of torch's own
        ["--grpo.num_iterations", "2", "--grpo.steps_per_generation", "4"],  # a batch is learned from four times
        ["--grpo.logging_steps", "3", "--grpo.beta", "0.05"],
        ["--update.own_passes", "false", "--rollouts.native", "false"],
    ],
    ids=["plain", "dropout", "reused batches", "sparse log", "trl's micro-batches"],
)
def test_a_resumed_run_ends_as_one_straight_through(tmp_path: Path, overrides: list[str]):
    """Seven steps are two passes over the problems and a bit: the second order of the problems is met as well.

    Catches a sampler that begins anew, lost random states, a lost generation batch, moments of the optimizer that
    start at zero, records written twice.
    """
    overrides = [*overrides, "--grpo.max_steps", "7"]
    straight = run(tmp_path / "straight", *overrides)
    folder = tmp_path / "cut"
    interrupted(folder, 3, *overrides)
    interrupted(folder, 4, *overrides)
    interrupted(folder, 6, *overrides)
    resumed = run(folder, *overrides)
    assert f"step 6: resumed: from {folder / 'checkpoint-6'}" in resumed.lines
    same(straight.folder, folder)
    assert not (tmp_path / "cut.1").exists()
