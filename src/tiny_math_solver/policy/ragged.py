"""Tokens side by side without padding, each group's prompt once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Group = tuple[list[int], list[list[int]]]  # the ids of a prompt and of what continues it


@dataclass(frozen=True)
class RaggedTokens:
    """Of each group its prompt, then its continuations."""

    ids: Tensor  # [N]
    positions: Tensor  # [N], each continuation's follow those of the prompt
    layout: tuple[Any, ...]  # the number of groups, and int64 tensors on the CPU:
    # first token and length of each prompt, `[g] … [g + 1] - 1` the continuations of group g, their first tokens and
    # lengths

    @property
    def prompt_starts(self) -> Tensor:
        return self.layout[1]

    @property
    def prompt_lengths(self) -> Tensor:
        return self.layout[2]

    @property
    def continuation_starts(self) -> Tensor:
        return self.layout[4]

    @property
    def longest(self) -> int:
        """Positions in use."""
        return int(self.positions.max()) + 1

    def to(self, device: torch.device) -> "RaggedTokens":
        """The same with ids and positions on `device`."""
        return RaggedTokens(self.ids.to(device), self.positions.to(device), self.layout)


def lay_out(groups: Sequence[Group]) -> RaggedTokens:
    """The tokens of groups side by side, in order; a continuation may be empty."""
    flat: list[int] = []
    positions: list[int] = []
    group_start, group_length, group_rows, row_start, row_length = [], [], [0], [], []
    for prompt, continuations in groups:
        group_start.append(len(flat))
        group_length.append(len(prompt))
        flat += prompt
        positions += range(len(prompt))
        for ids in continuations:
            row_start.append(len(flat))
            row_length.append(len(ids))
            flat += ids
            positions += range(len(prompt), len(prompt) + len(ids))
        group_rows.append(len(row_start))
    held = (torch.tensor(x, dtype=torch.long) for x in (group_start, group_length, group_rows, row_start, row_length))
    return RaggedTokens(
        torch.tensor(flat, dtype=torch.long), torch.tensor(positions, dtype=torch.long), (len(groups), *held)
    )
