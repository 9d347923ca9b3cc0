"""The checks of `train` before it writes anything: disk, memory, the engine, and something to learn from."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers.trainer_utils import SaveStrategy

from tiny_math_solver.config.schema import Config
from tiny_math_solver.models.ends import added_end_line, missing_end
from tiny_math_solver.preflight.experience import experience_for
from tiny_math_solver.preflight.forecast import Forecast, forecast
from tiny_math_solver.preflight.memory import (
    STATE,
    Longest,
    MemoryPlan,
    fitted_plan,
    trained_bytes,
    try_longest,
)
from tiny_math_solver.preflight.pace import Pace
from tiny_math_solver.preflight.run_forecast import RunForecast, forecast_run
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts import EngineRollouts
from tiny_math_solver.rollouts.engine_check import PROMPTS, EngineCheck, check_against_transformers, together
from tiny_math_solver.runs.environment import machine
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import as_recorded
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.dealing import largest_share
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, StoppedError, UserError
from tiny_math_solver.support.memory import readable
from tiny_math_solver.training.build import Training
from tiny_math_solver.training.engine_watch import fall_back_to_generate
from tiny_math_solver.training.plan import Plan, Prepared
from tiny_math_solver.training.trainer import MathGRPOTrainer
from tiny_math_solver.update.share import kept_rows
from tiny_math_solver.update.torch_scorer import FLOAT32_BYTES

LONG_CHECK, FEW_PROMPTS = 5.0, 4  # seconds of the engine's check, beyond which it takes fewer prompts
TOKEN_BYTES, RECORD_BYTES = 5, 600  # of a completion in rollouts.jsonl and again in report.html; of all else in a row
OTHER_BYTES = 30_000_000  # tokenizer, evaluations, the page


@dataclass(frozen=True)
class Preflight:
    """The results of the checks before the first step; a resumed run has no forecasts."""

    memory: MemoryPlan
    pace: Pace
    engine: EngineCheck | None
    forecast: Forecast | None
    run: RunForecast | None


def preflight(
    prepared: Prepared, run: RunFolder, training: Training, console: Console, *, fresh: bool, force: bool
) -> Preflight:
    """Check disk, memory and engine, and forecast the first step of a `fresh` run; writes nothing.

    Raises UserError if the disk or the memory is too small or the engine is wrong, StoppedError if nothing would be
    learned; `force` overrides memory and forecast.
    """
    config, trainer = prepared.config, training.trainer
    written = 0 if fresh else sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    processes.on_main(lambda: check_disk(run.path, max(0, disk_bytes(prepared.plan, trainer) - written)))
    longest = longest_row(prepared, trainer)
    memory = fitted_plan(trainer, longest, largest_evaluation(prepared))
    console.judge(f"memory: {memory.judgement}", f"memory: {memory}")
    refused = next((each for each in processes.gather(memory) if not each.fits), None)
    if refused and not force:
        raise UserError(f"not enough memory: {refused}; {refused.advice}, or --force")
    pace = try_pace(prepared, trainer, longest, console)
    engine = check_engine(trainer, prepared.prompts, pace, console)
    if engine is not None:
        line = engine_line(trainer, engine)
        console.judge("engine: agrees with transformers" if engine.passed else line, line)
        if not engine.passed:
            replace_engine(config, trainer, console)
            pace = replace(pace, decode=None)
    refuse_missing_end(training, console, force=force)
    found = None
    if fresh:
        found, pace = forecast(prepared, trainer, pace, console)
    if found:
        console.judge(f"before training: {found.judgement(config)}", f"before training: {found}")
        if found.doubt:
            console.say(f"in doubt: {found.doubt}")
        if found.hopeless and not force:
            raise StoppedError(
                f"not started, since nothing would be learned: {found.hopeless} (--force starts it)",
                EXIT_LEARNED_NOTHING,
            )
    expected = outlook_for(prepared, run.path, pace, found, memory) if fresh else None
    if expected:
        console.say(f"expected: {expected}")
    return Preflight(memory, pace, engine, found, expected)


def outlook_for(
    prepared: Prepared, folder: Path, pace: Pace, found: Forecast | None, memory: MemoryPlan
) -> RunForecast:
    """The forecast of the whole run in `folder`, by that of its first step and by earlier runs beside it."""
    experience = processes.on_main(lambda: experience_for(folder, as_recorded(prepared.config), machine()))
    return forecast_run(prepared.plan, pace, found.course if found else None, memory.peak, experience)


def refuse_missing_end(training: Training, console: Console, *, force: bool) -> None:
    """Say which token ends completions besides the model's own. Raises StoppedError if the template's is none."""
    trainer = training.trainer
    if training.added_end:
        console.say(added_end_line(training.added_end))
    missing = missing_end(trainer.policy, trainer.processing_class, trainer.rollouts.endings.texts)
    if missing and not force:
        raise StoppedError(f"not started: {missing} (--force starts it)", EXIT_LEARNED_NOTHING)


def try_pace(prepared: Prepared, trainer: MathGRPOTrainer, longest: Longest, console: Console) -> Pace:
    """The speeds of the longest rows, which are tried once."""
    with console.part(f"trying the longest rows: {longest.prompt} + {longest.completion} tokens"):
        decode, update = try_longest(trainer, longest)
    prompt = sum(len(prompt.ids) for prompt in prepared.prompts) / len(prepared.prompts)
    if trainer.update is not None and trainer.update.scorer.by_group:
        prompt /= kept_rows(prepared.config.num_generations, prepared.config.update.share)
    return Pace(decode, update, prompt, longest.completion, processes.sharing()[1])


def check_engine(
    trainer: MathGRPOTrainer, prompts: Sequence[Prompt], pace: Pace, console: Console
) -> EngineCheck | None:
    """Compare the engine with transformers on real prompts; None where there is no engine to check."""
    if not isinstance(trainer.rollouts, EngineRollouts):
        return None
    rank, count = processes.sharing()
    asked = prompts[:PROMPTS]
    if processes.on_main(lambda: (pace.comparing(asked[::count]) or 0.0) > LONG_CHECK):
        asked = prompts[:FEW_PROMPTS]
    own = asked[rank % len(asked) :: count]  # each checks its own engine
    with console.part(f"comparing the engine with transformers on {len(asked)} prompts", None, pace.comparing(own)):
        return together(processes.gather(check_against_transformers(trainer.rollouts, own)))


def engine_line(trainer: MathGRPOTrainer, engine: EngineCheck) -> str:
    kind = trainer.rollouts.backend if isinstance(trainer.rollouts, EngineRollouts) else ""
    return f"engine ({kind}): {engine}"


def replace_engine(config: Config, trainer: MathGRPOTrainer, console: Console) -> None:
    """Go on with transformers' generate. Raises UserError unless `rollouts.fall_back` allows that."""
    if not config.rollouts.fall_back:
        raise UserError(
            "the engine does not reproduce this model; --rollouts.engine false trains with transformers' generate"
        )
    console.say("falling back to transformers' generate, many times slower")
    fall_back_to_generate(trainer)


def longest_row(prepared: Prepared, trainer: MathGRPOTrainer) -> Longest:
    """The longest prompt of training, and the limit of a completion."""
    return Longest(max(len(prompt.ids) for prompt in prepared.prompts), trainer.sampling.max_new_tokens)


def largest_evaluation(prepared: Prepared) -> int:
    """The completions that an evaluation asks one process at once: test and dev, or the samples, which come after."""
    tested, settings = prepared.plan.tested, prepared.config.evaluation
    greedy, sampled = len(tested.test) + len(prepared.splits.dev), min(len(tested.test), settings.sampled_problems)
    count = processes.count()
    return max(largest_share(greedy, count), settings.samples * largest_share(sampled, count))


def disk_bytes(plan: Plan, trainer: MathGRPOTrainer) -> int:
    """Bytes that a run will write: checkpoints with the best one and one under way, and its records twice."""
    args, config, steps = trainer.args, plan.config, plan.steps
    save_interval = args.save_steps if args.save_steps >= 1 else max(1, args.save_steps * steps)
    kept = args.save_total_limit or int(steps / save_interval) + 1
    if args.save_strategy == SaveStrategy.NO:
        kept = 0
    row = trainer.sampling.max_new_tokens * TOKEN_BYTES + RECORD_BYTES
    rollouts = min(config.records.rollouts_mb * 10**6, steps * config.completions_per_step * row)
    merged = FLOAT32_BYTES * trainer.merged.size if trainer.merged else 0  # saved with the trained adapter
    saved = (1 + STATE * (1 + trainer.states_kept)) * trained_bytes(trainer)  # with the best adapter
    return (kept + 2) * (saved + merged) + 2 * rollouts + OTHER_BYTES


def check_disk(folder: Path, needed: int) -> str:
    """A line about the free disk space. Raises UserError if `needed` bytes do not fit."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    text = f"{readable(needed)} to be written at most, {readable(free)} free in {there}"
    if free < needed:
        raise UserError(
            f"{folder}: {text}; make room, lower grpo.save_total_limit or records.rollouts_mb, or choose another "
            "grpo.output_dir"
        )
    return text
