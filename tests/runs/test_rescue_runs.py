"""Runs that collapse: rescued they recover, else they stop; interrupted around a rescue they end the same."""

import json
import random
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trl import GRPOTrainer

from helpers.paths import QUICKSTART
from helpers.runs import rows
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.runs.resume import ResumeOptions
from tiny_math_solver.support.console import CollectingConsole
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, StoppedError
from tiny_math_solver.train import train

# The format pays ten times what a right answer does, at five times the learning rate: soon there is nothing else.
COLLAPSING = [
    "--problems.train", "640", "--problems.test", "16", "--problems.dev", "16", "--evaluation.samples", "0",
    "--evaluation.every", "100", "--grpo.per_device_train_batch_size", "32", "--grpo.max_steps", "16",
    "--grpo.learning_rate", "5e-3", "--grpo.reward_weights", "[0.2, 2.0]", "--grpo.save_steps", "1",
]  # fmt: skip
RIGHT, FORM = "rewards/correctness_reward/mean", "rewards/format_reward/mean"


class PowerCutError(Exception):
    pass


def run(folder: Path, *overrides: str, options: ResumeOptions = ResumeOptions()) -> SimpleNamespace:  # noqa: B008  frozen
    console, stopped = CollectingConsole(), None
    config = load_config(QUICKSTART, [*COLLAPSING, *overrides, "--grpo.output_dir", str(folder)])
    try:
        train(config, console, options)
    except StoppedError as error:
        stopped = error
    events, metrics = folder / "events.jsonl", rows(folder / "metrics.jsonl")
    summary = json.loads((folder / "summary.json").read_text()) if stopped is None else {}
    return SimpleNamespace(
        folder=folder, lines=console.lines, stopped=stopped, summary=summary, metrics=metrics,
        events=rows(events) if events.exists() else [],
    )  # fmt: skip


def rescues(result: SimpleNamespace) -> list[dict[str, Any]]:
    return [event for event in result.events if event["name"] == "rescue"]


@pytest.fixture(scope="module")
def rescued(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return run(tmp_path_factory.mktemp("rescued") / "run")


def test_a_collapsed_run_goes_back_and_recovers(rescued: SimpleNamespace):
    assert rescued.stopped is None
    events = rescues(rescued)
    assert 1 <= len(events) <= 3
    assert [row["step"] for row in rescued.metrics] == list(range(1, 17))  # no step number comes twice
    first = events[0]["step"]
    right = {row["step"]: row[RIGHT] for row in rescued.metrics}
    assert right[first] < right[1] / 2
    assert sum(right[step] for step in (14, 15, 16)) >= sum(right[step] for step in (1, 2, 3))


def test_a_rescue_is_in_every_record(rescued: SimpleNamespace):
    events = rescues(rescued)
    for number, event in enumerate(events):
        assert event["undone"][1] == event["step"]
        assert event["back_to"] < event["undone"][0] <= event["step"]
        assert f"step {event['step']}: rescue: {event['text']}" in rescued.lines
        later = [row["rescues"] for row in rescued.metrics if row["step"] == event["step"] + 1]
        assert later == [number + 1]
    assert "rescues" not in rescued.metrics[0]
    assert events[0]["changed"] == {"grpo.reward_weights": [0.2, 0.4]}
    assert rescued.summary["rescues"] == [{k: v for k, v in event.items() if k != "name"} for event in events]
    assert any(line == "a collapse is undone, up to 3 times (guards.rescue)" for line in rescued.lines)
    config = (rescued.folder / "config.yaml").read_text()
    assert "- 2.0" in config or "[0.2, 2.0]" in config  # as it was configured


def test_the_reward_is_made_with_the_changed_weight(rescued: SimpleNamespace):
    """Catches a change that is announced and not made."""
    first = rescues(rescued)[0]
    for row in rescued.metrics:
        weight = 2.0 if row["step"] <= first["step"] else 0.4
        if row.get("rescues", 0) <= 1:
            assert row["reward"] == pytest.approx(0.2 * row[RIGHT] + weight * row[FORM], abs=1e-5)


def test_without_rescue_a_collapsed_run_stops_and_says_what_to_change(rescued: SimpleNamespace, tmp_path: Path):
    result = run(tmp_path / "run", "--guards.rescue", "false")
    noticed = rescues(rescued)[0]["step"]
    assert result.metrics[-1]["step"] == noticed + 1
    assert result.stopped.exit_code == EXIT_LEARNED_NOTHING
    said = str(result.stopped)
    for part in ("right ", "the damage dates from step ", "grpo.reward_weights [0.2, 2.0]", "guards.rescue true"):
        assert part in said
    assert [event["step"] for event in result.events if event["name"] == "collapse"] == [noticed]
    assert not any("a collapse is undone" in line for line in result.lines)
    on = run(tmp_path / "on", "--guards.rescue", "false", "--guards.stop", "false")
    assert on.stopped is None
    assert on.metrics[-1]["step"] == 16


def test_a_run_that_collapses_again_stops_after_its_last_rescue(tmp_path: Path):
    """Ten times the learning rate destroys the policy with any weights."""
    result = run(tmp_path / "run", "--grpo.learning_rate", "0.5", "--guards.rescues", "1", "--grpo.save_steps", "100")
    assert len(rescues(result)) == 1
    assert result.stopped.exit_code == EXIT_LEARNED_NOTHING
    assert "collapse" in str(result.stopped)
    assert "guards.rescue true" not in str(result.stopped)


# -- Interrupted ------------------------------------------------------------------------------------------------


def interrupted(folder: Path, step: int, *overrides: str) -> None:
    """A run that ends within optimizer step `step` + 1, as at a power cut: nothing more is written."""
    training_step = GRPOTrainer.training_step

    def cut(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = training_step(self, *args, **kwargs)
        if self.state.global_step == step:
            raise PowerCutError
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "training_step", cut)
        with pytest.raises(PowerCutError):
            run(folder, *overrides)


def timeless(path: Path) -> list[dict[str, Any]]:
    """Metrics without timings, and without what Trainer sums up since it was started."""
    ours = ("time", "per_second", "train_loss")
    return [{k: v for k, v in row.items() if k != "seconds" and not any(o in k for o in ours)} for row in rows(path)]


def same(one: Path, other: Path) -> None:
    for name in ("adapter_model.safetensors", "rollouts.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert timeless(one / "metrics.jsonl") == timeless(other / "metrics.jsonl")
    events = [[e for e in rows(folder / "events.jsonl") if e["name"] != "resumed"] for folder in (one, other)]
    assert events[0] == events[1]
    summaries = [json.loads((folder / "summary.json").read_text()) | {"train_seconds": 0} for folder in (one, other)]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize("after", [-1, 0, 1], ids=["right before it", "at it", "after it"])
def test_a_run_interrupted_around_a_rescue_ends_as_one_straight_through(
    rescued: SimpleNamespace, tmp_path: Path, after: int
):
    """Catches lost states, a changed weight that is forgotten, and guards that judge by steps that were undone."""
    interrupted(tmp_path / "run", rescues(rescued)[-1]["step"] + after)
    run(tmp_path / "run")
    same(rescued.folder, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["--grpo.steps_per_generation", "4"],
        ["--grpo.num_iterations", "2"],
        ["--grpo.lr_scheduler_type", "cosine", "--grpo.warmup_steps", "4", "--lora.lora_dropout", "0.1"],
        ["--update.own_passes", "false", "--grpo.beta", "0.001"],
        ["--grpo.logging_steps", "2"],
    ],
    ids=["spread batches", "reused batches", "cosine and dropout", "trl's micro-batches", "sparse log"],
)
def test_every_kind_of_run_is_rescued_and_resumed(tmp_path: Path, overrides: list[str]):
    straight = run(tmp_path / "straight", *overrides)
    (event, *_) = rescues(straight)
    for after in (0, 1):
        folder = tmp_path / f"cut-{after}"
        interrupted(folder, event["step"] + after, *overrides)
        run(folder, *overrides)
        same(straight.folder, folder)


def test_what_waits_of_an_undone_policy_is_not_learned_from(tmp_path: Path):
    """A batch is spread over two steps: after a rescue between them, the second step samples its own."""
    result = run(tmp_path / "run", "--grpo.steps_per_generation", "4", "--grpo.save_steps", "100")
    sampled = {row["step"] for row in rows(tmp_path / "run" / "rollouts.jsonl")}
    for event in rescues(result):
        if event["step"] < 16:
            assert event["step"] + 1 in sampled


@pytest.mark.large
@pytest.mark.timeout(1800)
def test_killed_at_20_random_moments_of_a_run_with_a_rescue(tmp_path: Path):
    from runs.test_kill import finish, kill_when

    began = time.perf_counter()
    straight = finish(tmp_path / "straight", COLLAPSING, tmp_path / "log")
    whole, rng = time.perf_counter() - began, random.Random(0)
    assert rescues(SimpleNamespace(events=rows(tmp_path / "straight" / "events.jsonl")))
    kills = 0
    while kills < 20:
        folder = tmp_path / "run"
        while kills < 20:
            moment = time.perf_counter() + rng.uniform(0, whole)
            if not kill_when(lambda moment=moment: time.perf_counter() >= moment, folder, COLLAPSING, tmp_path / "log"):
                break
            kills += 1
        assert finish(folder, COLLAPSING, tmp_path / "log") == straight, f"after {kills} kills"
        same(tmp_path / "straight", folder)
        shutil.rmtree(folder)
