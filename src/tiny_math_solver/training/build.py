"""A configuration made into problems, a plan, and a trainer with everything that accompanies it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from transformers import PrinterCallback, ProgressCallback, set_seed
from trl import GRPOConfig

from tiny_math_solver.config.schema import Config
from tiny_math_solver.models.load import default_device, load_base, load_tokenizer, resolve_dtype
from tiny_math_solver.preflight.plan import plan_lines, steps_per_epoch
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.splits import Splits, load_splits
from tiny_math_solver.prompts import chat_messages, encode_prompt, group_prompts, within_limit
from tiny_math_solver.rollouts import EngineRollouts, ReferenceRollouts
from tiny_math_solver.rollouts.engine_check import PROMPTS, EngineCheck, check_against_transformers
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.training.callbacks import DevEvaluation, Metrics
from tiny_math_solver.training.checkpointing import Checkpointing, fingerprint
from tiny_math_solver.training.live_view import Output
from tiny_math_solver.training.samples import Samples
from tiny_math_solver.training.signals import StopOnSignal
from tiny_math_solver.training.trainer import MathGRPOTrainer
from tiny_math_solver.training.watchdog import Watchdog

Tell = Callable[[int, str, str], Any]  # takes an event: step, name, text


@dataclass(frozen=True)
class Training:
    """A trainer that is ready to go, and those around it that have a say at its end."""

    trainer: MathGRPOTrainer
    dev: DevEvaluation
    metrics: Metrics
    stop: StopOnSignal
    watchdog: Watchdog
    checkpointing: Checkpointing


def prepare(config: Config) -> tuple[Splits, Any, list[str]]:
    """`(problems, tokenizer, plan)`: everything a run needs short of its model; writes nothing."""
    splits = load_splits(config.problems)
    tokenizer = load_tokenizer(config.model.name, config.model.revision)
    train, dropped = within_limit(tokenizer, splits.train, config.prompt.system, config.prompt.max_tokens)
    if not train:
        raise UserError(f"every prompt has over {config.prompt.max_tokens} tokens; raise prompt.max_tokens")
    if not steps_per_epoch(config, len(train)):
        raise UserError(
            f"{len(train)} train problems are fewer than a generation batch asks, "
            f"{config.generation_batch // config.grpo['num_generations']}; lower grpo.gradient_accumulation_steps"
        )
    splits = Splits(train, splits.dev, splits.test, splits.unseen, splits.notes)
    return splits, tokenizer, plan_lines(config, splits, dropped)


def build_training(
    config: Config,
    run: RunFolder,
    splits: Splits,
    tokenizer: Any,
    out: Output,
    tell: Tell = lambda step, name, text: None,
) -> Training:
    """Load the model, put an adapter on it, and a trainer around both; writes nothing. `tell` takes events."""
    args = training_arguments(config)
    set_seed(args.seed)  # before the adapter is made: TRL seeds only afterwards
    model = load_base(config.model.name, config.model.revision, config.model.dtype, args.device.type)
    ask = {"system": config.prompt.system, "max_new_tokens": args.max_completion_length}
    dev = DevEvaluation(run, splits.dev, config.evaluation.every, ask)
    metrics, samples, stop = Metrics(run, dev, out.show), Samples(), StopOnSignal()
    watchdog = Watchdog(run, config, tell)
    checkpointing = Checkpointing(run, dev, metrics, fingerprint(splits))
    try:
        with run.left_as_found():  # the Trainer makes its folder at once
            trainer = MathGRPOTrainer(
                model=model,
                args=args,
                train=splits.train,
                tokenizer=tokenizer,
                peft_config=LoraConfig(**{"revision": config.model.revision, **config.lora}),
                config=config,
                run=run,
                callbacks=[dev, metrics, samples, stop, watchdog, checkpointing],
                checkpointing=checkpointing,
                say=out.say,
                tell=tell,
            )
    # what PEFT and TRL refuse: target modules that are not there, options that clash
    except (ValueError, NotImplementedError) as error:
        raise UserError(" ".join(str(error).split())) from error
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    dev.trainer = samples.trainer = checkpointing.trainer = watchdog.trainer = trainer
    return Training(trainer, dev, metrics, stop, watchdog, checkpointing)


def training_arguments(config: Config) -> GRPOConfig:
    """GRPOConfig as configured, fitted to the hardware where the configuration leaves that open."""
    chosen = dict(config.grpo)
    device = "cpu" if chosen.setdefault("use_cpu", default_device() == "cpu") else "cuda"
    if device == "cpu":
        chosen.setdefault("dataloader_pin_memory", False)
    if device == "cpu" or resolve_dtype(config.model.dtype, device) is not torch.bfloat16:
        chosen.setdefault("bf16", False)
    chosen.setdefault("disable_tqdm", True)
    try:
        return GRPOConfig(**chosen)
    except (ValueError, ImportError) as error:
        raise UserError(f"grpo: {' '.join(str(error).split())}") from None


def check_engine(config: Config, trainer: MathGRPOTrainer, train: list[Problem], say: Any) -> EngineCheck | None:
    """Compare the engine with transformers on real prompts; where they differ stop, or fall back if so configured."""
    rollouts = trainer.rollouts
    if not isinstance(rollouts, EngineRollouts):
        return None
    asked = [chat_messages(p.question, config.prompt.system) for p in train[:PROMPTS]]
    prompts = group_prompts(encode_prompt(rollouts.tokenizer, messages) for messages in asked)
    check = check_against_transformers(rollouts, prompts)
    say(f"engine ({rollouts.backend}): {check}")
    if not check.passed:
        if not config.rollouts.fall_back:
            raise UserError(
                "the engine does not reproduce this model; --rollouts.engine false trains with transformers' generate"
            )
        say("rollouts by transformers' generate from here on, many times slower")
        trainer.rollouts = ReferenceRollouts(rollouts.model, rollouts.tokenizer, rollouts.batch_size)
        trainer.native = None  # it shares the engine's weights
    return check
