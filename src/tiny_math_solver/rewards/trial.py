"""Own functions tried before a run, on completions made up from a few train problems: half of them right.

What would stop the run in its first step is known before the model is loaded. The lines say how long a function takes,
what it pays, and if it pays the same when asked again.
"""

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.markers import How
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import Message
from tiny_math_solver.rewards.completion import Completion
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rewards.own import OwnReward
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.progress import in_words

PROBLEMS = 8
SLOW = 1.0  # seconds of a step
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric")
WRONG = "I do not know."


def tried(
    grader: Grader,
    problems: Sequence[Problem],
    ask: Callable[[str], list[Message]],
    encode: Callable[[str], list[int]],
    completions_per_step: int,
) -> list[str]:
    """A line for each function of the user; `ask` makes the messages of a question, `encode` the ids of a text.

    Raises UserError for a function that raises, returns no list of numbers, or wants a column that is not there.
    """
    if not grader.runs_own_code:
        return []
    chosen = problems[:PROBLEMS]
    for reward in grader.own.values():
        reward.check_parameters([*GIVEN, *chosen[0].row], "the columns of the problems and TRL's arguments")
    completions = list(_made_up(grader, chosen, ask, encode))
    _refuse_missed_golds(grader, completions)
    return [_line(reward, completions, grader.extra, completions_per_step) for reward in grader.own.values()]


def _made_up(
    grader: Grader, problems: Sequence[Problem], ask: Callable[[str], list[Message]], encode: Callable[[str], list[int]]
) -> Iterator[Completion]:
    """Two completions of each problem: one that ends in its gold where the prompt asks for it, and one without any."""
    for problem in problems:
        for text in (with_answer(problem, grader.place), WRONG):
            yield Completion(ask(problem.question), problem.row, encode(text), _graded(grader, problem, text))


def _graded(grader: Grader, problem: Problem, text: str) -> Graded:
    return grader.grade(problem.question, text, problem.answer)


def unasked(place: How, prompt: str) -> list[str]:
    """A note if the prompt does not ask for the place of the answer that is paid for: it may never be found."""
    mark = {How.TAG: "<answer>", How.BOXED: "\\boxed"}.get(place)
    if mark is None or mark in prompt:
        return []
    return [f"the prompt says nothing of {mark}, where the reward wants the answer: see prompt.system, prompt.template"]


def with_answer(problem: Problem, place: How) -> str:
    """A completion that works a problem out, as far as its solution is known, and gives the gold at `place`."""
    working, gold = problem.solution, problem.answer
    if place is How.TAG:
        return f"<think>{working}</think> <answer>{gold}</answer>"
    return f"{working}\n\\boxed{{{gold}}}" if place is How.BOXED else f"{working}\n#### {gold}"


def _refuse_missed_golds(grader: Grader, completions: Sequence[Completion]) -> None:
    """Raise UserError if a function that says what is right calls every gold wrong."""
    right = completions[::2]
    if ":" in grader.kind_name and not any(completion.graded.correct for completion in right):
        raise UserError(
            f"problems.answer_kind: {grader.kind_name} calls none of {len(right)} completions right that end in their "
            f"gold, such as {right[0].graded.text[-60:]!r}"
        )


def _line(reward: OwnReward, completions: Sequence[Completion], extra: dict[str, Any], per_step: int) -> str:
    started = perf_counter()
    values, _ = reward.run(completions, extra)
    seconds = perf_counter() - started
    known = [value for value in values if value is not None]
    paid = f"{min(known):g} to {max(known):g}" if known else "nothing: it applies to none of them"
    notes = []
    if known and len(set(known)) == 1:
        notes.append("the same for right answers and for none")
    if missing := len(values) - len(known):
        notes.append(f"{missing} times None")
    if reward.run(completions, extra)[0] != values:
        notes.append("not the same when asked again, so a resumed run will not be either")
    step = seconds / len(completions) * per_step
    if step >= SLOW:
        notes.append(f"about {in_words(step)} of each step")
    return "; ".join([f"reward {reward.place}: tried on {len(completions)} completions, pays {paid}", *notes])
