"""Work dealt out: every place once, evenly, and whole groups where that is even enough."""

import random

import pytest

from tiny_math_solver.support import dealing
from tiny_math_solver.support.dealing import dealt, group_parts, largest_share


@pytest.mark.parametrize("shares", [1, 2, 3, 8])
def test_each_place_falls_to_one_share(shares: int):
    drawn = random.Random(shares)
    for count in (0, 1, 2, 7, 40):
        costs = [drawn.choice([1.0, 5.0, drawn.random() * 100]) for _ in range(count)]
        found = dealt(costs, shares)
        assert len(found) == shares
        assert sorted(place for share in found for place in share) == list(range(count))
        assert all(share == sorted(share) for share in found)


def test_the_largest_share_is_near_the_best_possible(monkeypatch: pytest.MonkeyPatch):
    """Graham's bound: 4/3 of the best, which costs at least the mean and at least the largest piece."""
    monkeypatch.setattr(dealing, "SPREAD", 100)
    drawn = random.Random(0)
    for _ in range(200):
        costs = [drawn.expovariate(1) for _ in range(drawn.randint(1, 30))]
        shares = drawn.randint(2, 8)
        largest = max(sum(costs[place] for place in share) for share in dealt(costs, shares))
        assert largest <= 4 / 3 * max(sum(costs) / shares, max(costs), _two_smallest_of(costs, shares))


def _two_smallest_of(costs: list[float], shares: int) -> float:
    """With more pieces than shares, some share has two of the `shares + 1` largest."""
    ordered = sorted(costs, reverse=True)[: shares + 1]
    return sum(ordered[-2:]) if len(costs) > shares else 0.0


def test_no_share_has_many_more_pieces_than_the_others():
    """Memory is planned by their number. Catches one process that decodes all short ones at once."""
    found = dealt([1500] * 3 + [120] * 13, 4)
    assert sorted(map(len, found)) == [3, 4, 4, 5]
    assert largest_share(16, 4) == 5
    drawn = random.Random(1)
    for _ in range(100):
        costs, shares = [drawn.expovariate(1) ** 3 for _ in range(drawn.randint(1, 60))], drawn.randint(1, 9)
        assert max(map(len, dealt(costs, shares))) <= largest_share(len(costs), shares)


def test_pieces_of_one_cost_are_dealt_in_equal_numbers():
    assert [len(share) for share in dealt([0.0] * 10, 4)] == [3, 3, 2, 2]
    assert dealt([5, 3, 1, 1], 2) == [[0], [1, 2, 3]]


@pytest.mark.parametrize(
    ("groups", "samples", "shares", "parts"),
    [
        (16, 8, 1, [8]),
        (16, 8, 4, [8]),
        (17, 8, 4, [8]),  # one of four has a fifth group of 17 to wait for
        (5, 8, 2, [4, 4]),
        (4, 4, 8, [2, 2]),
        (1, 5, 2, [2, 3]),
        (1, 4, 8, [1, 1, 1, 1]),  # no more can be dealt than there are samples
    ],
)
def test_groups_stay_whole_unless_that_leaves_processes_idle(groups: int, samples: int, shares: int, parts: list[int]):
    found = group_parts(groups, samples, shares)
    assert [len(part) for part in found] == parts
    assert [number for part in found for number in part] == list(range(samples))
