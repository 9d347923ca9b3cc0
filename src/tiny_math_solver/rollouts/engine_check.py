"""The comparison before and in the first steps: the engine and transformers must be the same policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tiny_math_solver.models.ends import causal_lm
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts.engine import EngineRollouts
from tiny_math_solver.rollouts.sampling import Sampling

PROMPTS, NEW_TOKENS = 16, 32
# The largest gap between two log-probabilities of one token that rounding explains. Between 16 and 32, bfloat16 logits
# are 1/8 apart and float16 logits 1/64; the chosen logit and the largest of the others may each differ by a step or
# two between two orders of summation. A wrong rotation, bias or mask moves log-probabilities by whole units. In float32
# the steps are a thousandth of the limit.
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 0.5, torch.float16: 0.0625}


@dataclass(frozen=True)
class EngineCheck:
    """The result: `gap` is the largest difference between log-probabilities, in nats.

    `other_tokens` counts the greedy tokens to which transformers prefers another by more than `limit`.
    """

    tokens: int
    gap: float
    other_tokens: int
    limit: float

    @property
    def passed(self) -> bool:
        return self.gap <= self.limit and not self.other_tokens

    def __str__(self) -> str:
        return (
            f"{self.tokens} greedy tokens compared with transformers: largest log-probability gap {self.gap:.1e} "
            f"(limit {self.limit:g}), {self.other_tokens or 'no'} other choice{'s' * (self.other_tokens != 1)}"
        )


def together(checks: Sequence[EngineCheck]) -> EngineCheck:
    """One result of several processes' checks: all take the engine, or none."""
    return EngineCheck(
        sum(check.tokens for check in checks),
        max(check.gap for check in checks),
        sum(check.other_tokens for check in checks),
        checks[0].limit,
    )


def check_against_transformers(rollouts: EngineRollouts, prompts: Sequence[Prompt]) -> EngineCheck:
    """Decode a few prompts greedily with the engine, and score each completion by one transformers pass."""
    model: Any = rollouts.model
    forward = causal_lm(model)  # accelerate patches autocast into the model around it
    limit = LIMITS[rollouts.weights.dtype]
    gap, other, tokens = 0.0, 0, 0
    was_training = model.training
    model.eval()
    try:
        for rollout in rollouts.generate(prompts[:PROMPTS], 1, Sampling(NEW_TOKENS, temperature=0)):
            ids, count = rollout.prompt_ids + rollout.completion_ids, len(rollout.completion_ids)
            with torch.inference_mode():
                row = torch.tensor([ids], device=rollouts.weights.device)
                logits = forward(row, logits_to_keep=count + 1).logits[0, :-1].float()
            chosen = logits.gather(1, torch.tensor(rollout.completion_ids, device=logits.device)[:, None])[:, 0]
            scored = torch.tensor(rollout.logprobs, device=logits.device)
            gap = max(gap, (chosen - logits.logsumexp(-1) - scored).abs().nan_to_num(torch.inf).max().item())
            other += int((logits.amax(-1) - chosen > limit).sum())
            tokens += count
    finally:
        model.train(was_training)
    return EngineCheck(tokens, gap, other, limit)
