"""One batch of rows of a small model, scored with its gradient."""

from typing import Any

import torch
from torch import Tensor

from tiny_math_solver.update.scorer import Scorer


def batch_of(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(3, 1000, (2, 20), generator=generator).repeat_interleave(4, 0)
    completions, mask = torch.randint(3, 1000, (8, 30), generator=generator), torch.ones(8, 30, dtype=torch.long)
    mask[3, 11:] = mask[6, 1:] = 0
    return {
        "prompt_ids": prompts, "prompt_mask": torch.ones_like(prompts), "completion_ids": completions,
        "completion_mask": mask, "group": torch.arange(8) // 4,
        "advantages": torch.randn(8, 1, generator=generator),
    }  # fmt: skip


def scored(scorer: Scorer, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probabilities, and the gradient of their sum weighted by the advantages."""
    scorer.begin()
    logprobs = scorer.logprobs(batch)
    (logprobs * batch["advantages"]).sum().backward()
    scorer.finish()
    return logprobs.detach(), gradient_of(model)


def gradient_of(model: Any) -> Tensor:
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    model.zero_grad()
    return gradient
