"""What happens between steps: metrics to disk and terminal, dev evaluation, keeping the best adapter."""

import time
from math import isfinite
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from tiny_math_solver.evaluation.evaluate import evaluate
from tiny_math_solver.evaluation.merge import save_adapter
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support.console import Console
from tiny_math_solver.training.live_view import StepReport, show_step
from tiny_math_solver.training.trainer import MathGRPOTrainer


class DevEvaluation(TrainerCallback):
    """Greedy accuracy on dev every N steps and at the end; the best adapter so far is what the run folder holds."""

    def __init__(self, run: RunFolder, dev: list[Problem], every: int, ask: dict[str, Any]):
        self.run, self.dev, self.every, self.ask = run, dev, every, ask
        self.trainer: MathGRPOTrainer | None = None  # set once the trainer is there
        self.history: list[dict[str, float]] = []
        self.best_step, self.best = -1, (-1.0, -1.0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.history:
            self._evaluate(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        due = state.global_step % self.every == 0 or state.global_step == state.max_steps
        if due and self._evaluate(state) and args.save_strategy != SaveStrategy.NO:
            control.should_save = True  # the best adapter has a checkpoint

    def _evaluate(self, state: Any) -> bool:
        """Whether the policy is the best so far."""
        assert self.trainer is not None
        with self.trainer.timed("evaluation"):
            result = evaluate(self.trainer.rollouts, self.dev, **self.ask)
        block = result.summary()
        low, high = block["ci95"]
        scores = {name: block[name] for name in ("accuracy", "strict_accuracy")}
        self.history.append({"step": state.global_step, **scores, "low": low, "high": high})
        if state.global_step > 0:  # the next line logged is step 1's, which is not this policy
            self.trainer.extra_metrics |= {
                "dev/accuracy": block["accuracy"],
                "dev/strict_accuracy": block["strict_accuracy"],
                "dev/ci95_low": low,
                "dev/ci95_high": high,
                "dev/mean_tokens": block["mean_tokens"],
            }
        self.run.write_jsonl(f"eval/dev-{state.global_step:06d}.jsonl", result.rows())
        # of two steps with the same accuracy the one that keeps to the format is better, then the earlier
        score = (block["accuracy"], block["strict_accuracy"])
        better = score > self.best
        if better:
            self.best, self.best_step = score, state.global_step
            model, tokenizer = self.trainer.accelerator.unwrap_model(self.trainer.model), self.trainer.processing_class
            self.run.write_folder(lambda folder: save_adapter(model, tokenizer, folder))
        return better


class Metrics(TrainerCallback):
    """Writes each step to metrics.jsonl and shows it on the console."""

    def __init__(self, run: RunFolder, dev: DevEvaluation, console: Console):
        self.run, self.dev, self.console = run, dev, console
        self.before = 0.0  # seconds of training until the run was interrupted, or at its end
        self.started: float | None = None

    def elapsed(self) -> float:
        """Seconds of training."""
        return self.before + (0.0 if self.started is None else time.perf_counter() - self.started)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before, self.started = self.elapsed(), None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        seconds = self.elapsed()
        finite = {name: None if isinstance(v, float) and not isfinite(v) else v for name, v in logs.items()}
        self.run.append_jsonl("metrics.jsonl", [{"step": state.global_step, "seconds": round(seconds, 3), **finite}])
        trainer = self.dev.trainer
        if state.is_world_process_zero and trainer and "reward" in logs:  # not where earlier completions are used again
            sample = max(trainer.last_rows, key=lambda row: row["advantage"], default=None)
            report = StepReport(
                state.global_step, state.max_steps, seconds, logs, self.dev.history, len(trainer.last_rows), sample
            )
            show_step(self.console, report)
