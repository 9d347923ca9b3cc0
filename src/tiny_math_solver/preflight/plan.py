"""What a configuration means, in plain words, before anything is trained."""

import math

from tiny_math_solver.config.schema import Config
from tiny_math_solver.problems.splits import Splits


def steps_per_epoch(config: Config, train_problems: int) -> int:
    """Optimizer steps in one pass over the train problems; a last generation batch that is not full is left out."""
    batches = train_problems // (config.generation_batch // config.num_generations)
    completions = batches * config.generation_batch * config.grpo_config.num_iterations
    return math.ceil(completions / config.completions_per_step)


def total_steps(config: Config, train_problems: int) -> int:
    steps = config.grpo_config.max_steps
    if steps and steps > 0:
        return steps
    return math.ceil(config.grpo_config.num_train_epochs * steps_per_epoch(config, train_problems))


def plan_lines(config: Config, splits: Splits, dropped: int = 0) -> list[str]:
    """The plan, a sentence a line."""
    grpo, samples = config.grpo_config, config.num_generations
    completions = config.completions_per_step
    problems = completions / samples
    steps = total_steps(config, len(splits.train))
    lines = [
        f"model: {config.model.name}, LoRA r={config.lora_config.r} alpha={config.lora_config.lora_alpha}",
        f"problems: {config.problems.source}: {len(splits.train):,} train, {len(splits.dev):,} dev, "
        f"{len(splits.test):,} test" + (f", {len(splits.unseen):,} of unseen kinds" if splits.unseen else ""),
        *splits.notes,
    ]
    if dropped:
        lines.append(f"{dropped:,} train problems dropped: their prompt has over {config.prompt.max_tokens} tokens")
    lines += [
        f"each step: {problems:g} problems × {samples} samples = {completions:,} completions; "
        f"{steps_per_epoch(config, len(splits.train)):,} steps an epoch",
        f"{steps:,} steps in all: {steps * completions:,} completions of at most "
        f"{config.max_completion_length} tokens, temperature {grpo.temperature:g}, learning rate "
        f"{grpo.learning_rate:g}, beta {grpo.beta:g}",
        f"greedy on dev every {config.evaluation.every} steps (the best adapter is kept), on test before and after",
        f"output: {config.output_dir}",
    ]
    return lines
