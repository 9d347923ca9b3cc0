"""The rows of a pass → ragged tokens, and which of them score which completion token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tiny_math_solver.policy.ragged import RaggedTokens, lay_out
from tiny_math_solver.update.passes import Batch


@dataclass(frozen=True)
class ScoredTokens:
    """Rows without padding: of each group its prompt, then its completions without their last tokens."""

    tokens: RaggedTokens
    sources: Tensor  # the token whose hidden state predicts each scored token
    targets: Tensor  # the scored tokens
    scored: tuple[Tensor, Tensor]  # their rows, and their columns in the completions

    def to(self, device: torch.device) -> "ScoredTokens":
        row, column = self.scored
        return ScoredTokens(
            self.tokens.to(device),
            self.sources.to(device),
            self.targets.to(device),
            (row.to(device), column.to(device)),
        )


def ragged(batch: Batch) -> ScoredTokens:
    """Lay the rows of a pass side by side; prompts come padded in front, completions behind."""
    split = batch["prompt_ids"].shape[1]
    prompt_sizes, sizes = (batch[f"{part}_mask"].sum(1).tolist() for part in ("prompt", "completion"))
    prompt_rows, completion_rows = batch["prompt_ids"].tolist(), batch["completion_ids"].tolist()
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(batch["group"].tolist()):
        groups.setdefault(group, []).append(row)
    tokens = lay_out(
        [
            (
                prompt_rows[members[0]][split - prompt_sizes[members[0]] :],
                [completion_rows[row][: max(0, sizes[row] - 1)] for row in members],
            )
            for members in groups.values()
        ]
    )
    starts = iter(tokens.continuation_starts.tolist())
    prompt_ends = (tokens.prompt_starts + tokens.prompt_lengths).tolist()
    sources: list[int] = []
    targets: list[int] = []
    scored: tuple[list[int], list[int]] = ([], [])
    for end, members in zip(prompt_ends, groups.values(), strict=True):
        for row in members:
            start, size = next(starts), sizes[row]
            if size:
                sources += [end - 1, *range(start, start + size - 1)]
            targets += completion_rows[row][:size]
            scored[0].extend([row] * size)
            scored[1].extend(range(size))
    return ScoredTokens(
        tokens,
        torch.tensor(sources, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        (torch.tensor(scored[0], dtype=torch.long), torch.tensor(scored[1], dtype=torch.long)),
    )
