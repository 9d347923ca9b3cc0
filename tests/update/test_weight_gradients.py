"""The gradient at the adapter's rank: for large models, and in bfloat16."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from helpers.models import FAMILIES, adapted, small
from helpers.scoring import batch_of, scored
from helpers.updates import micro_batches, new_trainer, own_gradient, stock_gradient
from tiny_math_solver.models.load import load_model
from tiny_math_solver.policy.linear import Linear
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts import EngineRollouts, Sampling
from tiny_math_solver.update import merged_scorer
from tiny_math_solver.update.merged_scorer import MergedScorer
from tiny_math_solver.update.torch_scorer import TorchScorer
from tiny_math_solver.update.weight_gradients import AdapterGradient, MergedGradient


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped model counts as one whose merged gradients would take too much."""
    monkeypatch.setattr(merged_scorer, "MERGED_BYTES", 0)


@pytest.mark.parametrize("targets", ["all-linear", "[k_proj, up_proj]", "[q_proj, o_proj, down_proj]"])
def test_it_is_trls_in_float32(tmp_path: Path, large: None, targets: str):
    trainer = new_trainer(tmp_path / "run", "--lora.target_modules", targets, "--update.tokens_per_pass", "500")
    assert all(type(gradient) is AdapterGradient for gradient in trainer.update.scorer.gradients.values())
    batches = micro_batches(trainer)
    expected, _ = stock_gradient(trainer, batches)
    got, _ = own_gradient(trainer, batches)
    assert (got - expected).norm() / expected.norm() < 1e-4


def test_so_it_is_for_two_adapters_one_of_them_frozen(tmp_path: Path, large: None):
    """The frozen one has no gradient, and the other's passes through it."""
    trainer = new_trainer(tmp_path / "run")
    more = LoraConfig(r=2, target_modules=["up_proj", "q_proj"], init_lora_weights=False)
    trainer.model.add_adapter("more", more)
    trainer.model.base_model.set_adapter(["default", "more"])
    for name, parameter in trainer.model.named_parameters():
        if ".more." in name:
            parameter.data *= 0.1
            parameter.requires_grad_(False)
    batches = micro_batches(trainer)
    expected, _ = stock_gradient(trainer, batches)
    got, _ = own_gradient(trainer, batches)
    assert (got - expected).norm() / expected.norm() < 1e-4


def test_a_pass_in_which_nothing_is_scored_has_no_gradient(tmp_path: Path, large: None):
    trainer = new_trainer(tmp_path / "run")
    batches = micro_batches(trainer)
    for batch in batches:
        batch["completion_mask"] = torch.zeros_like(batch["completion_mask"])
    got, loss = own_gradient(trainer, batches)
    assert loss == 0
    assert not got.any()


def test_a_projection_without_adapter_has_no_sum(tmp_path: Path):
    scorer = new_trainer(tmp_path / "run", "--lora.target_modules", "[k_proj, up_proj]").update.scorer
    trained = {linear for layer in scorer.weights.layers for linear in (layer.query_key_value, layer.gate_up)}
    assert {linear for linear, gradient in scorer.gradients.items() if gradient.nbytes} == trained


def test_a_small_model_sums_the_gradients_of_merged_weights(tmp_path: Path):
    scorer = new_trainer(tmp_path / "run").update.scorer
    assert all(type(gradient) is MergedGradient for gradient in scorer.gradients.values())
    assert scorer.nbytes == sum(4 * linear.rows * linear.weight.shape[1] for linear in layers(scorer.weights))


def layers(weights: PolicyWeights) -> list[Linear]:
    return [linear for layer in weights.layers for linear in layer.linears]


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_it_is_as_near_to_float32_as_autograd_or_nearer(family: str):
    """The same rounded base weights in both; what is kept is rounded. Of means of four models a tenth is chance."""
    errors = torch.stack([errors_in_bfloat16(family, seed) for seed in range(4)]).mean(0)
    (of_logprobs, of_gradient), (by_autograd, gradient_by_autograd) = errors.tolist()
    assert of_logprobs <= 1.1 * by_autograd
    assert of_gradient <= 1.1 * gradient_by_autograd


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rollouts_and_update_compute_the_same_numbers(family: str, dtype: torch.dtype):
    """Also in bfloat16, where another order of sums differs by 1e-2: only the normaliser is summed in two ways."""
    model = adapted(small(copy.deepcopy(FAMILIES[family])).to(dtype), r=4)
    engine = EngineRollouts(model, load_model("embedded").tokenizer, 7)  # slots, which several waves share
    if dtype == torch.bfloat16 and not (engine.weights.kernels and engine.weights.kernels.has_bfloat16):
        pytest.skip("a processor that does not multiply bfloat16")
    prompts = [Prompt(list(range(3, 3 + length)), group) for group, length in enumerate((20, 33, 5))]
    rollouts = engine.generate(prompts, 4, Sampling(40, temperature=0.7))
    batch = {
        part: pad_sequence([torch.tensor(ids) for ids in of_rollouts], batch_first=True, padding_side=side)
        for part, side, of_rollouts in (
            ("prompt_ids", "left", [r.prompt_ids for r in rollouts]),
            ("prompt_mask", "left", [[1] * len(r.prompt_ids) for r in rollouts]),
            ("completion_ids", "right", [r.completion_ids for r in rollouts]),
            ("completion_mask", "right", [[1] * len(r.completion_ids) for r in rollouts]),
            ("sampled", "right", [r.logprobs for r in rollouts]),
        )
    }
    batch["group"] = torch.arange(len(rollouts)) // 4
    scorer = MergedScorer(engine.weights, 0.7)
    scorer.begin()
    logprobs = scorer.logprobs(batch).detach()
    assert (logprobs - batch["sampled"]).abs().max() < 2e-5


def errors_in_bfloat16(family: str, seed: int) -> Tensor:
    """Of the log-probabilities and of the gradient, relative to float32: those of the kernels, and of autograd."""
    half = small(copy.deepcopy(FAMILIES[family]), seed).to(torch.bfloat16)
    exact = adapted(copy.deepcopy(half).float(), r=4)
    model = adapted(half, r=4)
    for parameter, other in zip(model.parameters(), exact.parameters(), strict=True):
        if parameter.requires_grad:
            parameter.data = other.data.clone()
    batch, weights = batch_of(seed), PolicyWeights(model)
    assert merged_scorer.unsupported(weights, model) == ""

    def by_torch(of: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return scored(TorchScorer(of.get_base_model(), 0.7, nullcontext, dtype), of, batch)

    reference = by_torch(exact, torch.float32)
    found = scored(MergedScorer(weights, 0.7), model, batch), by_torch(model, torch.bfloat16)
    return torch.tensor([
        [((got - exact).norm() / exact.norm()).item() for got, exact in zip(of, reference, strict=True)]
        for of in found
    ])  # fmt: skip


def test_a_run_in_bfloat16_updates_by_kernels(tmp_path: Path):
    trainer = new_trainer(tmp_path / "run", "--model.dtype", "bfloat16")
    assert type(trainer.update.scorer) is MergedScorer
    batches = micro_batches(trainer)
    got, _ = own_gradient(trainer, batches)
    expected, _ = stock_gradient(trainer, batches)
    assert (got - expected).norm() / expected.norm() < 0.1
    assert got.dtype == torch.float32
