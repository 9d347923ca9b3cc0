"""A configuration made into problems, prompts and a plan in plain words: all that a run needs short of its model."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import SchedulerType

from tiny_math_solver.config.rewards import DEFAULT
from tiny_math_solver.config.schema import Config
from tiny_math_solver.config.shipped import SHIPPED_MODELS
from tiny_math_solver.models.adapter import is_hub_name
from tiny_math_solver.models.load import embedding_rows, load_tokenizer
from tiny_math_solver.models.starting_adapter import StartingAdapter, starting_adapter
from tiny_math_solver.problems.splits import TEST, UNSEEN, Splits, first_by_hash, load_splits, read_options
from tiny_math_solver.prompts import (
    Prompt,
    PromptFormat,
    check_variables,
    idle_settings,
    puts_in_date,
    read_template,
    render,
    today,
    train_prompts,
)
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rewards.trial import tried, unasked
from tiny_math_solver.rollouts.rollout import refuse_unknown_ids
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.resume import ResumeOptions, recorded_date
from tiny_math_solver.support import processes
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.update.share import kept_rows


@dataclass(frozen=True)
class Plan:
    """A configuration with its problems, in numbers and sentences; `dropped` train problems had too long a prompt."""

    config: Config
    splits: Splits
    dropped: int = 0
    notes: Sequence[str] = ()  # on settings of the chat template
    adapter: StartingAdapter | None = None
    trials: Sequence[str] = ()  # of functions of the user
    template: str = ""  # the chat template, where it is not the tokenizer's

    @cached_property
    def tested(self) -> Splits:
        """The splits with the test problems that are answered before and after, at most `evaluation.test_limit`."""
        limit, splits = self.config.evaluation.test_limit, self.splits
        if limit is None:
            return splits
        few = {name: first_by_hash(part, limit, "test_limit")[0] for name, part in splits.tested.items()}
        also = {name: few[name] for name in splits.also}
        return replace(splits, test=few[TEST], unseen=few.get(UNSEEN, []), also=also)

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
        """A hash of the problems, the adapter to start from and an own template: of what a run cannot change."""
        digest, splits = hashlib.sha256(), self.splits
        for part in (splits.train, splits.dev, splits.test, splits.unseen):
            digest.update(json.dumps([[p.id, p.question, p.answer] for p in part]).encode())
        if self.adapter:
            digest.update(self.adapter.fingerprint.encode())
        digest.update(self.template.encode())
        return digest.hexdigest()

    @property
    def step_line(self) -> str:
        """The batch arithmetic of one step."""
        return f"{batch_line(self.config)}; {self.steps_per_epoch:,} steps an epoch"

    @property
    def choice_line(self) -> str:
        """The settings that choose problems and completions; empty if they leave all as it comes."""
        config, parts = self.config, []
        if config.problems.sampling == "adaptive":
            parts.append("problems that were all right or all wrong lately are asked less often")
        if rounds := config.rollouts.replace_dead:
            parts.append(f"groups of equal rewards give way to further problems, in up to {rounds} rounds a batch")
        if (kept := kept_rows(config.num_generations, config.update.share)) < config.num_generations:
            parts.append(f"{kept} of the {config.num_generations} completions of a problem are learned from")
        return "; ".join(parts)

    @property
    def rewards_line(self) -> str:
        """What is paid, and what counts as right; empty if it is what it always was."""
        config, names = self.config, self.config.reward_names
        parts = []
        if names.used != DEFAULT.used:
            paid = (f"{weight:g} × {used}" for used, weight in zip(names.used, names.weights, strict=True))
            parts.append(f"rewards: {', '.join(paid)}")
        if names.has_own_measure:
            parts.append(f"right is what {names.used[names.measure]} pays {config.rewards.right_from:g} and more")
        if config.answer_kind != "number":
            parts.append(f"answers are of the kind {config.answer_kind}")
        return "; ".join(parts)

    @property
    def dropped_line(self) -> str:
        """Empty if no problem was dropped."""
        if not self.dropped:
            return ""
        return f"{self.dropped:,} train problems dropped: their prompt has over {self.config.prompt.max_tokens} tokens"

    @property
    def warm_up_line(self) -> str:
        """Empty unless the only step is one at which the learning rate is still 0."""
        args: Any = self.config.grpo_config
        has_warm_up = args.lr_scheduler_type not in (SchedulerType.CONSTANT, SchedulerType.REDUCE_ON_PLATEAU)
        if self.steps > 1 or not has_warm_up or not args.get_warmup_steps(self.steps):
            return ""
        return "nothing will be learned: a warm-up begins at learning rate 0, and there is one step; set warmup_steps 0"

    @property
    def record(self) -> dict[str, Any]:
        """The problems in numbers, for summary.json: those that are used and those that were dropped."""
        splits = self.splits
        counts = {name: len(getattr(splits, name)) for name in ("train", "dev", "test", "unseen")}
        counts["tested"] = len(self.tested.test)
        return counts | {"unreadable": splits.unreadable, "too_long": self.dropped, "notes": splits.notes}

    @property
    def lines(self) -> list[str]:
        """The plan, a sentence a line."""
        config, grpo, splits = self.config, self.config.grpo_config, self.splits
        lora = self.adapter.config if self.adapter and not self.adapter.is_merged else config.lora_config
        return [
            f"model: {_base(config)}, {_trained(lora)}",
            *([self.adapter.line] if self.adapter else []),
            f"problems: {config.problems.source}: {len(splits.train):,} train, {len(splits.dev):,} dev, "
            f"{len(splits.test):,} test"
            + (f", {len(splits.unseen):,} of unseen kinds" if splits.unseen else "")
            + "".join(f", {len(problems):,} of {name}" for name, problems in splits.also.items()),
            *splits.notes,
            *filter(None, [self.dropped_line, self.warm_up_line]),
            *self.notes,
            self.step_line,
            *filter(None, [self.choice_line, self.rewards_line]),
            *self.trials,
            f"{self.steps:,} steps in all: {self.steps * config.completions_per_step:,} completions of at most "
            f"{config.max_completion_length} tokens, temperature {grpo.temperature:g}, learning rate "
            f"{grpo.learning_rate:g}, beta {grpo.beta:g}",
            f"greedy evaluation on dev every {config.evaluation.every} steps (the best adapter is kept), "
            f"on {self._tested} before and after",
            *([f"a collapse is undone, up to {n} times (guards.rescue)"] if (n := config.allowed_rescues) else []),
            f"output: {config.output_dir}",
        ]

    @property
    def _tested(self) -> str:
        chosen, known = len(self.tested.test), len(self.splits.test)
        return "test" if chosen == known else f"{chosen:,} of the {known:,} test problems (evaluation.test_limit)"


def _base(config: Config) -> str:
    held = f" in {config.model.quantization}" if config.model.quantization else ""
    return f"{config.model.name}{held}"


def _trained(lora: Any) -> str:
    """What is trained, with a LoraConfig or without."""
    return f"LoRA r={lora.r} alpha={lora.lora_alpha}" if lora else "all weights are trained (lora null)"


def batch_line(config: Config) -> str:
    completions, samples = config.completions_per_step, config.num_generations
    shared = f" shared by {processes.count()} processes" if processes.count() > 1 else ""
    return f"each step: {completions / samples:g} problems × {samples} samples = {completions:,} completions{shared}"


def lines_without_problems(config: Config) -> list[str]:
    """As much of a plan as can be told without problems and model."""
    grpo = config.grpo_config
    length = f"{grpo.max_steps:,} steps" if grpo.max_steps > 0 else f"{grpo.num_train_epochs:g} epochs"
    return [
        f"model: {_base(config)}, {_trained(config.lora_config)}",
        f"problems: {config.problems.source}",
        batch_line(config),
        f"{length} in all, completions of at most {config.max_completion_length} tokens, learning rate "
        f"{grpo.learning_rate:g}",
        f"output: {config.output_dir}",
    ]


@dataclass(frozen=True)
class Prepared:
    """Problems, the prompts of the train problems in their order, the tokenizer and the plan.

    The configuration names the base and the adapter where the model that was asked for is an adapter.
    """

    config: Config
    splits: Splits
    prompts: list[Prompt]
    tokenizer: Any
    plan: Plan

    def with_grpo(self, changes: dict[str, Any]) -> "Prepared":
        """The same with other values in section `grpo`."""
        config = self.config.with_grpo(**changes) if changes else self.config
        return replace(self, config=config, plan=replace(self.plan, config=config))


def prepare(config: Config, date: str | None = None) -> Prepared:
    """Load problems and tokenizer, and encode the train prompts; writes nothing.

    A chat template that puts in today's date gets `date`, by default `prompt_date`, unless the configuration sets one.

    Raises UserError where too few problems are left for a step.
    """
    section, adapter = starting_adapter(config.model)
    if adapter:
        config = config.with_sections(model=section)
    refuse_own_output(config)
    grader = Grader.of(config)
    options = replace(read_options(config.problems), keeps_columns=bool(grader.own))
    splits = load_splits(config.problems, options, config.evaluation.also)
    tokenizer = load_tokenizer(config.model.name, config.model.revision, adapter.folder if adapter else None)
    if config.prompt.template is not None:
        tokenizer.chat_template = read_template(config.prompt.template)
    if config.prompt.date is None and puts_in_date(tokenizer):
        config = config.with_sections(prompt=config.prompt.model_copy(update={"date": date or prompt_date(config)}))
    prompt = PromptFormat.of(config)
    check_variables(tokenizer, prompt)
    notes = idle_settings(tokenizer, prompt, splits.train[0].question)
    notes += unasked(grader.place, render(tokenizer, prompt.messages(""), prompt))
    template = tokenizer.chat_template if config.prompt.template is not None else ""
    trials = tried(
        grader, splits.train, prompt.messages, lambda text: tokenizer(text)["input_ids"], config.completions_per_step
    )
    train, prompts = train_prompts(tokenizer, splits.train, prompt, config.prompt.max_tokens)
    refuse_unknown_ids(prompts, embedding_rows(config.model.name, config.model.revision), tokenizer)
    if not train:
        raise UserError(f"every prompt has over {config.prompt.max_tokens} tokens; raise prompt.max_tokens")
    plan = Plan(config, replace(splits, train=train), len(splits.train) - len(train), notes, adapter, trials, template)
    if not plan.steps_per_epoch:
        raise UserError(
            f"{len(train)} train problems are fewer than a generation batch asks, "
            f"{config.generation_batch // config.num_generations}; lower grpo.gradient_accumulation_steps or "
            "grpo.per_device_train_batch_size"
        )
    return Prepared(config, plan.splits, prompts, tokenizer, plan)


def prompt_date(config: Config, options: ResumeOptions = ResumeOptions()) -> str:  # noqa: B008  frozen
    """The date for chat templates that put in today's: that of the run which this start resumes, else today's."""
    return recorded_date(RunFolder(config.output_dir), config, options) or today()


def refuse_own_output(config: Config) -> None:
    """Raise UserError if the run would move aside or overwrite the model or the adapter that it starts from."""
    out = config.output_dir.resolve()
    for key, name in (("model.name", config.model.name), ("model.adapter", config.model.adapter)):
        folder = Path(name or "").expanduser().resolve()
        if name and not is_hub_name(name) and name not in SHIPPED_MODELS and folder.is_relative_to(out):
            raise UserError(f"{key} {name} lies in grpo.output_dir {config.output_dir}: choose another grpo.output_dir")
