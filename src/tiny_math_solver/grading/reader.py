r"""The reader: the one number that a completion commits to.

Taking the last number of a text agrees with most honest completions and makes the worst reward: it pays for hedging,
for copied prompts and for text that happens to be cut off in the right place. A completion has to commit to one
number instead:

1.  Only the completion's own text counts: not its <think> block, copies of the prompt, or a next problem it makes up.
2.  The last explicit marker decides: `#### 18`, `\boxed{18}`, "the answer is 18". A marker without a number, such as
    the heading `#### Step 1`, is passed over; one with two candidates, a range or an unfinished calculation means that
    there is no answer.
3.  The text after the marker may revise it: a correction ("wait, that's wrong ... 18") replaces the number, an
    alternative ("or maybe 20") withdraws it. Other remarks leave it alone.
4.  Without a marker, the closing sentence has to state one number as its result.
5.  One quantity in two units, "1.5 hours (90 minutes)", is one answer, and either number may be the gold.

Every pattern is applied to a bounded slice, so reading takes bounded time on any text. docs/grading.md shows each step
with examples.
"""

from typing import NamedTuple

from tiny_math_solver.grading.closing import read_closing
from tiny_math_solver.grading.gold import parse_gold
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


def extract_answer(text: str | None, *, question: str | None = None) -> Answer:
    """Read the one number that a completion commits to.

    `question` is the prompt, if known; whatever the completion copies from it is not an answer. Never raises.
    """
    if not text:
        return Answer(None, How.NONE, "")
    body, is_loop = unlooped(own_text(text, question))
    if speaks_to_judge(body):
        return Answer(None, How.NONE, "")
    if is_cut(body):
        return Answer(None, How.NONE, "")
    marked = read_last_marker(body, question)
    if marked is None and is_loop:
        return Answer(None, How.NONE, "")
    if marked is None:
        found = read_closing(body, question)
        return Answer(found.value, How.CLOSING if found.value is not None else How.NONE, found.span, found.equivalent)
    value, how, span = marked.value, marked.how, marked.span
    if value is not None:
        value, how, span = revised(body, marked, question)
    if value is None or (how is marked.how and has_rival(body, value, marked.start)):
        return Answer(None, How.NONE, span)
    if how is not How.HASHES and "####" in body:
        hashes = read_hashes(body, body.rfind("####"))
        how = How.HASHES if hashes and hashes.value == value else how
    return Answer(value, how, span, marked.equivalent if value == marked.value else None)


def is_correct(
    text: str | None, gold: "str | int | float | Number", *, strict: bool = False, question: str | None = None
) -> bool:
    """True if a completion's answer equals the gold number; with `strict` only if it stands after `####`.

    Raises ValueError if the gold cannot be read.
    """
    expected = parse_gold(gold)
    answer = extract_answer(text, question=question)
    return answer.equals(expected) and (answer.how is How.HASHES or not strict)
