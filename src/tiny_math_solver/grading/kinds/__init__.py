"""Kinds of answers: how a gold is read and a completion graded, one file per kind.

number.py   one number, compared exactly: the default, and what most of grading/ is for
math.py     formulas, intervals, sets and matrices, compared by math-verify in a process of its own (math_worker.py)
choice.py   one of the letters of a multiple choice
text.py     words, compared after normalisation
countdown.py   an expression that reaches a target with given numbers
own.py      whatever a Python function of yours says
places.py   where an answer stands that is no number: `####`, `\\boxed{}`, <answer>, "the answer is"
"""

from collections.abc import Callable
from typing import Any, Protocol

from tiny_math_solver.grading.golds import Gold
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.kinds.choice import ChoiceKind
from tiny_math_solver.grading.kinds.countdown import CountdownKind
from tiny_math_solver.grading.kinds.math import MathKind
from tiny_math_solver.grading.kinds.number import NumberKind
from tiny_math_solver.grading.kinds.own import OwnKind
from tiny_math_solver.grading.kinds.text import TextKind
from tiny_math_solver.grading.markers import How


class AnswerKind(Protocol):
    """One kind of answers."""

    guessable: bool  # one gold may well be that of a fifth of the problems

    def read_gold(self, value: Any) -> Gold:
        """The gold in a text or number of a problem's row. Raises ValueError with the reason if there is none."""
        ...

    def grade(self, question: str | None, text: str | None, gold: str | None, place: How = How.HASHES) -> Graded:
        """Read the answer off a completion and compare it with `gold`; without a gold nothing is correct.

        `question` is the prompt as text, and `place` where it asks for the answer.
        """
        ...


KINDS: dict[str, Callable[[], AnswerKind]] = {
    "number": NumberKind,
    "math": MathKind,
    "choice": ChoiceKind,
    "text": TextKind,
    "countdown": CountdownKind,
}


def answer_kind(name: str) -> AnswerKind:
    """The kind that `problems.answer_kind` names: one of KINDS, or a function of the user (`file.py:function`).

    Raises UserError for an unknown name, a library that is missing, or a function that cannot be loaded.
    """
    return KINDS[name]() if name in KINDS else OwnKind(name)
