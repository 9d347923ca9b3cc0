"""A whole run in numbers, as it was forecast or as it was measured, and how far one was off the other."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tiny_math_solver.preflight.pace import Duration
from tiny_math_solver.runs.records import FORECAST, SUMMARY, read_json
from tiny_math_solver.support.memory import readable
from tiny_math_solver.support.progress import about, in_words

PARTS = tuple(each.name for each in fields(Duration))  # of the time of a run
DEAD_GROUPS = "dead groups"
SHOWN: dict[str, Callable[[float], str]] = {
    "time": in_words,
    "memory": readable,
    "tokens": "{:.0f}".format,
    DEAD_GROUPS: "{:.0%}".format,
}


@dataclass(frozen=True)
class Outlook:
    """A run's `seconds` by the names in PARTS and three more numbers; None for what is not known.

    `memory` is in bytes, that of the main process at its peak; `tokens` are those of the mean completion, `dead` is the
    mean share of groups without a gradient.
    """

    seconds: Mapping[str, float | None]
    memory: int | None = None
    tokens: float | None = None
    dead: float | None = None

    @classmethod
    def of(cls, duration: Duration | None, memory: int, tokens: float | None, dead: float | None) -> "Outlook":
        return cls(asdict(duration) if duration else dict.fromkeys(PARTS), memory, tokens, dead)

    @property
    def total(self) -> float | None:
        """Seconds of the parts that are known."""
        known = [seconds for seconds in self.seconds.values() if seconds is not None]
        return sum(known) if known else None

    def __str__(self) -> str:
        parts = [
            about(self.total) if self.total is not None else "",
            f"{readable(self.memory)} of memory" if self.memory is not None else "",
            f"{self.tokens:.0f} tokens a completion" if self.tokens is not None else "",
            f"{self.dead:.0%} of the groups without a gradient" if self.dead is not None else "",
        ]
        return ", ".join(filter(None, parts))


@dataclass(frozen=True)
class Compared:
    """One number of a run as it was forecast and as it was measured."""

    name: str
    forecast: float
    measured: float

    @property
    def error(self) -> float:
        """Forecast against measured: 0.1 is 10 % too high; of the share of dead groups, 10 points."""
        return self.forecast - self.measured if self.name == DEAD_GROUPS else self.forecast / self.measured - 1

    @property
    def off(self) -> str:
        """The error in words: `+10 %`."""
        return f"{round(100 * self.error):+}{' points' if self.name == DEAD_GROUPS else ' %'}"

    def __str__(self) -> str:
        show = SHOWN[self.name]
        return f"{self.name} {show(self.forecast)}, measured {show(self.measured)} ({self.off})"


def compared(forecast: Outlook, measured: Outlook) -> Iterator[Compared]:
    """Each number that both know; of the time the parts that both know."""
    seconds = [
        (forecast.seconds[part], measured.seconds[part])
        for part in PARTS
        if None not in (forecast.seconds[part], measured.seconds[part])
    ]
    pairs: dict[str, tuple[float | None, float | None]] = {
        "time": (sum(before or 0.0 for before, _ in seconds), sum(after or 0.0 for _, after in seconds)),
        "memory": (forecast.memory, measured.memory),
        "tokens": (forecast.tokens, measured.tokens),
        DEAD_GROUPS: (forecast.dead, measured.dead),
    }
    for name, (before, after) in pairs.items():
        if before is not None and after is not None and (name == DEAD_GROUPS or after > 0):
            yield Compared(name, before, after)


def forecast_and_summary(run: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The forecast of the whole run in a folder, and its summary; None where the run went on beyond its forecast.

    Raises UserError or LookupError where one of them is missing or damaged.
    """
    forecast, summary = read_json(run / FORECAST)["run"], read_json(run / SUMMARY)
    return (forecast, summary) if forecast["steps"] == summary["steps"] else None


def outlook_of(record: Mapping[str, Any]) -> Outlook:
    """The outlook in a record. Raises TypeError or LookupError for anything else."""
    seconds = {part: record["seconds"][part] for part in PARTS}
    return Outlook(seconds, record["memory"], record["tokens"], record["dead"])
