"""Countdown: an expression that reaches a target with given numbers; the gold is a text such as `24 from 3, 5, 8`."""

from typing import Any

from tiny_math_solver.grading.expression import find_expression, parse_gold, reaches
from tiny_math_solver.grading.golds import Gold
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.kinds.places import as_plain, split_solution
from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.tags import tagged


class CountdownKind:
    """Implements `AnswerKind`. Any expression that reaches the target is right, whichever the solution has."""

    guessable = False

    def read_gold(self, value: Any) -> Gold:
        solution, text = split_solution(str(as_plain(value)))
        target, numbers = parse_gold(text)
        return Gold(f"{target} from {', '.join(map(str, numbers))}", solution)

    def grade(self, question: str | None, text: str | None, gold: str | None, place: How = How.HASHES) -> Graded:
        inner = tagged(text) if place is How.TAG else None
        found = find_expression(text if inner is None else f"#### {inner}")
        if found is None:
            return Graded(None, How.NONE, False, text or "", place)
        how = How.TAG if inner is not None and found.how is How.HASHES else found.how
        correct = gold is not None and reaches(found.text, *parse_gold(gold))
        return Graded(found.text, how, correct, text or "", place)
