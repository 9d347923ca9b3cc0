"""Norms, gates, rotation and log-probabilities in Triton against torch in float64; sizes are no powers of two."""

import pytest
import torch
from torch import Tensor

from helpers.gpu_kernels import TOLERANCE, error
from tiny_math_solver.policy.architecture import GATES

rows = pytest.importorskip("tiny_math_solver.kernels.gpu.rows")
DTYPES = list(TOLERANCE)
N = 5


def random(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(device, dtype)


def poisoned(like: Tensor) -> Tensor:
    """A tensor in which what is not written is found."""
    return torch.full_like(like, torch.nan)


def gradient(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 100, 128])
def test_rms_norm(dtype: torch.dtype, columns: int, device: torch.device):
    x, weight, out_grad = (random(n, columns, dtype=dtype, device=device) for n in (N, 1, N + 1))
    weight, out_grad, out, grad = weight[0], out_grad[:N], poisoned(x), poisoned(x)
    rows.rms_norm(x, weight, 1e-6, out)
    rows.rms_norm_backward(x, weight, 1e-6, out_grad, False, grad)
    exact = x.double().requires_grad_()
    expected = exact * (exact.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.double()
    expected.backward(out_grad.double())
    assert error(out, expected) < TOLERANCE[dtype]
    if columns > 1:  # of one number it is 0, but for eps
        assert error(grad, gradient(exact)) < TOLERANCE[dtype]
    summed = x.clone()
    rows.rms_norm_backward(x, weight, 1e-6, out_grad, True, summed)
    assert error(summed, exact.detach() + gradient(exact)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [3, 1024, 1100])
@pytest.mark.parametrize("activation", GATES)
def test_gated(dtype: torch.dtype, size: int, activation: str, device: torch.device):
    gate = GATES[activation]
    gate_up, out_grad = random(N, 2 * size, dtype=dtype, device=device), random(N, size, dtype=dtype, device=device)
    exact, out = gate_up.double().requires_grad_(), poisoned(out_grad)
    rows.gated(gate_up, gate.activation, out)
    expected = gate.function(exact[:, :size]) * exact[:, size:]
    expected.backward(out_grad.double())
    rows.gated_backward(gate_up, gate.activation, out_grad, gate_up)  # in its own memory
    assert error(out, expected) < TOLERANCE[dtype]
    assert error(gate_up, gradient(exact)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(14, 2, 64), (3, 3, 24)])
def test_rotary(dtype: torch.dtype, heads: tuple[int, int, int], device: torch.device):
    """Queries and keys are rotated, the former scaled, values left alone; the gradient turns back."""
    queries, keys, dim = heads
    qkv = random(N, (queries + 2 * keys) * dim, dtype=dtype, device=device)
    table = random(40, dim, dtype=torch.float32, device=device)
    positions = torch.tensor([39, 0, 7, 7, 20], device=device)
    turn = torch.view_as_complex(table.double().view(40, -1, 2))[positions][:, None]
    pairs = torch.view_as_complex(qkv.double().view(N, -1, dim // 2, 2))[:, : queries + keys]
    for backward in (False, True):
        found = qkv.clone()
        rows.rotary(found, positions, table, 0.25, backward, heads)
        expected = torch.view_as_real(pairs * (turn.conj() if backward else turn)).flatten(2)
        expected[:, :queries] *= 0.25
        found = found.view(N, -1, dim)
        assert error(found[:, : queries + keys], expected) < TOLERANCE[dtype]
        assert torch.equal(found[:, queries + keys :], qkv.view(N, -1, dim)[:, queries + keys :])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vocabulary", "columns"), [(5000, 5008), (4096, 4096), (7, 7)])
def test_target_logprobs(dtype: torch.dtype, vocabulary: int, columns: int, device: torch.device):
    """The padding of the logits, however large, counts for nothing and has no gradient."""
    logits = 3 * random(N, columns, dtype=dtype, device=device)
    logits[:, vocabulary:] = 100
    exact, logprobs = logits.double().requires_grad_(), torch.full((N,), torch.nan, device=device)
    targets = torch.tensor([0, vocabulary - 1, 3, 4, 5], device=device)
    expected = (exact[:, :vocabulary] / 0.7).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    expected.sum().backward()
    rows.target_logprobs(logits, vocabulary, 0.7, targets, logprobs)
    assert error(logprobs, expected) < TOLERANCE[torch.float32]
    assert error(logits, gradient(exact)) < TOLERANCE[dtype]
