"""The rows of an optimizer step that each process passes: as good as equal numbers of tokens, of whole groups mostly.

All processes have all rows and come to the same shares.
"""

import torch
from torch import Tensor

from tiny_math_solver.update.passes import Batch, joined, passed_rows, split


def mark_own(micro_batches: list[Batch], rank: int, shares: int, *, skip_zero_advantage: bool) -> list[Batch]:
    """The micro-batches with `own` `[B]`, True for the rows that process `rank` of `shares` passes."""
    if shares == 1:
        return micro_batches
    step = joined(micro_batches)
    rows = passed_rows(step, skip_zero_advantage=skip_zero_advantage)
    own = torch.zeros(len(step["advantages"]), dtype=torch.bool, device=rows.device)
    prompts, completions = step["prompt_mask"].sum(1)[rows], step["completion_mask"].sum(1)[rows]
    own[rows[share_of(step["group"][rows], prompts, completions, shares) == rank]] = True
    return split(step | {"own": own}, len(micro_batches))


def share_of(group: Tensor, prompts: Tensor, completions: Tensor, shares: int) -> Tensor:
    """The share `[B]` of each row, by its `group` and the lengths of its prompt and completion `[B]`.

    The rows lie one behind the other by group, a prompt counting once, and are cut into equal lengths.
    """
    order = group.argsort(stable=True)
    ordered = group[order]
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    costs = completions[order] + prompts[order] * is_first
    middles = 2 * costs.cumsum(0) - costs  # doubled, to stay whole numbers
    found = torch.empty_like(group)
    found[order] = (middles * shares // (2 * costs.sum()).clamp(min=1)).clamp(max=shares - 1)
    return found
