"""Figures worked out by hand or known from the literature, so that a wrong formula cannot pass."""

import math
from itertools import combinations

import pytest

from tiny_math_solver.evaluation.statistics import maj_at_k, mcnemar, pass_at_k, wilson_interval


def test_wilson_matches_the_closed_form():
    n, correct, z = 500, 465, 1.959963984540054
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson_interval(correct, n) == pytest.approx((centre - half, centre + half))


def test_wilson_stays_inside_at_the_ends_where_the_normal_interval_has_no_width():
    low, high = wilson_interval(0, 20)
    assert low == 0.0
    assert high == pytest.approx(0.1611, abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_mcnemar_counts_changes_only():
    before = [True] * 5 + [False] * 10 + [False] * 4 + [True] * 1
    after = [True] * 5 + [False] * 10 + [True] * 4 + [False] * 1
    verdict = mcnemar(before, after)
    assert (verdict.fixed, verdict.broken) == (4, 1)
    assert verdict.p_value == pytest.approx(2 * (1 + 5) / 2**5)  # P(X <= 1), X ~ Binomial(5, 1/2), both tails


def test_mcnemar_without_a_change_says_nothing_and_needs_pairs():
    assert mcnemar([True, False], [True, False]).p_value == 1.0
    with pytest.raises(ValueError, match="zip"):
        mcnemar([True], [True, False])


@pytest.mark.parametrize(("n", "correct", "k"), [(5, 2, 1), (5, 2, 2), (6, 1, 3), (4, 4, 2), (4, 0, 4), (5, 3, 3)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n: int, correct: int, k: int):
    rows = [i < correct for i in range(n)]
    subsets = list(combinations(rows, k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_refuses_more_than_was_sampled():
    with pytest.raises(ValueError, match="k=9"):
        pass_at_k(8, 1, 9)


def test_majority_votes_without_the_silent_and_splits_ties():
    assert maj_at_k(["18", "18", "20", None], "18", 4) == 1.0
    assert maj_at_k([None, None, None, "18"], "18", 4) == 1.0
    assert maj_at_k(["18", "20"], "18", 2) == 0.5
    assert maj_at_k(["18", "20", "20", "20"], "18", 2) == pytest.approx((0.5 + 0.0) / 2)  # two groups of two
    assert maj_at_k([None, None], "18", 2) == 0.0
