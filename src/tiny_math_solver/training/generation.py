"""A generation batch on its way through TRL: prompts → rollouts → graded completions.

TRL asks for the completions (`rollout_func`) and for the rewards, one function after the other, in each process for a
part of the batch. A row keeps the group of its prompt, its tokens stay ragged, and its completion is graded once:
before TRL asks (batches.py), unless a backend of TRL's own makes the completions.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from trl import GRPOConfig

from tiny_math_solver.config.generation_kwargs import sampling_extras
from tiny_math_solver.config.rewards import RIGHT
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.rewards import as_text
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import Prompt, chat_messages
from tiny_math_solver.rewards.completion import Completion, Rewards
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import EngineRollouts, Rollout, Rollouts, Sampling
from tiny_math_solver.rollouts.endings import Endings
from tiny_math_solver.runs.records import RolloutRow
from tiny_math_solver.support import processes
from tiny_math_solver.support.own_code import OwnCodeError
from tiny_math_solver.training.step_metrics import StepMetrics

DatasetRow = dict[str, Any]  # prompt (chat messages), answer, question, id, group; columns, of which TRL knows nothing


def dataset_rows(problems: Sequence[Problem], prompts: Sequence[Prompt], system: str) -> list[DatasetRow]:
    """The rows that TRL's sampler repeats, one per problem and prompt of the same place."""
    return [
        {
            "prompt": chat_messages(problem.question, system),
            "answer": problem.answer,
            "question": problem.question,
            "id": problem.id,
            "group": prompt.group,
            "columns": problem.row,
        }
        for problem, prompt in zip(problems, prompts, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of a problem's row, graded and paid."""

    row: DatasetRow
    rollout: Rollout
    graded: Graded
    rewards: Rewards


class Generation:
    """Makes and grades one generation batch at a time: `begin`, `make` and `hold`, then TRL's calls, then `records`.

    `rows` are those of this process, for TRL; all else is about the completions of all processes.

    `prompts` are those of every problem that may come, found by their group. `rollouts` are of the policy under
    training, so they can only be made once the trainer has put the adapter on the model.
    """

    rollouts: Rollouts

    def __init__(self, prompts: Sequence[Prompt], sampling: Sampling, step_metrics: StepMetrics, grader: Grader):
        self.sampling, self.step_metrics, self.grader = sampling, step_metrics, grader
        self.prompts = {prompt.group: prompt for prompt in prompts}
        self.rows: list[DatasetRow] = []
        self.flaws: list[str] = []  # of the batch: rewards and log-probabilities that are missing or not finite
        self._held: list[Sample] = []

    def begin(self, rows: list[DatasetRow]) -> None:
        """Begin the next batch, of which TRL has `rows` of this process."""
        self.rows, self.flaws, self._held = rows, [], []
        self.step_metrics.batches += 1

    def make(self, rows: list[DatasetRow], numbers: Sequence[int], seed: int) -> list[Sample]:
        """A graded completion of each of `rows`; its draws depend on its problem, its number among them and `seed`."""
        asked = [replace(self.prompts[row["group"]], first=number) for row, number in zip(rows, numbers, strict=True)]
        graded: dict[int, Graded] = {}
        endings = self.rollouts.endings

        def grade(index: int, rollout: Rollout) -> None:
            graded[index] = self._graded(rows[index], rollout, endings)

        with self.step_metrics.timed("rollout"):
            rollouts = self.rollouts.generate(asked, 1, replace(self.sampling, seed=seed), on_done=grade)
        self._check_logprobs(rows, rollouts)
        return self._paid(rows, rollouts, [graded[index] for index in range(len(rows))])

    def _graded(self, row: DatasetRow, rollout: Rollout, endings: Endings) -> Graded:
        with self.step_metrics.timed("reward"):
            text = endings.text(rollout.completion_ids)
            return self.grader.grade(as_text(row["prompt"]), text, row["answer"])

    def _paid(self, rows: list[DatasetRow], rollouts: Sequence[Rollout], graded: Sequence[Graded]) -> list[Sample]:
        """The completions with their rewards. Raises OwnCodeError if a reward function of the user fails."""
        completions = [
            Completion(row["prompt"], row["columns"], rollout.completion_ids, each)
            for row, rollout, each in zip(rows, rollouts, graded, strict=True)
        ]
        with self.step_metrics.timed("reward"):
            rewards = self.grader.rewards(completions)
        judged = [self.grader.judged(each, paid) for each, paid in zip(graded, rewards, strict=True)]
        return [Sample(*parts) for parts in zip(rows, rollouts, judged, rewards, strict=True)]

    def hold(self, samples: list[Sample]) -> None:
        """Take the completions of the batch: TRL gets those of this process, and their rewards."""
        self._held = samples
        self.rows = [sample.row for sample in self._own]

    @property
    def _own(self) -> list[Sample]:
        """The samples of this process: those of TRL have consecutive parts of a batch."""
        return processes.own_part(self._held)

    def together(self, make: Callable[[], list[Any]]) -> list[list[Any]]:
        """What each process has made. Raises OwnCodeError in all if the user's reward function failed in one."""
        made, failed = [], None
        try:
            made = make()
        except OwnCodeError as error:
            failed = error
        with self.step_metrics.waiting():
            parts = processes.gather((made, failed))
        if failures := [failure for _, failure in parts if failure is not None]:
            raise failures[0]
        return [part for part, _ in parts]

    def rollout_func(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """TRL's hook for generation: the completions of `rows`, whose messages `prompts` repeats."""
        rollouts = [sample.rollout for sample in self._own]
        has_logprobs = all(rollout.logprobs is not None for rollout in rollouts)
        return {
            "prompt_ids": [rollout.prompt_ids for rollout in rollouts],
            "completion_ids": [rollout.completion_ids for rollout in rollouts],
            # TRL carries them along and reads them for vLLM's importance-sampling correction only
            "logprobs": [rollout.logprobs for rollout in rollouts] if has_logprobs else None,
        }

    def _check_logprobs(self, rows: list[DatasetRow], rollouts: Sequence[Rollout]) -> None:
        for row, rollout in zip(rows, rollouts, strict=True):
            if rollout.logprobs is None:
                if isinstance(self.rollouts, EngineRollouts):  # transformers' generate was not asked for them
                    self.flaws.append("log-probabilities of the rollouts are missing")
                    return
            elif not math.isfinite(sum(rollout.logprobs)):
                value = next(value for value in rollout.logprobs if not math.isfinite(value))
                self.flaws.append(f"a log-probability of the rollouts is {value} (problem {row['id']})")
                return

    def checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A reward function whose rewards are looked at: TRL takes NaN for "not applicable", and so for no reward."""

        @functools.wraps(function)
        def reward(**batch: Any) -> Any:
            values = function(**batch)
            for row, value in zip(self.rows, values, strict=False):  # TRL compares their numbers
                if value is None and function.__name__ in self.grader.own:
                    continue  # it does not apply; those of the package always do
                if value is None or not math.isfinite(value):
                    said = "missing" if value is None else value
                    self.flaws.append(f"reward of {function.__name__} is {said} (problem {row['id']})")
                    break
            return values

        return reward

    def reward_functions(self) -> list[Callable[..., list[float | None]]]:
        """One function in TRL's signature per reward."""

        def function(name: str) -> Callable[..., list[float | None]]:
            def reward(**batch: Any) -> list[float | None]:
                if not self._held:
                    self._take(batch["completion_ids"])
                return [sample.rewards[name] for sample in self._own]

            reward.__name__ = name  # TRL's metrics carry it
            return reward

        return [function(name) for name in self.grader.names.names]

    def _take(self, completion_ids: list[list[int]]) -> None:
        """Grade completions that a backend of TRL's own has made, one for each of `rows`."""
        endings = self.rollouts.endings
        made = [Rollout([], ids, endings.finished(ids)) for ids in completion_ids]
        graded = [self._graded(row, rollout, endings) for row, rollout in zip(self.rows, made, strict=True)]
        self.hold(list(chain(*self.together(lambda: self._paid(self.rows, made, graded)))))

    def metrics(self) -> dict[str, float]:
        """The share of right completions where a reward of the user decides, and the seconds that such rewards took."""
        grader, right = self.grader, [sample.graded.correct for sample in self._held]
        found = {RIGHT: sum(right) / max(1, len(right))} if grader.names.has_own_measure else {}
        found |= {f"rewards/{name}/seconds": grader.seconds.get(name, 0.0) for name in grader.own}
        grader.seconds.clear()
        return found

    def ended(self) -> list[tuple[int, bool]]:
        """`(tokens, ended by itself)` of each completion of the batch."""
        ids = [sample.rollout.completion_ids for sample in self._held]
        return [(len(completion), self.rollouts.endings.finished(completion)) for completion in ids]

    def records(self, step: int, advantages: list[float], used: list[bool] | None = None) -> list[RolloutRow]:
        """The batch as rows of rollouts.jsonl; `used` False marks those that are not passed to the update."""
        parts = zip(self._held, advantages, used or [True] * len(advantages), strict=True)
        return [self.record(step, sample, advantage, used=is_used) for sample, advantage, is_used in parts]

    def record(self, step: int, sample: Sample, advantage: float, *, used: bool) -> RolloutRow:
        """One completion as a row of rollouts.jsonl."""
        row, ids, graded = sample.row, sample.rollout.completion_ids, sample.graded
        made = RolloutRow(
            step=step,
            id=row["id"],
            question=row["question"],
            gold=row["answer"],
            completion=graded.text,
            answer=graded.answer,
            how=graded.how.value,
            rewards=sample.rewards,
            advantage=advantage,
            tokens=len(ids),
            finished=self.rollouts.endings.finished(ids),
            correct=graded.correct,
            strict=graded.strict,
        )
        return made if used else {**made, "used": False}


def sampling_of(args: GRPOConfig) -> Sampling:
    """The sampling settings of a GRPOConfig."""
    return Sampling(
        max_new_tokens=int(args.max_completion_length or 0),  # the configuration refuses null
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        extra=sampling_extras(args.generation_kwargs),
    )
