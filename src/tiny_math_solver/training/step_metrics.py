"""The numbers of metrics.jsonl beside TRL's metrics: where the time of a step went, and the evaluation on dev."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tiny_math_solver.support import processes
from tiny_math_solver.support.device import synchronize

STEP_PARTS = ("rollout", "reward", "update", "evaluation", "waiting")


class StepMetrics:
    """Numbers for the next logged line: `extra` as they are, `seconds` per part as means per step.

    Those in `lasting` are in every line from then on.
    """

    def __init__(self) -> None:
        self.extra: dict[str, float] = {}
        self.lasting: dict[str, float] = {}
        self.seconds = dict.fromkeys(STEP_PARTS, 0.0)
        self._logged_step = 0
        self.batches = 0  # of completions, since the last logged line
        self.excused: dict[str, str] = {}  # quantities that a step since then could not have, and why

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the time of the block as `part` of a step, without what other parts take within it.

        Rollouts that a GPU decodes while finished ones are graded count as `reward` for as long.
        """
        started, before = time.perf_counter(), sum(self.seconds.values())
        yield
        within = sum(self.seconds.values()) - before
        self.seconds[part] += time.perf_counter() - started - within

    @contextmanager
    def waiting(self, device: str = "cpu") -> Iterator[None]:
        """Count the time in which this process waits for others; a single one does not."""
        if processes.count() == 1:
            yield
            return
        synchronize(device)  # its own work is done by then
        with self.timed("waiting"):
            yield

    def take(self, step: int) -> dict[str, float]:
        """The numbers since the last call, `step` being the last finished step; begins anew."""
        taken, self.extra = self.extra | self.lasting, {}
        if steps := step - self._logged_step:
            parts = [part for part in STEP_PARTS if part != "waiting" or processes.count() > 1]
            taken |= {f"time/{part}": self.seconds[part] / steps for part in parts}
            taken |= self._evenness()
            self._logged_step = step
        self.seconds = dict.fromkeys(STEP_PARTS, 0.0)
        return taken

    def _evenness(self) -> dict[str, float]:
        """How evenly several processes were busy: their mean working time, in that of the one that took longest."""
        if processes.count() == 1:
            return {}
        busy = processes.gather(sum(self.seconds[part] for part in ("rollout", "reward", "update")))
        return {"processes/busy": sum(busy) / len(busy) / max(*busy, 1e-9)}

    def take_measured(self) -> tuple[int, dict[str, str]]:
        """`(batches, excused)` since the last call; begins anew."""
        taken = self.batches, self.excused
        self.batches, self.excused = 0, {}
        return taken

    def state_dict(self) -> dict[str, Any]:
        measured = {"batches": self.batches, "excused": self.excused}
        return {"extra": self.extra, "logged_step": self._logged_step, **measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.extra, self._logged_step = state["extra"], state["logged_step"]
        self.batches, self.excused = state.get("batches", 0), state.get("excused", {})
