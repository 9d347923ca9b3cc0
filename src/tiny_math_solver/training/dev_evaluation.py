"""Greedy accuracy on dev while training goes on; it picks the adapter."""

from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from tiny_math_solver.evaluation.evaluate import evaluate
from tiny_math_solver.evaluation.kept import Evaluator
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import PromptFormat
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import read_jsonl
from tiny_math_solver.training.measures import require_scores
from tiny_math_solver.training.trainer import MathGRPOTrainer


class DevEvaluation(TrainerCallback):
    """Evaluates every `every` steps and at the end; the best adapter so far is what the run folder holds.

    The evaluation before the first step is that of the `evaluator` if there is one.
    """

    evaluator: Evaluator | None = None

    def __init__(self, trainer: MathGRPOTrainer, run: RunFolder, dev: list[Problem], every: int, prompt: PromptFormat):
        self.trainer, self.run, self.dev, self.every, self.prompt = trainer, run, dev, every, prompt
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
        """Evaluate the policy; True if it is the best so far."""
        trainer = self.trainer
        with trainer.step_metrics.timed("evaluation"):
            block = self._measure(state.global_step)
        low, high = block["ci95"]
        scores = {name: block[name] for name in ("accuracy", "strict_accuracy")}
        self.history.append({"step": state.global_step, **scores, "low": low, "high": high})
        if state.global_step > 0:  # the next logged line is step 1's, which is not this policy
            trainer.step_metrics.extra |= {
                "dev/accuracy": block["accuracy"],
                "dev/strict_accuracy": block["strict_accuracy"],
                "dev/ci95_low": low,
                "dev/ci95_high": high,
                "dev/mean_tokens": block["mean_tokens"],
            }
        # of two steps with the same accuracy the one that keeps to the format is better, then the earlier
        score = (block["accuracy"], block["strict_accuracy"])
        better = score > self.best
        if better:
            self.best, self.best_step = score, state.global_step
            self.run.write_folder(trainer.save_policy)
        return better

    def _measure(self, step: int) -> dict[str, Any]:
        """Answer the dev problems and keep the records; returns their summary."""
        trainer = self.trainer
        ask: dict[str, Any] = {
            "prompt": self.prompt,
            "max_new_tokens": trainer.sampling.max_new_tokens,
            "grader": trainer.generation.grader,
        }
        if step == 0 and self.evaluator:
            result = self.evaluator.evaluate("dev before training", trainer.rollouts, self.dev, ask, "problems.dev")
        else:
            result = evaluate(trainer.rollouts, self.dev, **ask)
        self.run.write_jsonl(self._record_name(step), result.rows())
        block = result.summary()
        require_scores(block, "dev", step, trainer.recorder.events)
        return block

    @property
    def same_words(self) -> float:
        """The share of dev problems that the last policy evaluated answers in the words of the first."""
        first, last = (
            [row["completion"] for row in read_jsonl(self.run.path / self._record_name(self.history[i]["step"]))]
            for i in (0, -1)
        )
        return sum(a == b for a, b in zip(first, last, strict=True)) / len(first)

    @staticmethod
    def _record_name(step: float) -> str:
        return f"eval/dev-{step:06.0f}.jsonl"

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.best_step, self.best = state["history"], state["best_step"], tuple(state["best"])
