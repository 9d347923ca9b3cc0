"""One training run from configuration to verdict."""

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
from tiny_math_solver.grpo.interrupt import StopOnSignal
from tiny_math_solver.grpo.plan import plan_lines
from tiny_math_solver.grpo.resume import Asked, starting_point
from tiny_math_solver.grpo.samples import Samples
from tiny_math_solver.grpo.state import Checkpointing, fingerprint
from tiny_math_solver.grpo.trainer import MathGRPOTrainer
from tiny_math_solver.grpo.watchdog import Watchdog
from tiny_math_solver.memory import memory_errors
from tiny_math_solver.models import default_device, load_base, load_model, load_tokenizer, resolve_dtype
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.splits import Splits, load_splits
from tiny_math_solver.prompts import chat_messages, encode_prompt, within_limit
from tiny_math_solver.report import REPORT, write_report
from tiny_math_solver.rollouts import EngineRollouts, ReferenceRollouts, Rollouts, Sampling, make_rollouts
from tiny_math_solver.rollouts.certificate import PROMPTS, Certificate, certify
from tiny_math_solver.runs import RunFolder, command_line, read_jsonl, write_environment
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


def train(config: Config, out: Output, asked: Asked = Asked()) -> Outcome:  # noqa: B008  frozen
    """Run GRPO as configured, telling `out` how it goes. Returns when adapter, records and page are on disk.

    Goes on with an earlier run in the folder where `asked` says so. Raises StoppedError where the run ends before its
    last step, with all of it saved.
    """
    splits, tokenizer, plan = prepare(config)
    for line in plan:
        out.say(line)
    run = RunFolder(config.output_dir)
    run.check()
    with run.locked():
        problems = fingerprint([splits.train, splits.dev, splits.test, splits.unseen])
        checkpoint = starting_point(run, config, problems, asked, out.say)
        if asked.resume and run.finished:
            out.say(f"{run.path}: this run is finished")
        else:
            with memory_errors("rollouts.batch_size, update.tokens_per_pass or grpo.max_completion_length"):
                _train(config, out, run, splits, tokenizer, problems, checkpoint)
        summary = run.read_json("summary.json")
        if run.writes:
            write_report([run.path], run.path / REPORT)
        return Outcome(summary, run.path, summary["best_reward"] > 0)


def _train(
    config: Config, out: Output, run: RunFolder, splits: Splits, tokenizer: Any, problems: str, checkpoint: Path | None
) -> None:
    """From model to summary.json."""
    say = out.say

    def tell(step: int, name: str, text: str) -> None:
        run.append_jsonl("events.jsonl", [{"step": step, "name": name, "text": text}])
        say(f"step {step}: {name}: {text}")

    args = training_arguments(config)
    set_seed(args.seed)  # before the adapter is made: TRL seeds only afterwards
    model = load_base(config.model.name, config.model.revision, config.model.dtype, args.device.type)
    ask = {"system": config.prompt.system, "max_new_tokens": args.max_completion_length}
    dev = DevEvaluation(run, splits.dev, config.evaluation.every, ask)
    metrics, samples, stop = Metrics(run, dev, out.show), Samples(), StopOnSignal()
    watchdog = Watchdog(run, config, tell)
    checkpointing = Checkpointing(run, dev, metrics, problems)
    try:
        trainer = MathGRPOTrainer(
            model=model,
            args=args,
            train=splits.train,
            tokenizer=tokenizer,
            peft_config=LoraConfig(**{"revision": config.model.revision, **config.lora}),
            config=config,
            run=run,
            callbacks=[dev, metrics, samples, stop, watchdog],
            checkpointing=checkpointing,
            say=say,
            tell=tell,
        )
    except ValueError as error:  # what PEFT and TRL refuse: target modules that are not there, options that clash
        raise UserError(" ".join(str(error).split())) from error
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    dev.trainer = samples.trainer = checkpointing.trainer = watchdog.trainer = trainer
    trainer.accelerator.wait_for_everyone()  # every process has seen where to begin
    if checkpoint is None:
        run.create()
        write_environment(run, command_line(), config.grpo["seed"])
    run.write_text("config.yaml", config.to_yaml())

    with stop.listening():
        certificate = check_engine(config, trainer, splits.train, say)
        # of an interrupted run it is on record, else the adapter is still the fresh one, which changes nothing
        before = recorded_test(run, splits, "before") or evaluate_test(config, trainer.rollouts, splits, run, "before")
        for line in evaluation_lines("before", before["test"].summary()):
            say(line)
        if checkpoint is None:
            say("a loss near 0 at step 1 is how GRPO starts: look at the reward")
        else:
            tell(int(checkpoint.name.removeprefix("checkpoint-")), "resumed", f"from {checkpoint}")
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        stop.raise_if_asked(args, trainer.state)
        watchdog.raise_if_stopped(say)
        trainer.accelerator.wait_for_everyone()  # the first process has written the best adapter
        best = load_model(str(run.path), dtype=config.model.dtype, device=args.device.type)
        engine = isinstance(trainer.rollouts, EngineRollouts)
        batch_size, native = trainer.rollouts.batch_size, config.rollouts.native
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
        "best_reward": trainer.best_reward,
        "train_seconds": metrics.elapsed(),
        "steps": trainer.state.global_step,
        "completions": trainer.completions,
        "completion_tokens": trainer.completion_tokens,
        "seed": args.seed,
    }
    run.write_json("summary.json", summary)


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
        run.write_jsonl(_record_name(when, name), result.rows())
    return results


def recorded_test(run: RunFolder, splits: Splits, when: str) -> dict[str, Evaluation] | None:
    """What `evaluate_test` left on disk, if all of it is there."""
    names = ["test", *(["unseen"] if splits.unseen else [])]
    files = {name: run.path / _record_name(when, name) for name in names}
    if not all(file.is_file() for file in files.values()):
        return None
    return {name: Evaluation.from_rows(read_jsonl(file)) for name, file in files.items()}


def _record_name(when: str, name: str) -> str:
    return f"eval/{when}.jsonl" if name == "test" else f"eval/{when}-{name}.jsonl"
