"""An answer that a Python function of the user judges: `problems.answer_kind: rules.py:is_right`.

The function is called with those of `completion`, `answer` (the gold), `question` and `read` (the text at the last
marker, or None) that it names, and returns if the completion is right.
"""

import json
from typing import Any

from tiny_math_solver.grading.golds import Gold
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.kinds.places import committed, split_solution
from tiny_math_solver.grading.kinds.text import normalised
from tiny_math_solver.grading.markers import How
from tiny_math_solver.support.own_code import OwnFunction

GIVEN = ("completion", "answer", "question", "read")


class OwnKind:
    """Implements `AnswerKind` by the function that `place` names."""

    guessable = True

    def __init__(self, place: str):
        self.function = OwnFunction(place, "problems.answer_kind")
        self.function.check_parameters(GIVEN)

    def read_gold(self, value: Any) -> Gold:
        if isinstance(value, str):
            solution, text = split_solution(value)
            return Gold(text, solution)
        return Gold(json.dumps(value, ensure_ascii=False, default=str))

    def grade(self, question: str | None, text: str | None, gold: str | None, place: How = How.HASHES) -> Graded:
        read, how = committed(text, place, normalised) or (None, How.NONE)
        given = {"completion": text or "", "answer": gold, "question": question, "read": read}
        correct = gold is not None and bool(self.function.call(given, text or ""))
        return Graded(read, how, correct, text or "", place)
