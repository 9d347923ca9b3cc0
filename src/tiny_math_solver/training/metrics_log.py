"""metrics.jsonl and the console: one line a step."""

import time
from collections import defaultdict
from math import isfinite, nan
from typing import Any

from transformers import TrainerCallback

from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.training.dev_evaluation import DevEvaluation
from tiny_math_solver.training.live_view import StepReport, show_step
from tiny_math_solver.training.trainer import MathGRPOTrainer


class MetricsLog(TrainerCallback):
    """Appends each logged step to metrics.jsonl and shows it; counts the seconds of training."""

    def __init__(self, trainer: MathGRPOTrainer, run: RunFolder, dev: DevEvaluation, console: Any):
        self.trainer, self.run, self.dev, self.console = trainer, run, dev, console
        self._seconds_before = 0.0  # until the run was interrupted, or until its end
        self._started: float | None = None

    def elapsed(self) -> float:
        """Seconds of training, over interruptions."""
        return self._seconds_before + (0.0 if self._started is None else time.perf_counter() - self._started)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._seconds_before, self._started = self.elapsed(), None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        seconds = self.elapsed()
        finite = {name: None if isinstance(v, float) and not isfinite(v) else v for name, v in logs.items()}
        self.run.append_jsonl("metrics.jsonl", [{"step": state.global_step, "seconds": round(seconds, 3), **finite}])
        if state.is_world_process_zero and "reward" in logs:  # not where earlier completions are learned from again
            rows = self.trainer.recorder.last_rows
            sample = max(rows, key=lambda row: row["advantage"], default=None)
            # a number that is missing shows as nan: what follows from it is for the guards to say
            shown = defaultdict(lambda: nan, {name: nan if value is None else value for name, value in logs.items()})
            names = self.trainer.generation.grader.names
            done = state.global_step, state.max_steps
            report = StepReport(*done, seconds, shown, self.dev.history, len(rows), sample, names)
            show_step(self.console, report)

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.elapsed()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._seconds_before = state["seconds"]
