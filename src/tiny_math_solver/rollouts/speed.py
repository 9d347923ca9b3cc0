"""The measured speed of decoding, and the time that completions will take by it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

FEW_ROWS = 8
TIMED_STEPS = 2


@dataclass(frozen=True)
class DecodeSpeed:
    """Seconds of a decode step of up to `slots` rows: `fixed + per_row · rows`."""

    fixed: float
    per_row: float
    slots: int

    def seconds(self, completions: int, tokens: float) -> float:
        """Seconds of `completions` with `tokens` tokens each."""
        if completions <= self.slots:
            return tokens * (self.fixed + self.per_row * completions)
        return completions / self.slots * self.seconds(self.slots, tokens)

    def scaled(self, factor: float) -> "DecodeSpeed":
        """The same, every step taking `factor` times as long."""
        return replace(self, fixed=factor * self.fixed, per_row=factor * self.per_row)


def measured(step: Callable[[int], Any], rows: int, slots: int) -> DecodeSpeed:
    """The speed of `step(rows)`, by a few steps of few rows and of `rows`; each returns when its work is done."""
    few = min(FEW_ROWS, rows)
    slow, fast = _seconds(step, rows), _seconds(step, few)
    per_row = max(0.0, slow - fast) / (rows - few) if rows > few else slow / rows
    return DecodeSpeed(max(0.0, slow - per_row * rows), per_row, slots)


def _seconds(step: Callable[[int], Any], rows: int) -> float:
    step(rows)  # the first one sets up what the others reuse
    started = perf_counter()
    for _ in range(TIMED_STEPS):
        step(rows)
    return (perf_counter() - started) / TIMED_STEPS
