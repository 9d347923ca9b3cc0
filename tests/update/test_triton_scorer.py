"""The whole update in Triton: log-probabilities and gradient of the adapter as by the compiled kernels and by torch."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from helpers.gpu_kernels import use_triton
from helpers.models import FAMILIES, WINDOW, adapted, small
from helpers.updates import micro_batches, new_trainer
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.update.merged_scorer import MergedScorer, unsupported
from tiny_math_solver.update.passes import select_rows, trimmed
from tiny_math_solver.update.scorer import Scorer
from tiny_math_solver.update.torch_scorer import TorchScorer


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter's test: a GPU has its own")
@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_families_have_the_gradient_of_torch(family: str, monkeypatch: pytest.MonkeyPatch):
    """Windows, caps, norms behind sublayers, and of queries and keys."""
    model, prompt = adapted(small(FAMILIES[family]), r=2), torch.arange(20, 20 + WINDOW + 2).expand(2, -1)
    ids = torch.tensor([[60, 61, 62, 63], [70, 71, 0, 0]])
    batch = {
        "prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt), "completion_ids": ids,
        "completion_mask": (ids > 0).long(), "group": torch.zeros(2, dtype=torch.long),
        "advantages": torch.tensor([1.0, -0.5]),
    }  # fmt: skip
    expected = scored(TorchScorer(model.get_base_model(), 0.7, nullcontext, torch.float32), model, batch)
    use_triton(monkeypatch)
    weights = PolicyWeights(model)
    assert unsupported(weights, model) == ""
    assert weights.kernels is None
    found = scored(MergedScorer(weights, 0.7), model, batch)
    assert (found[0] - expected[0]).abs().max() < 1e-4
    assert (found[1] - expected[1]).norm() / expected[1].norm() < 1e-4


def scored(scorer: Scorer, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a batch's completions, and the gradient of their sum, each times its advantage."""
    model.zero_grad()
    scorer.begin()
    logprobs = scorer.logprobs(batch)
    (logprobs * batch["advantages"][:, None]).sum().backward()
    scorer.finish()
    return logprobs.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter's test: a GPU has its own")
def test_it_is_that_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two samples of one prompt and one of another; no product of theirs is made by our own kernels for the CPU."""
    trainer = new_trainer(tmp_path / "run")
    model, batch = trainer.model, micro_batches(trainer)[0]
    # the shortest completions: every token costs the interpreter a tenth of a second
    rows = batch["completion_mask"].sum(1).argsort()[:2]
    few = trimmed(select_rows(batch, rows))
    few["advantages"] = torch.tensor([1.0, -0.5])
    expected = scored(trainer.update.torch_scorer, model, few)
    use_triton(monkeypatch)
    weights = PolicyWeights(model)
    assert unsupported(weights, model) == ""
    assert weights.kernels is None
    assert type(trainer.update.torch_scorer) is TorchScorer
    found = scored(MergedScorer(weights, trainer.temperature), model, few)
    assert (found[0] - expected[0]).abs().max() < 1e-4
    assert (found[1] - expected[1]).norm() / expected[1].norm() < 1e-4
