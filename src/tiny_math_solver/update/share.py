"""Down-sampling of each group to the rows that teach most: PODS (arXiv 2504.13818), max-variance down-sampling.

The rows of a group whose rewards have the greatest variance are always some of the lowest and some of the highest.
As in the paper, advantages are then made of the rows that are left: with those of the whole group, a group with one
right row of eight would keep its push towards that row and lose half of the push away from the wrong ones.

Shapes: `P` problems, `G` samples per problem, `B = P·G` completions.
"""

import torch
from torch import Tensor

LEAST = 2  # rows: one alone has nothing to be compared with
EPSILON = 1e-4  # TRL's, beside a standard deviation


def kept_rows(samples: int, share: float) -> int:
    """The rows of a group of `samples` that are learned from."""
    return max(LEAST, round(share * samples))


def down_sampled(advantages: Tensor, samples: int, kept: int, *, rescale: bool) -> tuple[Tensor, Tensor]:
    """`(used [B], advantages [B])`: the `kept` rows of each group, and advantages relative to these.

    An advantage is the reward less the group's mean, perhaps over its standard deviation; so is the new one, from the
    mean and, with `rescale`, the standard deviation of the kept rows. Groups are consecutive rows.
    """
    groups = advantages.view(-1, samples)  # [P, G]
    ordered, order = groups.double().sort(dim=1, stable=True)
    lows = torch.arange(1, kept, device=groups.device)
    # each of these is a way to keep rows: `low` of the lowest, and of the highest what is left to keep
    ways = torch.stack([torch.cat([ordered[:, :low], ordered[:, samples - kept + low :]], 1) for low in lows.tolist()])
    best = lows[ways.var(2).round(decimals=9).argmax(0)]  # [P]; rounded, so that equal ones are equal
    rank = torch.arange(samples, device=groups.device)
    is_kept = (rank < best[:, None]) | (rank >= samples - kept + best[:, None])
    used = torch.zeros_like(is_kept).scatter(1, order, is_kept)
    rows = groups[used].view(-1, kept)
    shifted = groups - rows.mean(1, keepdim=True)
    if rescale:
        shifted = shifted / (rows.std(1, keepdim=True) + EPSILON)
    return used.view(-1), shifted.view(-1)
