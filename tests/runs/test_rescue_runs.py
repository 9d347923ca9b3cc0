"""Runs that collapse: rescued they recover, else they stop; interrupted around a rescue they end the same."""

import json
import random
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from helpers.paths import QUICKSTART
from helpers.power_cut import power_cut, timeless, timeless_summary
from helpers.runs import rows
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.runs.resume import ResumeOptions
from tiny_math_solver.support.console import CollectingConsole
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, StoppedError
from tiny_math_solver.train import train

# The format pays ten times what a right answer does, at five times the learning rate: soon there is nothing else.
WEIGHTS, RATE, STEPS = (0.1, 2.0), 5e-3, 10
COLLAPSING = [
    "--problems.train", "640", "--problems.test", "8", "--problems.dev", "16", "--evaluation.samples", "0",
    "--evaluation.every", "100", "--grpo.per_device_train_batch_size", "64", "--grpo.num_generations", "4",
    "--grpo.max_steps", str(STEPS), "--grpo.save_steps", "1", "--grpo.scale_rewards", "none",
    "--grpo.learning_rate", str(RATE), "--grpo.reward_weights", str(list(WEIGHTS)), "--grpo.seed", "4",
]  # fmt: skip
HOT = ["--grpo.learning_rate", "0.06", "--grpo.reward_weights", "[1.0, 1.0]", "--grpo.save_steps", "100"]
SPREAD = ["--grpo.steps_per_generation", "4", "--grpo.seed", "42"]  # a batch over two steps
RIGHT, FORM = "rewards/correctness_reward/mean", "rewards/format_reward/mean"


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
    assert [row["step"] for row in rescued.metrics] == list(range(1, STEPS + 1))  # no step number comes twice
    right = {row["step"]: row[RIGHT] for row in rescued.metrics}
    assert right[events[0]["step"]] < right[1] / 2
    assert sum(right[step] for step in range(STEPS - 2, STEPS + 1)) >= sum(right[step] for step in (1, 2, 3))


def test_a_rescue_is_in_every_record(rescued: SimpleNamespace):
    events = rescues(rescued)
    for number, event in enumerate(events):
        assert event["undone"][1] == event["step"]
        assert event["back_to"] < event["undone"][0] <= event["step"]
        assert f"step {event['step']}: rescue: {event['text']}" in rescued.lines
        later = [row["rescues"] for row in rescued.metrics if row["step"] == event["step"] + 1]
        assert later == [number + 1]
    assert "rescues" not in rescued.metrics[0]
    assert events[0]["changed"]["grpo.reward_weights"] == pytest.approx([WEIGHTS[0], 0.35 * WEIGHTS[1]])
    assert rescued.summary["rescues"] == [{k: v for k, v in event.items() if k != "name"} for event in events]
    assert "a collapse is undone, up to 3 times (guards.rescue)" in rescued.lines
    recorded = yaml.safe_load((rescued.folder / "config.yaml").read_text())
    assert recorded["grpo"]["reward_weights"] == list(WEIGHTS)  # as it was configured


def test_steps_are_taken_with_the_changed_settings(rescued: SimpleNamespace):
    """Catches a change that is announced and not made."""
    weights, rate, changes = list(WEIGHTS), RATE, {event["step"]: event["changed"] for event in rescues(rescued)}
    for row in rescued.metrics:
        assert row["reward"] == pytest.approx(weights[0] * row[RIGHT] + weights[1] * row[FORM], abs=1e-5)
        assert row["learning_rate"] == pytest.approx(rate)
        weights = changes.get(row["step"], {}).get("grpo.reward_weights", weights)
        rate = changes.get(row["step"], {}).get("grpo.learning_rate", rate)


def test_without_rescue_a_collapsed_run_stops_and_says_what_to_change(tmp_path: Path):
    result = run(tmp_path / "run", *HOT, "--guards.rescue", "false")
    (noticed,) = [event["step"] for event in result.events if event["name"] == "collapse"]
    assert noticed <= 4
    assert result.metrics[-1]["step"] == noticed + 1
    assert result.stopped.exit_code == EXIT_LEARNED_NOTHING
    said = str(result.stopped)
    for part in ("right ", "the damage dates from step ", "grpo.reward_weights [1.0, 1.0]", "guards.rescue true"):
        assert part in said
    assert not any("a collapse is undone" in line for line in result.lines)


def test_guards_that_do_not_stop_let_a_collapsed_run_go_on(tmp_path: Path):
    result = run(tmp_path / "run", *HOT, "--guards.rescue", "false", "--guards.stop", "false", "--grpo.max_steps", "6")
    assert result.stopped is None
    assert result.metrics[-1]["step"] == 6
    assert "collapse" in {event["name"] for event in result.events}


def test_a_run_that_collapses_again_stops_after_its_last_rescue(tmp_path: Path):
    """At sixty times the learning rate the weight of the format is not the fault."""
    result = run(tmp_path / "run", *HOT, "--guards.rescues", "1")
    assert len(rescues(result)) == 1
    assert result.stopped.exit_code == EXIT_LEARNED_NOTHING
    assert "collapse: right " in str(result.stopped)
    assert "guards.rescue true" not in str(result.stopped)


# -- Interrupted ------------------------------------------------------------------------------------------------


def interrupted(folder: Path, step: int, *overrides: str) -> None:
    """A run that ends within optimizer step `step` + 1."""
    with power_cut(step):
        run(folder, *overrides)


def same(one: Path, other: Path) -> None:
    for name in ("adapter_model.safetensors", "rollouts.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert timeless(one / "metrics.jsonl") == timeless(other / "metrics.jsonl")
    events = [[e for e in rows(folder / "events.jsonl") if e["name"] != "resumed"] for folder in (one, other)]
    assert events[0] == events[1]
    assert timeless_summary(one) == timeless_summary(other)


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
        SPREAD,
        [
            *HOT,
            "--grpo.num_iterations",
            "2",
            "--grpo.save_steps",
            "1",
            "--guards.stop",
            "false",
            "--grpo.max_steps",
            "8",
        ],
        ["--grpo.lr_scheduler_type", "cosine", "--grpo.warmup_steps", "4", "--lora.lora_dropout", "0.1"],
        ["--update.own_passes", "false", "--grpo.beta", "0.001"],
        ["--grpo.logging_steps", "2", "--grpo.seed", "6"],
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
    result = run(tmp_path / "run", *SPREAD, "--grpo.save_steps", "100")
    assert rescues(result)
    sampled = {row["step"] for row in rows(tmp_path / "run" / "rollouts.jsonl")}
    for event in rescues(result):
        if event["step"] < STEPS:
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

            def due(moment: float = moment) -> bool:
                return time.perf_counter() >= moment

            if not kill_when(due, folder, COLLAPSING, tmp_path / "log"):
                break
            kills += 1
        assert finish(folder, COLLAPSING, tmp_path / "log") == straight, f"after {kills} kills"
        same(tmp_path / "straight", folder)
        shutil.rmtree(folder)
