"""The measurements: equal work on both sides, and figures that follow from the times."""

from typing import Any

import pytest

from helpers.paths import QUICKSTART
from tiny_math_solver.bench import rollouts, steps
from tiny_math_solver.bench.rollouts import Case
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.training.trainer import MathGRPOTrainer


def test_a_rollout_case_is_measured_on_both_sides():
    """`measure` itself asserts that every side made completions of the full length."""
    measured = rollouts.measure(Case("embedded", 8, 4, 6, rounds=1))
    times, faster = measured["ms_per_step"], measured["times_faster_than"]
    assert set(times) == {"engine", "generate"}
    assert faster == {"generate": pytest.approx(times["generate"] / times["engine"])}
    assert measured["tokens_per_second"]["engine"] == pytest.approx(8e3 / times["engine"])
    assert measured["weight_bytes"] == 4 * 919_680
    ceilings = {"read_bytes": 1e9, "float32_flops": 1e12}  # 3.68 ms to read the weights, 0.015 to multiply
    assert rollouts.share_of_floor(measured, ceilings) == pytest.approx(3.67872 / times["engine"])


def test_the_sides_of_a_step_train_on_equally_many_completions():
    config = load_config(QUICKSTART)
    for side in steps.sides(config.completions_per_step).values():
        other = load_config(QUICKSTART, list(side.overrides))
        assert other.completions_per_step == config.completions_per_step == 128


def test_the_other_side_is_trl_itself():
    short = ["--grpo.num_generations", "2", "--grpo.max_completion_length", "8", "--problems.train", "20"]
    small = ["--grpo.per_device_train_batch_size", "4", "--grpo.gradient_accumulation_steps", "1", *short]
    made: list[Any] = []

    class Spy(steps.TrainerCallback):
        trainer = None

        def on_train_begin(self, *args, **kwargs):
            made.append(self.trainer)

    for stock in (True, False):
        times = steps._train(steps.Side("side", stock), QUICKSTART, small, 2, None, Spy())
        assert len(times) == 2
        assert min(times) > 0
    assert type(made[0]) is steps.GRPOTrainer
    assert type(made[1]) is MathGRPOTrainer
