"""The part of a completion that is its own answer: no hidden reasoning, no copies of the prompt, no next problem."""

import re
from itertools import islice

from tiny_math_solver.grading.closing import read_closing
from tiny_math_solver.grading.cues import cue
from tiny_math_solver.grading.markers import MAX_SPAN, read_last_marker
from tiny_math_solver.grading.retractions import RETRACTED
from tiny_math_solver.grading.turns import visible

MAX_SEARCHED = 32768  # characters in which a next problem is looked for
COPIED_LINE = 24  # characters of a line from which it is a copy of the prompt, not a coincidence


def own_text(text: str, question: str | None) -> str:
    """The text without <think> blocks, without copied lines of the prompt, up to the end of the turn or a next problem.

    Text after a next problem is dropped only if an answer stands before it.
    """
    text = visible(text)
    turn = _NEXT_TURN.search(text, 0, MAX_SEARCHED)
    if turn and not _asked_before(text, turn.start(), turn.end(), question):
        head = _without_copied_lines(text[: turn.start()], question)
        if head.strip() and (read_last_marker(head) or read_closing(head, question).value is not None):
            return head
    text = _without_copied_lines(text, question)
    if "?" not in text:
        return text
    for asking in islice(_ASKING.finditer(text, 0, MAX_SEARCHED), 8):
        if _is_problem(asking[1]) and not _asked_before(text, asking.start(), asking.start(1), question):
            head = text[: asking.start()]
            marked = read_last_marker(head)
            rest = text[asking.start() : asking.end() + MAX_SPAN]
            if marked and marked.value is not None and not RETRACTED.search(rest):
                return head
    return text


# A next problem that the model makes up: under a heading or a speaker's name, or (_ASKING) a question told in full
_NEXT_TURN = cue(r"\n[ #*]{0,6}(?:next |new )?(?:question|q|problem|human|user|instruction)\b[ \d]{0,4}\*{0,2}(?::|\n)")
_ASKING = re.compile(r"\n([^\n#]{20,600}\?)[ \t]*\n")


def _is_problem(line: str) -> bool:
    """True if a line could be a word problem: it tells at least two digits in a story, then asks "how many"."""
    lower = line.lower()
    story = lower[: max(lower.rfind("how many"), lower.rfind("how much"), 0)].rstrip()
    return ("." in story or "," in story) and sum(char.isdigit() for char in story) > 1


def _asked_before(text: str, end: int, at: int, question: str | None) -> bool:
    """True if the question at `at` occurs in the prompt or before `end`, and so is not a new problem."""
    asked = text[at : at + COPIED_LINE].strip()
    return len(asked) > COPIED_LINE // 2 and asked in text[:end] + (question or "")


def _without_copied_lines(text: str, question: str | None) -> str:
    """The text without the lines that it copies from the prompt."""
    for line in map(str.strip, (question or "").split("\n")):
        if len(line) >= COPIED_LINE and line in text:
            text = text.replace(line, " ")
    return text
