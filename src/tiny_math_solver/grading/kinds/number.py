"""One number, compared exactly."""

from typing import Any

from tiny_math_solver.grading.golds import Gold, read_number
from tiny_math_solver.grading.grade import grade
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.kinds.places import as_plain
from tiny_math_solver.grading.markers import How


class NumberKind:
    """Implements `AnswerKind`."""

    guessable = False

    def read_gold(self, value: Any) -> Gold:
        return read_number(as_plain(value))

    def grade(self, question: str | None, text: str | None, gold: str | None, place: How = How.HASHES) -> Graded:
        return grade(question, text, gold, place)
