"""The interface of the update's scoring: log-probabilities of completions, and their gradient for the adapter."""

from typing import Protocol

import torch
from torch import Tensor

from tiny_math_solver.update.passes import Batch


class Scorer(Protocol):
    """Log-probabilities of a pass of rows; one optimizer step is `begin`, any number of passes, `finish`."""

    by_group: bool  # rows of a group belong in the same pass: their prompt is computed once

    def begin(self) -> None:
        """Take over the policy as it is."""

    def logprobs(self, batch: Batch) -> Tensor:
        """Log-probabilities `[B, T]` of the completion tokens, at the sampling temperature; 0 at padding."""
        ...

    def finish(self) -> None:
        """Leave the gradient of all passes since `begin` in the adapter's parameters."""

    def pass_bytes(self, tokens: int) -> int:
        """Bytes that a pass of `tokens` tokens keeps for its backward pass, logits included."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes the scorer holds all the time."""
        ...

    @property
    def step_bytes(self) -> int:
        """Bytes it holds from `begin` to `finish` beside those of a pass."""
        ...


def whole_rows(batch: Batch) -> tuple[Tensor, Tensor, int]:
    """`(ids [B, T], mask [B, T], completion columns)` of prompts and completions side by side."""
    ids, mask = (torch.cat([batch[f"prompt_{part}"], batch[f"completion_{part}"]], 1) for part in ("ids", "mask"))
    return ids, mask, batch["completion_ids"].shape[1]
