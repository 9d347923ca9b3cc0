"""The verdict over seeds: formulas against closed forms, and the coverage of the interval by simulation."""

import math

import numpy as np
import pytest
from scipy.stats import t as student

from tiny_math_solver.evaluation.over_seeds import SeedResult, crossed_interval, seeds_lines, verdict_over


def result(seed: int, before: str, after: str, earned: bool = True) -> SeedResult:
    """A result from answers as `+` right, `-` wrong."""
    right = [[mark == "+" for mark in answers] for answers in (before, after)]
    return SeedResult(seed, [f"p{i}" for i in range(len(before))], right[0], right[1], earned, 1.0)


# -- The interval -----------------------------------------------------------------------------------------------


def t_interval(values: list[float]) -> tuple[float, float]:
    mean, half = np.mean(values), student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(mean - half), float(mean + half)


def test_seeds_that_answer_alike_leave_the_interval_over_problems():
    """Catches S · P answers counted as independent: more copies of a seed would narrow the interval."""
    gains = [1.0, 0.0, 1.0, -1.0, 0.0, 1.0, 0.0, 0.0]
    once, copied = crossed_interval(np.array([gains])), crossed_interval(np.array([gains] * 7))
    assert once == pytest.approx(t_interval(gains))
    assert copied == pytest.approx(t_interval(gains))


def test_problems_that_fare_alike_leave_the_interval_over_seeds():
    """Catches an interval over problems alone: here all of the chance is in the seed."""
    gains = np.array([[0.3] * 50, [0.1] * 50, [0.2] * 50, [0.25] * 50])
    assert crossed_interval(gains) == pytest.approx(t_interval([0.3, 0.1, 0.2, 0.25]))


def test_the_components_are_those_of_the_crossed_analysis_of_variance():
    gains = np.array([[1, 0, 1, 0, 1], [1, 0, 0, -1, 1], [0, 0, 1, -1, 0.0]])
    seeds, problems = gains.shape
    mean = gains.sum() / 15
    rows = [sum(row) / problems for row in gains]
    columns = [sum(column) / seeds for column in gains.T]
    a = problems * sum((row - mean) ** 2 for row in rows) / 2
    b = seeds * sum((column - mean) ** 2 for column in columns) / 4
    e = sum((gains[s, p] - rows[s] - columns[p] + mean) ** 2 for s in range(seeds) for p in range(problems)) / 8
    variance = a + b - e
    assert min(a, b) > e  # no component has to be cut off
    freedom = variance**2 / (a**2 / 2 + b**2 / 4 + e**2 / 8)
    half = student.ppf(0.975, freedom) * math.sqrt(variance / 15)
    assert crossed_interval(gains) == pytest.approx((mean - half, min(1.0, mean + half)))


def test_an_interval_ends_where_gains_end():
    assert crossed_interval(np.array([[1.0] * 9 + [0.0], [0.0] * 10])) [1] == 1.0  # fmt: skip
    assert crossed_interval(np.array([[1.0], [1.0]])) == (-1.0, 1.0)  # one problem tells nothing


def test_answers_that_all_stayed_as_they_were_do_not_prove_a_gain_of_exactly_zero():
    """Catches an interval of no width: of 100 problems that all stayed, 3.7 in 100 others may not."""
    assert crossed_interval(np.zeros((3, 100))) == pytest.approx((-0.037, 0.037), abs=2e-4)
    assert crossed_interval(np.zeros((1, 4))) == pytest.approx((-0.4899, 0.4899), abs=1e-4)
    assert crossed_interval(np.ones((2, 100))) == pytest.approx((1 - 0.037, 1.0), abs=2e-4)


# What a run may be: (spread of skill between seeds, of ease between problems, gain, skill before), all in logits
KINDS = {
    "seeds alike": (0.0, 2.0, 1.0, -1.0),
    "seeds as problems": (0.35, 2.0, 0.5, -1.0),
    "seeds matter most": (1.0, 2.0, 1.0, -1.0),
}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def drawn_gains(rng: np.random.Generator, kind: str, seeds: int, problems: int) -> np.ndarray:
    """Gains `[S, P]` of seeds and problems drawn from a population."""
    of_seeds, of_problems, gain, start = KINDS[kind]
    ease, skill = start + rng.normal(0, of_problems, problems), rng.normal(gain, of_seeds, (seeds, 1))
    before = rng.random(problems) < sigmoid(ease)
    after = rng.random((seeds, problems)) < sigmoid(ease + skill)
    return after.astype(float) - before


def true_gain(kind: str) -> float:
    """The mean gain of the whole population."""
    of_seeds, of_problems, gain, start = KINDS[kind]
    rng = np.random.default_rng(1)
    ease, skill = start + rng.normal(0, of_problems, 2_000_000), rng.normal(gain, of_seeds, 2_000_000)
    return float((sigmoid(ease + skill) - sigmoid(ease)).mean())


def pigeonhole_bootstrap(gains: np.ndarray, rng: np.random.Generator, resamples: int = 500) -> tuple[float, float]:
    """Percentiles of the mean with seeds and problems resampled, each on their own (Owen 2007)."""
    seeds, problems = gains.shape
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    of_problems = rng.integers(problems, size=(resamples, problems))
    means = np.take_along_axis(of_seeds @ gains / seeds, of_problems, axis=1).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


@pytest.mark.slow
def test_the_interval_covers_the_true_gain_where_the_bootstrap_does_not():
    """Fixed draws: 800 tables of 500 problems each; the figures are those of docs/seeds.md."""
    rng = np.random.default_rng(0)
    covered = {}
    for kind in KINDS:
        truth = true_gain(kind)
        for seeds in (2, 3, 5, 10):
            hits = np.zeros(2)
            for _ in range(800):
                gains = drawn_gains(rng, kind, seeds, 500)
                for i, (low, high) in enumerate((crossed_interval(gains), pigeonhole_bootstrap(gains, rng))):
                    hits[i] += low <= truth <= high
            covered[kind, seeds] = tuple(float(share) for share in hits / 800)
            print(f"{kind}, {seeds} seeds: interval {hits[0] / 800:.1%}, bootstrap {hits[1] / 800:.1%}")
    at_least = {2: 0.80, 3: 0.88, 5: 0.92, 10: 0.92}  # 95 % less three standard errors of 800 draws: 92.7 %
    for (kind, seeds), (interval, _) in covered.items():
        assert interval >= at_least[seeds], (kind, seeds)
    assert covered["seeds matter most", 5][1] < 0.90


# -- The verdict ------------------------------------------------------------------------------------------------


def test_a_verdict_counts_seeds_by_their_own_test():
    before = "-" * 20 + "+" * 10
    results = [
        result(1, before, "+" * 20 + "+" * 10),
        result(2, before, "+" * 10 + "-" * 10 + "+" * 10),
        result(3, before, before),
        result(4, before, "-" * 30, earned=False),
    ]
    verdict = verdict_over(results)
    assert {name: verdict[name] for name in ("n", "gained", "unchanged", "lost", "best", "worst", "same_before")} == {
        "n": 30, "gained": 2, "unchanged": 1, "lost": 1, "best": 1, "worst": 4, "same_before": True,
    }  # fmt: skip
    assert verdict["before"] == pytest.approx(1 / 3)
    assert verdict["after"] == pytest.approx((30 + 20 + 10 + 0) / 120)
    assert verdict["gain"] == pytest.approx((20 + 10 + 0 - 10) / 120)
    assert verdict["sd"] == pytest.approx(np.std([20 / 30, 10 / 30, 0, -10 / 30], ddof=1))
    assert verdict["interval_over"] == "seeds and problems"
    assert (results[1].row()["fixed"], results[1].row()["broken"]) == (10, 0)
    assert results[1].row()["p_value"] == pytest.approx(2 / 2**10)


def test_one_seed_has_an_interval_over_problems_which_is_said():
    results = [result(5, "----++++", "++--+++-")]
    lines = seeds_lines({"verdict": verdict_over(results), "runs": [results[0].row()], "failed": []})
    low, high = t_interval([1, 1, 0, 0, 0, 0, 0, -1])
    assert lines == [
        "verdict over 1 seed: +12.5 points, greedy accuracy 50.0% → 62.5% on 8 test problems",
        f"  95 % interval {100 * low:+.1f} to {100 * high:+.1f} points, over problems: one seed says nothing about "
        "others",
        "  seed 5: 50.0% → 62.5%, fixed 2, broken 1, p = 1",
    ]


def test_seeds_without_a_result_are_named_and_said_to_be_in_no_figure():
    """Catches the survivors' mean: a seed that failed is not silently dropped."""
    runs = [result(seed, "--------", "++++++++") for seed in (1, 2)]
    failed = [{"seed": 3, "exit_code": 3, "why": "stopped by a guard (exit code 3)"}]
    record = {"verdict": verdict_over(runs), "runs": [run.row() for run in runs], "failed": failed}
    lines = seeds_lines(record)
    assert lines[1].endswith("over seeds and problems: rough, as 2 seeds say little about others")
    assert lines[2] == "  2 of 2 gained significantly, 0 did not change, 0 lost"
    assert lines[4] == (
        "  the mean is over the 2 seeds with a result; 1 of 3 ended without one, which no figure above counts"
    )
    assert lines[-1] == "  seed 3: no result, stopped by a guard (exit code 3)"
    none = seeds_lines({"verdict": None, "runs": [], "failed": failed})
    assert none == ["verdict: none, as no seed has a result", lines[-1]]


def test_other_answers_before_training_are_said_and_other_problems_refused():
    """Catches gains against the first seed's answers, of which another device may have had others."""
    mixed = [result(1, "--++", "++++"), result(2, "+-++", "++++")]
    verdict = verdict_over(mixed)
    assert (verdict["same_before"], verdict["gain"]) == (False, pytest.approx((2 + 1) / 8))
    record = {"verdict": verdict, "runs": [each.row() for each in mixed], "failed": []}
    assert "before training differ" in seeds_lines(record)[4]
    other = SeedResult(2, ["q0", "q1", "q2", "q3"], [False] * 4, [True] * 4, True, 1.0)
    with pytest.raises(ValueError, match="same test problems"):
        verdict_over([mixed[0], other])
