"""`tiny-math check`: tells, usually in a minute, if a run is worth starting on this machine; leaves nothing behind."""

import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from tiny_math_solver.config.schema import Config
from tiny_math_solver.config.shipped import SHIPPED_MODELS
from tiny_math_solver.hub.snapshots import cache_flaw, is_reachable
from tiny_math_solver.models.adapter import is_hub_name
from tiny_math_solver.models.ends import added_end_line, missing_end
from tiny_math_solver.preflight.forecast import Forecast, as_range, forecast
from tiny_math_solver.preflight.grader import TRICKY, misread
from tiny_math_solver.preflight.memory import MemoryPlan, fitted_plan
from tiny_math_solver.preflight.pace import Pace
from tiny_math_solver.preflight.start import (
    check_disk,
    check_engine,
    disk_bytes,
    engine_line,
    largest_evaluation,
    longest_row,
    outlook_for,
    replace_engine,
    try_pace,
)
from tiny_math_solver.problems.sources import is_file
from tiny_math_solver.problems.splits import hub_datasets
from tiny_math_solver.prompts import PromptFormat, puts_in_date, render
from tiny_math_solver.runs.environment import LIBRARIES
from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import CollectingConsole, Console, QuietConsole
from tiny_math_solver.support.device import default_device, device_name
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.out_of_memory import oom_as_user_error
from tiny_math_solver.support.progress import about, in_words
from tiny_math_solver.training.build import Training, build_training
from tiny_math_solver.training.plan import Prepared, prepare
from tiny_math_solver.training.trainer import MathGRPOTrainer

LONG = 3600  # seconds of a run
Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """The result of one check: after a `fail` the run is not worth starting, after a `warn` it may be."""

    verdict: Verdict
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:5} {self.name:12} {self.text}"


def check(config: Config, price: float | None = None, console: Console | None = None) -> Iterator[Check]:
    """Every check in turn, the cheap ones first; those that need the model are left out if it cannot be loaded.

    `price` is the cost of an hour of this machine; `console` is told what comes and how long it will take.
    """
    console = console or QuietConsole()
    yield _environment()
    wrong = misread()
    yield Check(
        "fail" if wrong else "ok", "grader", wrong[0] if wrong else f"{len(TRICKY)} tricky answers graded correctly"
    )
    missing = processes.on_main(lambda: list(_hub(config)))
    yield from missing
    if any(finding.verdict != "ok" for finding in missing):
        return
    try:
        with oom_as_user_error("rollouts.batch_size, update.tokens_per_pass or grpo.max_completion_length"):
            yield from _with_model(config, price, console)
    except UserError as error:
        if processes.count() > 1:  # the others wait for this process: all of them end
            raise
        yield Check("fail", "refused", str(error))


def _environment() -> Check:
    device = device_name(default_device()) or f"{torch.get_num_threads()} CPU threads"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES[:4])
    return Check("ok", "environment", f"Python {platform.python_version()}, {versions}; {device}")


def _hub(config: Config) -> Iterator[Check]:
    """A check per repository: in the cache and intact, or to be downloaded."""
    model, problems = config.model, config.problems
    wanted: list[tuple[Any, str, str | None]] = []
    if model.name not in SHIPPED_MODELS and not is_file(model.name):
        wanted.append(("model", model.name, model.revision))
    if model.adapter and is_hub_name(model.adapter):
        wanted.append(("model", model.adapter, None))
    wanted += [("dataset", dataset.name, dataset.revision) for dataset in hub_datasets(problems)]
    for kind, name, revision in wanted:
        if not (flaw := cache_flaw(kind, name, revision)):
            yield Check("ok", "hub", f"{kind} {name} is in the cache and intact")
        else:
            reach = "the Hub can be reached" if (reachable := is_reachable()) else "the Hub cannot be reached"
            text = f"{kind} {name} {flaw}; {reach}: tiny-math fetch CONFIG downloads it, then check again"
            yield Check("warn" if reachable else "fail", "hub", text)


def _with_model(config: Config, price: float | None, progress: Console) -> Iterator[Check]:

    processes.on_main(RunFolder(config.output_dir).check)
    prepared = processes.main_first(lambda: prepare(config))
    config = prepared.config
    splits, plan, tokenizer = prepared.splits, prepared.plan, prepared.tokenizer
    count = sum(map(len, (splits.train, splits.dev, *splits.tested.values())))
    found = [f"{count:,} with a readable gold answer", plan.step_line, *filter(None, [plan.dropped_line])]
    yield Check("warn" if plan.dropped or splits.unreadable else "ok", "problems", "; ".join([*found, *splits.notes]))
    if plan.warm_up_line:
        yield Check("warn", "warm-up", plan.warm_up_line)
    yield _template(prepared.config, tokenizer, splits.train[0].question, plan.notes)
    for line in filter(None, [plan.rewards_line, *plan.trials]):
        yield Check("ok", "rewards", line)
    with tempfile.TemporaryDirectory() as nowhere:
        sandboxed = replace(prepared, config=prepared.config.with_grpo(output_dir=f"{nowhere}/run", report_to="none"))
        console, run = CollectingConsole(), RunFolder(sandboxed.config.output_dir)
        with progress.part(f"loading model {config.model.name}"):
            training = build_training(sandboxed, run, console, EventLog(run, console))
        for line in console.lines:  # slower ways that had to be taken
            yield Check("warn", "speed", line)
        yield _ends(training)
        needed = disk_bytes(plan, training.trainer)
        yield Check("ok", "disk", processes.on_main(lambda: check_disk(config.output_dir, needed)))
        yield from _model(sandboxed, config.output_dir, training.trainer, price, progress)


def _template(config: Config, tokenizer: Any, question: str, notes: Sequence[str]) -> Check:
    """The chat template must let the model read the question, and end where the model's turn begins."""
    prompt = PromptFormat.of(config)
    asked = prompt.messages(question)
    text = render(tokenizer, asked, prompt)
    if question not in text or (prompt.system and prompt.system.strip() not in text):
        return Check("fail", "template", "the chat template leaves out the question or the system prompt")
    if text == render(tokenizer, asked, prompt, open_turn=False):
        return Check("fail", "template", "the chat template has no place where the model's turn begins")
    parts = [f"contains the question{' and the system prompt' * bool(prompt.system)}; ends in {text[-24:]!r}"]
    parts += [f"its date is {prompt.date}"] * bool(prompt.date and puts_in_date(tokenizer))
    return Check("warn" if notes else "ok", "template", "; ".join([*parts, *notes]))


def _ends(training: Training) -> Check:
    """The token with which the template closes a turn must be one of those that end a completion."""
    trainer: Any = training.trainer
    tokenizer, endings = trainer.processing_class, trainer.rollouts.endings
    if missing := missing_end(trainer.policy, tokenizer, endings.texts):
        return Check("fail", "turn's end", missing)
    ends = ", ".join(repr(tokenizer.decode([i])) for i in sorted(endings.ids))
    pad = repr(tokenizer.decode([tokenizer.pad_token_id]))
    added = f"; {added_end_line(training.added_end)}" if training.added_end else ""
    return Check("ok", "turn's end", f"{ends} ends a completion, {pad} pads{added}")


def _model(
    prepared: Prepared, folder: Path, trainer: MathGRPOTrainer, price: float | None, console: Console
) -> Iterator[Check]:
    """Memory, the engine against transformers, and what the base model makes of a few problems."""
    config, longest = prepared.config, longest_row(prepared, trainer)
    plans = processes.gather(fitted_plan(trainer, longest, largest_evaluation(prepared)))
    memory = next((plan for plan in plans if not plan.fits), plans[0])
    each = f"each of {len(plans)} processes: " * (len(plans) > 1)
    yield Check("ok" if memory.fits else "fail", "memory", f"{each}{memory}" + f"; {memory.advice}" * (not memory.fits))
    if not memory.fits:
        return
    pace = try_pace(prepared, trainer, longest, console)
    yield Check("ok", "longest rows", f"{longest.prompt} + {longest.completion} tokens, tried once")
    if engine := check_engine(trainer, prepared.prompts, pace, console):
        yield Check("ok" if engine.passed else "warn", "engine", engine_line(trainer, engine))
        if not engine.passed:
            said = CollectingConsole()
            replace_engine(config, trainer, said)
            pace = replace(pace, decode=None)
            yield from (Check("warn", "engine", line) for line in said.lines)
    found, pace = forecast(prepared, trainer, pace, console)
    if found:
        yield from _base_model(found, config)
    yield from _time(prepared, folder, pace, found, memory, price)
    if found and found.flaw:
        yield Check(
            "fail" if found.hopeless else "warn",
            "hopeless" if found.hopeless else "in doubt",
            found.hopeless or found.doubt,
        )


def _base_model(found: Forecast, config: Config) -> Iterator[Check]:
    """The shares of a forecast, with their intervals and what to change."""
    warnings = found.warnings(config)
    for name, text in {
        "base model": f"{found.pass_rate:.0%} right (95 % interval {as_range(found.pass_interval)}); {found.histogram}",
        "dead groups": f"about {found.dead:.0%} ({as_range(found.dead_interval)}) of the first step's groups",
        "truncation": f"{found.truncated:.0%} cut off; {found.tokens:.0f} tokens a completion",
    }.items():
        advice = warnings.get(name)
        yield Check("warn", name, f"{text}; {advice}") if advice else Check("ok", name, text)


def _time(
    prepared: Prepared, folder: Path, pace: Pace, found: Forecast | None, memory: MemoryPlan, price: float | None
) -> Iterator[Check]:
    """The time and the cost of the run; nothing where the speed is not known."""
    run = outlook_for(prepared, folder, pace, found, memory)
    time = run.duration or pace.run(prepared.plan)
    if time is None:
        return
    parts = (
        f"rollouts {in_words(time.rollouts)}, update {in_words(time.update)}, evaluation {in_words(time.evaluation)}"
    )
    cost = f", {price * time.total / 3600:.2f} at {price:g} an hour" if price is not None else ""
    basis = run.basis if run.duration else "if completions are as long as they can be"
    shorter = "; shorter with lower grpo.max_steps, evaluation.test_limit or evaluation.samples" * (time.total > LONG)
    yield Check("ok", "time", f"{about(time.total)}{cost} ({parts}) {basis}{shorter}")
