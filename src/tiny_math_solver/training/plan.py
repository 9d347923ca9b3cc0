"""A configuration made into problems, prompts and a plan in plain words: all that a run needs short of its model."""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tiny_math_solver.config.schema import Config
from tiny_math_solver.models.load import load_tokenizer
from tiny_math_solver.problems.splits import Splits, load_splits
from tiny_math_solver.prompts import Prompt, train_prompts
from tiny_math_solver.support import processes
from tiny_math_solver.support.errors import UserError


@dataclass(frozen=True)
class Plan:
    """A configuration with its problems, in numbers and sentences; `dropped` train problems had too long a prompt."""

    config: Config
    splits: Splits
    dropped: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the train problems; a last generation batch that is not full is left out."""
        config = self.config
        batches = len(self.splits.train) // (config.generation_batch // config.num_generations)
        completions = batches * config.generation_batch * config.grpo_config.num_iterations
        return math.ceil(completions / config.completions_per_step)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        steps = self.config.grpo_config.max_steps
        if steps and steps > 0:
            return steps
        return math.ceil(self.config.grpo_config.num_train_epochs * self.steps_per_epoch)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the problems, by which it is known whether a resumed run has the same ones."""
        digest, splits = hashlib.sha256(), self.splits
        for part in (splits.train, splits.dev, splits.test, splits.unseen):
            digest.update(json.dumps([[p.id, p.question, p.answer] for p in part]).encode())
        return digest.hexdigest()

    @property
    def step_line(self) -> str:
        """The batch arithmetic of one step."""
        completions, samples = self.config.completions_per_step, self.config.num_generations
        shared = f" shared by {processes.count()} processes" if processes.count() > 1 else ""
        return (
            f"each step: {completions / samples:g} problems × {samples} samples = {completions:,} completions{shared}; "
            f"{self.steps_per_epoch:,} steps an epoch"
        )

    @property
    def dropped_line(self) -> str:
        """Empty if no problem was dropped."""
        if not self.dropped:
            return ""
        return f"{self.dropped:,} train problems dropped: their prompt has over {self.config.prompt.max_tokens} tokens"

    @property
    def record(self) -> dict[str, Any]:
        """The problems in numbers, for summary.json: those that are used and those that were dropped."""
        splits = self.splits
        counts = {name: len(getattr(splits, name)) for name in ("train", "dev", "test", "unseen")}
        return counts | {"unreadable": splits.unreadable, "too_long": self.dropped, "notes": splits.notes}

    @property
    def lines(self) -> list[str]:
        """The plan, a sentence a line."""
        config, grpo, splits = self.config, self.config.grpo_config, self.splits
        return [
            f"model: {config.model.name}, LoRA r={config.lora_config.r} alpha={config.lora_config.lora_alpha}",
            f"problems: {config.problems.source}: {len(splits.train):,} train, {len(splits.dev):,} dev, "
            f"{len(splits.test):,} test" + (f", {len(splits.unseen):,} of unseen kinds" if splits.unseen else ""),
            *splits.notes,
            *filter(None, [self.dropped_line]),
            self.step_line,
            f"{self.steps:,} steps in all: {self.steps * config.completions_per_step:,} completions of at most "
            f"{config.max_completion_length} tokens, temperature {grpo.temperature:g}, learning rate "
            f"{grpo.learning_rate:g}, beta {grpo.beta:g}",
            f"greedy evaluation on dev every {config.evaluation.every} steps (the best adapter is kept), "
            "on test before and after",
            f"output: {config.output_dir}",
        ]


@dataclass(frozen=True)
class Prepared:
    """Problems, the prompts of the train problems in their order, the tokenizer and the plan."""

    config: Config
    splits: Splits
    prompts: list[Prompt]
    tokenizer: Any
    plan: Plan

    def with_grpo(self, changes: dict[str, Any]) -> "Prepared":
        """The same with other values in section `grpo`."""
        config = self.config.with_grpo(**changes) if changes else self.config
        return replace(self, config=config, plan=replace(self.plan, config=config))


def prepare(config: Config) -> Prepared:
    """Load problems and tokenizer, and encode the train prompts; writes nothing.

    Raises UserError where too few problems are left for a step.
    """
    splits = load_splits(config.problems)
    tokenizer = load_tokenizer(config.model.name, config.model.revision)
    train, prompts = train_prompts(tokenizer, splits.train, config.prompt.system, config.prompt.max_tokens)
    if not train:
        raise UserError(f"every prompt has over {config.prompt.max_tokens} tokens; raise prompt.max_tokens")
    plan = Plan(config, replace(splits, train=train), dropped=len(splits.train) - len(train))
    if not plan.steps_per_epoch:
        raise UserError(
            f"{len(train)} train problems are fewer than a generation batch asks, "
            f"{config.generation_batch // config.num_generations}; lower grpo.gradient_accumulation_steps or "
            "grpo.per_device_train_batch_size"
        )
    return Prepared(config, plan.splits, prompts, tokenizer, plan)
