"""What happens between steps: metrics to disk and terminal, dev evaluation, keeping the best adapter."""

import time
from typing import Any

from transformers import TrainerCallback

from tiny_math_solver.adapter import save_adapter
from tiny_math_solver.evaluate import evaluate
from tiny_math_solver.grpo.trainer import MathGRPOTrainer
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.rewards import FORMAT_REWARD
from tiny_math_solver.runs import RunFolder


class DevEvaluation(TrainerCallback):
    """Greedy accuracy on dev every N steps and at the end; the best adapter so far is what the run folder holds."""

    def __init__(self, run: RunFolder, dev: list[Problem], every: int, ask: dict[str, Any]):
        self.run, self.dev, self.every, self.ask = run, dev, every, ask
        self.trainer: MathGRPOTrainer | None = None  # set once the trainer is there
        self.history: list[dict[str, float]] = []
        self.best_step, self.best = -1, (-1.0, -1.0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._evaluate(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._evaluate(state)

    def _evaluate(self, state: Any) -> None:
        assert self.trainer is not None
        with self.trainer.timed("evaluation"):
            result = evaluate(self.trainer.rollouts, self.dev, **self.ask)
        block = result.summary()
        low, high = block["ci95"]
        self.history.append({"step": state.global_step, **{k: block[k] for k in ("accuracy", "strict_accuracy")}})
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
        if score > self.best:
            self.best, self.best_step = score, state.global_step
            model, tokenizer = self.trainer.accelerator.unwrap_model(self.trainer.model), self.trainer.processing_class
            self.run.write_folder(lambda folder: save_adapter(model, tokenizer, folder))


class Metrics(TrainerCallback):
    """One line a step in metrics.jsonl and in the terminal."""

    def __init__(self, run: RunFolder, say: Any):
        self.run, self.say = run, say
        self.started = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs is None or "reward" not in logs:
            return
        seconds = time.perf_counter() - self.started
        self.run.append_jsonl("metrics.jsonl", [{"step": state.global_step, "seconds": round(seconds, 3), **logs}])
        if state.is_world_process_zero:
            self.say(_line(state.global_step, state.max_steps, seconds, logs))


def _line(step: int, steps: int, seconds: float, logs: dict[str, float]) -> str:
    parts = [
        f"step {step}/{steps}",
        f"reward {logs['reward']:.2f}",
        f"correct {logs['rewards/correctness_reward/mean']:.1%}",
        f"format {logs['rewards/format_reward/mean'] / FORMAT_REWARD:.1%}",
        f"tokens {logs['completions/mean_length']:.0f}",
        f"no-gradient groups {logs['frac_reward_zero_std']:.0%}",
        f"{seconds:.0f} s",
    ]
    if "dev/accuracy" in logs:
        parts.append(f"dev {logs['dev/accuracy']:.1%}")
    return "  ".join(parts)
