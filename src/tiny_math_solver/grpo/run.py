"""One training run from configuration to verdict."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import PrinterCallback, ProgressCallback, set_seed
from trl import GRPOConfig

from tiny_math_solver.config import Config
from tiny_math_solver.errors import UserError
from tiny_math_solver.evaluate import Evaluation, evaluate
from tiny_math_solver.grpo.callbacks import DevEvaluation, Metrics
from tiny_math_solver.grpo.plan import plan_lines
from tiny_math_solver.grpo.samples import Samples
from tiny_math_solver.grpo.trainer import MathGRPOTrainer
from tiny_math_solver.models import default_device, load_base, load_model, load_tokenizer, resolve_dtype
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.splits import Splits, load_splits
from tiny_math_solver.prompts import chat_messages, encode_prompt, within_limit
from tiny_math_solver.report import REPORT, write_report
from tiny_math_solver.rollouts import EngineRollouts, ReferenceRollouts, Rollouts, Sampling, make_rollouts
from tiny_math_solver.rollouts.certificate import PROMPTS, Certificate, certify
from tiny_math_solver.runs import RunFolder, command_line, write_environment
from tiny_math_solver.terminal import Output
from tiny_math_solver.verdict import evaluation_lines


@dataclass(frozen=True)
class Outcome:
    """What a finished run has to show; `earned` is False where no completion ever got a reward."""

    summary: dict[str, Any]
    folder: Path
    earned: bool


def prepare(config: Config) -> tuple[Splits, Any, list[str]]:
    """`(problems, tokenizer, plan)`: everything a run needs short of its model; writes nothing."""
    splits = load_splits(config.problems)
    tokenizer = load_tokenizer(config.model.name, config.model.revision)
    train, dropped = within_limit(tokenizer, splits.train, config.prompt.system, config.prompt.max_tokens)
    if not train:
        raise UserError(f"every prompt has over {config.prompt.max_tokens} tokens; raise prompt.max_tokens")
    splits = Splits(train, splits.dev, splits.test, splits.unseen, splits.notes)
    return splits, tokenizer, plan_lines(config, splits, dropped)


def train(config: Config, out: Output) -> Outcome:
    """Run GRPO as configured, telling `out` how it goes. Returns when adapter, records and page are on disk."""
    say = out.say
    splits, tokenizer, plan = prepare(config)
    for line in plan:
        say(line)
    run = RunFolder(config.output_dir)
    run.check()
    args = training_arguments(config)
    set_seed(args.seed)  # before the adapter is made: TRL seeds only afterwards
    model = load_base(config.model.name, config.model.revision, config.model.dtype, args.device.type)
    ask = {"system": config.prompt.system, "max_new_tokens": args.max_completion_length}
    dev = DevEvaluation(run, splits.dev, config.evaluation.every, ask)
    samples = Samples()
    try:
        trainer = MathGRPOTrainer(
            model=model,
            args=args,
            train=splits.train,
            tokenizer=tokenizer,
            peft_config=LoraConfig(**{"revision": config.model.revision, **config.lora}),
            config=config,
            run=run,
            callbacks=[dev, Metrics(run, dev, out.show), samples],
            say=say,
        )
    except ValueError as error:  # what PEFT and TRL refuse: target modules that are not there, options that clash
        raise UserError(" ".join(str(error).split())) from error
    run.create()
    run.write_text("config.yaml", config.to_yaml())
    write_environment(run, command_line(), config.grpo["seed"])
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    dev.trainer = samples.trainer = trainer

    certificate = check_engine(config, trainer, splits.train, say)
    before = evaluate_test(config, trainer.rollouts, splits, run, "before")
    for line in evaluation_lines("before", before["test"].summary()):
        say(line)
    say("a loss near 0 at step 1 is how GRPO starts: look at the reward")
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started

    trainer.accelerator.wait_for_everyone()  # the first process has written the best adapter
    best = load_model(str(run.path), dtype=config.model.dtype, device=args.device.type)
    engine = isinstance(trainer.rollouts, EngineRollouts)
    batch_size, native = config.rollouts.batch_size, config.rollouts.native
    rollouts = make_rollouts(best.model, best.tokenizer, batch_size, engine, native, trainer.sampling, say)
    after = evaluate_test(config, rollouts, splits, run, "after")
    summary = {
        "before": before["test"].summary(),
        "after": after["test"].summary(),
        "paired": after["test"].against(before["test"]).to_dict(),
        "unseen": {
            when: result["unseen"].summary()
            for when, result in (("before", before), ("after", after))
            if "unseen" in result
        },
        "engine_check": None if certificate is None else asdict(certificate),
        "dev": dev.history,
        "best_step": dev.best_step,
        "train_seconds": seconds,
        "steps": trainer.state.global_step,
        "completions": trainer.completions,
        "completion_tokens": trainer.completion_tokens,
        "seed": args.seed,
    }
    run.write_json("summary.json", summary)
    if run.writes:
        write_report([run.path], run.path / REPORT)
    return Outcome(summary, run.path, trainer.best_reward > 0)


def check_engine(config: Config, trainer: MathGRPOTrainer, train: list[Problem], say: Any) -> Certificate | None:
    """Compare the engine with transformers on real prompts; where they differ stop, or fall back if so configured."""
    rollouts = trainer.rollouts
    if not isinstance(rollouts, EngineRollouts):
        return None
    asked = [chat_messages(p.question, config.prompt.system) for p in train[:PROMPTS]]
    certificate = certify(rollouts, [encode_prompt(rollouts.tokenizer, messages) for messages in asked])
    say(f"engine ({rollouts.kind}): {certificate}")
    if not certificate.passed:
        if not config.rollouts.fall_back:
            raise UserError(
                "the engine does not reproduce this model; --rollouts.engine false trains with transformers' generate"
            )
        say("rollouts by transformers' generate from here on, many times slower")
        trainer.rollouts = ReferenceRollouts(rollouts.model, rollouts.tokenizer, rollouts.batch_size)
        trainer.native = None  # it shares the engine's weights
    return certificate


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


def evaluate_test(
    config: Config, rollouts: Rollouts, splits: Splits, run: RunFolder, when: str
) -> dict[str, Evaluation]:
    """Greedy on every test problem, sampled on some; the records go to `eval/<when>.jsonl`."""
    grpo, settings = config.grpo, config.evaluation
    ask: dict[str, Any] = {"system": config.prompt.system, "max_new_tokens": grpo["max_completion_length"]}
    sampling = Sampling(grpo["max_completion_length"], temperature=grpo["temperature"])
    results = {
        "test": evaluate(
            rollouts,
            splits.test,
            **ask,
            samples=settings.samples,
            sampled_problems=settings.sampled_problems,
            sampling=sampling,
            seed=grpo["seed"],
        )
    }
    if splits.unseen:
        results["unseen"] = evaluate(rollouts, splits.unseen, **ask)
    for name, result in results.items():
        run.write_jsonl(f"eval/{when}.jsonl" if name == "test" else f"eval/{when}-{name}.jsonl", result.rows())
    return results
