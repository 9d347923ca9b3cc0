"""Sampling: the settings, the random numbers, and the draw from a batch of logits."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 32  # tokens per block of the two-level search


@dataclass(frozen=True, slots=True)
class Sampling:
    """All settings that shape a completion; none is taken from a model's `generation_config.json`.

    `temperature` 0 is greedy. `extra` holds further transformers generation settings by name. The same `seed` gives
    the same completions of a prompt in any batch.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def plain(self) -> bool:
        """True if nothing is cut: every token may be drawn."""
        return self.greedy or (not self.top_k and self.top_p >= 1 and not self.min_p)


def uniforms(prompt_ids: list[int], sample: int, seed: int, length: int) -> np.ndarray:
    """`length` float32 numbers in [0, 1), one per position, determined by the prompt, the sample and the seed."""
    text = f"{seed}/{sample}/" + ",".join(map(str, prompt_ids))
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).random(length, dtype=np.float32)


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """`(tokens [B], their log-probabilities [B])` from logits `[B, V]` and uniform numbers `[B]`.

    Log-probabilities are the policy's at the sampling temperature, before the cuts of top-k, top-p and min-p.
    """
    if sampling.greedy:
        best = logits.argmax(-1, keepdim=True)
        return best[:, 0], (logits.gather(1, best).float()[:, 0] - logits.float().logsumexp(-1))
    scaled = logits.float() if sampling.temperature == 1 else logits.float().div_(sampling.temperature)
    probabilities = scaled.softmax(-1)
    kept = _cut(probabilities, sampling)
    tokens = _inverse_cdf(kept, uniform.unsqueeze(1))
    return tokens[:, 0], probabilities.gather(1, tokens)[:, 0].log()


def _inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """The tokens `[B, 1]` at which the running sum of `weights` `[B, V]` passes `uniform` `[B, 1]` times their total.

    The block is found first, then the token in it.
    """
    rows, size = weights.shape
    if size % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, -size % BLOCK))
    blocks = weights.view(rows, -1, BLOCK)
    ends = blocks.sum(-1).cumsum(-1)
    target = uniform * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp_(max=ends.shape[1] - 1)
    inside = blocks.gather(1, block.unsqueeze(-1).expand(rows, 1, BLOCK))[:, 0].cumsum(-1)
    before = ends.gather(1, block) - inside[:, -1:]
    offset = torch.searchsorted(inside, target - before, right=True)
    # rounding may point past the end of a block; its last token with any weight is meant then
    last = (inside < inside[:, -1:]).sum(-1, keepdim=True)
    return block * BLOCK + torch.minimum(offset, last)


def _cut(probabilities: Tensor, sampling: Sampling) -> Tensor:
    """The probabilities, unnormalised, with those that top-k, top-p and min-p exclude set to zero."""
    size = probabilities.shape[-1]
    top_k = min(sampling.top_k or size, size)
    if top_k == size and sampling.top_p >= 1 and not sampling.min_p:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    keep = torch.arange(size, device=order.device).expand_as(order) < top_k
    nucleus = ordered * keep
    share = sampling.top_p * nucleus.sum(-1, keepdim=True)  # of the probability that top-k leaves
    keep &= nucleus.cumsum(-1) - nucleus < share
    if sampling.min_p:
        keep &= ordered >= sampling.min_p * ordered[:, :1]
    return torch.zeros_like(probabilities).scatter_(-1, order, ordered * keep)
