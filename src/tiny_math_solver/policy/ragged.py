"""Tokens side by side without padding, each group's prompt once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    longest: int  # positions in use

    @property
    def prompt_starts(self) -> Tensor:
        return self.layout[1]

    @property
    def prompt_lengths(self) -> Tensor:
        return self.layout[2]

    @property
    def continuation_starts(self) -> Tensor:
        return self.layout[4]

    def to(self, device: torch.device) -> "RaggedTokens":
        """The same with ids and positions on `device`."""
        return replace(self, ids=self.ids.to(device), positions=self.positions.to(device))


def lay_out(groups: Sequence[Group]) -> RaggedTokens:
    """The tokens of groups side by side, in order; a continuation may be empty."""
    flat = [token for prompt, continuations in groups for ids in (prompt, *continuations) for token in ids]
    sizes = [(len(prompt), [len(ids) for ids in continuations]) for prompt, continuations in groups]
    return laid_out(torch.tensor(flat, dtype=torch.long), sizes)


def laid_out(ids: Tensor, sizes: Sequence[tuple[int, list[int]]]) -> RaggedTokens:
    """`ids` `[N]` that lie so already, by the tokens of each group's prompt and of its continuations."""
    starts, offsets, lengths, start = [], [], [], 0  # of every part, and its first position
    group_start, group_length, group_rows, row_start, row_length = [], [], [0], [], []
    for prompt, continuations in sizes:
        group_start.append(start)
        group_length.append(prompt)
        for index, size in enumerate((prompt, *continuations)):
            starts.append(start)
            offsets.append(prompt if index else 0)
            lengths.append(size)
            start += size
        row_start += starts[len(starts) - len(continuations) :]
        row_length += continuations
        group_rows.append(len(row_start))
    held = (torch.tensor(x, dtype=torch.long) for x in (group_start, group_length, group_rows, row_start, row_length))
    positions = counted(torch.tensor(offsets, dtype=torch.long), torch.tensor(lengths, dtype=torch.long))
    longest = max((prompt + max(continuations, default=0) for prompt, continuations in sizes), default=0)
    return RaggedTokens(ids, positions.to(ids.device), (len(sizes), *held), longest)


def counted(firsts: Tensor, lengths: Tensor) -> Tensor:
    """`firsts[i], firsts[i] + 1, …`, `lengths[i]` of them, for each `i` in turn."""
    ends = lengths.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    return (firsts - ends + lengths).repeat_interleave(lengths, output_size=total) + torch.arange(total)
