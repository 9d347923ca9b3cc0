"""Fixed problems → graded records: one greedy completion per problem, and sampled ones for pass@k and maj@k.

Several processes answer a part of the problems each, and all of them have all records.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tiny_math_solver.evaluation.statistics import Paired, maj_at_k, mcnemar, pass_at_k, wilson_interval
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.rewards import as_text
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import PromptFormat, encode_prompt, first_samples, group_prompts, render
from tiny_math_solver.rewards.completion import Completion, Rewards
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import Rollout, Rollouts, Sampling
from tiny_math_solver.support import processes
from tiny_math_solver.support.dealing import dealt
from tiny_math_solver.support.progress import Advance

RIGHT_VOTE = object()  # the vote of a right answer


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One graded completion of one problem, a line of eval/*.jsonl; `answer` and `how` are those of `Graded`."""

    id: str
    question: str
    gold: str
    completion: str
    answer: str | None
    how: str
    correct: bool  # lenient
    strict: bool  # correct, and the answer stands where the prompt asks for it
    tokens: int
    finished: bool
    sample: int | None = None  # None: greedy
    rewards: Rewards | None = None  # that training would pay for it, where they were asked for

    def row(self) -> dict[str, Any]:
        """The record as a JSON object."""
        row = {each.name: getattr(self, each.name) for each in fields(self)}
        return row if self.rewards is not None else {name: row[name] for name in row if name != "rewards"}


@dataclass(frozen=True)
class Evaluation:
    """One greedy record per problem, and optionally `samples` sampled records per problem, grouped by problem."""

    greedy: list[EvaluationRecord]
    sampled: list[EvaluationRecord] = field(default_factory=list)
    samples: int = 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every record as a JSON object, the greedy ones first."""
        return (record.row() for record in [*self.greedy, *self.sampled])

    @classmethod
    def from_rows(cls, rows: Iterable[dict[str, Any]]) -> "Evaluation":
        """The evaluation that wrote `rows`."""
        records = [EvaluationRecord(**row) for row in rows]
        sampled = [record for record in records if record.sample is not None]
        samples = 1 + max((record.sample or 0 for record in sampled), default=-1)
        return cls([record for record in records if record.sample is None], sampled, samples)

    @property
    def accuracy(self) -> float:
        return sum(r.correct for r in self.greedy) / max(1, len(self.greedy))

    def summary(self) -> dict[str, Any]:
        """A `before` or `after` block of summary.json; rates are between 0 and 1."""
        n, correct = len(self.greedy), sum(r.correct for r in self.greedy)
        pass_at, maj_at = self._at_k()
        return {
            "n": n,
            "correct": correct,
            "accuracy": self.accuracy,
            "ci95": list(wilson_interval(correct, n)),
            "strict_accuracy": sum(r.strict for r in self.greedy) / max(1, n),
            "pass_at_k": pass_at,
            "maj_at_k": maj_at,
            "sampled_problems": len(self.sampled) // self.samples if self.samples else 0,
            "samples": self.samples,
            "mean_tokens": sum(r.tokens for r in self.greedy) / max(1, n),
            "finished": sum(r.finished for r in self.greedy) / max(1, n),
        }

    def against(self, before: "Evaluation") -> Paired:
        """The paired test of this evaluation against an earlier one on the same problems."""
        if [r.id for r in before.greedy] != [r.id for r in self.greedy]:
            raise ValueError("a paired test needs the same problems in the same order")
        return mcnemar([r.correct for r in before.greedy], [r.correct for r in self.greedy])

    def _at_k(self) -> tuple[dict[str, float], dict[str, float]]:
        groups = [self.sampled[i : i + self.samples] for i in range(0, len(self.sampled), self.samples or 1)]
        ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256) if k < self.samples] + [self.samples] * bool(self.samples)
        if not groups:
            return {}, {}
        pass_at = {k: [pass_at_k(len(g), sum(r.correct for r in g), k) for g in groups] for k in ks}
        # right answers are equal, however they are written
        votes = [[RIGHT_VOTE if r.correct else r.answer for r in g] for g in groups]
        maj_at = {k: [maj_at_k(vote, RIGHT_VOTE, k) for vote in votes] for k in ks}
        mean = {str(k): sum(v) / len(v) for k, v in pass_at.items()}
        return mean, {str(k): sum(v) / len(v) for k, v in maj_at.items()}


def evaluate(
    rollouts: Rollouts,
    problems: Sequence[Problem],
    *,
    prompt: PromptFormat,
    max_new_tokens: int,
    grader: Grader,
    samples: int = 0,
    sampled_problems: int | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    on_done: Advance | None = None,
) -> Evaluation:
    """Answer `problems` greedily, and the first `sampled_problems` of them `samples` times with `sampling`.

    The `grader` says which are right. `on_done` is told how many of the `completions_of` it are finished.
    """
    greedy = Sampling(max_new_tokens=max_new_tokens, temperature=0)
    records = _generate(rollouts, problems, prompt, grader, 1, greedy, on_done, sampled=False)
    if not samples:
        return Evaluation(records)
    sampling = replace(sampling or Sampling(max_new_tokens), seed=seed)
    later = on_done and (lambda done: on_done(len(records) + done))
    sampled = _generate(rollouts, problems[:sampled_problems], prompt, grader, samples, sampling, later, sampled=True)
    return Evaluation(records, sampled, samples)


def completions_of(problems: int, samples: int, sampled_problems: int | None = None) -> int:
    """The completions that `evaluate` makes of so many problems."""
    return problems + samples * min(problems, problems if sampled_problems is None else sampled_problems)


def sample(
    rollouts: Rollouts,
    problems: Sequence[Problem],
    prompt: PromptFormat,
    grader: Grader,
    samples: int,
    sampling: Sampling,
    on_done: Advance | None = None,
) -> list[EvaluationRecord]:
    """`samples` completions of every problem, graded and paid, grouped by problem."""
    return _generate(rollouts, problems, prompt, grader, samples, sampling, on_done, sampled=True, paid=True)


def _generate(
    rollouts: Rollouts,
    problems: Sequence[Problem],
    prompt: PromptFormat,
    grader: Grader,
    samples: int,
    sampling: Sampling,
    on_done: Advance | None,
    *,
    sampled: bool,
    paid: bool = False,
) -> list[EvaluationRecord]:
    processes.begins(f"an evaluation of {len(problems):,} problems")
    rank, count = processes.sharing()
    shares = dealt([len(problem.question) for problem in problems], count)
    own = [problems[place] for place in shares[rank]]
    conversations = [prompt.messages(problem.question) for problem in own]
    encoded = group_prompts(encode_prompt(rollouts.tokenizer, messages, prompt) for messages in conversations)
    asked = [render(rollouts.tokenizer, prompt.messages(p.question), prompt) for p in problems] if sampled else []
    firsts = first_samples(asked, samples) if sampled else [0] * len(problems)
    prompts = [replace(each, first=firsts[place]) for each, place in zip(encoded, shares[rank], strict=True)]
    endings = rollouts.endings
    graded: dict[int, Graded] = {}

    def grade(index: int, rollout: Rollout) -> None:
        i = index // samples
        graded[index] = grader.grade(as_text(conversations[i]), endings.text(rollout.completion_ids), own[i].answer)
        if on_done:  # the others are as far
            on_done(min(len(graded) * count, len(problems) * samples))

    made = rollouts.generate(prompts, samples, sampling, on_done=grade)
    completions = [
        Completion(conversations[index // samples], own[index // samples].row, rollout.completion_ids, graded[index])
        for index, rollout in enumerate(made)
    ]
    records = _records(own, made, completions, grader, paid=paid)
    if sampled:
        records = [replace(record, sample=index % samples) for index, record in enumerate(records)]
    parts = processes.gather(records)
    groups: dict[int, list[EvaluationRecord]] = {}
    for share, part in zip(shares, parts, strict=True):
        groups |= {place: part[i * samples : (i + 1) * samples] for i, place in enumerate(share)}
    return [record for place in range(len(problems)) for record in groups[place]]


def _records(
    problems: Sequence[Problem],
    rollouts: Sequence[Rollout],
    completions: Sequence[Completion],
    grader: Grader,
    *,
    paid: bool,
) -> list[EvaluationRecord]:
    """The records of some problems' completions, as many of each; with their rewards if they are `paid`."""
    samples = len(completions) // max(1, len(problems))
    rewards: Sequence[Rewards | None] = [None] * len(completions)
    if paid or grader.names.has_own_measure:
        rewards = grader.rewards(completions)
    return [
        _record(problems[index // samples], rollout, completion.graded, grader, earned)
        for index, (rollout, completion, earned) in enumerate(zip(rollouts, completions, rewards, strict=True))
    ]


def _record(
    problem: Problem, rollout: Rollout, graded: Graded, grader: Grader, rewards: Rewards | None
) -> EvaluationRecord:
    """One rollout, judged as in training."""
    graded = graded if rewards is None else grader.judged(graded, rewards)
    return EvaluationRecord(
        id=problem.id,
        question=problem.question,
        gold=problem.answer,
        completion=graded.text,
        answer=graded.answer,
        how=graded.how.value,
        correct=graded.correct,
        strict=graded.strict,
        tokens=len(rollout.completion_ids),
        finished=rollout.finished,
        rewards=rewards,
    )
