"""The update's attention in Triton against torch in float64: prompts shared by ragged completions, empty ones too."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.gpu_kernels import TOLERANCE, error
from tiny_math_solver.policy.ragged import lay_out

attention = pytest.importorskip("tiny_math_solver.kernels.gpu.attention")

GROUPS = [(70, [100, 0, 5]), (3, [65]), (64, []), (1, [1, 128])]  # tokens of a prompt and of its completions


def layout(groups: list[tuple[int, list[int]]]) -> Any:
    return lay_out([([0] * prompt, [[0] * size for size in sizes]) for prompt, sizes in groups])


def visible(groups: list[tuple[int, list[int]]]) -> Tensor:
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
    return mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("heads", "manner"),
    [((6, 2, 16), (0, 0.0)), ((2, 1, 40), (0, 0.0)), ((6, 2, 16), (7, 1.5)), ((2, 1, 40), (68, 0.0))],
)
def test_attention_and_its_gradient(
    dtype: torch.dtype, heads: tuple[int, int, int], manner: tuple[int, float], device: torch.device
):
    (queries, keys, dim), (window, cap) = heads, manner
    tokens, mask = layout(GROUPS), visible(GROUPS)
    if window:
        mask &= tokens.positions[:, None] - tokens.positions < window
    count, generator = len(mask), torch.Generator().manual_seed(0)
    qkv = (torch.randn(count, (queries + 2 * keys) * dim, generator=generator) / dim**0.25).to(dtype)
    out_grad = torch.randn(count, queries * dim, generator=generator).to(dtype)

    exact = qkv.double().requires_grad_()
    query, key, value = exact.view(count, -1, dim).split((queries, keys, keys), 1)
    key, value = (part.repeat_interleave(queries // keys, 1) for part in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key)
    scores = (cap * (scores / cap).tanh() if cap else scores).masked_fill(~mask, -torch.inf)
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1)
    expected.backward(out_grad.double())

    qkv, out_grad = qkv.to(device), out_grad.to(device)
    out, grad = torch.full_like(out_grad, torch.nan), torch.full_like(qkv, torch.nan)
    log_sum = torch.full((count, queries), torch.nan, device=device)
    work = attention.tiles(tokens.layout, attention.tile_shape(dim, dtype)[0], device)
    attention.attention(work, qkv, manner, out, log_sum, heads)
    attention.attention_backward(work, qkv, manner, out, log_sum, out_grad, grad, heads)
    assert error(out, expected) < TOLERANCE[dtype]
    assert error(log_sum, scores.logsumexp(-1).T) < TOLERANCE[torch.float32] * 10
    assert error(grad, exact.grad) < TOLERANCE[dtype]


def test_every_token_is_in_one_tile_of_each_table():
    """Catches a token that is computed twice, or never."""
    work, count = attention.tiles(layout(GROUPS).layout, 32, torch.device("cpu")), len(visible(GROUPS))
    for table in (work.queries, work.keys):
        covered = torch.zeros(count, dtype=torch.long)
        for first, last, *_ in table.tolist():
            covered[first:last] += 1
        assert covered.eq(1).all()
