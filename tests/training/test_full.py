"""All weights trained (`lora: null`): the gradient of TRL, a plain model on the disk, and what cannot be is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.paths import QUICKSTART
from helpers.runs import SHORT, rows, run
from helpers.updates import micro_batches, new_trainer, own_gradient, stock_gradient
from tiny_math_solver.cli import main
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.models.load import load_base
from tiny_math_solver.rollouts import EngineRollouts
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.training.plan import prepare

ALL = ["--lora", "null", "--grpo.learning_rate", "1e-4"]


@pytest.mark.parametrize("temperature", ["1.0", "0.7"])
def test_the_gradient_of_every_weight_is_that_of_trl(temperature: str, tmp_path: Path):
    """Catches an output layer without its part: with tied embeddings the gradient would have half of it."""
    trainer = new_trainer(tmp_path / "run", *ALL, "--grpo.temperature", temperature)
    batches = micro_batches(trainer)
    own, loss = own_gradient(trainer, batches)
    stock, total = stock_gradient(trainer, batches)
    assert len(own) == sum(parameter.numel() for parameter in trainer.model.parameters())
    assert loss == pytest.approx(total, abs=1e-5)
    assert (own - stock).abs().max() <= 1e-4 * stock.abs().max()
    head = trainer.policy.get_output_embeddings().weight
    assert head.requires_grad


def test_a_run_leaves_a_plain_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    done = run(tmp_path / "run", *SHORT, *ALL, "--grpo.max_steps", "3", "--evaluation.every", "3", force=True)
    assert any("all weights are trained (lora null)" in line for line in done.lines)
    assert not list(done.folder.rglob("adapter*"))
    model: Any = AutoModelForCausalLM.from_pretrained(done.folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(done.folder)
    base = load_base("embedded", dtype="float32")
    moved = [name for (name, a), b in zip(model.named_parameters(), base.parameters(), strict=True) if (a != b).any()]
    if done.summary["best_step"]:
        assert len(moved) == len(list(model.parameters()))
    record = rows(done.folder / "eval" / "after.jsonl")[0]
    ids: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": record["question"]}], add_generation_prompt=True, return_tensors="pt"
    )
    ids = ids if isinstance(ids, torch.Tensor) else ids["input_ids"]
    made = model.generate(ids, do_sample=False, max_new_tokens=112)[0, ids.shape[1] :]
    assert tokenizer.decode(made, skip_special_tokens=True) == record["completion"]
    assert main(["eval", str(done.folder), "--limit", "4", "--against", "embedded"]) == 0
    assert "4 problems" in capsys.readouterr().out.replace(":", "")
    with pytest.raises(UserError, match="not an adapter folder"):
        _merge(done.folder, tmp_path / "out")


def _merge(folder: Path, out: Path) -> None:
    from tiny_math_solver.models.adapter import check_adapter_files

    check_adapter_files(folder)


def test_rollouts_follow_every_weight(tmp_path: Path):
    """Catches a merged copy that misses what no adapter changes: norms and the embedding."""
    trainer = new_trainer(tmp_path / "run", *ALL)
    rollouts = trainer.rollouts
    assert isinstance(rollouts, EngineRollouts)
    for name, weight in trainer.model.named_parameters():
        rollouts.weights.sync()
        before = _state(rollouts)
        with torch.no_grad():
            weight.view(-1)[:50] += 0.5
        rollouts.weights.sync()
        assert _state(rollouts) != before, name


def _state(rollouts: EngineRollouts) -> list[float]:
    weights = rollouts.weights
    tensors = [weights.embedding, weights.final_norm, weights.logits.weight]
    for layer in weights.layers:
        tensors += [layer.attention_norm, layer.mlp_norm, *(linear.weight for linear in layer.linears)]
        tensors += [linear.bias for linear in layer.linears if linear.bias is not None]
    return [tensor.double().sum().item() for tensor in tensors]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--grpo.beta", "0.05"], "grpo.beta needs an adapter, which lora null does without"),
        (["--model.adapter", "somewhere"], "model.adapter needs an adapter, which lora null does without"),
    ],
)
def test_what_needs_an_adapter_is_refused(overrides: list[str], message: str):
    with pytest.raises(UserError) as error:
        load_config(QUICKSTART, [*ALL, *overrides])
    assert message in str(error.value)


def test_it_is_said_that_nothing_is_left_of_the_section(tmp_path: Path):
    """`lora:` with all its keys commented out is null to YAML; the plan says what that means."""
    config = tmp_path / "c.yaml"
    config.write_text(
        "model: {name: embedded}\nproblems: {source: embedded, train: 64, dev: 4, test: 4}\nlora:\n  # r: 16\n"
        "grpo: {max_steps: 1}\n",
        encoding="utf-8",
        newline="\n",
    )
    loaded = load_config(config)
    assert loaded.trains_all
    assert "all weights are trained (lora null)" in prepare(loaded).plan.lines[0]
    assert not load_config(config, ["--lora.r", "4"]).trains_all


@pytest.mark.slow
def test_the_quickstart_learns_with_all_weights(tmp_path: Path):
    done = run(tmp_path / "run", *ALL, "--problems.test", "200", "--evaluation.samples", "0")
    assert done.summary["before"]["accuracy"] < 0.15
    assert done.summary["after"]["accuracy"] >= 0.9
