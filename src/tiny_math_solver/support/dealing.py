"""Work dealt out to several processes: each finds the same shares, without asking the others."""

import heapq
import itertools
from collections.abc import Sequence

ENOUGH = 4  # groups a process, from which on whole ones can be dealt evenly


def dealt(costs: Sequence[float], shares: int) -> list[list[int]]:
    """The places in `costs` that fall to each share: the most expensive first, each to the share that has the least.

    A share lists its places in rising order. This is Graham's rule (1969): no share costs more than 4/3 of what the
    best deal would make of the largest.
    """
    if shares == 1:
        return [list(range(len(costs)))]
    places: list[list[int]] = [[] for _ in range(shares)]
    loads = [(0.0, 0, share) for share in range(shares)]  # cost, number of places, share
    for place in sorted(range(len(costs)), key=lambda place: (-costs[place], place)):
        cost, count, share = heapq.heappop(loads)
        places[share].append(place)
        heapq.heappush(loads, (cost + costs[place], count + 1, share))
    return [sorted(share) for share in places]


def group_parts(groups: int, samples: int, shares: int) -> list[range]:
    """The sample numbers of each part into which groups of `samples` are cut to be dealt; whole ones where possible.

    A group stays whole if the `groups` can be shared equally, or are so many that the rest hardly counts.
    """

    def is_even(parts: int) -> bool:
        return groups * parts % shares == 0 or groups * parts >= ENOUGH * shares

    parts = next((parts for parts in range(1, samples) if is_even(parts)), samples)
    ends = [samples * part // parts for part in range(parts + 1)]
    return [range(first, end) for first, end in itertools.pairwise(ends)]
