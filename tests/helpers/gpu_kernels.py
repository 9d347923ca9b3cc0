"""Policies whose rollouts and update are computed in Triton, by its interpreter where there is no GPU."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_math_solver.policy.weights import PolicyWeights

# relative to the largest values, in float32 and half precision: the interpreter cannot multiply bfloat16 matrices
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def use_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every new copy of a policy compute in Triton."""
    monkeypatch.setattr(PolicyWeights, "_load_operators", PolicyWeights._load_gpu_operators)


def error(found: Tensor, expected: Any) -> float:
    """The relative error, in the norm; nan is infinitely wrong."""
    difference = (found.double().cpu() - expected.detach().double().cpu()).norm() / expected.double().norm().cpu()
    return torch.inf if difference.isnan() else difference.item()
