"""A forecast of the first step: the base model answers a few train problems before anything is trained."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from tiny_math_solver.config.schema import Config
from tiny_math_solver.evaluation.evaluate import EvaluationRecord, sample
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import PromptFormat
from tiny_math_solver.training.plan import Plan
from tiny_math_solver.training.trainer import MathGRPOTrainer

PROBLEMS = 32
HOPELESS_TRUNCATION = 0.9


@dataclass(frozen=True)
class Forecast:
    """Completions of the base model, sampled as in training, a group a problem."""

    groups: list[list[EvaluationRecord]]
    seconds: float  # that they took

    @property
    def records(self) -> list[EvaluationRecord]:
        return [record for group in self.groups for record in group]

    @property
    def pass_rate(self) -> float:
        return self._share(record.correct for record in self.records)

    @property
    def truncated(self) -> float:
        return self._share(not record.finished for record in self.records)

    @property
    def dead(self) -> float:
        """Share of the groups in which all rewards are the same."""
        return self._share(len({tuple(record.rewards.values()) for record in group}) == 1 for group in self.groups)

    @property
    def tokens(self) -> float:
        """Mean of a completion."""
        return sum(record.tokens for record in self.records) / max(1, len(self.records))

    @property
    def tokens_per_second(self) -> float:
        return sum(record.tokens for record in self.records) / max(1e-9, self.seconds)

    @property
    def histogram(self) -> str:
        """The number of problems by their number of right samples."""
        samples = len(self.groups[0])
        counts = Counter(sum(record.correct for record in group) for group in self.groups)
        return f"problems by right samples of {samples}: " + ", ".join(
            f"{right} → {counts[right]}" for right in sorted(counts)
        )

    def __str__(self) -> str:
        return (
            f"{self.pass_rate:.0%} of {len(self.records)} sampled completions are right ({self.histogram}), "
            f"{self.truncated:.0%} cut off, {self.dead:.0%} of the groups without a gradient"
        )

    @property
    def hopeless(self) -> str:
        """The reason why GRPO cannot learn from this model as configured; empty if it can."""
        count = len(self.records)
        if not any(any(record.rewards.values()) for record in self.records):
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

    @staticmethod
    def _share(values: Iterable[bool]) -> float:
        found = list(values)
        return sum(found) / max(1, len(found))


@dataclass(frozen=True)
class Duration:
    """Seconds of a whole run, by what they go into."""

    rollouts: float
    update: float
    evaluation: float

    @property
    def total(self) -> float:
        return self.rollouts + self.update + self.evaluation


def forecast(config: Config, trainer: MathGRPOTrainer, train: list[Problem]) -> Forecast:
    """Ask PROBLEMS train problems as training will, four times as many before the verdict that none earns a reward.

    The adapter must be a fresh one, which changes nothing.
    """
    started, found, samples = time.perf_counter(), Forecast([], 0.0), config.num_generations
    for problems in (train[:PROBLEMS], train[PROBLEMS : 4 * PROBLEMS]):
        records = sample(trainer.rollouts, problems, PromptFormat.of(config), samples, trainer.sampling)
        groups = [list(group) for _, group in groupby(records, key=lambda record: record.id)]
        found = Forecast([*found.groups, *groups], time.perf_counter() - started)
        if any(any(record.rewards.values()) for record in found.records):
            break
    return found


def duration(plan: Plan, found: Forecast, prompt: float, update_speed: float) -> Duration:
    """Seconds a run will take if completions stay as long as the base model's, of prompts of `prompt` tokens.

    `update_speed` is in tokens per second.
    """
    config, splits, steps, settings = plan.config, plan.splits, plan.steps, plan.config.evaluation
    completions = steps * config.completions_per_step
    each = found.tokens / found.tokens_per_second
    test = len(splits.test) + len(splits.unseen) + min(settings.sampled_problems, len(splits.test)) * settings.samples
    asked = 2 * test + (1 + steps // settings.every) * len(splits.dev)
    learned = completions * (1 - found.dead) * config.grpo_config.num_iterations
    return Duration(completions * each, learned * (found.tokens + prompt) / update_speed, asked * each)
