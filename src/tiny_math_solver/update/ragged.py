"""The rows of a pass → tokens side by side without padding, each group's prompt once.

Shapes: `N` tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tiny_math_solver.update.passes import Batch


@dataclass(frozen=True)
class RaggedTokens:
    """Rows without padding: of each group its prompt, then its completions without their last tokens."""

    ids: Tensor  # [N]
    positions: Tensor  # [N]
    sources: Tensor  # the token whose hidden state predicts each scored token
    targets: Tensor  # the scored tokens
    scored: tuple[Tensor, Tensor]  # their rows, and their columns in the completions
    layout: tuple[Any, ...]  # the groups as the attention takes them


def ragged(batch: Batch) -> RaggedTokens:
    """Lay the rows of a pass side by side; prompts come padded in front, completions behind."""
    split = batch["prompt_ids"].shape[1]
    prompt_sizes, sizes = (batch[f"{part}_mask"].sum(1).tolist() for part in ("prompt", "completion"))
    prompt_rows, completion_rows = batch["prompt_ids"].tolist(), batch["completion_ids"].tolist()
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(batch["group"].tolist()):
        groups.setdefault(group, []).append(row)
    flat: list[int] = []
    positions: list[int] = []
    sources: list[int] = []
    targets: list[int] = []
    scored: tuple[list[int], list[int]] = ([], [])
    group_start, group_length, group_rows, row_start, row_length = [], [], [0], [], []
    for members in groups.values():
        prompt = prompt_rows[members[0]][split - prompt_sizes[members[0]] :]
        group_start.append(len(flat))
        group_length.append(len(prompt))
        flat += prompt
        positions += range(len(prompt))
        last = len(flat) - 1
        for row in members:
            inputs = max(0, sizes[row] - 1)
            row_start.append(len(flat))
            row_length.append(inputs)
            if sizes[row]:
                sources += [last, *range(len(flat), len(flat) + inputs)]
            flat += completion_rows[row][:inputs]
            positions += range(len(prompt), len(prompt) + inputs)
            targets += completion_rows[row][: sizes[row]]
            scored[0].extend([row] * sizes[row])
            scored[1].extend(range(sizes[row]))
        group_rows.append(len(row_start))
    held = tuple(torch.tensor(x) for x in (group_start, group_length, group_rows, row_start, row_length))
    return RaggedTokens(
        ids=torch.tensor(flat, dtype=torch.long),
        positions=torch.tensor(positions, dtype=torch.long),
        sources=torch.tensor(sources, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        scored=(torch.tensor(scored[0], dtype=torch.long), torch.tensor(scored[1], dtype=torch.long)),
        layout=(len(groups), *held),
    )
