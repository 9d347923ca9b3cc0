"""A collapse is found within two steps and dated; dips, noise and what a healthy run learns are left alone."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from helpers.paths import RECORDED_RUNS
from tiny_math_solver.config.rewards import DEFAULT
from tiny_math_solver.runs.records import MetricsRow
from tiny_math_solver.training.collapse import Batch, find_collapse

LARGE, SMALL = Batch(512, 8), Batch(64, 4)


def metrics(
    right: Sequence[float], form: Sequence[float], tokens: Sequence[float], entropy: Sequence[float] | float = 0.2
) -> list[MetricsRow]:
    """Rows of metrics; `right` and `form` are percentages."""
    entropies = [entropy] * len(right) if isinstance(entropy, float) else entropy
    return [
        {
            "step": step, "reward": (r + f / 2) / 100, "rewards/correctness_reward/mean": r / 100,
            "rewards/format_reward/mean": f / 200, "completions/mean_length": t, "entropy": e,
        }
        for step, (r, f, t, e) in enumerate(zip(right, form, tokens, entropies, strict=True), 1)
    ]  # fmt: skip


def first(rows: list[MetricsRow], batch: Batch) -> tuple[int, int] | None:
    """`(step at which a collapse is first found, last clean step)`; None if none is found."""
    for end in range(1, len(rows) + 1):
        if collapse := find_collapse(rows[:end], batch):
            return rows[end - 1]["step"], collapse.clean
    return None


FORMAT_ALONE = metrics(
    [28, 23, 26, 30, 24, 22, 10, 1, 2],
    [1, 0, 1, 2, 2, 14, 58, 95, 99],
    [266, 281, 270, 262, 275, 251, 131, 9, 6],
)
FEW_COMPLETIONS = metrics(
    [11, 25, 14, 23, 17, 5, 2, 0, 2],
    [0, 2, 0, 5, 22, 73, 95, 98, 100],
    [259, 241, 248, 233, 205, 61, 6, 5, 7],
)
DIP = metrics(
    [27, 24, 26, 25, 28, 23, 22, 20, 16, 23, 21, 22, 24, 27, 28, 29],
    [2, 4, 9, 15, 28, 36, 42, 55, 71, 80, 84, 86, 88, 87, 90, 91],
    [268, 270, 261, 242, 239, 250, 228, 206, 205, 194, 210, 219, 240, 243, 246, 244],
)


@pytest.mark.parametrize(
    ("rows", "batch", "by", "clean"),
    [(FORMAT_ALONE, LARGE, 7, 5), (FEW_COMPLETIONS, SMALL, 7, 4)],
    ids=["512 completions", "64 completions"],
)
def test_the_format_learned_alone_is_found_within_two_steps(rows: list[MetricsRow], batch: Batch, by: int, clean: int):
    """Steps 6 and 5 are the first in which the format has set out: what comes before is clean."""
    found = first(rows, batch)
    assert found is not None
    assert found[0] <= by
    assert found[1] == clean


def test_a_dip_while_the_format_is_learned_is_none():
    """Two thirds of the right answers are left, and three quarters of the length: both come back by themselves."""
    assert first(DIP, LARGE) is None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (metrics([40] * 6 + [3, 1], [90] * 6 + [12, 0], [50] * 6 + [110, 112]), 7),  # nothing is earned any more
        (metrics([1] * 6 + [2, 1, 1], [90] * 6 + [20, 2, 0], [50] * 9), 7),  # of a model that is hardly ever right
        (metrics([30] * 6 + [8, 2], [0] * 8, [200] * 6 + [20, 9]), 7),  # length, where no format is learned
        (metrics([2] * 8, [0] * 8, [60] * 8, [0.3] * 6 + [2.0, 4.0]), 8),  # entropy, with nothing to lose
        (metrics([40] * 8, [90] * 8, [50] * 6 + [24, 20]), None),  # shorter and as right
        (metrics([40] * 6 + [42, 41], [20] * 6 + [90, 95], [50] * 8), None),  # the format learned for nothing
        (metrics([30] * 6 + [31, 45], [50] * 8, [60] * 8, [0.2] * 6 + [0.7, 0.8]), None),  # bolder and better
        (metrics([40] * 6 + [25, 24], [50] * 6 + [90, 95], [50] * 6 + [20, 18]), None),  # lost, but not half of it
        (metrics([2] * 6 + [0, 0], [0] * 6 + [60, 95], [200] * 6 + [9, 5]), None),  # too few to tell
        (metrics([40], [50], [60]), None),
    ],
    ids=["reward", "reward of few right", "length", "entropy", "short", "format", "entropy of the better", "a third",
         "few right", "one step"],
)  # fmt: skip
def test_what_is_a_collapse_and_what_is_not(rows: list[MetricsRow], expected: int | None):
    found = first(rows, LARGE)
    assert (found and found[0]) == expected
    if found:
        assert found[1] == 6


def test_a_fall_that_noise_explains_is_none_at_16_completions():
    """Two of 16 after four of 16 is nothing; with 512 the same shares are a collapse."""
    rows = metrics([25] * 8 + [12], [10] * 8 + [40], [100] * 9)
    assert first(rows, Batch(16, 4)) is None
    assert first(rows, LARGE) == (9, 8)


def test_damage_does_not_date_from_before_the_last_rescue():
    """The first step after it is damaged again: what was gone back to is no cleaner than the steps that were undone."""
    rows = [row for row in FORMAT_ALONE if row["step"] <= 4]
    again = metrics([1, 2], [95, 98], [7, 6])
    rows += [{**row, "step": row["step"] + 8} for row in again]
    found = find_collapse(rows, LARGE, undone=8)
    assert found is not None
    assert found.clean == 8


def test_missing_numbers_find_nothing_and_hide_nothing():
    rows = [{**row, "entropy": None, "completions/mean_length": None} for row in FORMAT_ALONE]
    assert first(rows, LARGE) == (7, 5)
    assert first([{"step": row["step"], "reward": row["reward"]} for row in FORMAT_ALONE], LARGE) is None


# -- Noise ------------------------------------------------------------------------------------------------------


def healthy(rng: random.Random, batch: Batch, steps: int) -> list[MetricsRow]:
    """A run that learns the format at a random speed, its length following, while answers stay as right or improve.

    Each problem has a rate of its own, as real ones have: that makes the noise of a step larger than of a coin.
    """
    before, gain = rng.choice([0.03, 0.1, 0.25, 0.5, 0.8]), rng.choice([0, 0, 0.3])
    form, mid, width = rng.choice([0.0, 0.3]), rng.uniform(2, 40), rng.choice([0.5, 2, 6])
    shorter = rng.choice([1, 0.7, 0.4])

    def share(rate: float) -> float:
        rates = [
            rng.betavariate(2 * rate + 1e-9, 2 * (1 - rate) + 1e-9) for _ in range(batch.completions // batch.samples)
        ]
        return 100 * sum(rng.random() < r for r in rates for _ in range(batch.samples)) / batch.completions

    learned = [1 / (1 + 2.718 ** ((mid - step) / width)) for step in range(steps)]
    return metrics(
        [share(min(0.95, before + gain * step / steps)) for step in range(steps)],
        [share(form + (0.95 - form) * part) for part in learned],
        [200 * (1 + (shorter - 1) * part) * rng.uniform(0.9, 1.1) for part in learned],
        [0.2 * rng.uniform(0.8, 1.2) for _ in range(steps)],
    )


def false_alarms(runs: int, batch: Batch, steps: int) -> int:
    rng = random.Random(batch.completions)
    return sum(first(healthy(rng, batch, steps), batch) is not None for _ in range(runs))


@pytest.mark.parametrize("completions", [16, 64])
def test_noisy_healthy_runs_are_left_alone(completions: int):
    assert false_alarms(25, Batch(completions, 4), 50) == 0


@pytest.mark.slow
@pytest.mark.parametrize("batch", [Batch(16, 4), Batch(16, 8), Batch(64, 4), Batch(128, 8), Batch(512, 8)])
def test_fewer_than_one_healthy_run_of_100_steps_in_a_hundred_is_taken_for_a_collapse(batch: Batch):
    runs = 1000 if batch.completions < 512 else 300
    assert false_alarms(runs, batch, 100) < runs / 100


# -- Recorded runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "batch", "by"),
    [
        ("real", LARGE, 7),
        ("cpu-collapse", SMALL, 7),
        ("real2", Batch(512, 8, replace(DEFAULT, weights=(1.0, 0.1))), None),
    ],
)
def test_recorded_runs_of_a_real_model(name: str, batch: Batch, by: int | None):
    """The first two learned the format alone; the third dipped while it learned the format, and recovered."""
    path = RECORDED_RUNS / f"{name}-metrics.jsonl"
    if not path.is_file():
        pytest.skip("the recorded runs are not here")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = first([row for row in rows if "reward" in row], batch)
    if by is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] <= by
        assert found[1] in (4, 5)  # the damage dates from step 5 or 6
