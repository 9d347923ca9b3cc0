r"""Where an answer that is no number stands: after `####`, in `\boxed{}`, in <answer>, after "the answer is".

As with numbers the last marker decides, a text that addresses whoever grades it has no answer, and neither has one that
hedges: another answer right before the marker, or words that take it back after it.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from tiny_math_solver.grading.judge import speaks_to_judge
from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.retractions import RETRACTED
from tiny_math_solver.grading.tags import ANSWER, MOST
from tiny_math_solver.grading.turns import visible

LONGEST = 400  # characters of an answer
CLOSE = 40  # characters between two markers that offer two answers at once


class Marked(NamedTuple):
    """The text of an answer, and where it stands in the completion."""

    text: str
    how: How
    start: int
    end: int


def committed(
    text: str | None, place: How, read: Callable[[str], str | None], bare: bool = False
) -> tuple[str, How] | None:
    """The one answer that a completion commits to, as `read` gives it, and where it stands; None if there is none.

    `read` turns the text at a marker into an answer, with one form for all that are equal, or into None. With `bare` a
    line that is an answer and nothing else counts too: as the answer if it is the last one of a text without a marker,
    and as another one if it follows the last marker.
    """
    body = visible(text or "")[-MOST:].rstrip()
    if not body or speaks_to_judge(body):
        return None
    marks = _marks(body, place)
    if not marks:
        answer = read(body.rpartition("\n")[2]) if bare else None
        return (answer, How.CLOSING) if answer else None
    last = marks[-1]
    answer, rest = read(last.text), body[last.end : last.end + LONGEST]
    if answer is None or RETRACTED.search(rest):
        return None
    rivals = [mark.text for mark in marks[:-1] if last.start - mark.end <= CLOSE or mark.how is How.TAG]
    if bare:
        rivals += rest.split("\n")
    if any(read(rival) not in (None, answer) for rival in rivals):
        return None
    same = [mark.how for mark in marks if read(mark.text) == answer]
    return answer, place if place in same else last.how


def _marks(body: str, place: How) -> list[Marked]:
    """The markers of a text in their order; <answer> is one only if the prompt asks for it."""
    found = [*_hashes(body), *_boxes(body), *_phrases(body)]
    if place is How.TAG:
        found += [Marked(m["inner"], How.TAG, m.start(), m.end()) for m in ANSWER.finditer(body)]
        found = [mark for mark in found if mark.how is How.TAG] or found
    return sorted(found, key=lambda mark: mark.start)


def _hashes(body: str) -> list[Marked]:
    return [Marked(m[1].strip(), How.HASHES, m.start(), m.end()) for m in _HASHES.finditer(body)]


def _boxes(body: str) -> list[Marked]:
    found = []
    for match in _BOX.finditer(body):
        depth, end = 1, match.end()
        while end < len(body) and end - match.end() <= LONGEST and depth:
            depth += {"{": 1, "}": -1}.get(body[end], 0) if body[end - 1] != "\\" else 0
            end += 1
        if not depth:
            found.append(Marked(body[match.end() : end - 1].strip(), How.BOXED, match.start(), end))
    return found


def last_box(text: str) -> str | None:
    r"""What stands in the last `\boxed{}` of a text; None if there is none."""
    found = _boxes(text[-MOST:])
    return found[-1].text if found else None


def has_marker(text: str | None, place: How) -> bool:
    return bool(_marks(visible(text or "")[-MOST:], place))


def _phrases(body: str) -> list[Marked]:
    """What follows "the answer is", to the end of its sentence, where no other marker stands in it."""
    found = [Marked(m[1].strip(), How.PHRASE, m.start(), m.end()) for m in _PHRASE.finditer(body)]
    return [mark for mark in found if "####" not in mark.text and "\\boxed" not in mark.text]


_HASHES = re.compile(rf"####+[ \t]*\n?[ \t]*([^\n]{{0,{LONGEST}}})")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_PHRASE = re.compile(
    rf"\b(?:final\s+|correct\s+|right\s+)?(?:answer|choice|option)(?:\s+(?:here|choice))?\**\s*(?:is\b\s*:?|[:=])[\s*_`]*"
    rf"(?!not\b|n't\b|wrong\b|incorrect\b)((?:(?!\.\s|\.\Z)[^\n]){{1,{LONGEST}}})",
    re.IGNORECASE,
)


def without_markup(text: str) -> str:
    r"""A short text without Markdown, LaTeX's dollars and `\text{}` around it, and the full stop at its end."""
    text = _FORMULA.sub(r"\1", text.replace("**", "").replace("`", "").strip().rstrip("."))
    text = _WRAPPED.sub(r"\1", text)
    return _BRACKETS.sub("", text).strip().rstrip(".").strip()


_FORMULA = re.compile(r"\A\$(.*)\$\Z")
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|textit)\s*\{([^{}]*)\}")
_BRACKETS = re.compile(r"\\[()\[\]]|\\[,;! ]")


def as_plain(value: Any) -> Any:
    """A text or number as it is. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        name = {"Decimal": "float", "NoneType": "null"}.get(type(value).__name__, type(value).__name__)
        raise ValueError(f"must be a number or text, found {name}")
    return value


def short(gold: str | None) -> str:
    """A gold as it is. Raises ValueError if nothing is left of it, or if it is over LONGEST."""
    if not gold:
        raise ValueError("the answer is empty")
    if len(gold) > LONGEST:
        raise ValueError(f"an answer of {len(gold):,} characters, over {LONGEST}")
    return gold


def split_solution(text: str) -> tuple[str, str]:
    """`(solution, gold)` of a worked solution that ends in `#### gold`; the whole text is the gold if there is none."""
    solution, marker, tail = text.rpartition("####")
    return (solution.strip(), tail.strip()) if marker else ("", text.strip())
