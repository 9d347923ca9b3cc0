"""Causal attention over ragged tokens in torch and float64, with windows and capped scores: what kernels must give."""

from typing import Any

import torch
from torch import Tensor

from tiny_math_solver.policy.ragged import RaggedTokens, lay_out

Groups = list[tuple[int, list[int]]]  # tokens of a prompt and of its completions
GROUPS: Groups = [(70, [100, 0, 5]), (3, [65]), (64, []), (1, [1, 128])]


def layout(groups: Groups) -> RaggedTokens:
    return lay_out([([0] * prompt, [[0] * size for size in sizes]) for prompt, sizes in groups])


def visible(groups: Groups, window: int = 0) -> Tensor:
    """`[N, N]`: whether a row attends to a column."""
    count = sum(prompt + sum(sizes) for prompt, sizes in groups)
    mask, start = torch.zeros(count, count, dtype=torch.bool), 0
    for prompt, sizes in groups:
        first = start
        for size in (prompt, *sizes):
            own = slice(start, start + size)
            mask[own, first : first + prompt] = True
            mask[own, own] = torch.ones(size, size).tril().bool()
            start += size
    positions = layout(groups).positions
    return mask & (positions[:, None] - positions < window) if window else mask


def inputs(groups: Groups, heads: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random rotated qkv, and a gradient of the result."""
    (queries, keys, dim), generator = heads, torch.Generator().manual_seed(0)
    count = sum(prompt + sum(sizes) for prompt, sizes in groups)
    qkv = torch.randn(count, (queries + 2 * keys) * dim, generator=generator) / dim**0.25
    return qkv.to(dtype), torch.randn(count, queries * dim, generator=generator).to(dtype)


def exact_attention(
    qkv: Tensor, out_grad: Tensor, groups: Groups, heads: tuple[int, int, int], manner: tuple[int, float]
) -> tuple[Tensor, Tensor, Any]:
    """The result `[N, H · D]`, log Σ e^score `[N, H]`, and the gradient of `qkv`."""
    (queries, keys, dim), (window, cap) = heads, manner
    exact = qkv.double().requires_grad_()
    query, key, value = exact.view(len(qkv), -1, dim).split((queries, keys, keys), 1)
    key, value = (part.repeat_interleave(queries // keys, 1) for part in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key)
    scores = cap * (scores / cap).tanh() if cap else scores
    scores = scores.masked_fill(~visible(groups, window), -torch.inf)
    out = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1)
    out.backward(out_grad.double())
    return out, scores.logsumexp(-1).T, exact.grad
