"""Multiple choice: one of the letters A to J, however it is written: `B`, `(B)`, `B) 25 dollars`."""

import re
from typing import Any

from tiny_math_solver.grading.golds import Gold
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.kinds.places import as_plain, committed, split_solution, without_markup
from tiny_math_solver.grading.markers import How

LAST = "J"  # of the letters


class ChoiceKind:
    """Implements `AnswerKind`."""

    guessable = True

    def read_gold(self, value: Any) -> Gold:
        solution, text = split_solution(str(as_plain(value)))
        letter = read_letter(text)
        if letter is None and (found := committed(text, How.HASHES, read_letter, bare=True)):
            letter, solution = found[0], text
        if letter is None:
            raise ValueError(f"expected a letter from A to {LAST}, found {text[-60:]!r}")
        return Gold(letter, solution)

    def grade(self, question: str | None, text: str | None, gold: str | None, place: How = How.HASHES) -> Graded:
        answer, how = committed(text, place, read_letter, bare=True) or (None, How.NONE)
        return Graded(answer, how, gold is not None and answer == gold, text or "", place)


def read_letter(text: str) -> str | None:
    """The letter that a line chooses; None if it chooses none, or more than one."""
    text = without_markup(text)
    match = _LETTER.match(text)
    if match is None or _ANOTHER.search(text, match.end()):
        return None
    return match[1].upper()


_LETTER = re.compile(
    rf"(?:(?:option|choice|answer)\b)?\W{{0,3}}\b([A-{LAST}])(?:\Z|\)|[.:](?=\s|\Z)| +[-–—] )", re.IGNORECASE
)
_ANOTHER = re.compile(
    rf"\b(?:or|and|nor|not)\b\W*(?:option |choice )?\(?[A-{LAST}](?:\Z|[).:,])|[,/&;]\s*\(?[A-{LAST}](?:\Z|[).:,])"
)
