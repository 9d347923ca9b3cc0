"""The events of a run beside its numbers: printed at once, and kept in events.jsonl as soon as there is a folder."""

from typing import Any

from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import EVENTS, EventRow
from tiny_math_solver.support.console import Console


class EventLog:
    """Prints events and appends them to events.jsonl; before `open` they wait, since the folder may not be there."""

    def __init__(self, run: RunFolder, console: Console):
        self.run, self.console = run, console
        self._waiting: list[EventRow] | None = []

    def add(self, step: int, name: str, text: str, **details: Any) -> None:
        """Add an event; `details` are further fields of its row."""
        self.console.say(f"step {step}: {name}: {text}")
        event: EventRow = {"step": step, "name": name, "text": text, **details}  # type: ignore[typeddict-item]
        if self._waiting is None:
            self.run.append_jsonl(EVENTS, [event])
        else:
            self._waiting.append(event)

    def open(self) -> None:
        """Write what has waited; from here on each event is written at once."""
        if self._waiting:
            self.run.append_jsonl(EVENTS, self._waiting)
        self._waiting = None
