"""Work dealt out to several processes: each finds the same shares, without asking the others."""

import heapq
import itertools
import math
from collections.abc import Sequence

ENOUGH = 4  # groups a process, from which on whole ones can be dealt evenly
SPREAD = 1.25  # pieces of a share at most, in those of the mean: memory is planned for them


def dealt(costs: Sequence[float], shares: int) -> list[list[int]]:
    """The places in `costs` that fall to each share, in rising order.

    The most expensive is dealt first, each to the share that has the least (Graham's rule, 1969) and is not full.
    """
    if shares == 1:
        return [list(range(len(costs)))]
    places: list[list[int]] = [[] for _ in range(shares)]
    loads = [(0.0, 0, share) for share in range(shares)]  # cost, number of places, share
    full = largest_share(len(costs), shares)
    for place in sorted(range(len(costs)), key=lambda place: (-costs[place], place)):
        cost, count, share = heapq.heappop(loads)
        places[share].append(place)
        if count + 1 < full:
            heapq.heappush(loads, (cost + costs[place], count + 1, share))
    return [sorted(share) for share in places]


def largest_share(pieces: int, shares: int) -> int:
    """The most of so many pieces that fall to one share."""
    return min(pieces, math.ceil(SPREAD * math.ceil(pieces / shares)))


def group_parts(groups: int, samples: int, shares: int) -> list[range]:
    """The sample numbers of each part into which groups of `samples` are cut to be dealt; whole ones where possible.

    A group stays whole if the `groups` can be shared equally, or are so many that the rest hardly counts.
    """

    def is_even(parts: int) -> bool:
        return groups * parts % shares == 0 or groups * parts >= ENOUGH * shares

    parts = next((parts for parts in range(1, samples) if is_even(parts)), samples)
    ends = [samples * part // parts for part in range(parts + 1)]
    return [range(first, end) for first, end in itertools.pairwise(ends)]
