"""What `train` makes sure of before it writes anything: room on the disk, in memory, and something to learn from."""

import shutil
from pathlib import Path

from transformers.trainer_utils import SaveStrategy

from tiny_math_solver.config.schema import Config
from tiny_math_solver.preflight.forecast import Forecast, forecast
from tiny_math_solver.preflight.memory import Longest, memory_plan, readable, trained_bytes, try_longest
from tiny_math_solver.preflight.plan import total_steps
from tiny_math_solver.problems.splits import Splits
from tiny_math_solver.prompts import chat_messages, encode_prompt
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, StoppedError, UserError
from tiny_math_solver.training.build import Training
from tiny_math_solver.training.trainer import MathGRPOTrainer

TOKEN_BYTES, RECORD_BYTES = 5, 600  # of a completion in rollouts.jsonl and again in report.html; of all else in a row
LONGEST_TRIED = 32  # problems, by characters: the one with the most tokens is among them
OTHER_BYTES = 30_000_000  # tokenizer, evaluations, the page


def before_start(
    config: Config, run: RunFolder, training: Training, splits: Splits, console: Console, *, fresh: bool, force: bool
) -> None:
    """Raise UserError where the run does not fit, StoppedError where it has nothing to learn from; `force` goes on."""
    trainer = training.trainer
    written = 0 if fresh else sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    check_disk(run.path, max(0, disk_bytes(config, trainer, splits) - written))
    longest = longest_row(config, trainer, splits)
    plan = memory_plan(trainer, longest)
    console.say(f"memory: {plan}")
    if not plan.fits and not force:
        raise UserError(f"not enough memory: {plan}; {plan.advice}, or --force")
    try_longest(trainer, longest)
    if not fresh:
        return
    found = forecast(config, trainer, splits.train)
    console.say(f"before training: {forecast_line(found)}")
    if found.hopeless and not force:
        raise StoppedError(
            f"not started, since nothing would be learned: {found.hopeless} (--force starts it)", EXIT_LEARNED_NOTHING
        )


def forecast_line(found: Forecast) -> str:
    return (
        f"{found.pass_rate:.0%} of {len(found.records)} sampled completions are right ({found.histogram}), "
        f"{found.truncated:.0%} cut off, {found.dead:.0%} of the groups without a gradient"
    )


def longest_row(config: Config, trainer: MathGRPOTrainer, splits: Splits) -> Longest:
    """The longest prompt of training, and the limit of a completion."""
    by_length = sorted(splits.train, key=lambda p: -len(p.question))[:LONGEST_TRIED]
    asked = [chat_messages(p.question, config.prompt.system) for p in by_length]
    prompt = max(len(encode_prompt(trainer.processing_class, messages)) for messages in asked)
    return Longest(prompt, trainer.sampling.max_new_tokens)


def disk_bytes(config: Config, trainer: MathGRPOTrainer, splits: Splits) -> int:
    """What a run will write: checkpoints with the best one and one under way, and its records twice."""
    args = trainer.args
    steps = total_steps(config, len(splits.train))
    apart = args.save_steps if args.save_steps >= 1 else max(1, args.save_steps * steps)
    kept = args.save_total_limit or int(steps / apart) + 1
    if args.save_strategy == SaveStrategy.NO:
        kept = 0
    row = trainer.sampling.max_new_tokens * TOKEN_BYTES + RECORD_BYTES
    rollouts = min(config.records.rollouts_mb * 10**6, steps * config.completions_per_step * row)
    return (kept + 2) * 4 * trained_bytes(trainer) + 2 * rollouts + OTHER_BYTES


def check_disk(folder: Path, needed: int) -> str:
    """How much room there is, in words. Raises UserError where it is not enough."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    text = f"{readable(needed)} to be written at most, {readable(free)} free in {there}"
    if free < needed:
        raise UserError(
            f"{folder}: {text}; make room, lower grpo.save_total_limit or records.rollouts_mb, or choose another "
            "grpo.output_dir"
        )
    return text
