"""The time a run will take, from speeds that are given."""

import pytest

from helpers.paths import QUICKSTART
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.preflight.pace import Course, Duration, Pace
from tiny_math_solver.rollouts.speed import DecodeSpeed
from tiny_math_solver.training.plan import prepare

PACE = Pace(DecodeSpeed(0.0, 1e-4, 4096), update=1000.0, prompt=10, completion=20.0)


def duration(*overrides: str, dead: float = 0.5) -> Duration:
    course = Course.unchanged(PACE.completion, dead)
    found = PACE.run(prepare(load_config(QUICKSTART, list(overrides))).plan, course)
    assert found is not None
    return found


def test_the_update_takes_the_rows_that_have_a_gradient_and_are_learned_from():
    whole = duration(dead=0.0)
    assert duration().update == pytest.approx(whole.update / 2)
    assert duration("--update.share", "0.5").update == pytest.approx(whole.update / 4)
    assert duration().rollouts == whole.rollouts


def test_a_batch_that_is_learned_from_twice_is_sampled_once():
    """24 steps are 24 updates in any case, with completions of 12 batches."""
    once, twice = duration(), duration("--grpo.num_iterations", "2")
    assert twice.update == pytest.approx(once.update)
    assert twice.rollouts == pytest.approx(once.rollouts / 2)
    large = duration("--grpo.steps_per_generation", "4")  # a batch for two steps of two micro-batches
    assert large.rollouts == pytest.approx(once.rollouts)


def test_each_round_asks_as_many_problems_as_groups_are_dead():
    """Half of them, then half of those; an eighth of the places stay dead."""
    whole, replaced = duration(dead=0.0), duration("--rollouts.replace_dead", "2")
    assert replaced.rollouts == pytest.approx(whole.rollouts * 1.75)
    assert replaced.update == pytest.approx(whole.update * 7 / 8)
