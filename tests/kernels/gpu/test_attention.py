"""The update's attention in Triton against torch in float64: prompts shared by ragged completions, empty ones too."""

import pytest
import torch

from helpers.attention import GROUPS, exact_attention, inputs, layout, visible
from helpers.gpu_kernels import TOLERANCE, error

attention = pytest.importorskip("tiny_math_solver.kernels.gpu.attention")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("heads", "manner"),
    [((6, 2, 16), (0, 0.0)), ((2, 1, 40), (0, 0.0)), ((6, 2, 16), (7, 1.5)), ((2, 1, 40), (68, 0.0))],
)
def test_attention_and_its_gradient(
    dtype: torch.dtype, heads: tuple[int, int, int], manner: tuple[int, float], device: torch.device
):
    tokens, dim = layout(GROUPS), heads[2]
    qkv, out_grad = inputs(GROUPS, heads, dtype)
    expected, expected_log_sum, expected_grad = exact_attention(qkv, out_grad, GROUPS, heads, manner)
    qkv, out_grad = qkv.to(device), out_grad.to(device)
    out, grad = torch.full_like(out_grad, torch.nan), torch.full_like(qkv, torch.nan)
    log_sum = torch.full((len(qkv), heads[0]), torch.nan, device=device)
    work = attention.tiles(tokens.layout, attention.tile_shape(dim, dtype)[0], device)
    attention.attention(work, qkv, manner, out, log_sum, heads)
    attention.attention_backward(work, qkv, manner, out, log_sum, out_grad, grad, heads)
    assert error(out, expected) < TOLERANCE[dtype]
    assert error(log_sum, expected_log_sum) < TOLERANCE[torch.float32] * 10
    assert error(grad, expected_grad) < TOLERANCE[dtype]


def test_every_token_is_in_one_tile_of_each_table():
    """Catches a token that is computed twice, or never."""
    work, count = attention.tiles(layout(GROUPS).layout, 32, torch.device("cpu")), len(visible(GROUPS))
    for table in (work.queries, work.keys):
        covered = torch.zeros(count, dtype=torch.long)
        for first, last, *_ in table.tolist():
            covered[first:last] += 1
        assert covered.eq(1).all()
