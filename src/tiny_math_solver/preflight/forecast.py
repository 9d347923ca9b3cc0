"""A forecast of the first step: the base model answers a few train problems before anything is trained.

It asks as many as fit a stated time, in rising rounds, and says how uncertain its shares are.

The verdict that nothing can be learned needs `enough` problems: three steps' worth. If an event happens to none of `n`
problems, its probability is below 3/n with 95 % confidence (the rule of three: 0.95 ≈ 1 - e⁻³). So if none of three
steps' problems has a reward, or samples that differ, fewer than one problem a step will.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from time import perf_counter
from typing import Any

from tiny_math_solver.config.schema import Config
from tiny_math_solver.evaluation.evaluate import EvaluationRecord, sample
from tiny_math_solver.evaluation.statistics import grouped_interval, wilson_interval
from tiny_math_solver.preflight.pace import Course, Pace
from tiny_math_solver.prompts import PromptFormat
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.progress import Advance
from tiny_math_solver.training.guards import COLD, RARE, against_equal_rewards
from tiny_math_solver.training.plan import Prepared
from tiny_math_solver.training.trainer import MathGRPOTrainer

FEWEST, FIRST, MOST = 4, 16, 128  # problems: asked in any time, in the first round at most, in all
RISE = 2  # a round asks at most so many times the problems asked before it
WORTHWHILE = 0.25  # a round of a smaller share of them is left out
RUN_SHARE = 0.02  # of the run's time
STEPS_TO_REFUSE, FEWEST_TO_REFUSE = 3, 16
HOPELESS_TRUNCATION = 0.9


@dataclass(frozen=True)
class Forecast:
    """Completions of the base model, sampled as in training, a group a problem.

    `enough` is the number of problems that a verdict against the run takes.
    """

    groups: list[list[EvaluationRecord]]
    seconds: float  # that they took
    enough: int = FEWEST_TO_REFUSE

    @cached_property
    def records(self) -> list[EvaluationRecord]:
        return [record for group in self.groups for record in group]

    @property
    def pass_rate(self) -> float:
        return self._share(record.correct for record in self.records)

    @property
    def pass_interval(self) -> tuple[float, float]:
        """95 % interval of the pass rate."""
        return grouped_interval([right for _, right, _ in self.outcomes], len(self.groups[0]))

    @property
    def truncated(self) -> float:
        return self._share(not record.finished for record in self.records)

    @property
    def dead(self) -> float:
        """Share of the groups in which all rewards are the same."""
        return self._share(self._dead)

    @property
    def dead_interval(self) -> tuple[float, float]:
        """95 % interval of the share of dead groups."""
        return wilson_interval(sum(self._dead), len(self.groups))

    @property
    def tokens(self) -> float:
        """Mean of a completion."""
        return sum(record.tokens for record in self.records) / max(1, len(self.records))

    @property
    def course(self) -> Course:
        """The course of a run in which the policy stays as it is."""
        return Course.unchanged(self.tokens, self.dead)

    @property
    def outcomes(self) -> list[tuple[str, int, int]]:
        """`(problem id, right samples, samples)` of each group."""
        return [(group[0].id, sum(record.correct for record in group), len(group)) for group in self.groups]

    @property
    def reproducible_outcomes(self) -> list[tuple[str, int, int]]:
        """Those of the problems that are asked on a machine of any speed."""
        return self.outcomes[:FEWEST]

    @property
    def histogram(self) -> str:
        """The number of problems by their number of right samples."""
        counts = Counter(right for _, right, _ in self.outcomes)
        return f"problems by right samples of {len(self.groups[0])}: " + ", ".join(
            f"{right} → {counts[right]}" for right in sorted(counts)
        )

    def __str__(self) -> str:
        return (
            f"{self.pass_rate:.0%} of {len(self.records)} sampled completions are right (95 % interval "
            f"{as_range(self.pass_interval)}; {self.histogram}), {self.truncated:.0%} cut off, {self.dead:.0%} "
            f"({as_range(self.dead_interval)}) of the groups without a gradient"
        )

    def warnings(self, config: Config) -> dict[str, str]:
        """What to change, by the name of the share that calls for it."""
        found = {}
        if self.truncated >= 0.1:
            found["truncation"] = f"raise grpo.max_completion_length (now {config.max_completion_length})"
        if self.pass_rate < RARE or self.dead >= 0.6:
            rare = self.pass_rate < RARE and config.grpo_config.temperature >= COLD
            found["base model" if rare else "dead groups"] = against_equal_rewards(config, self.pass_rate)
        return found

    def judgement(self, config: Config) -> str:
        """If there is something to learn from, in a few words."""
        right = f"{self.pass_rate:.0%} of the sampled completions are right"
        if self.hopeless or self.doubt:
            return right
        shares = {
            "truncation": f"{self.truncated:.0%} are cut off",
            "dead groups": f"{self.dead:.0%} of the groups have no gradient",
        }
        found = [": ".join(filter(None, [shares.get(name), text])) for name, text in self.warnings(config).items()]
        return "; ".join([right, *found]) if found else f"{right}: enough to learn from"

    def to_dict(self) -> dict[str, Any]:
        """The content of forecast.json."""
        return {
            "problems": len(self.groups),
            "seconds": self.seconds,
            "pass_rate": self.pass_rate,
            "pass_ci95": list(self.pass_interval),
            "dead": self.dead,
            "dead_ci95": list(self.dead_interval),
            "truncated": self.truncated,
            "mean_tokens": self.tokens,
            "outcomes": [list(outcome) for outcome in self.outcomes],
        }

    @property
    def flaw(self) -> str:
        """The reason why GRPO would learn nothing if every completion were like these; empty if it could."""
        count = len(self.records)
        if not any(any((record.rewards or {}).values()) for record in self.records):
            return (
                f"none of {count} completions earns a reward ({self.truncated:.0%} are cut off): see prompt.system, "
                "grpo.max_completion_length, or choose easier problems or a model that can solve some"
            )
        if self.truncated >= HOPELESS_TRUNCATION:
            return f"{self.truncated:.0%} of the completions are cut off: raise grpo.max_completion_length"
        if self.dead == 1:
            return (
                f"in each of {len(self.groups)} groups all rewards are the same ({self.pass_rate:.0%} right), so "
                "nothing has a gradient: raise grpo.num_generations or grpo.temperature, or choose other problems"
            )
        return ""

    @property
    def hopeless(self) -> str:
        """The flaw, if there is one and it was seen on enough problems."""
        return self.flaw if len(self.groups) >= self.enough else ""

    @property
    def doubt(self) -> str:
        """The flaw, if it was seen on too few problems to refuse the run."""
        if not self.flaw or self.hopeless:
            return ""
        return (
            f"{self.flaw}. {len(self.groups)} problems are too few to refuse the run, which takes {self.enough} "
            "(evaluation.forecast_seconds allows more)"
        )

    @property
    def _dead(self) -> list[bool]:
        return [len({tuple((record.rewards or {}).values()) for record in group}) == 1 for group in self.groups]

    @staticmethod
    def _share(values: Iterable[bool]) -> float:
        found = list(values)
        return sum(found) / max(1, len(found))


def as_range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.0%}–{interval[1]:.0%}"


def forecast(
    prepared: Prepared, trainer: MathGRPOTrainer, pace: Pace, console: Console
) -> tuple[Forecast | None, Pace]:
    """Ask train problems as training will, and return the pace as it then was; no forecast in no time.

    The time is `evaluation.forecast_seconds`, or RUN_SHARE of the run if that is less; a suspicion that nothing can be
    learned may be pursued for all of the former. FEWEST problems are asked in any case, the same ones on any machine.
    The adapter must be a fresh one, which changes nothing.
    """
    config, train, limit = prepared.config, prepared.splits.train, prepared.config.evaluation.forecast_seconds
    if not limit:
        return None, pace
    enough = min(enough_to_refuse(config), len(train))
    short = min(limit, RUN_SHARE * run.total) if (run := pace.run(prepared.plan)) else limit
    found, started = Forecast([], 0.0, enough), perf_counter()
    fewest, most = (pace.asking(min(count, len(train)) * config.num_generations) for count in (FEWEST, MOST))
    expected = max(min(short, most or short), fewest or 0.0)
    with console.part("forecast: sampling train problems", None, expected) as advance:
        while True:
            is_suspect = bool(found.groups) and bool(found.flaw)
            left = (limit if is_suspect else short) - found.seconds
            most = max(MOST, enough) if is_suspect else MOST
            asked, most = len(found.groups), min(most, len(train))
            count = processes.on_main(partial(_next_round, asked, most, left, pace, config.num_generations))
            if not count:
                return found, pace
            problems = train[len(found.groups) : len(found.groups) + count]
            before, earlier = perf_counter(), len(found.records)
            records = sample(
                trainer.rollouts, problems, PromptFormat.of(config), trainer.generation.grader,
                config.num_generations, trainer.sampling, partial(_advance, advance, earlier),
            )  # fmt: skip
            now = perf_counter()
            groups = [list(group) for _, group in groupby(records, key=lambda record: record.id)]
            found = Forecast([*found.groups, *groups], now - started, enough)
            pace = pace.after(len(records), sum(r.tokens for r in records) / len(records), now - before)


def _advance(advance: Advance, earlier: int, done: int) -> None:
    advance(earlier + done)


def enough_to_refuse(config: Config) -> int:
    """The number of problems without a reward, or without a gradient, after which a run is called hopeless."""
    per_step = config.completions_per_step / config.num_generations
    return max(FEWEST_TO_REFUSE, round(STEPS_TO_REFUSE * per_step))


def _next_round(asked: int, most: int, left: float, pace: Pace, samples: int) -> int:
    """The number of problems that the next round asks: as many as fit the time that is `left`."""
    count = min(RISE * asked if asked else FIRST, most - asked)
    fewest = min(FEWEST, most) if not asked else max(1, round(WORTHWHILE * asked))
    if not asked and pace.decode is None:
        return fewest
    while count >= fewest and (pace.asking(count * samples) or 0.0) > left:
        count -= 1
    if count >= fewest:
        return count
    return 0 if asked else fewest
