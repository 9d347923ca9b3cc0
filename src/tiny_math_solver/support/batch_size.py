"""Batch sizes that shrink when memory runs out, and stay small for the rest of the run."""

from collections.abc import Callable
from typing import Any


class BatchSize:
    """Rows or tokens handled at once; `on_shrink` is told each new value."""

    def __init__(self, value: int):
        self.value = self.configured = value
        self.on_shrink: Callable[[int], Any] = lambda value: None

    def halve(self, at_least: int = 1, at_most: int | None = None) -> bool:
        """Halve the size, or `at_most` if that is less, but not below `at_least`; False if it cannot shrink."""
        if self.value <= at_least:
            return False
        self.value = max(at_least, min(self.value, at_most or self.value) // 2)
        self.on_shrink(self.value)
        return True

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value, "configured": self.configured}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take over a smaller value, unless the configuration has changed since."""
        if state["configured"] == self.configured:
            self.value = min(self.value, state["value"])
