"""The gradient of every family: our update against autograd through transformers' own forward pass."""

import shutil
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.models import FAMILIES, adapted, small
from helpers.scoring import batch_of, gradient_of, scored
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.update import merged_scorer
from tiny_math_solver.update.merged_scorer import MergedScorer, unsupported
from tiny_math_solver.update.scorer import whole_rows
from tiny_math_solver.update.torch_scorer import TorchScorer

TEMPERATURE, LIMIT = 0.7, 1e-4


def by_autograd(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """As `scored`, with all logits, by transformers alone."""
    ids, mask, size = whole_rows(batch)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -size - 1 : -1]
    logprobs = (logits / TEMPERATURE).log_softmax(-1).gather(2, batch["completion_ids"][..., None])[..., 0]
    logprobs = logprobs * batch["completion_mask"]
    (logprobs * batch["advantages"]).sum().backward()
    return logprobs.detach(), gradient_of(model)


@pytest.mark.parametrize("kind", ["merged", "adapter", "torch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_autograds(family: str, kind: str, monkeypatch: pytest.MonkeyPatch):
    """Sums at the merged weights and at the adapters' rank, by kernels, and by torch without keeping the logits."""
    if kind == "adapter":
        monkeypatch.setattr(merged_scorer, "MERGED_BYTES", 0)
    model, batch = adapted(small(FAMILIES[family]), r=4), batch_of(1)
    expected = by_autograd(model, batch)
    if kind == "torch":
        got = scored(TorchScorer(model.get_base_model(), TEMPERATURE, nullcontext, torch.float32), model, batch)
    else:
        if not shutil.which("g++"):
            pytest.skip("no compiler")
        weights = PolicyWeights(model)
        assert unsupported(weights, model) == ""
        got = scored(MergedScorer(weights, TEMPERATURE), model, batch)
    assert (got[0] - expected[0]).abs().max() <= LIMIT
    assert (got[1] - expected[1]).abs().max() <= LIMIT * expected[1].abs().max()
