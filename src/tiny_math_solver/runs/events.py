"""The events of a run beside its numbers: printed at once, and kept in events.jsonl as soon as there is a folder."""

from typing import Any

from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support.console import Console


class EventLog:
    """Prints events and appends them to events.jsonl; before `open` they wait, since the folder may not be there."""

    def __init__(self, run: RunFolder, console: Console):
        self.run, self.console = run, console
        self._waiting: list[dict[str, Any]] | None = []

    def add(self, step: int, name: str, text: str) -> None:
        self.console.say(f"step {step}: {name}: {text}")
        event = {"step": step, "name": name, "text": text}
        if self._waiting is None:
            self.run.append_jsonl("events.jsonl", [event])
        else:
            self._waiting.append(event)

    def open(self) -> None:
        """Write what has waited; from here on each event is written at once."""
        if self._waiting:
            self.run.append_jsonl("events.jsonl", self._waiting)
        self._waiting = None
