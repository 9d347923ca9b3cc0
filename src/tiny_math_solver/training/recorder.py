"""Every graded completion of training, in rollouts.jsonl and in the run's counts."""

from typing import Any

from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import ROLLOUTS, RolloutRow, total_reward


class Recorder:
    """Appends generation batches to rollouts.jsonl until it has `max_bytes`; counts completions for the summary."""

    def __init__(self, run: RunFolder, max_bytes: int, events: EventLog):
        self.run, self.max_bytes, self.events = run, max_bytes, events
        self.completions = self.completion_tokens = 0
        self.best_reward = 0.0
        self.last_rows: list[RolloutRow] = []  # of all processes
        self._is_open = True

    def record(self, step: int, rows: list[RolloutRow]) -> None:
        """Add the rows of a generation batch, of all processes."""
        self.last_rows = rows
        self.completions += len(rows)
        self.completion_tokens += sum(row["tokens"] for row in rows)
        self.best_reward = max([self.best_reward, *map(total_reward, rows)])
        if self._is_open and not self.run.append_jsonl(ROLLOUTS, rows, self.max_bytes):
            self._is_open = False
            text = "rollouts.jsonl has reached records.rollouts_mb: later completions are not kept"
            self.events.add(step, "records", text)

    def state_dict(self) -> dict[str, Any]:
        return {
            "completions": self.completions,
            "completion_tokens": self.completion_tokens,
            "best_reward": self.best_reward,
            "is_open": self._is_open,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.completions, self.completion_tokens = state["completions"], state["completion_tokens"]
        self.best_reward, self._is_open = state["best_reward"], state["is_open"]
