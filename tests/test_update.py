"""The update: fewer and shorter passes, the same gradient as TRL's micro-batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from trl import GRPOTrainer

from tiny_math_solver.config import load_config
from tiny_math_solver.grpo.run import training_arguments
from tiny_math_solver.grpo.trainer import MathGRPOTrainer
from tiny_math_solver.models import load_base, load_tokenizer
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.runs import RunFolder

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
SMALL = [
    "--grpo.num_generations", "4", "--grpo.per_device_train_batch_size", "4", "--grpo.gradient_accumulation_steps", "8",
    "--grpo.max_completion_length", "64", "--grpo.max_steps", "1",
]  # fmt: skip


def make_trainer(folder: Path, *overrides: str) -> MathGRPOTrainer:
    config = load_config(QUICKSTART, [*SMALL, "--grpo.output_dir", str(folder), *overrides])
    torch.manual_seed(0)
    run = RunFolder(folder)
    run.create()
    trainer = MathGRPOTrainer(
        model=load_base("embedded"),
        args=training_arguments(config),
        train=embedded_problems("train", 40),
        tokenizer=load_tokenizer("embedded"),
        peft_config=LoraConfig(**config.lora),
        config=config,
        run=run,
        callbacks=[],
    )
    generator = torch.Generator().manual_seed(1)
    for name, weight in trainer.model.named_parameters():  # an adapter that does something: B starts at zero
        if "lora_B" in name:
            weight.data.normal_(std=0.02, generator=generator)
    return trainer


def micro_batches(trainer: MathGRPOTrainer) -> list[dict[str, Any]]:
    """What TRL would train on in the first optimizer step."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    rows = next(iter(trainer.get_train_dataloader()))
    batches = []
    for step in range(trainer.args.gradient_accumulation_steps):
        trainer._step = step
        batches.append(trainer._prepare_inputs(rows))
    return batches


def gradient(trainer: MathGRPOTrainer) -> torch.Tensor:
    parts = [p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad]
    trainer.model.zero_grad()
    return torch.cat(parts)


def stock_gradient(trainer: MathGRPOTrainer, batches: list[dict[str, Any]]) -> tuple[torch.Tensor, float]:
    trainer.own_passes, total = False, 0.0
    for batch in batches:
        loss = GRPOTrainer._compute_loss(trainer, trainer.model, batch)
        loss.backward()
        total += loss.item()
    trainer.own_passes = True
    return gradient(trainer), total


def own_gradient(trainer: MathGRPOTrainer, batches: list[dict[str, Any]]) -> tuple[torch.Tensor, float]:
    trainer._window = batches
    loss = trainer._update(trainer.model)
    return gradient(trainer), loss.item()


@pytest.mark.parametrize("beta", ["0.0", "0.05"])
@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "bnpo", "luspo", "cispo", "sapo", "vespo"])
def test_the_gradient_is_trls(tmp_path: Path, loss: str, beta: str):
    """Catches a wrong normaliser, a row lost or counted twice, a shifted token, padding that is looked at."""
    trainer = make_trainer(
        tmp_path / "run", "--grpo.loss_type", loss, "--grpo.beta", beta, "--update.tokens_per_pass", "500"
    )
    batches = micro_batches(trainer)
    expected, expected_loss = stock_gradient(trainer, batches)
    got, got_loss = own_gradient(trainer, batches)
    assert expected.norm() > 0
    assert (got - expected).norm() / expected.norm() < 1e-4
    assert got_loss == pytest.approx(expected_loss, abs=1e-5)
