"""One training run from configuration to verdict."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tiny_math_solver.config.schema import Config
from tiny_math_solver.evaluation.evaluate import Evaluation, evaluate
from tiny_math_solver.evaluation.verdict import evaluation_lines
from tiny_math_solver.models.load import load_model
from tiny_math_solver.preflight.start import before_start
from tiny_math_solver.problems.splits import Splits
from tiny_math_solver.report import REPORT, write_report
from tiny_math_solver.rollouts import EngineRollouts, Rollouts, Sampling, make_rollouts
from tiny_math_solver.runs.checkpoints import step_of
from tiny_math_solver.runs.environment import command_line, write_environment
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import read_json, read_jsonl
from tiny_math_solver.runs.resume import Asked, starting_point
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.out_of_memory import memory_errors
from tiny_math_solver.support.redaction import without_secrets
from tiny_math_solver.training.build import build_training, check_engine, prepare
from tiny_math_solver.training.checkpointing import fingerprint
from tiny_math_solver.training.trackers import same_wandb_run


@dataclass(frozen=True)
class Outcome:
    """What a finished run has to show; `earned` is False where no completion ever got a reward."""

    summary: dict[str, Any]
    folder: Path
    earned: bool


def train(config: Config, console: Console, asked: Asked = Asked()) -> Outcome:  # noqa: B008  frozen
    """Run GRPO as configured, telling `console` how it goes. Returns when adapter, records and page are on disk.

    Goes on with an earlier run in the folder where `asked` says so. Raises StoppedError where the run ends before its
    last step, with all of it saved.
    """
    splits, tokenizer, plan = prepare(config)
    for line in plan:
        console.say(line)
    run = RunFolder(config.output_dir)
    run.check()
    with run.locked():
        start = starting_point(run, config, fingerprint(splits), asked, console)
        if not start.over:
            with memory_errors("rollouts.batch_size, update.tokens_per_pass or grpo.max_completion_length"):
                _train(config, console, run, splits, tokenizer, asked, start.checkpoint)
        summary = read_json(run.path / "summary.json")
        if run.writes:
            write_report([run.path], run.path / REPORT)
        return Outcome(summary, run.path, summary["best_reward"] > 0)


def _train(
    config: Config,
    console: Console,
    run: RunFolder,
    splits: Splits,
    tokenizer: Any,
    asked: Asked,
    checkpoint: Path | None,
) -> None:
    """From model to summary.json."""
    events = Events(run, console)
    training = build_training(config, run, splits, tokenizer, console, events.tell)
    trainer, args = training.trainer, training.trainer.args
    before_start(config, run, training, splits, console, fresh=checkpoint is None, force=asked.force)
    trainer.accelerator.wait_for_everyone()  # every process has seen where to begin
    if checkpoint is None:
        run.create()
    else:
        training.checkpointing.rewind(checkpoint)
        events.tell(step_of(checkpoint), "resumed", f"from {checkpoint}")
    run.write_text("config.yaml", without_secrets(config.to_yaml()))  # first: it makes the folder a run's
    if checkpoint is None:
        write_environment(run, command_line(), config.grpo_config.seed)
    events.begin()
    if run.writes and "wandb" in (args.report_to or []):
        same_wandb_run(read_json(run.path / "environment.json").get("run_id", run.path.name))

    with training.stop.listening():
        certificate = check_engine(config, trainer, splits.train, console)
        # of an interrupted run it is on record, else the adapter is still the fresh one, which changes nothing
        before = recorded_test(run, splits, "before") or evaluate_test(config, trainer.rollouts, splits, run, "before")
        for line in evaluation_lines("before", before["test"].summary()):
            console.say(line)
        if checkpoint is None:
            console.say("a loss near 0 at step 1 is how GRPO starts: look at the reward")
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        training.stop.raise_if_asked(args, trainer.state)
        training.watchdog.raise_if_stopped(console)
        trainer.accelerator.wait_for_everyone()  # the first process has written the best adapter
        best = load_model(str(run.path), dtype=config.model.dtype, device=args.device.type)
        engine = isinstance(trainer.rollouts, EngineRollouts)
        batch_size, native = trainer.rollouts.batch_size, config.rollouts.native
        rollouts = make_rollouts(best.model, best.tokenizer, batch_size, engine, native, trainer.sampling, console)
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
        "dev": training.dev.history,
        "best_step": training.dev.best_step,
        "best_reward": trainer.best_reward,
        "train_seconds": training.metrics.elapsed(),
        "steps": trainer.state.global_step,
        "completions": trainer.completions,
        "completion_tokens": trainer.completion_tokens,
        "seed": args.seed,
    }
    run.write_json("summary.json", summary)


class Events:
    """What a run has to say beside its numbers, told at once and kept in events.jsonl as soon as there is a folder."""

    def __init__(self, run: RunFolder, console: Console):
        self.run, self.console = run, console
        self.waiting: list[dict[str, Any]] | None = []

    def tell(self, step: int, name: str, text: str) -> None:
        self.console.say(f"step {step}: {name}: {text}")
        event = {"step": step, "name": name, "text": text}
        if self.waiting is None:
            self.run.append_jsonl("events.jsonl", [event])
        else:
            self.waiting.append(event)

    def begin(self) -> None:
        if self.waiting:
            self.run.append_jsonl("events.jsonl", self.waiting)
        self.waiting = None


def evaluate_test(
    config: Config, rollouts: Rollouts, splits: Splits, run: RunFolder, when: str
) -> dict[str, Evaluation]:
    """Greedy on every test problem, sampled on some; the records go to `eval/<when>.jsonl`."""
    grpo, settings = config.grpo_config, config.evaluation
    ask: dict[str, Any] = {"system": config.prompt.system, "max_new_tokens": config.max_completion_length}
    sampling = Sampling(config.max_completion_length, temperature=grpo.temperature)
    results = {
        "test": evaluate(
            rollouts,
            splits.test,
            **ask,
            samples=settings.samples,
            sampled_problems=settings.sampled_problems,
            sampling=sampling,
            seed=grpo.seed,
        )
    }
    if splits.unseen:
        results["unseen"] = evaluate(rollouts, splits.unseen, **ask)
    for name, result in results.items():
        run.write_jsonl(_record_name(when, name), result.rows())
    return results


def recorded_test(run: RunFolder, splits: Splits, when: str) -> dict[str, Evaluation] | None:
    """What `evaluate_test` left on disk, if all of it is there and of these problems."""
    found = {}
    for name, problems in {"test": splits.test, **({"unseen": splits.unseen} if splits.unseen else {})}.items():
        try:
            found[name] = Evaluation.from_rows(read_jsonl(run.path / _record_name(when, name)))
        except (TypeError, UserError):  # rows of something else
            return None
        if [record.id for record in found[name].greedy] != [problem.id for problem in problems]:
            return None
    return found


def _record_name(when: str, name: str) -> str:
    return f"eval/{when}.jsonl" if name == "test" else f"eval/{when}-{name}.jsonl"
