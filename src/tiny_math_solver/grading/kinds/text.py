"""Words: exactly those of the gold, once case, spaces, punctuation at the ends, and markup are put aside."""

import string
import unicodedata
from typing import Any

from tiny_math_solver.grading.golds import Gold
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.kinds.places import as_plain, committed, short, split_solution, without_markup
from tiny_math_solver.grading.markers import How

ENDS = string.punctuation.replace("%", "").replace("$", "") + "“”‘’«»…¡¿–— "


class TextKind:
    """Implements `AnswerKind`."""

    guessable = True

    def read_gold(self, value: Any) -> Gold:
        solution, text = split_solution(str(as_plain(value)))
        return Gold(short(text if normalised(text) else None), solution)

    def grade(self, question: str | None, text: str | None, gold: str | None, place: How = How.HASHES) -> Graded:
        answer, how = committed(text, place, normalised) or (None, How.NONE)
        return Graded(answer, how, gold is not None and answer == normalised(gold), text or "", place)


def normalised(text: str) -> str | None:
    """The text in the form in which answers are compared; None if nothing is left of it."""
    plain = unicodedata.normalize("NFKC", without_markup(text)).casefold()
    return " ".join(plain.strip(ENDS).split()) or None
