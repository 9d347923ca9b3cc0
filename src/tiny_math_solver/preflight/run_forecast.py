"""What a run will take, said before it begins, and what it took.

`forecast.json` keeps the forecast under `run`, `summary.json` the truth under `measured`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from tiny_math_solver.evaluation.kept import Evaluator
from tiny_math_solver.preflight.experience import DEAD, TOKENS, Experience, by_step, ending
from tiny_math_solver.preflight.outlook import Compared, Outlook, compared, forecast_and_summary, outlook_of
from tiny_math_solver.preflight.pace import Course, Duration, Pace, dead_at_first, dead_in_the_end
from tiny_math_solver.report.curves import read_columns, total
from tiny_math_solver.runs.records import METRICS
from tiny_math_solver.support.device import peak_gpu_memory
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.memory import peak_resident
from tiny_math_solver.training.plan import Plan


@dataclass(frozen=True)
class RunForecast:
    """A run by its measured speeds if the policy stays as it is, and that corrected by the runs `learned_from`."""

    computed: Outlook
    expected: Outlook
    learned_from: list[str]
    steps: int
    has_learned_course: bool = False

    @property
    def duration(self) -> Duration | None:
        """The expected time; None if it is not known."""
        known = {part: seconds for part, seconds in self.expected.seconds.items() if seconds is not None}
        return Duration(**known) if known else None

    @property
    def basis(self) -> str:
        """The assumption that the forecast rests on."""
        count = len(self.learned_from)
        runs = f"{count} earlier run{'s' * (count != 1)} beside it"
        if self.has_learned_course:
            return f"as in {runs}"
        return "if completions stay as long" + f" (speeds as in {runs})" * bool(count)

    def __str__(self) -> str:
        return f"{self.expected}, {self.basis}" if self.duration else str(self.expected)

    def to_dict(self) -> dict[str, Any]:
        """The content of `run` in forecast.json."""
        return asdict(self)


def forecast_run(plan: Plan, pace: Pace, course: Course | None, memory: int, experience: Experience) -> RunForecast:
    """The forecast of a run that takes `memory` bytes; without the `course` of the base model nothing else is known."""
    if course is None:
        return RunForecast(
            Outlook.of(None, memory, None, None),
            Outlook.of(None, experience.memory(memory), None, None),
            experience.names,
            plan.steps,
        )
    rounds, learned = plan.config.rollouts.replace_dead, experience.course(course, plan.steps)
    duration = pace.run(plan, learned)
    expected = experience.duration(duration, plan.steps) if duration else None
    return RunForecast(
        Outlook.of(pace.run(plan, course), memory, course.training, dead_in_the_end(course.dead, rounds)),
        Outlook.of(expected, experience.memory(memory), learned.training, dead_in_the_end(learned.dead, rounds)),
        experience.names,
        plan.steps,
        learned is not course,
    )


@dataclass(frozen=True)
class Truth:
    """A finished run's forecast, with and without what earlier runs had taught, against what was measured."""

    run: Path
    expected: list[Compared]
    computed: list[Compared]
    learned_from: int

    @classmethod
    def of(cls, run: Path) -> "Truth | None":
        """That of the run in a folder; None if it left no forecast, is not finished, or went on beyond its forecast."""
        try:
            if (records := forecast_and_summary(run)) is None:
                return None
            forecast, found = records[0], outlook_of(records[1]["measured"])
            expected, computed = (
                list(compared(outlook_of(forecast[name]), found)) for name in ("expected", "computed")
            )
            return cls(run, expected, computed, len(forecast["learned_from"]))
        except (UserError, LookupError, TypeError):
            return None

    def __str__(self) -> str:
        hint = "" if self.learned_from else "; the next run beside this one learns from it"
        return f"forecast: {'; '.join(map(str, self.expected))}{hint}"


def measured(
    run: Path, plan: Plan, pace: Pace, course: Course | None, elapsed: float, evaluator: Evaluator
) -> dict[str, Any]:
    """The content of `measured` in summary.json: an Outlook, and the seconds that hindsight would have computed.

    `elapsed` are the seconds of training. Those of a test that was recalled, or answered before an interruption, are
    not known.
    """
    columns = read_columns(run / METRICS)
    parts = {
        "rollouts": total(columns, "time/rollout") + total(columns, "time/reward") + total(columns, "time/waiting"),
        "update": total(columns, "time/update"),
        "dev": total(columns, "time/evaluation"),
    }
    tests = {when: evaluator.seconds_of(when) for when in ("before", "after")}
    # a run that is shorter than grpo.logging_steps has none of these
    tokens, dead = by_step(columns, TOKENS), by_step(columns, DEAD)
    outlook = Outlook(
        {**tests, **parts, "rest": max(0.0, elapsed - sum(parts.values()))},
        peak_gpu_memory() or peak_resident(),
        mean(tokens) if tokens else None,
        mean(dead) if dead else None,
    )
    hindsight, rounds = None, plan.config.rollouts.replace_dead
    if course and outlook.tokens and outlook.dead is not None:
        at_first = dead_at_first(outlook.dead, rounds)
        hindsight = pace.run(plan, Course(course.before, outlook.tokens, ending(tokens), at_first))
    return {**asdict(outlook), "hindsight": asdict(hindsight) if hindsight else None}
