r"""The reader: the one number that a completion commits to.

Taking the last number of a text agrees with most honest completions and makes the worst reward: it pays for hedging,
for copied prompts and for text that happens to be cut off in the right place. Here the last explicit marker decides,
`#### 18`, `\boxed{18}` or "the answer is 18", with what the text around it revises; without a marker, the closing
sentence. Every pattern is applied to a bounded slice, so reading takes bounded time on any text. docs/grading.md shows
each step with examples.
"""

from typing import NamedTuple

from tiny_math_solver.grading.closing import read_closing
from tiny_math_solver.grading.judge import speaks_to_judge
from tiny_math_solver.grading.markers import How, read_hashes, read_last_marker
from tiny_math_solver.grading.numerals import Number
from tiny_math_solver.grading.own_text import own_text
from tiny_math_solver.grading.revision import has_rival, revised
from tiny_math_solver.grading.truncation import is_cut, unlooped


class Answer(NamedTuple):
    """The final answer of one completion; `value` is None exactly when `how` is NONE."""

    value: Number | None
    how: How
    span: str  # the part of the text it was read from
    equivalent: Number | None = None  # the same quantity in another unit: "1.5 hours (90 minutes)"

    def equals(self, number: Number) -> bool:
        """True if this answers a problem whose gold is `number`."""
        return number == self.value or (self.equivalent is not None and number == self.equivalent)


NO_ANSWER = Answer(None, How.NONE, "")


def extract_answer(text: str | None, *, question: str | None = None) -> Answer:
    """Read the one number that a completion commits to.

    `question` is the prompt, if known; whatever the completion copies from it is not an answer. Never raises.
    """
    if not text:
        return NO_ANSWER
    body, is_loop = unlooped(own_text(text, question))
    if speaks_to_judge(body) or is_cut(body):
        return NO_ANSWER
    marked = read_last_marker(body, question)
    if marked is None:
        if is_loop:
            return NO_ANSWER
        stated = read_closing(body, question)
        how = How.CLOSING if stated.value is not None else How.NONE
        return Answer(stated.value, how, stated.span, stated.equivalent)
    found = revised(body, marked, question) if marked.value is not None else marked
    if found.value is None or (found.how is marked.how and has_rival(body, found.value, marked.start)):
        return Answer(None, How.NONE, found.span)
    how = found.how
    if how is not How.HASHES and "####" in body:
        hashes = read_hashes(body, body.rfind("####"))
        how = How.HASHES if hashes and hashes.value == found.value else how
    return Answer(found.value, how, found.span, found.equivalent)
