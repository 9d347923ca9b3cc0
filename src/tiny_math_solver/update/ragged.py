"""The rows of a pass → ragged tokens, and which of them score which completion token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tiny_math_solver.policy.ragged import RaggedTokens, counted, laid_out
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
    """Lay the rows of a pass side by side, on their device; prompts come padded in front, completions behind."""
    prompt_ids, completion_ids = batch["prompt_ids"], batch["completion_ids"]
    split, columns, device = prompt_ids.shape[1], completion_ids.shape[1], prompt_ids.device
    of_rows = torch.stack([batch["prompt_mask"].sum(1), batch["completion_mask"].sum(1), batch["group"]])
    prompt_sizes, sizes, of_group = of_rows.tolist()
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(of_group):
        groups.setdefault(group, []).append(row)
    firsts: list[int] = []  # of each part in the rows of both, side by side, and its tokens
    lengths: list[int] = []
    for members in groups.values():
        firsts += [(split + columns) * members[0] + split - prompt_sizes[members[0]]]
        lengths += [prompt_sizes[members[0]]]
        firsts += [(split + columns) * row + split for row in members]
        lengths += [max(0, sizes[row] - 1) for row in members]
    places = counted(torch.tensor(firsts), torch.tensor(lengths)).to(device)
    ids = torch.cat([prompt_ids, completion_ids], 1).flatten()[places]
    tokens = laid_out(
        ids, [(prompt_sizes[rows[0]], [max(0, sizes[row] - 1) for row in rows]) for rows in groups.values()]
    )

    order = torch.tensor([row for members in groups.values() for row in members])
    scored_sizes = torch.tensor(sizes)[order]
    rows = order.repeat_interleave(scored_sizes)
    column = counted(torch.zeros_like(order), scored_sizes)
    # a completion's first token is predicted by the last one of its prompt, each other one by the token before it
    samples = torch.tensor([len(members) for members in groups.values()])
    prompt_ends = (tokens.prompt_starts + tokens.prompt_lengths).repeat_interleave(samples)
    sources = counted(tokens.continuation_starts - 1, scored_sizes)
    sources = torch.where(column == 0, prompt_ends.repeat_interleave(scored_sizes) - 1, sources)
    rows, column = rows.to(device), column.to(device)
    return ScoredTokens(tokens, sources.to(device), completion_ids[rows, column], (rows, column))
