"""The speeds measured before a run, and the time that its parts will take by them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tiny_math_solver.evaluation.evaluate import completions_of
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts.engine_check import NEW_TOKENS
from tiny_math_solver.rollouts.speed import DecodeSpeed
from tiny_math_solver.training.plan import Plan
from tiny_math_solver.update.share import kept_rows

FORWARD_SHARE = 1 / 3  # of a forward and backward pass


@dataclass(frozen=True)
class Course:
    """What the policy does in the course of a run.

    Tokens of its mean completion before training, in the mean of all steps, and after the last; and the mean share of
    groups without a gradient, before `rollouts.replace_dead` replaces any.
    """

    before: float
    training: float
    after: float
    dead: float = 0.0

    @classmethod
    def unchanged(cls, tokens: float, dead: float = 0.0) -> "Course":
        return cls(tokens, tokens, tokens, dead)


@dataclass(frozen=True)
class Duration:
    """Seconds of a whole run, by what they go into: the test before and after, rollouts, update, evaluations on dev.

    `rest` is everything else between the two tests, which is known from earlier runs alone.
    """

    before: float
    rollouts: float
    update: float
    dev: float
    after: float
    rest: float = 0.0

    @property
    def total(self) -> float:
        return self.evaluation + self.rollouts + self.update + self.rest

    @property
    def evaluation(self) -> float:
        return self.before + self.dev + self.after


@dataclass(frozen=True)
class Pace:
    """Speeds of a process with this model, the lengths they are for, and how many processes share the work.

    `decode` is None until transformers' generate has been asked something; `update` is in tokens per second. Until the
    model has been asked, completions count as long as they can be.
    """

    decode: DecodeSpeed | None
    update: float
    prompt: float  # tokens of it that the update computes per completion
    completion: float  # tokens of the mean completion
    processes: int = 1

    def asking(self, completions: int) -> float | None:
        """Seconds of so many completions, None if not known."""
        return self.decode.seconds(self._share(completions), self.completion) if self.decode else None

    def _share(self, completions: int) -> int:
        """The completions of one process."""
        return math.ceil(completions / self.processes)

    def comparing(self, prompts: Sequence[Prompt]) -> float | None:
        """Seconds of the engine's check: a few tokens decoded after their prompts, and one forward pass of each row."""
        if self.decode is None:
            return None
        tokens = sum(2 * len(prompt.ids) + NEW_TOKENS for prompt in prompts)
        return self.decode.seconds(len(prompts), NEW_TOKENS) + FORWARD_SHARE * tokens / self.update

    def after(self, completions: int, tokens: float, seconds: float) -> "Pace":
        """The pace corrected by `completions` of `tokens` tokens on average that took `seconds`."""
        decode = self.decode or DecodeSpeed(0.0, 1.0, 1)
        expected = decode.seconds(self._share(completions), tokens)
        return replace(self, decode=decode.scaled(seconds / expected), completion=tokens)

    def run(self, plan: Plan, course: Course | None = None) -> Duration | None:
        """Seconds of a whole run; without a `course` completions stay as long, and every group has a gradient.

        With `rollouts.replace_dead` each round asks as many problems as groups are dead by then.
        """
        if self.decode is None:
            return None
        course = course or Course.unchanged(self.completion)
        decode, share = self.decode, self._share
        config, steps, tested = plan.config, plan.steps, plan.tested
        settings, dev, batch = config.evaluation, len(plan.splits.dev), config.generation_batch
        greedy = sum(map(len, tested.tested.values()))
        test = greedy + completions_of(len(tested.test), settings.samples, settings.sampled_problems) - len(tested.test)
        rounds, samples = config.rollouts.replace_dead, config.num_generations
        learned = steps * config.completions_per_step * kept_rows(samples, config.update.share) / samples
        learned *= 1 - dead_in_the_end(course.dead, rounds)
        batches = steps * config.completions_per_step / (batch * config.grpo_config.num_iterations)
        batches *= sum(course.dead**number for number in range(rounds + 1))
        return Duration(
            before=decode.seconds(share(test + dev), course.before),  # dev with it
            rollouts=batches * decode.seconds(share(batch), course.training),
            update=learned * (course.training + self.prompt) / (self.update * self.processes),
            dev=math.ceil(steps / settings.every) * decode.seconds(share(dev), course.training),
            after=decode.seconds(share(test), course.after),
        )


def dead_in_the_end(dead: float, rounds: int) -> float:
    """The share of groups without a gradient after `rounds` of replacing them by others, of which as many are dead."""
    return dead ** (rounds + 1)


def dead_at_first(dead: float, rounds: int) -> float:
    """The share before `rounds` of replacing, of which `dead` was left."""
    return dead ** (1 / (rounds + 1))
