"""The two evaluations on the same problems, and what their difference comes from, by measurement.

Completions of both prompts are read by both graders. Along a row of this table only the reading differs, along a column
only the prompt with its decoding:

                    read by lm-eval's filters    read by our grader
    lm-eval's prompt    lm-eval's score              …
    our prompt          …                            our accuracy
"""

import contextlib
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lm_eval import evaluator
from lm_eval.api.task import Task

from tiny_math_solver.evaluation.evaluate import Evaluation
from tiny_math_solver.evaluation.statistics import Paired, mcnemar
from tiny_math_solver.harness.model import RolloutsLM
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.rewards.grader import Grader

STRICT, LENIENT = "strict", "lenient"  # our two readings, beside the task's filters


@dataclass(frozen=True)
class Reading:
    """The answer that one grader reads off a completion, None or a filter's `[invalid]` for none."""

    answer: str | None
    right: bool


@dataclass(frozen=True)
class Read:
    """One completion of one problem, with all its readings: by the names of the task's filters, STRICT and LENIENT."""

    id: str
    question: str
    gold: str
    completion: str
    readings: dict[str, Reading]

    def row(self) -> dict[str, Any]:
        """The completion as a JSON object."""
        readings = {name: {"answer": each.answer, "right": each.right} for name, each in self.readings.items()}
        return {**{name: getattr(self, name) for name in ("id", "question", "gold", "completion")}, "read": readings}


@dataclass(frozen=True)
class Step:
    """From completions `before`, read by `was`, to completions `after`, read by `then`: the same problems in order."""

    before: list[Read]
    was: str
    after: list[Read]
    then: str

    @property
    def paired(self) -> Paired:
        before = [each.readings[self.was].right for each in self.before]
        return mcnemar(before, [each.readings[self.then].right for each in self.after])

    @property
    def gain(self) -> int:
        """The problems that more are right after it."""
        return self.paired.fixed - self.paired.broken


@dataclass(frozen=True)
class Comparison:
    """Completions of the same problems, `theirs` of lm-eval's prompt and `ours` of ours; `filters` are the task's."""

    filters: list[str]
    theirs: list[Read]
    ours: list[Read]

    @property
    def readers(self) -> list[str]:
        return [*self.filters, STRICT, LENIENT]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Scores that mean alike: the answer where it was asked for, and the answer wherever it stands."""
        loose = (self.filters[-1], LENIENT)
        return [(self.filters[0], STRICT), loose] if len(self.filters) > 1 else [loose]

    def right(self, completions: Sequence[Read], reader: str) -> int:
        return sum(each.readings[reader].right for each in completions)

    def steps(self, theirs: str, ours: str) -> tuple[Step, Step]:
        """`(extraction, prompt)`: lm-eval's completions read by us instead, then our prompt's instead of those."""
        return Step(self.theirs, theirs, self.theirs, ours), Step(self.theirs, ours, self.ours, ours)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every completion as a JSON object; `prompt` says which of the two asked for it."""
        for prompt, completions in (("lm-eval", self.theirs), ("ours", self.ours)):
            yield from ({"prompt": prompt, **each.row()} for each in completions)


def ask(task: Task, model: RolloutsLM, chat_template: bool) -> tuple[dict[str, float], float]:
    """Let the harness evaluate the task: its scores by filter, between 0 and 1, and the seconds it took.

    The completions stay in the task's instances.
    """
    started = time.monotonic()
    with contextlib.redirect_stderr(io.StringIO()):  # its bars
        found = evaluator.evaluate(
            model,
            {"tasks": {task.task_name: task}, "groups": {}},
            bootstrap_iters=0,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
        )
    results = found["results"][task.task_name]
    scores = {name.partition(",")[2]: value for name, value in results.items() if name.startswith(f"{_metric(task)},")}
    return scores, time.monotonic() - started


def compare(task: Task, problems: Sequence[Problem], ours: Evaluation, grader: Grader) -> Comparison:
    """The task as `ask` left it, and our evaluation of the same problems."""
    filters = list(task.instances[0].filtered_resps)
    theirs = _read_by_filters(task, filters)
    asked = [
        Read(p.id, p.question, p.answer, str(instance.resps[0]), readings)
        for p, instance, readings in zip(problems, task.instances, theirs, strict=True)
    ]
    # few-shot examples are no part of the question here: an answer may well equal that of one of them
    contexts = [task.doc_to_text(instance.doc) for instance in task.instances]
    asked = [_graded_by_us(each, context, grader) for each, context in zip(asked, contexts, strict=True)]
    for instance, record in zip(task.instances, ours.greedy, strict=True):
        instance.resps, instance.filtered_resps = [record.completion], {}
    task.apply_filters()
    own = [
        Read(
            r.id, r.question, r.gold, r.completion,
            {**readings, STRICT: Reading(r.answer, r.strict), LENIENT: Reading(r.answer, r.correct)},
        )
        for r, readings in zip(ours.greedy, _read_by_filters(task, filters), strict=True)
    ]  # fmt: skip
    return Comparison(filters, asked, own)


def _read_by_filters(task: Task, filters: Sequence[str]) -> list[dict[str, Reading]]:
    metric, read = _metric(task), []
    for instance in task.instances:
        answers = {name: instance.filtered_resps[name] for name in filters}
        read.append(
            {
                name: Reading(str(answer), bool(task.process_results(instance.doc, [answer])[metric]))
                for name, answer in answers.items()
            }
        )
    return read


def _graded_by_us(read: Read, question: str, grader: Grader) -> Read:
    graded = grader.grade(question, read.completion, read.gold)
    own = {STRICT: Reading(graded.answer, graded.strict), LENIENT: Reading(graded.answer, graded.correct)}
    return replace(read, readings=read.readings | own)


def _metric(task: Task) -> str:
    names = list(task.higher_is_better())
    return "exact_match" if "exact_match" in names else names[0]
