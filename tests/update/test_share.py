"""Rows that teach: the kept ones have the greatest variance, and are compared among themselves."""

from itertools import combinations
from statistics import mean, pvariance, stdev

import pytest
import torch

from tiny_math_solver.update.share import down_sampled, kept_rows


def test_a_share_is_at_least_two_rows():
    assert [kept_rows(8, share) for share in (1.0, 0.75, 0.5, 0.1)] == [8, 6, 4, 2]
    assert kept_rows(2, 0.5) == 2


@pytest.mark.parametrize("kept", [2, 3, 4, 5, 6])
def test_the_kept_rows_have_the_greatest_variance_that_any_of_that_number_have(kept: int):
    """Compared with all subsets of 200 drawn groups. Catches rows of one end alone, and groups mixed up."""
    generator = torch.Generator().manual_seed(kept)
    rewards = torch.randint(0, 4, (200, 7), generator=generator) / 2.0
    used, _ = down_sampled(rewards.flatten(), 7, kept, rescale=True)
    assert used.view(200, 7).sum(1).tolist() == [kept] * 200
    for group, mask in zip(rewards, used.view(200, 7), strict=True):
        best = max(pvariance(rows) for rows in combinations(group.tolist(), kept))
        assert pvariance(group[mask].tolist()) == pytest.approx(best)


def test_advantages_are_made_of_the_kept_rows_alone():
    """One right of eight: kept are it and three wrong ones, whose rewards have mean 1/4 and deviation 1/2."""
    rewards = torch.tensor([0.0, 0, 0, 1, 0, 0, 0, 0])
    whole = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    used, advantages = down_sampled(whole, 8, 4, rescale=True)
    assert used[3]
    paid = [1.0, 0, 0, 0]
    expected = [(reward - mean(paid)) / stdev(paid) for reward in paid]
    assert sorted(advantages[used].tolist(), reverse=True) == pytest.approx(expected, abs=1e-3)
    _, unscaled = down_sampled(rewards - rewards.mean(), 8, 4, rescale=False)
    assert sorted(unscaled[used].tolist(), reverse=True) == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_a_dead_group_stays_dead():
    used, advantages = down_sampled(torch.zeros(8), 8, 4, rescale=True)
    assert used.sum() == 4
    assert advantages.tolist() == [0.0] * 8
