"""One training run from configuration to verdict: read this file first.

prepare      problems, prompts, tokenizer, plan                      training/plan.py
build        model, adapter, trainer and callbacks                   training/build.py
preflight    disk, memory, the engine, a forecast                    preflight/start.py
before       the model it starts from on test                                evaluation/before_after.py
loop         steps of rollouts, rewards, gradient, dev evaluations   training/trainer.py
after        the best adapter on the same test problems
verdict      summary.json, the report                                evaluation/verdict.py, report/

Several processes share the rollouts, the update and the evaluations; the main one decides and writes
(support/processes.py).
"""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tiny_math_solver.config.schema import Config
from tiny_math_solver.evaluation.before_after import TestResult, evaluate_test, keep_test, recorded_test
from tiny_math_solver.evaluation.kept import Evaluator, KeptEvaluations
from tiny_math_solver.evaluation.verdict import evaluation_lines, example_lines
from tiny_math_solver.grading.graded import PLACES
from tiny_math_solver.models.load import load_model
from tiny_math_solver.preflight.run_forecast import measured
from tiny_math_solver.preflight.start import Preflight, preflight
from tiny_math_solver.report import REPORT, write_report
from tiny_math_solver.rollouts import EngineRollouts, make_rollouts
from tiny_math_solver.runs.checkpoints import checkpoint_step
from tiny_math_solver.runs.environment import command_line, write_environment
from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import FORECAST, SUMMARY, read_json
from tiny_math_solver.runs.resume import ResumeOptions, starting_point
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console, QuietConsole
from tiny_math_solver.support.out_of_memory import oom_as_user_error
from tiny_math_solver.support.redaction import without_secrets
from tiny_math_solver.training.build import Training, build_training
from tiny_math_solver.training.causes import Ended, causes
from tiny_math_solver.training.guards import History
from tiny_math_solver.training.measures import require_scores
from tiny_math_solver.training.plan import Prepared, prepare, prompt_date
from tiny_math_solver.training.trackers import wandb_defaults
from tiny_math_solver.training.trainer import MathGRPOTrainer

SETTINGS_THAT_SAVE_MEMORY = "rollouts.batch_size, update.tokens_per_pass or grpo.max_completion_length"


@dataclass(frozen=True)
class Outcome:
    """The result of a finished run; `earned` is False if no completion ever got a reward."""

    summary: dict[str, Any]
    folder: Path
    earned: bool


def train(config: Config, console: Console, options: ResumeOptions = ResumeOptions()) -> Outcome:  # noqa: B008  frozen
    """Run GRPO as configured, or resume a run as `options` say; returns when adapter, records and page are on disk.

    Raises UserError for bad input, and StoppedError if the run does not start or ends before its last step.
    """
    _ = config.grpo_config  # sets up the device, and has the processes meet
    run = RunFolder(config.output_dir)
    date = processes.on_main(lambda: prompt_date(config, options))
    prepared = processes.main_first(lambda: prepare(config, date))
    config = prepared.config
    processes.on_main(run.check)
    with run.locked():
        start = processes.on_main(lambda: starting_point(run, config, prepared.plan.fingerprint, options, console))
        prepared = prepared.with_grpo(start.batch)
        for line in prepared.plan.lines:
            console.say(line)
        if not start.finished:
            with oom_as_user_error(SETTINGS_THAT_SAVE_MEMORY):
                _run(prepared, config, run, start.checkpoint, console, force=options.force)
        return processes.on_main(lambda: _outcome(run))


def _run(
    prepared: Prepared, config: Config, run: RunFolder, checkpoint: Path | None, console: Console, *, force: bool
) -> None:
    """Everything from the model to summary.json; `config` is the configuration as given, which is recorded."""
    events = EventLog(run, console)
    with console.part(f"loading model {prepared.config.model.name}"):
        training = build_training(prepared, run, console, events)
    if checkpoint is not None:
        training.checkpointing.read(checkpoint)
    found = preflight(prepared, run, training, console, fresh=checkpoint is None, force=force)
    processes.gather(None)  # all can start
    completions = prepared.config.completions_per_step
    processes.on_main(lambda: _open_folder(config, completions, run, training, checkpoint, events, console))
    _keep_forecasts(run, training, found)
    evaluator = Evaluator(console, found.pace.asking, KeptEvaluations(run.path))
    with training.signals.listening():
        before = _before(prepared, run, training, evaluator)
        training.dev.evaluator = evaluator
        with wandb_defaults(run, resumed=checkpoint is not None):
            _loop(training, console, fresh=checkpoint is None)
        after = _after(prepared, run, training, before, replace(evaluator, kept=None))
        processes.on_main(lambda: _conclude(prepared, run, training, found, evaluator, before, after))


def _outcome(run: RunFolder) -> Outcome:
    """The result in the run folder, with its page."""
    summary = read_json(run.path / SUMMARY)
    write_report([run.path], run.path / REPORT)
    return Outcome(summary, run.path, summary["best_reward"] > 0)


def _open_folder(
    config: Config,
    completions_per_step: int,
    run: RunFolder,
    training: Training,
    checkpoint: Path | None,
    events: EventLog,
    console: Console,
) -> None:
    """Make the run folder, or put that of a resumed run back to its checkpoint."""
    if checkpoint is None:
        if aside := run.create():
            console.say(f"the earlier run in {run.path} is now in {aside}")
    else:
        training.checkpointing.rewind(checkpoint)
        events.add(checkpoint_step(checkpoint), "resumed", f"from {checkpoint}")
    run.write_text("config.yaml", without_secrets(config.to_yaml()))  # first: it makes the folder a run's
    if checkpoint is None:
        write_environment(run, command_line(), config.grpo_config.seed, completions_per_step)
    events.open()


def _keep_forecasts(run: RunFolder, training: Training, found: Preflight) -> None:
    """Record the forecasts of a fresh run, and begin the history of its problems with that of the first step.

    The history takes the `reproducible_outcomes` alone: how many problems are asked beyond those depends on the speed
    of the machine, and the same seed is to give the same run.
    """
    if found.run is None:
        return
    record: dict[str, Any] = {"run": found.run.to_dict()}
    if found.forecast:
        for problem, right, samples in found.forecast.reproducible_outcomes:
            training.trainer.batches.history.observe(0, problem, right, samples)
        record = found.forecast.to_dict() | record
    processes.on_main(lambda: run.write_json(FORECAST, record))


def _before(prepared: Prepared, run: RunFolder, training: Training, evaluator: Evaluator) -> TestResult:
    """The model that the run starts from, on test: from the records of a resumed run, else by the untrained adapter."""
    config, tested = prepared.config, prepared.plan.tested
    recorded = processes.on_main(lambda: recorded_test(run, tested, "before"))
    rollouts = training.trainer.rollouts
    grader = training.trainer.generation.grader
    before = recorded or evaluate_test(config, rollouts, tested, run, "before", evaluator, grader, also=tested.dev)
    require_scores(before["test"].summary(), "test, before", 0, training.trainer.recorder.events)
    lines = evaluation_lines("before", before["test"].summary(), PLACES[grader.place])
    evaluator.console.judge("\n".join([lines[0], *example_lines(before["test"].greedy)]), "\n".join(lines))
    return before


def _loop(training: Training, console: Console, *, fresh: bool) -> None:
    """Train to the last step. Raises StoppedError if a signal or a guard ends it earlier."""
    trainer = training.trainer
    if fresh:
        trainer.train()
    else:
        training.checkpointing.resume()
    training.signals.raise_if_received(trainer.args, trainer.state)
    processes.on_main(lambda: training.watchdog.raise_if_stopped(console))


def _after(
    prepared: Prepared, run: RunFolder, training: Training, before: TestResult, evaluator: Evaluator
) -> TestResult:
    """The adapter that was the best on dev, as it lies on the disk, on test; one that changes nothing as before."""
    config, trainer = prepared.config, training.trainer
    if training.dev.best_step == 0:
        return keep_test(run, "after", before)
    trained = trainer.rollouts
    options: dict[str, Any] = {
        "batch_size": trained.batch_size,
        "engine": isinstance(trained, EngineRollouts),
        "native": config.rollouts.native,
        "sampling": trainer.sampling,
        "console": QuietConsole(),  # slower ways were said at the start
        "stop_strings": trained.endings.texts,
    }
    del trained
    trainer.release()
    with _best_policy(run, trainer) as folder:
        best = load_model(str(folder), dtype=config.model.dtype, device=trainer.args.device.type)
    rollouts = make_rollouts(best.model, best.tokenizer, **options)
    grader = trainer.generation.grader
    after = evaluate_test(config, rollouts, prepared.plan.tested, run, "after", evaluator, grader)
    require_scores(after["test"].summary(), "test, after", trainer.state.global_step, trainer.recorder.events)
    return after


@contextlib.contextmanager
def _best_policy(run: RunFolder, trainer: MathGRPOTrainer) -> Iterator[Path]:
    """The folder of the best policy: the run's, or a copy of it where another machine may have that."""
    weights = processes.on_main((run.path / trainer.weights_file).read_bytes)
    if processes.is_main():
        yield run.path
        return
    with tempfile.TemporaryDirectory() as folder:
        trainer.save_policy(Path(folder))
        (Path(folder) / trainer.weights_file).write_bytes(weights)
        yield Path(folder)


def _conclude(
    prepared: Prepared,
    run: RunFolder,
    training: Training,
    found: Preflight,
    evaluator: Evaluator,
    before: TestResult,
    after: TestResult,
) -> None:
    """Write summary.json, with what the run took for comparison with its forecast."""
    course, elapsed = found.forecast.course if found.forecast else None, training.metrics.elapsed()
    taken = measured(run.path, prepared.plan, found.pace, course, elapsed, evaluator)
    run.write_json(SUMMARY, _summary(prepared, training, found, before, after) | {"measured": taken})


def _summary(
    prepared: Prepared, training: Training, found: Preflight, before: TestResult, after: TestResult
) -> dict[str, Any]:
    """The content of summary.json."""
    trainer, recorder = training.trainer, training.trainer.recorder
    tested = {
        "before": before["test"].summary(),
        "after": after["test"].summary(),
        "paired": after["test"].against(before["test"]).to_dict(),
    }
    dev, watchdog = training.dev, training.watchdog
    history = History(watchdog.rows, prepared.config, trainer.policy_dtype, watchdog.rescue.undone)
    return {
        **tested,
        "causes": causes(Ended(history, **tested, dev=dev.history, same_words=dev.same_words)),
        "unseen": {
            when: result["unseen"].summary()
            for when, result in (("before", before), ("after", after))
            if "unseen" in result
        },
        "also": {
            name: {
                "before": before[name].summary(),
                "after": after[name].summary(),
                "paired": after[name].against(before[name]).to_dict(),
            }
            for name in prepared.splits.also
        },
        "place": PLACES[trainer.generation.grader.place],
        "problems": prepared.plan.record,
        "engine_check": None if found.engine is None else asdict(found.engine),
        "dev": dev.history,
        "best_step": dev.best_step,
        "rescues": watchdog.rescue.rows,
        "best_reward": recorder.best_reward,
        "train_seconds": training.metrics.elapsed(),
        "steps": trainer.state.global_step,
        "completions": recorder.completions,
        "completion_tokens": recorder.completion_tokens,
        "seed": trainer.args.seed,
    }
