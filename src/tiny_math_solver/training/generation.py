"""A generation batch on its way through TRL: prompts → rollouts → graded completions.

TRL asks for the completions (`rollout_func`) and for the rewards, one function after the other. A row keeps the group
of its prompt, its tokens stay ragged, and its completion is graded once.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from trl import GRPOConfig

from tiny_math_solver.grading.grade import REWARDS, Graded, grade
from tiny_math_solver.grading.rewards import as_text
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import Prompt, chat_messages
from tiny_math_solver.rollouts import EngineRollouts, Rollout, Rollouts, Sampling
from tiny_math_solver.runs.records import RolloutRow
from tiny_math_solver.training.step_metrics import StepMetrics

DatasetRow = dict[str, Any]  # of the dataset: prompt (chat messages), answer, question, id, group


def dataset_rows(problems: Sequence[Problem], prompts: Sequence[Prompt], system: str) -> list[DatasetRow]:
    """The rows that TRL's sampler repeats, one per problem and prompt of the same place."""
    return [
        {
            "prompt": chat_messages(problem.question, system),
            "answer": problem.answer,
            "question": problem.question,
            "id": problem.id,
            "group": prompt.group,
        }
        for problem, prompt in zip(problems, prompts, strict=True)
    ]


class Generation:
    """Makes and grades one generation batch at a time: `begin`, then TRL's calls, then `records`.

    `prompts` are those of every problem that may come, found by their group. `rollouts` are of the policy under
    training, so they can only be made once the trainer has put the adapter on the model.
    """

    rollouts: Rollouts

    def __init__(self, prompts: Sequence[Prompt], sampling: Sampling, step_metrics: StepMetrics):
        self.sampling, self.step_metrics = sampling, step_metrics
        self.prompts = {prompt.group: prompt for prompt in prompts}
        self.grade = grade
        self.rows: list[DatasetRow] = []
        self.graded: list[Graded] = []
        self.flaws: list[str] = []  # of the batch: rewards and log-probabilities that are missing or not finite
        self._completion_ids: list[list[int]] = []
        self._seed = 0

    def begin(self, rows: list[DatasetRow], seed: int) -> None:
        """Take the rows of the next batch; their draws depend on `seed`."""
        self.rows, self._seed, self.flaws = rows, seed, []
        self.step_metrics.batches += 1

    def rollout_func(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """TRL's hook for generation: one completion for each of `rows`, whose messages `prompts` repeats."""
        asked = [self.prompts[row["group"]] for row in self.rows]
        with self.step_metrics.timed("rollout"):
            rollouts = self.rollouts.generate(asked, 1, replace(self.sampling, seed=self._seed))
        self._check_logprobs(rollouts)
        has_logprobs = all(rollout.logprobs is not None for rollout in rollouts)
        return {
            "prompt_ids": [prompt.ids for prompt in asked],
            "completion_ids": [rollout.completion_ids for rollout in rollouts],
            # TRL carries them along and reads them for vLLM's importance-sampling correction only
            "logprobs": [rollout.logprobs for rollout in rollouts] if has_logprobs else None,
        }

    def _check_logprobs(self, rollouts: Sequence[Rollout]) -> None:
        for row, rollout in zip(self.rows, rollouts, strict=True):
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
                if value is None and function.__name__ not in REWARDS:
                    continue  # TRL's own "not applicable"; the two rewards always are
                if value is None or not math.isfinite(value):
                    said = "missing" if value is None else value
                    self.flaws.append(f"reward of {function.__name__} is {said} (problem {row['id']})")
                    break
            return values

        return reward

    def reward_functions(self) -> list[Callable[..., list[float]]]:
        """One function in TRL's signature per reward, called in this order; the first one grades the batch."""

        def function(name: str) -> Callable[..., list[float]]:
            def reward(**batch: Any) -> list[float]:
                if name == REWARDS[0]:
                    self._grade(**batch)
                return [graded.rewards[name] for graded in self.graded]

            reward.__name__ = name  # TRL's metrics carry it
            return reward

        return [function(name) for name in REWARDS]

    def _grade(
        self, prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **columns: Any
    ) -> None:
        with self.step_metrics.timed("reward"):
            self._completion_ids = completion_ids
            self.graded = [
                self.grade(as_text(prompt), as_text(completion), gold)
                for prompt, completion, gold in zip(prompts, completions, columns["answer"], strict=True)
            ]

    def records(self, step: int, advantages: list[float], end_ids: Sequence[int]) -> list[RolloutRow]:
        """The batch as rows of rollouts.jsonl; a completion is finished if it ends in one of `end_ids`."""
        return [
            RolloutRow(
                step=step,
                id=row["id"],
                question=row["question"],
                gold=row["answer"],
                completion=graded.text,
                answer=graded.answer,
                how=graded.how.value,
                rewards=graded.rewards,
                advantage=advantage,
                tokens=len(ids),
                finished=ids[-1] in end_ids,
                correct=graded.correct,
                strict=graded.strict,
            )
            for row, graded, advantage, ids in zip(
                self.rows, self.graded, advantages, self._completion_ids, strict=True
            )
        ]


def sampling_of(args: GRPOConfig) -> Sampling:
    """The sampling settings of a GRPOConfig."""
    extra: Any = args.generation_kwargs or {}
    return Sampling(
        max_new_tokens=int(args.max_completion_length or 0),  # the configuration refuses null
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        extra=extra,
    )
