"""The update: fewer and shorter passes, the same gradient as TRL's micro-batches."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from helpers.updates import gradient, micro_batches, new_trainer, own_gradient, stock_gradient
from tiny_math_solver.rollouts import EngineRollouts
from tiny_math_solver.update import torch_scorer
from tiny_math_solver.update.merged_scorer import MergedScorer, unsupported
from tiny_math_solver.update.passes import rows_by_group, rows_by_length
from tiny_math_solver.update.torch_scorer import ChosenLogProb, TorchScorer


@pytest.fixture(params=["true", "false"], ids=["native", "torch"])
def native(request: pytest.FixtureRequest) -> list[str]:
    """Overrides for our kernels, and for torch alone."""
    if request.param == "true" and not shutil.which("g++"):
        pytest.skip("no compiler")
    return ["--rollouts.native", request.param]


@pytest.mark.parametrize("beta", ["0.0", "0.05"])
@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "bnpo", "luspo", "cispo", "sapo", "vespo"])
def test_the_gradient_is_trls(tmp_path: Path, loss: str, beta: str, native: list[str]):
    """Catches a wrong normaliser, a row lost or counted twice, a shifted token, padding that is looked at."""
    small = ["--update.tokens_per_pass", "500"]
    trainer = new_trainer(tmp_path / "run", "--grpo.loss_type", loss, "--grpo.beta", beta, *small, *native)
    assert trainer.update is not None
    assert type(trainer.update.scorer) is (MergedScorer if native[1] == "true" else TorchScorer)
    batches = micro_batches(trainer)
    expected, expected_loss = stock_gradient(trainer, batches)
    got, got_loss = own_gradient(trainer, batches)
    assert expected.norm() > 0
    assert (got - expected).norm() / expected.norm() < 1e-4
    assert got_loss == pytest.approx(expected_loss, abs=1e-5)


@pytest.mark.parametrize("options", [["--grpo.num_iterations", "2"], ["--grpo.mask_truncated_completions", "true"]])
def test_so_it_is_off_policy_and_with_cut_completions_masked(tmp_path: Path, options: list[str], native: list[str]):
    trainer = new_trainer(tmp_path / "run", *options, "--grpo.max_completion_length", "16", *native)
    batches = micro_batches(trainer)
    assert ("old_per_token_logps" in batches[0]) == ("--grpo.num_iterations" in options)
    for name, weight in trainer.model.named_parameters():  # a policy that has moved on since the rollouts
        if "lora_B" in name:
            weight.data.mul_(1.3)
    expected, _ = stock_gradient(trainer, batches)
    got, _ = own_gradient(trainer, batches)
    assert (got - expected).norm() / expected.norm() < 1e-4


def test_groups_without_a_gradient_cost_nothing_and_still_make_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: list[str]
):
    """Adam moves by its momentum on a zero gradient, and not at all where there is none: a zero has to be there."""
    trainer = new_trainer(tmp_path / "run", *native)
    batches = micro_batches(trainer)
    for batch in batches:
        batch["advantages"] = torch.zeros_like(batch["advantages"])
    trainer.state.global_step = 1  # not one in which a few rows are scored anyway
    monkeypatch.setattr(trainer, "_compute_loss", None)  # any pass would fail
    got, loss = own_gradient(trainer, batches)
    assert loss == 0
    assert len(got) == sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert not got.any()


@pytest.mark.parametrize("loss", ["grpo", "dapo", "cispo", "vespo", "bnpo"])
def test_a_step_may_span_generation_batches_and_rows_without_any_token(tmp_path: Path, loss: str, native: list[str]):
    """TRL normalises each micro-batch by the tokens of its own generation batch, and masks completions cut off."""
    options = ["--grpo.loss_type", loss, "--grpo.steps_per_generation", "4", "--update.tokens_per_pass", "300"]
    options += ["--grpo.seed", "5"]  # under which the two generation batches have different numbers of tokens
    trainer = new_trainer(tmp_path / "run", *options, *native)
    batches = micro_batches(trainer)
    assert len({float(batch["num_items_in_batch"]) for batch in batches}) == 2
    for batch in batches[1:3]:
        batch["completion_mask"] = torch.zeros_like(batch["completion_mask"])
    expected, expected_loss = stock_gradient(trainer, batches)
    got, got_loss = own_gradient(trainer, batches)
    assert expected.norm() > 0
    assert (got - expected).norm() / expected.norm() < 1e-4
    assert got_loss == pytest.approx(expected_loss, abs=1e-5)


def stock_gradient_of_used(trainer: Any, batches: list[dict[str, Any]], rows: int) -> torch.Tensor:
    """TRL's gradient for micro-batches of `rows` used rows each."""
    whole = {k: torch.cat([b[k] for b in batches]) if v.ndim else v for k, v in batches[0].items()}
    chosen = whole["used"].nonzero()[:, 0]
    trainer.current_gradient_accumulation_steps = len(chosen) // rows
    trainer.args.steps_per_generation = len(chosen) // rows
    update, trainer.update = trainer.update, None
    for part in chosen.split(rows):
        loss = trainer._compute_loss(trainer.model, {k: v[part] if v.ndim else v for k, v in whole.items()})
        loss.backward()
    trainer.update = update
    return gradient(trainer)


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "bnpo", "luspo", "cispo", "sapo", "vespo"])
def test_the_gradient_is_trls_for_the_used_rows_alone(tmp_path: Path, loss: str, native: list[str]):
    """Catches a mean that still counts the dropped rows, or their tokens. One row a micro-batch suits bnpo too."""
    one = ["--grpo.per_device_train_batch_size", "1", "--grpo.gradient_accumulation_steps", "32"]
    options = ["--update.share", "0.5", "--grpo.loss_type", loss, "--grpo.beta", "0.05", *one]
    trainer = new_trainer(tmp_path / "run", *options, *native)
    batches = micro_batches(trainer)
    assert sum(int(batch["used"].sum()) for batch in batches) == 16
    got, _ = own_gradient(trainer, batches)
    expected = stock_gradient_of_used(trainer, batches, rows=1)
    assert expected.norm() > 0
    assert (got - expected).norm() / expected.norm() < 1e-4


def test_dropped_rows_are_not_passed_through_the_model(tmp_path: Path, native: list[str]):
    """Half of the rows, half of the work. Catches rows that only lose their advantage while beta keeps them in."""
    trainer = new_trainer(tmp_path / "run", "--update.share", "0.5", "--grpo.beta", "0.05", *native)
    batches = micro_batches(trainer)
    scored, loss_of = [], trainer._compute_loss

    def counted(model: Any, batch: dict[str, Any]) -> Any:
        scored.append(len(batch["advantages"]))
        return loss_of(model, batch)

    trainer._compute_loss = counted
    own_gradient(trainer, batches)
    assert sum(scored) == 16


def test_a_pass_in_which_nothing_is_scored_has_no_gradient(tmp_path: Path, native: list[str]):
    trainer = new_trainer(tmp_path / "run", *native)
    batches = micro_batches(trainer)
    for batch in batches:
        batch["completion_mask"] = torch.zeros_like(batch["completion_mask"])
    got, loss = own_gradient(trainer, batches)  # the comparison with transformers has nothing to compare either
    assert loss == 0
    assert not got.any()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--lora.lora_dropout", "0.1"], "LoRA dropout is not supported"),
        (["--lora.modules_to_save", "[norm]"], "more than the adapter of the layers is trainable"),
        (["--lora.bias", "all"], "more than the adapter of the layers is trainable"),
    ],
)
def test_what_the_native_update_cannot_train_is_left_to_torch(tmp_path: Path, options: list[str], why: str):
    trainer = new_trainer(tmp_path / "run", *options)
    assert trainer.update is not None
    assert type(trainer.update.scorer) is TorchScorer
    assert isinstance(trainer.rollouts, EngineRollouts)
    assert unsupported(trainer.rollouts.weights, trainer.model) == why


def test_an_adapter_on_some_projections_gets_its_gradient(tmp_path: Path, native: list[str]):
    trainer = new_trainer(tmp_path / "run", "--lora.target_modules", "[k_proj, up_proj]", *native)
    batches = micro_batches(trainer)
    expected, _ = stock_gradient(trainer, batches)
    got, _ = own_gradient(trainer, batches)
    assert expected.norm() > 0
    assert (got - expected).norm() / expected.norm() < 1e-4


def moved(model: Any) -> None:
    for parameter in model.parameters():
        old, parameter.data = parameter.data, parameter.data * 1.1
        old.fill_(torch.nan)  # must not be read


def replaced(model: Any) -> None:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(parameter.data * 1.1, parameter.requires_grad))


def rotation_replaced(model: Any) -> None:
    rotary = model.get_base_model().model.rotary_emb
    rotary.inv_freq = rotary.inv_freq * 0.5


def embeddings_resized(model: Any) -> None:
    model.get_base_model().resize_token_embeddings(1100, mean_resizing=False).weight.requires_grad_(False)


def adapter_added(model: Any) -> None:
    model.add_adapter("more", LoraConfig(r=2, target_modules=["up_proj", "q_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "more"])


def state_assigned(model: Any) -> None:
    state = {name: weight * 1.1 for name, weight in model.state_dict().items()}
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    model.load_state_dict(state, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained.get(name, False))  # the output layer is not tied any more


CHANGES: tuple[Any, ...] = (
    moved, replaced, rotation_replaced, embeddings_resized, adapter_added, state_assigned,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_scorer_follows_a_model_that_changes(tmp_path: Path, change: Any):
    """Catches merged weights, transposed copies or rotations of the model as it was at the first step."""
    trainer = new_trainer(tmp_path / "run")
    assert isinstance(trainer.update.scorer, MergedScorer)
    batches = micro_batches(trainer)
    before, _ = own_gradient(trainer, batches)
    change(trainer.model)
    expected, _ = stock_gradient(trainer, batches)
    got, _ = own_gradient(trainer, batches)
    assert (got - expected).norm() / expected.norm() < 1e-4
    assert len(got) != len(before) or (got - before).norm() / before.norm() > 5e-4


def test_the_scorer_refuses_a_change_that_it_cannot_compute(tmp_path: Path):
    """Dropout of an adapter that comes later would be left out of the gradient without a word."""
    trainer = new_trainer(tmp_path / "run")
    batches = micro_batches(trainer)
    trainer.model.add_adapter("more", LoraConfig(r=2, target_modules=["up_proj"], lora_dropout=0.1))
    trainer.model.base_model.set_adapter(["default", "more"])
    with pytest.raises(RuntimeError, match="its update cannot go on: LoRA dropout is not supported"):
        own_gradient(trainer, batches)


def test_the_gap_to_transformers_shows_a_policy_that_is_out_of_date(tmp_path: Path):
    trainer = new_trainer(tmp_path / "run")
    update = trainer.update
    assert update is not None
    update.window = micro_batches(trainer)
    assert type(update.scorer) is MergedScorer
    update.scorer.begin()
    assert update.gap_to_transformers()[1] < 1e-4
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            weight.data.mul_(1.5)
    assert update.gap_to_transformers()[0] > 1e-3


def test_passes_by_group_count_its_prompt_once():
    group = torch.tensor([1, 2, 1, 3, 2, 1])
    prompts, completions = torch.full((6,), 10), torch.tensor([5, 5, 6, 7, 8, 40])
    parts = [part.tolist() for part in rows_by_group(group, prompts, completions, 30)]
    assert parts == [[0, 2], [5], [1, 4], [3]]  # 21, 50, 23 and 17 tokens
    assert [part.tolist() for part in rows_by_group(group, prompts, completions, 1000)] == [[0, 2, 5, 1, 4, 3]]
    assert list(rows_by_group(group[:0], prompts[:0], completions[:0], 30)) == []


def test_passes_hold_every_row_once_within_the_budget():
    lengths = torch.tensor([5, 90, 40, 41, 7, 200, 12, 12])
    parts = list(rows_by_length(lengths, 100))
    assert sorted(torch.cat(parts).tolist()) == list(range(8))
    for part in parts:
        assert len(part) == 1 or len(part) * lengths[part].max() <= 100


@pytest.mark.parametrize("cap", [0.0, 3.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_their_gradient_are_those_of_log_softmax(
    temperature: float, cap: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch_scorer, "LOGITS_TOKENS", 7)  # several chunks, the last one not full
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(50, *s, generator=generator, dtype=torch.float64) for s in ((16,), ()))
    target = torch.randint(50, (30,), generator=generator)
    got = ChosenLogProb.apply(x, weight, bias, target, temperature, cap)
    logits = x @ weight.T + bias
    plain = (
        ((cap * (logits / cap).tanh() if cap else logits) / temperature)
        .log_softmax(-1)
        .gather(1, target[:, None])[:, 0]
    )
    assert torch.allclose(got.double(), plain, atol=1e-5)
    gradients = [torch.autograd.grad((y * torch.linspace(-1, 1, 30)).sum(), x)[0] for y in (got, plain)]
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)
