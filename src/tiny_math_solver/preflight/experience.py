"""Earlier runs on this machine, which show how far a forecast is off.

A run counts if it lies beside the one that is to start, ran on the same hardware with the same model, and left both a
forecast and a summary. Of these the MOST whose settings differ least are taken, and of each correction the median.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from math import isfinite
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from tiny_math_solver.preflight.outlook import Outlook, forecast_and_summary, outlook_of
from tiny_math_solver.preflight.pace import Course, Duration, dead_at_first
from tiny_math_solver.report.curves import Columns, read_columns
from tiny_math_solver.runs.records import ENVIRONMENT, METRICS, SUMMARY, read_config, read_json
from tiny_math_solver.runs.resume import differences
from tiny_math_solver.support.errors import UserError

MOST = 3
HARDWARE = ("processor", "gpu", "torch_threads", "processes")  # of environment.json
SAME_SPEED = ("model.name", "model.dtype", "model.quantization", "rollouts.engine", "rollouts.native",
              "update.own_passes")  # fmt: skip
LAST = 3  # steps that show how a policy is after the last one
TOKENS, DEAD = "completions/mean_length", "frac_reward_zero_std"  # of metrics.jsonl


@dataclass(frozen=True)
class EarlierRun:
    """A finished run: its forecast and what was measured; `hindsight` is the forecast that knew its metrics.

    `tokens` of the mean completion and the share of `dead` groups, before any are replaced, have a value for each step.
    """

    name: str
    computed: Outlook
    measured: Outlook
    hindsight: Mapping[str, float]
    tokens: list[float]
    dead: list[float]
    steps: int
    has_same_problems: bool


@dataclass(frozen=True)
class Experience:
    """What earlier runs have shown; without any, every forecast is left as it is."""

    runs: list[EarlierRun]

    @property
    def names(self) -> list[str]:
        return [run.name for run in self.runs]

    def course(self, base: Course, steps: int) -> Course:
        """The course of a run whose model begins as `base`: longer or shorter by as much as those of earlier runs."""
        runs = [run for run in self.runs if run.has_same_problems and run.computed.tokens]
        if not runs:
            return base
        means = [mean(over(run.tokens, steps)) / (run.computed.tokens or 1) for run in runs]
        ends = [ending(run.tokens[:steps]) / (run.computed.tokens or 1) for run in runs]
        return replace(
            base,
            training=base.training * median(means),
            after=base.after * median(ends),
            dead=median(mean(over(run.dead, steps)) for run in runs),
        )

    def duration(self, computed: Duration, steps: int) -> Duration:
        """Each part of the time, corrected by what hindsight left unexplained."""
        parts = {part: seconds * _ratio(self._speeds(part)) for part, seconds in asdict(computed).items()}
        rests = [rest * steps / run.steps for run in self.runs if (rest := run.measured.seconds["rest"]) is not None]
        return Duration(**parts | {"rest": median(rests) if rests else computed.rest})

    def memory(self, computed: int) -> int:
        """Bytes at the peak."""
        pairs = ((run.measured.memory, run.computed.memory) for run in self.runs)
        return round(computed * _ratio(after / before for after, before in pairs if after and before))

    def _speeds(self, part: str) -> Iterable[float]:
        for run in self.runs:
            measured, computed = run.measured.seconds[part], run.hindsight.get(part)
            if measured and computed:
                yield measured / computed


def _ratio(ratios: Iterable[float]) -> float:
    found = list(ratios)
    return median(found) if found else 1.0


def by_step(columns: Columns, name: str) -> list[float]:
    """A metric of each step. A row stands for the steps since the row before; so does the next row with a value for
    those without one, which learn again from earlier completions.
    """
    found: list[float] = []
    for step, value in zip(columns.get("step", ()), columns.get(name, ()), strict=True):
        if isfinite(value):
            found += [value] * (int(step) - len(found))
    return found


def over(values: list[float], steps: int) -> list[float]:
    """The first `steps` of them; their ending stands for the steps that there were not."""
    return [*values[:steps], *[ending(values)] * (steps - len(values))]


def ending(values: list[float]) -> float:
    """The mean of the LAST of them."""
    return mean(values[-LAST:])


def experience_for(run: Path, config: Mapping[str, Any], machine: Mapping[str, Any]) -> Experience:
    """The earlier runs beside the folder `run` that show most about a run with `config`, both as they are recorded."""
    try:
        folders = [folder for folder in run.absolute().parent.iterdir() if (folder / SUMMARY).is_file()]
    except OSError:
        return Experience([])
    comparable = [each for folder in folders if (each := _comparable(folder, config, machine))]
    comparable.sort(key=lambda each: (len(each.changed), each.folder.name))
    return Experience(list(islice(filter(None, map(_earlier, comparable)), MOST)))


class _Comparable(NamedTuple):
    """A run of the same machine and model: its configuration, and what sets it apart from that of the run to start."""

    folder: Path
    config: dict[str, Any]
    changed: dict[str, str]


def _comparable(folder: Path, config: Mapping[str, Any], machine: Mapping[str, Any]) -> _Comparable | None:
    """The run in a folder; None for one of another machine or model, or damaged."""
    try:
        environment, own = read_json(folder / ENVIRONMENT), read_config(folder) or {}
        if any(environment.get(name) != machine.get(name) for name in HARDWARE):
            return None
        changed = dict(differences(own, dict(config)))
    except (UserError, OSError, TypeError, AttributeError):  # damaged
        return None
    is_same = set(SAME_SPEED).isdisjoint(changed) and (own.get("lora") is None) == (config.get("lora") is None)
    return _Comparable(folder, own, changed) if is_same else None


def _earlier(run: _Comparable) -> EarlierRun | None:
    """What a run shows; None for one of an earlier version, one that went on beyond its forecast, or damaged."""
    try:
        columns, rounds = read_columns(run.folder / METRICS), run.config.get("rollouts", {}).get("replace_dead", 0)
        tokens, dead = by_step(columns, TOKENS), by_step(columns, DEAD)
        if not tokens or not dead or (found := forecast_and_summary(run.folder)) is None:
            return None
        forecast, summary = found
        return EarlierRun(
            run.folder.name,
            outlook_of(forecast["computed"]),
            outlook_of(summary["measured"]),
            summary["measured"]["hindsight"] or {},
            tokens,
            [dead_at_first(share, rounds) for share in dead],
            summary["steps"],
            "problems.source" not in run.changed,
        )
    except (UserError, OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return None
