"""Numbers that are missing or not finite are said, and stop the run: a guard that is blind finds nothing wrong."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from helpers.paths import QUICKSTART
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.evaluation.evaluate import Evaluation
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import EngineRollouts, ReferenceRollouts
from tiny_math_solver.runs.resume import ResumeOptions
from tiny_math_solver.support.console import CollectingConsole
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, StoppedError
from tiny_math_solver.train import train
from tiny_math_solver.training.generation import Generation
from tiny_math_solver.training.guards import findings
from tiny_math_solver.training.measures import (
    ALWAYS,
    QUANTITIES,
    expected_quantities,
    not_finite,
    share_without_gradient,
    unmeasured,
)
from tiny_math_solver.training.step_metrics import StepMetrics
from tiny_math_solver.training.trainer import MathGRPOTrainer
from tiny_math_solver.training.watchdog import Watchdog
from tiny_math_solver.update.policy_update import PolicyUpdate

ROW = dict.fromkeys(QUANTITIES, 0.25)
BAD = {"missing": None, "nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", QUANTITIES)
def test_each_quantity_is_missed_and_has_to_be_finite(name: str, value: str):
    row = ROW | {name: BAD[value]}
    assert unmeasured(row, QUANTITIES) == [f"{name} is {value}"]
    assert unmeasured({key: v for key, v in row.items() if v is not None}, ()) == (
        [] if value == "missing" else [f"{name} is {value}"]  # not expected is no excuse for not finite
    )
    assert unmeasured(ROW, QUANTITIES) == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", QUANTITIES)
def test_each_quantity_of_a_step_has_to_be_finite(name: str, value: str):
    """TRL leaves NaN out of the means that it logs: the single values have to be looked at."""
    assert not_finite({name: [0.1, BAD[value]], "other": [0.1]}) == [f"{name} is {value}"]  # type: ignore[list-item]
    assert not_finite({name: [0.1, 0.2], "clip_ratio/low_min": [math.nan]}) == []


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", ALWAYS)
def test_the_guards_stop_a_run_whose_numbers_they_cannot_see(name: str, value: str):
    config = load_config(QUICKSTART)
    good, bad = {**ROW, "step": 7}, {**ROW, "step": 8, name: BAD[value]}
    (found,) = findings([good] * 7 + [bad], config, torch.float32)
    assert (found.name, found.fatal, found.optional) == ("not measured", True, False)
    assert found.text.startswith(f"step 8: {name} is {value}: ")
    assert any(word in found.text for word in ("grpo.learning_rate", "a reward has to be", "constraints.txt"))
    assert all(finding.name != "not measured" for finding in findings([bad] * 7 + [good], config, torch.float32))


# -- What is expected, and when -------------------------------------------------------------------------------------


def trainer_of(**changed: Any) -> Any:
    engine, scorer = EngineRollouts.__new__(EngineRollouts), object()
    update = SimpleNamespace(scorer=scorer, torch_scorer=object())
    generation = SimpleNamespace(grader=Grader())
    parts = {"update": update, "rollouts": engine, "rollout_func": 1, "generation": generation}
    return SimpleNamespace(beta=0.0, loss_type="dapo", **parts, **changed)


GAPS = {"sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max"}
TO_TRANSFORMERS = {f"sampling/transformers_logp_difference/{kind}" for kind in ("mean", "max")}
BASE = {"loss", "grad_norm", "entropy"}


def test_what_a_configuration_always_logs():
    trainer = trainer_of()
    whole = BASE | {*ALWAYS, "clip_ratio/region_mean"} | GAPS | TO_TRANSFORMERS
    assert expected_quantities(trainer, with_batch=True) == whole
    assert expected_quantities(trainer, with_batch=False) == whole - (set(ALWAYS) - BASE)
    trainer.beta = 0.1
    assert expected_quantities(trainer, with_batch=True) == whole | {"kl"}
    trainer.beta, trainer.loss_type = 0.0, "cispo"
    assert expected_quantities(trainer, with_batch=True) == whole - {"clip_ratio/region_mean"}
    trainer.update.torch_scorer = trainer.update.scorer
    assert not TO_TRANSFORMERS & expected_quantities(trainer, with_batch=True)
    trainer.rollouts = ReferenceRollouts.__new__(ReferenceRollouts)
    assert GAPS.isdisjoint(expected_quantities(trainer, with_batch=True))
    trainer.update = None
    assert expected_quantities(trainer, with_batch=True) == BASE | set(ALWAYS)


# -- Runs -----------------------------------------------------------------------------------------------------------

SHORT = [
    "--problems.train", "64", "--problems.test", "4", "--problems.dev", "4", "--evaluation.samples", "0",
    "--evaluation.every", "100", "--grpo.per_device_train_batch_size", "16", "--grpo.gradient_accumulation_steps", "1",
    "--grpo.max_completion_length", "48", "--grpo.max_steps", "4",
    "--update.tokens_per_pass", "512",  # the preflight tries a whole pass
]  # fmt: skip


def run(folder: Path, *overrides: str) -> SimpleNamespace:
    console, stopped = CollectingConsole(), None
    config = load_config(QUICKSTART, [*SHORT, *overrides, "--grpo.output_dir", str(folder)])
    try:
        train(config, console, ResumeOptions(force=True))  # whatever the forecast says
    except StoppedError as error:
        stopped = error
    return SimpleNamespace(
        folder=folder, stopped=stopped, events=rows(folder / "events.jsonl"), metrics=rows(folder / "metrics.jsonl")
    )


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def of_update(name: str, value: float | None, at: int) -> Callable[[pytest.MonkeyPatch], None]:
    """A quantity of the update that comes out as `value`, or not at all, from step `at` on."""

    def sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
        inner, calls = PolicyUpdate.conclude, [0]

        def conclude(self: Any, result: Any) -> None:
            inner(self, result)
            calls[0] += 1
            if calls[0] >= at:
                result.metrics.pop(name, None)
                if value is not None:
                    result.metrics[name] = value

        monkeypatch.setattr(PolicyUpdate, "conclude", conclude)

    return sabotage


def of_rewards(name: str, value: float | None) -> Callable[[pytest.MonkeyPatch], None]:
    def sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
        fair = Grader.rewards
        monkeypatch.setattr(Grader, "rewards", lambda self, rows: [each | {name: value} for each in fair(self, rows)])

    return sabotage


def of_rollouts(value: float | None) -> Callable[[pytest.MonkeyPatch], None]:
    """A log-probability of one completion of training."""

    def sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
        inner = EngineRollouts.generate

        def generate(self: Any, prompts: Any, samples: int, sampling: Any, **kwargs: Any) -> Any:
            made = inner(self, prompts, samples, sampling, **kwargs)
            if not sampling.greedy and sampling.seed > 0:
                logprobs = None if value is None else [value, *(made[3].logprobs or [])[1:]]
                made[3] = replace(made[3], logprobs=logprobs)
            return made

        monkeypatch.setattr(EngineRollouts, "generate", generate)

    return sabotage


def of_log(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A quantity that is not logged though it was there."""

    def sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
        inner = StepMetrics.take

        def take(self: Any, step: int) -> dict[str, float]:
            forget[0]._metrics["train"].pop(name, None)
            return inner(self, step)

        forget: list[Any] = []
        init = MathGRPOTrainer.__init__

        def made(self: Any, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            forget.append(self)

        monkeypatch.setattr(MathGRPOTrainer, "__init__", made)
        monkeypatch.setattr(StepMetrics, "take", take)

    return sabotage


GAP, TO_MODEL = (f"sampling/{pair}_logp_difference/mean" for pair in ("sampling", "transformers"))
SABOTAGE = (
    (of_update("entropy", math.nan, 2), 2, "entropy is nan", True),
    (of_update("entropy", math.inf, 2), 2, "entropy is inf", True),
    (of_update(GAP, math.nan, 2), 2, f"{GAP} is nan", True),
    (of_update(GAP, None, 2), 2, f"{GAP} is missing", False),
    (of_update(TO_MODEL, None, 1), 1, f"{TO_MODEL} is missing", False),
    (of_rewards("correctness_reward", math.nan), 1, "reward of correctness_reward is nan (problem ", True),
    (of_rewards("format_reward", math.inf), 1, "reward of format_reward is inf (problem ", True),
    (of_rewards("format_reward", None), 1, "reward of format_reward is missing (problem ", True),
    (of_rollouts(math.nan), 1, "a log-probability of the rollouts is nan (problem ", True),
    (of_rollouts(-math.inf), 1, "a log-probability of the rollouts is -inf (problem ", True),
    (of_rollouts(None), 1, "log-probabilities of the rollouts are missing", True),
    (of_log("reward"), 1, "reward is missing", False),
    (of_log("entropy"), 1, "entropy is missing", False),
)  # fmt: skip


@pytest.mark.parametrize(("sabotage", "step", "text", "is_dropped"), SABOTAGE, ids=[case[2][:40] for case in SABOTAGE])
def test_a_run_stops_where_a_number_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sabotage: Any, step: int, text: str, is_dropped: bool
):
    """The message, the exit code and the records are those of a loss that is not finite."""
    sabotage(monkeypatch)
    result = run(tmp_path / "run", "--guards.stop", "false")  # which is for opinions, not for this
    assert result.stopped is not None
    assert result.stopped.exit_code == EXIT_LEARNED_NOTHING
    assert f"stopped by a guard: step {step}: " in str(result.stopped)
    assert text in str(result.stopped)
    assert str(tmp_path / "run") in str(result.stopped)
    assert [event["step"] for event in result.events] == [step]
    assert text in result.events[0]["text"]
    assert result.events[0]["name"] == ("not finite" if is_dropped else "not measured")
    assert len(result.metrics) == step
    assert not (tmp_path / "run" / "summary.json").exists()
    if is_dropped and step == 1:  # nothing was learned of it
        last = adapter(tmp_path / "run" / "checkpoint-1")
        assert not any(weight.any() for name, weight in last.items() if "lora_B" in name)


@pytest.mark.parametrize(
    ("problems", "scores", "text", "step"),
    [
        (4, {"strict_accuracy": math.nan}, "step 0: evaluation on test, before: strict_accuracy is nan", 0),
        (5, {"accuracy": None}, "step 0: evaluation on dev: accuracy is missing", 0),
        (5, {"mean_tokens": math.inf}, "step 0: evaluation on dev: mean_tokens is inf", 0),
        (5, {"n": 0}, "step 0: evaluation on dev: no problem was evaluated", 0),
    ],
)
def test_scores_have_to_be_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problems: int, scores: dict[str, Any], text: str, step: int
):
    """The evaluations of 4 test and 5 dev problems are told apart by their numbers."""
    fair = Evaluation.summary

    def summary(self: Evaluation) -> dict[str, Any]:
        return fair(self) | (scores if len(self.greedy) == problems else {})

    monkeypatch.setattr(Evaluation, "summary", summary)
    result = run(tmp_path / "run", "--problems.dev", "5")
    assert result.stopped.exit_code == EXIT_LEARNED_NOTHING
    assert f"stopped by a guard: {text}" in str(result.stopped)
    assert [(event["step"], event["name"]) for event in result.events] == [(step, "not measured")]
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ["--grpo.beta", "0.05"],
        ["--grpo.logging_steps", "2"],
        ["--grpo.num_iterations", "2"],
        ["--grpo.steps_per_generation", "2", "--grpo.per_device_train_batch_size", "8"],
        ["--grpo.loss_type", "cispo"],
        ["--grpo.max_grad_norm", "0"],
        ["--grpo.mask_truncated_completions", "true", "--grpo.max_completion_length", "8"],
        ["--rollouts.engine", "false", "--grpo.max_completion_length", "16"],
        ["--update.own_passes", "false"],
        ["--rollouts.native", "false"],
        ["--grpo.temperature", "0.01"],  # groups of equal samples: steps without a gradient
        ["--grpo.temperature", "0.01", "--rollouts.engine", "false", "--grpo.max_completion_length", "16"],
    ],
    ids=" ".join,
)
def test_what_is_rightly_absent_stops_nothing(tmp_path: Path, overrides: list[str]):
    result = run(tmp_path / "run", *overrides)
    assert result.stopped is None
    assert not {"not measured", "not finite"} & {event["name"] for event in result.events}
    assert len(result.metrics) == (2 if "--grpo.logging_steps" in overrides else 4)


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["--grpo.logging_steps", "3"], [3]),
        (["--grpo.logging_steps", "100"], []),
        (["--grpo.logging_steps", "0.7"], [3]),
        (["--grpo.logging_steps", "3", "--grpo.logging_first_step", "true"], [1, 3]),
        (
            ["--grpo.logging_steps", "3", "--grpo.num_iterations", "4"],
            [3],
        ),  # the last step has no completions of its own
        (["--grpo.logging_steps", "3", "--grpo.beta", "0.05", "--update.own_passes", "false"], [3]),
        (["--grpo.logging_steps", "3", "--grpo.temperature", "0.01"], [3]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_a_run_may_end_between_two_lines(tmp_path: Path, overrides: list[str], lines: list[int]):
    """Catches a watchdog that asks for a loss where the Trainer logs TRL's means of the last steps alone."""
    result = run(tmp_path / "run", *overrides)
    assert result.stopped is None
    assert not {"not measured", "not finite"} & {event["name"] for event in result.events}
    assert [row["step"] for row in result.metrics] == lines


@pytest.mark.parametrize("name", ["reward", "entropy", "completions/mean_length", GAP])
def test_the_last_steps_are_watched_though_no_line_of_theirs_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    of_log(name)(monkeypatch)
    result = run(tmp_path / "run", "--grpo.logging_steps", "100")
    assert result.stopped is not None
    assert f"stopped by a guard: step 4: {name} is missing: " in str(result.stopped)
    assert [(event["step"], event["name"]) for event in result.events] == [(4, "not measured")]


def test_a_dropped_step_is_known_after_a_resumption():
    """Catches a line that stops the resumed run for the numbers of a step that was dropped before."""
    metrics, watchdog = StepMetrics(), Watchdog(cast(Any, SimpleNamespace()), *[cast(Any, None)] * 4)
    metrics.batches, metrics.excused = 2, {GAP: "no token of the step has a gradient"}
    watchdog.dropped_steps = 1
    watchdog._has_dropped = True
    saved = json.loads(json.dumps([metrics.state_dict(), watchdog.state_dict()]))
    resumed, again = StepMetrics(), Watchdog(cast(Any, SimpleNamespace()), *[cast(Any, None)] * 4)
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    assert resumed.take_measured() == (2, {GAP: "no token of the step has a gradient"})
    assert (again.dropped_steps, again._has_dropped) == (1, True)


def test_a_step_of_several_batches_is_dropped_for_any_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begin, batches = Generation.begin, [0]

    def flawed(self: Generation, rows: Any) -> None:
        begin(self, rows)
        batches[0] += 1
        if batches[0] == 3:  # the first of step 2
            self.flaws.append("reward of a function is nan")

    monkeypatch.setattr(Generation, "begin", flawed)
    two = ["--grpo.gradient_accumulation_steps", "2", "--grpo.steps_per_generation", "1"]
    result = run(tmp_path / "run", *two, "--grpo.per_device_train_batch_size", "8")
    assert "step 2: reward of a function is nan" in str(result.stopped)
    assert batches[0] == 4


def test_groups_without_a_gradient_are_counted_by_their_rewards():
    """Rows at the mean of a group that differs are no such group, nor is it one that rounding makes differ."""
    advantages = torch.tensor([0.0, 0.0, 1.2, -1.2, 3e-8, -3e-8, 0.0, 0.0])
    assert share_without_gradient(advantages, torch.tensor([0, 0, 0, 0, 7, 7, 7, 2])) == 0.5


def test_advantages_over_the_batchs_deviation_leave_the_count_as_it_is(tmp_path: Path):
    """TRL's own count is then 0 or 1, and the guards that go by it would be blind."""
    batch = ["--grpo.per_device_train_batch_size", "64", "--grpo.num_generations", "4", "--grpo.scale_rewards", "batch"]
    done, shares = run(tmp_path / "run", *batch), []
    completions = rows(done.folder / "rollouts.jsonl")
    for row in done.metrics:
        groups: dict[str, set[float]] = {}
        for completion in completions:
            if completion["step"] == row["step"]:
                groups.setdefault(completion["id"], set()).add(sum(completion["rewards"].values()))
        shares.append(sum(len(rewards) == 1 for rewards in groups.values()) / len(groups))
        assert row["frac_reward_zero_std"] == pytest.approx(shares[-1])
    assert any(0 < share < 1 for share in shares)
