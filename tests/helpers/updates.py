"""A trainer of the shipped model with an adapter that does something; its gradient by TRL and by our update."""

from pathlib import Path
from typing import Any

import torch
from trl import GRPOTrainer

from helpers.paths import QUICKSTART
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.models.load import load_base, load_tokenizer
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.prompts import PromptFormat, train_prompts
from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support.console import QuietConsole
from tiny_math_solver.training.build import make_trainer
from tiny_math_solver.training.trainer import MathGRPOTrainer

SMALL = [
    "--grpo.num_generations", "4", "--grpo.per_device_train_batch_size", "4", "--grpo.gradient_accumulation_steps", "8",
    "--grpo.max_completion_length", "64", "--grpo.max_steps", "1",
]  # fmt: skip


def new_trainer(folder: Path, *overrides: str) -> Any:
    config = load_config(QUICKSTART, [*SMALL, "--grpo.output_dir", str(folder), *overrides])
    torch.manual_seed(0)
    run, console, tokenizer = RunFolder(folder), QuietConsole(), load_tokenizer("embedded")
    run.create()
    problems, prompts = train_prompts(tokenizer, embedded_problems("train", 40), PromptFormat(), 1000)
    model, events = load_base("embedded"), EventLog(run, console)
    trainer: Any = make_trainer(config, model, tokenizer, problems, prompts, run, console, events)
    generator = torch.Generator().manual_seed(1)
    for name, weight in trainer.model.named_parameters():  # an adapter that does something: B starts at zero
        if "lora_B" in name:
            weight.data.normal_(std=0.02, generator=generator)
    return trainer


def micro_batches(trainer: Any) -> list[dict[str, Any]]:
    """The micro-batches that TRL would train on in the first optimizer step."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    rows = next(iter(trainer.get_train_dataloader()))
    batches = []
    for step in range(trainer.args.gradient_accumulation_steps):
        trainer._step = step
        batches.append(trainer._prepare_inputs(rows))
    return batches


def gradient(trainer: Any) -> torch.Tensor:
    parts = [p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad]
    trainer.model.zero_grad()
    return torch.cat(parts)


def stock_gradient(trainer: MathGRPOTrainer, batches: list[dict[str, Any]]) -> tuple[torch.Tensor, float]:
    update, trainer.update, total = trainer.update, None, 0.0
    for batch in batches:
        loss = GRPOTrainer._compute_loss(trainer, trainer.model, batch)
        loss.backward()
        total += loss.item()
    trainer.update = update
    return gradient(trainer), total


def own_gradient(trainer: MathGRPOTrainer, batches: list[dict[str, Any]]) -> tuple[torch.Tensor, float]:
    assert trainer.update is not None
    trainer.update.window = batches
    loss = trainer._update_policy(trainer.model)
    return gradient(trainer), loss.item()
