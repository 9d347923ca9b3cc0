"""A rescue goes back to the right state, changes one thing, and leaves the rest of the run as it was going."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from helpers.paths import QUICKSTART
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.schema import Config
from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.state_files import load_tree, save_tree
from tiny_math_solver.support.console import CollectingConsole
from tiny_math_solver.training.checkpointing import _load_optimizer
from tiny_math_solver.training.collapse import Collapse
from tiny_math_solver.training.rescue import COPIES, EVERY, Rescue
from tiny_math_solver.training.step_metrics import StepMetrics

STEPS = 40
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {}, "constant_with_warmup": {}, "linear": {}, "cosine": {}, "inverse_sqrt": {}, "polynomial": {},
    "cosine_with_min_lr": {"scheduler_specific_kwargs": {"min_lr": 1e-5}},
}  # fmt: skip


class Run:
    """A trainer of four weights, as far as a rescue deals with it."""

    def __init__(self, *overrides: str, schedule: str = "constant"):
        torch.manual_seed(0)
        self.config = load_config(QUICKSTART, list(overrides))
        model = torch.nn.Linear(2, 2, bias=False)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.config.grpo["learning_rate"])
        warm_up = 20 if schedule != "constant" else 0
        trainer: Any = SimpleNamespace(
            model=model,
            optimizer=optimizer,
            state=SimpleNamespace(max_steps=STEPS, global_step=0),
            lr_scheduler=get_scheduler(schedule, optimizer, warm_up, STEPS, **SCHEDULES[schedule]),
            reward_weights=torch.tensor(self.config.reward_names.weights),
            step_metrics=StepMetrics(),
            buffer=SimpleNamespace(drop=self.drop),
        )
        self.trainer = trainer
        self.console, self.dropped = CollectingConsole(), 0
        self.rescue = Rescue(trainer, self.config, EventLog(RunFolder(Path("nowhere")), self.console))

    def drop(self) -> None:
        self.dropped += 1

    @property
    def weights(self) -> torch.Tensor:
        return self.trainer.model.weight.detach().clone()

    @property
    def rate(self) -> float:
        return self.trainer.optimizer.param_groups[0]["lr"]

    def step(self, count: int = 1) -> list[float]:
        """Take steps; returns the learning rate of each."""
        trainer, rates = self.trainer, []
        for _ in range(count):
            self.rescue.on_step_begin(None, trainer.state, None)
            rates.append(self.rate)
            trainer.model.weight.grad = torch.full((2, 2), float(trainer.state.global_step % 3 + 1))
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
            trainer.state.global_step += 1
        return rates

    def collapse(self, clean: int) -> bool:
        return self.rescue.undo(self.trainer.state.global_step, Collapse("right 30% → 2%", clean, 9.0))


def states(run: Run) -> list[tuple[int, int]]:
    return [(state.taken, state.step) for state in run.rescue.states]


def test_the_state_before_the_last_clean_step_is_gone_back_to():
    """The completions of step 5 are clean, and were sampled from the state after step 4; that after step 3 is kept."""
    run = Run()
    run.step(3)
    weights, moments = run.weights, copy.deepcopy(run.trainer.optimizer.state_dict()["state"])
    run.step(4)
    assert states(run) == [(0, 0), (3, 3), (6, 6)]
    assert run.collapse(clean=5)
    assert torch.equal(run.weights, weights)
    for name, moment in run.trainer.optimizer.state_dict()["state"][0].items():
        assert torch.equal(moment, moments[0][name]), name
    assert run.dropped == 1
    assert run.rescue.rows == [
        {
            "step": 7, "text": run.rescue.rows[0]["text"], "undone": [4, 7], "back_to": 3,
            "changed": {
                "grpo.reward_weights": [1.0, 0.35], "grpo.scale_rewards": "batch", "grpo.learning_rate": 5e-4,
            },
        }
    ]  # fmt: skip
    (line,) = run.console.lines
    assert line == (
        "step 7: rescue: right 30% → 2%; the damage dates from step 6: back to the state after step 3, steps 4 to 7 "
        "are undone; from here on grpo.reward_weights [1.0, 0.35], grpo.scale_rewards batch, grpo.learning_rate 0.0005"
    )
    assert states(run) == [(0, 0), (3, 7)]  # what was gone back to is the policy after step 7


def test_a_state_that_was_gone_back_to_stays_as_it_is():
    """Catches an optimizer that goes on in the very tensors that are kept."""
    run = Run()
    run.step(7)
    weights = run.rescue.states[1].weights[0].clone()
    assert run.collapse(clean=5)
    run.step(2)
    assert not torch.equal(run.weights, weights)
    assert run.collapse(clean=8)  # step 8 was clean, and is of the state that was gone back to
    assert torch.equal(run.weights, weights)
    assert run.rescue.rows[1]["undone"] == [8, 9]
    assert run.rescue.rows[1]["back_to"] == 3


def test_where_the_state_gone_back_to_was_damaged_an_older_one_is_taken():
    run = Run()
    run.step(7)
    start = run.rescue.states[0].weights[0].clone()
    run.collapse(clean=5)
    run.step(1)
    run.collapse(clean=7)  # the first step since is damaged
    assert torch.equal(run.weights, start)
    assert run.rescue.rows[1]["undone"] == [1, 8]
    assert "back to the start, steps 1 to 8 are undone" in run.console.lines[1]


def test_without_a_clean_state_the_oldest_is_taken():
    run = Run()
    run.step(4 * EVERY + 2)
    assert len(run.rescue.states) == COPIES
    oldest = run.rescue.states[0]
    assert run.collapse(clean=1)
    assert torch.equal(run.weights, oldest.weights[0])
    assert run.rescue.rows[0]["back_to"] == oldest.taken == 2 * EVERY


def test_each_rescue_takes_more_care():
    run = Run("--grpo.learning_rate", "1e-3", "--guards.rescues", "4")
    changes = []
    for _ in range(4):
        run.step(3)
        assert run.collapse(clean=0)
        changes.append(run.rescue.rows[-1]["changed"])
    assert changes == [
        {"grpo.reward_weights": [1.0, 0.35], "grpo.scale_rewards": "batch", "grpo.learning_rate": 5e-4},
        {"grpo.reward_weights": [1.0, 0.1225], "grpo.learning_rate": 2.5e-4},
        {"grpo.reward_weights": [1.0, 0.042875], "grpo.learning_rate": 1.25e-4},
        {"grpo.reward_weights": [1.0, 0.01500625], "grpo.learning_rate": 6.25e-5},
    ]
    assert run.trainer.reward_weights.tolist() == pytest.approx([1.0, 0.01500625])
    assert run.trainer.scale_rewards == "batch"
    assert run.rate == pytest.approx(6.25e-5)
    run.step(3)
    assert run.rescue.is_used_up
    assert run.rescue.states == []  # they are of no more use
    assert not run.collapse(clean=0)
    assert run.trainer.step_metrics.take(13)["rescues"] == run.trainer.step_metrics.take(14)["rescues"] == 4


def test_weights_as_configured_are_scaled():
    run = Run("--grpo.reward_weights", "[2.0, 0.5]")
    run.step(3)
    assert run.collapse(clean=0)
    assert run.rescue.rows[0]["changed"]["grpo.reward_weights"] == [2.0, 0.175]


@pytest.mark.parametrize(
    "overrides",
    [
        ["--grpo.scale_rewards", "none"],
        ["--grpo.scale_rewards", "batch"],
        ["--grpo.multi_objective_aggregation", "normalize_then_sum"],
    ],
)
def test_advantages_that_heed_the_weights_are_scaled_as_configured(overrides: list[str]):
    run = Run(*overrides)
    for _ in range(3):
        run.step(3)
        assert run.collapse(clean=0)
        assert "grpo.scale_rewards" not in run.rescue.rows[-1]["changed"]
    assert run.trainer.scale_rewards == run.config.grpo_config.scale_rewards


@pytest.mark.parametrize(
    ("overrides", "allowed"),
    [
        ([], 3),
        (["--grpo.reward_weights", "[1.0, 0.0]"], 0),
        (["--grpo.reward_weights", "[1.0, 0.0]", "--guards.rescue", "true", "--guards.rescues", "2"], 2),
        (["--guards.rescue", "false"], 0),
    ],
)
def test_rescue_is_on_where_the_format_is_rewarded(overrides: list[str], allowed: int):
    run = Run(*overrides)
    assert run.rescue.left == run.config.allowed_rescues == allowed
    run.step(3)
    assert len(run.rescue.states) == min(allowed, 1)
    assert run.collapse(clean=0) == (allowed > 0)
    if allowed == 2:  # nothing to change but the learning rate
        assert run.rescue.rows[0]["changed"] == {"grpo.learning_rate": 5e-4}
        assert run.trainer.reward_weights.tolist() == [1.0, 0.0]


def test_no_rescue_after_the_last_step():
    run = Run()
    run.step(STEPS)
    assert not run.collapse(clean=38)
    assert run.rescue.rows == []


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_goes_on_at_half(schedule: str, tmp_path: Path):
    """In warm-up and after it, at once and after a resume, which makes optimizer and schedule anew."""
    straight = Run(schedule=schedule).step(STEPS)
    run = Run(schedule=schedule)
    rates = run.step(6)
    run.collapse(clean=5)
    rates += run.step(6)
    assert rates == pytest.approx([*straight[:6], *(rate / 2 for rate in straight[6:12])])
    run.collapse(clean=11)
    rates += run.step(5)

    save_tree(tmp_path / "state", {
        "rescue": run.rescue.state_dict(), "optimizer": run.trainer.optimizer.state_dict(),
        "scheduler": run.trainer.lr_scheduler.state_dict(),
    })  # fmt: skip
    saved, resumed = load_tree(tmp_path / "state"), Run(schedule=schedule)
    resumed.rescue.load_state_dict(saved["rescue"])
    resumed.rescue.restore_rates()
    _load_optimizer(resumed.trainer.optimizer, resumed.trainer.lr_scheduler, saved["optimizer"], saved["scheduler"])
    resumed.trainer.model.load_state_dict(run.trainer.model.state_dict())
    resumed.trainer.state.global_step = 17
    assert resumed.trainer.reward_weights.tolist() == run.trainer.reward_weights.tolist()
    assert resumed.trainer.scale_rewards == run.trainer.scale_rewards
    assert resumed.rescue.config == run.rescue.config
    assert states(resumed) == states(run)

    rates += run.step(STEPS - 17)
    assert rates[12:] == pytest.approx([rate / 4 for rate in straight[12:]])
    assert resumed.step(STEPS - 17) == rates[17:]
    assert torch.equal(resumed.weights, run.weights)
    run.trainer.state.global_step = resumed.trainer.state.global_step = STEPS - 1
    assert run.collapse(clean=38)
    assert resumed.collapse(clean=38)
    assert torch.equal(resumed.weights, run.weights)


def test_undone_steps_are_forgotten_and_rewards_are_of_the_present_weights():
    """A reward that fell because its weight did is no collapse."""
    run = Run()
    rows = [
        {"step": step, "reward": 0.7, "rewards/correctness_reward/mean": 0.4, "rewards/format_reward/mean": 0.3}
        for step in range(1, 8)
    ]
    assert run.rescue.kept(rows) == rows
    run.step(7)
    run.collapse(clean=5)
    after = [*rows, {**rows[0], "step": 8, "reward": 0.505}, {"step": 9, "reward": 0.3}]
    kept = run.rescue.kept(after)
    assert [row["step"] for row in kept] == [1, 2, 3, 8, 9]
    assert [row["reward"] for row in kept] == pytest.approx([0.505, 0.505, 0.505, 0.505, 0.3])
    assert run.rescue.kept(kept) == kept
    assert [row["reward"] for row in rows] == [0.7] * 7


def test_the_configuration_in_force_is_what_later_findings_speak_of():
    run = Run("--grpo.learning_rate", "1e-3")
    run.step(3)
    run.collapse(clean=0)
    run.step(3)
    run.collapse(clean=0)
    config: Config = run.rescue.config
    assert config.reward_names.weights == (1.0, 0.1225)
    assert config.grpo_config.learning_rate == 2.5e-4
    assert run.config.grpo["learning_rate"] == 1e-3
