"""The engine's check after preflight: what happens to the model later is seen before anything is learned from it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from helpers.paths import QUICKSTART
from helpers.sabotage import without_the_adapter
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.rollouts import ReferenceRollouts, engine_check
from tiny_math_solver.runs.resume import ResumeOptions
from tiny_math_solver.support.console import CollectingConsole
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, StoppedError
from tiny_math_solver.train import train
from tiny_math_solver.training import engine_watch

SHORT = [
    "--problems.train", "64", "--problems.test", "4", "--problems.dev", "4", "--evaluation.samples", "0",
    "--evaluation.every", "100", "--grpo.per_device_train_batch_size", "16", "--grpo.gradient_accumulation_steps", "1",
    "--grpo.max_completion_length", "48", "--grpo.max_steps", "3",
]  # fmt: skip


def run(folder: Path, *overrides: str, resume: bool = False) -> SimpleNamespace:
    console, stopped = CollectingConsole(), None
    config = load_config(QUICKSTART, [*SHORT, *overrides, "--grpo.output_dir", str(folder)])
    try:
        train(config, console, ResumeOptions(resume=True, allow=("grpo.max_steps",)) if resume else ResumeOptions())
    except StoppedError as error:
        stopped = error
    events, metrics = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        for path in (folder / "events.jsonl", folder / "metrics.jsonl")
    )
    return SimpleNamespace(stopped=stopped, events=events, metrics=metrics, lines=console.lines)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """`(adapter adds something, prompts)` of every repeated check of a run."""
    made: list[tuple[bool, int]] = []
    check = engine_watch.check_against_transformers

    def noted(rollouts: Any, prompts: Any) -> Any:
        weights = [weight for name, weight in rollouts.model.named_parameters() if "lora_B" in name]
        made.append((any(bool(weight.any()) for weight in weights), len(prompts)))
        return check(rollouts, prompts)

    monkeypatch.setattr(engine_watch, "check_against_transformers", noted)
    return made


def test_the_check_is_repeated_on_the_prepared_model_and_on_the_first_update(tmp_path: Path, checks):
    result = run(tmp_path / "run")
    assert result.stopped is None
    assert result.events == []
    assert checks == [(False, engine_watch.PROMPTS), (True, engine_watch.PROMPTS)]


def test_it_waits_for_an_update_while_the_learning_rate_is_zero(tmp_path: Path, checks):
    """The first step of a warm-up has a learning rate of 0: an adapter of zeros proves nothing."""
    run(tmp_path / "run", "--grpo.warmup_steps", "3", "--grpo.max_steps", "4")
    assert [updated for updated, _ in checks] == [False, True]


def test_a_model_that_is_broken_when_it_is_prepared_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As accelerate did when it moved every parameter: preflight's check is over by then."""
    prepare = Accelerator.prepare

    def harmful(self: Any, *parts: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(PolicyWeights, "_turns", lambda self, length: broken(turns(self, length)))
        return prepare(self, *parts, **kwargs)

    def broken(made: torch.Tensor) -> torch.Tensor:
        return made.roll(1, -2)

    turns = PolicyWeights._turns
    monkeypatch.setattr(Accelerator, "prepare", harmful)
    result = run(tmp_path / "run")
    assert result.stopped.exit_code == EXIT_LEARNED_NOTHING
    assert "the engine does not reproduce the model once the model is prepared for training: " in str(result.stopped)
    assert "--rollouts.engine false trains with transformers' generate" in str(result.stopped)
    assert [(event["step"], event["name"]) for event in result.events] == [(0, "engine check")]
    assert result.metrics == []


def test_an_adapter_that_is_left_out_stops_the_run_after_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    without_the_adapter(monkeypatch)
    result = run(tmp_path / "run")
    assert result.stopped.exit_code == EXIT_LEARNED_NOTHING
    assert "the engine does not reproduce the model with the adapter of step 1: " in str(result.stopped)
    assert [(event["step"], event["name"]) for event in result.events] == [(1, "engine check")]


def test_where_asked_generate_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[Any] = []
    without_the_adapter(monkeypatch)
    fall_back = engine_watch.fall_back_to_generate

    def noted(trainer: Any) -> None:
        made.append(trainer)
        fall_back(trainer)

    monkeypatch.setattr(engine_watch, "fall_back_to_generate", noted)
    result = run(tmp_path / "run", "--rollouts.fall_back", "true")
    assert result.stopped is None
    assert [(event["step"], event["name"]) for event in result.events] == [(1, "engine check")]
    assert "going on with transformers' generate" in result.events[0]["text"]
    assert isinstance(made[0].rollouts, ReferenceRollouts)
    assert len(result.metrics) == 3


def test_a_resumed_run_checks_the_adapter_that_was_loaded(tmp_path: Path, checks):
    run(tmp_path / "run", "--grpo.save_steps", "1")
    checks.clear()
    result = run(tmp_path / "run", "--grpo.save_steps", "1", "--grpo.max_steps", "5", resume=True)
    assert result.stopped is None
    assert checks == [(True, engine_watch.PROMPTS)] * 2


def test_it_draws_no_random_number():
    """Else the runs of a seed would be others with and without the engine."""
    from tiny_math_solver.models.load import load_model
    from tiny_math_solver.prompts import Prompt
    from tiny_math_solver.rollouts import EngineRollouts

    loaded = load_model("embedded", dtype="float32")
    rollouts = EngineRollouts(loaded.model.train(), loaded.tokenizer)
    before = torch.get_rng_state()
    assert engine_check.check_against_transformers(rollouts, [Prompt([1, 5, 9, 44], 0)]).passed
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.model.training
