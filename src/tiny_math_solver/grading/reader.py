r"""Read the final answer off a completion and compare numbers exactly: the only copy of both.

Taking the last number of a text reads honest completions best and makes the worst reward: it pays for hedging,
for copied prompts and for text cut off by luck. A completion has to *commit* to one number instead:

1.  The last explicit marker decides: `#### 18`, `\boxed{18}`, "the answer is 18". A marker that holds no number
    (a markdown heading such as `#### Step 1`) is passed over; one that holds two candidates, a range or an
    unfinished calculation ends the search, and there is no answer.
2.  What follows the marker may still revise it: a correction ("wait, that's wrong ... 18") replaces the number,
    an alternative ("or maybe 20") withdraws it. Any other remark with numbers in it leaves it alone.
3.  Without a marker, the closing sentence has to state one number as its result.
4.  A question, a refusal, a copy of the prompt and words to the grader state nothing.
5.  One quantity in two units, "1.5 hours (90 minutes)", is one answer, and either number may be the gold.

Every pattern is applied to a bounded slice, so the time is bounded on any text. `markup` makes text plain,
`numerals` finds numbers in it, `statements` says what a stretch of it commits to, `markers` and `closing` say
which stretch holds the answer.
"""

import re
from itertools import islice
from typing import NamedTuple

from tiny_math_solver.grading.closing import REACH, closing, concludes
from tiny_math_solver.grading.markers import SLICE, How, Marked, last_marker, read_hashes
from tiny_math_solver.grading.markup import Cue, plain, sentences
from tiny_math_solver.grading.numerals import Number, parse_gold, scan
from tiny_math_solver.grading.statements import HEDGE, HEDGE_STEMS, RETRACTED


class Answer(NamedTuple):
    """The final answer of one completion; `value` is None exactly when `how` is NONE."""

    value: Number | None
    how: How
    text: str  # the slice it was read from
    twin: Number | None = None  # the same quantity in another unit, if given: "1.5 hours (90 minutes)"

    def equals(self, number: Number) -> bool:
        """Whether this answers a problem whose gold is `number`."""
        return number == self.value or (self.twin is not None and number == self.twin)


def extract_answer(text: str | None, *, question: str | None = None) -> Answer:
    """Read the one number that a completion commits to.

    `question` is the prompt, if known: whatever the completion copies from it is not an answer. Never raises.
    """
    if not text:
        return Answer(None, How.NONE, "")
    body = own_words(text, question)
    marked = last_marker(body, question)
    if marked is None:
        found = closing(body, question)
        return Answer(found.value, How.CLOSING if found.value is not None else How.NONE, found.span, found.twin)
    value, how, span = marked.value, marked.how, marked.span
    if value is not None:
        value, how, span = _revised(body, marked, question)
    if value is None or (how is marked.how and _has_rival(body, value, marked.start)):
        return Answer(None, How.NONE, span)
    if how is not How.HASHES and "####" in body:
        hashes = read_hashes(body, body.rfind("####"))
        how = How.HASHES if hashes and hashes.value == value else how
    return Answer(value, how, span, marked.twin if value == marked.value else None)


def is_correct(
    text: str | None, gold: "str | int | float | Number", *, strict: bool = False, question: str | None = None
) -> bool:
    """Say whether a completion's final answer equals the gold number; `strict` counts `####` answers only.

    Raises ValueError if the gold cannot be read.
    """
    expected = parse_gold(gold)
    answer = extract_answer(text, question=question)
    return answer.equals(expected) and (answer.how is How.HASHES or not strict)


# -- Which part of the text is the completion's own answer ---------------------------------------------------

_END_OF_TURN = re.compile(r"<\|[a-z_]{2,20}\|>|</s>|<end_of_turn>|<eos>")
# Where the model goes on with another problem: under a heading or the name of a speaker, or by telling one.
_NEXT_TURN = re.compile(
    r"\n[ #*]{0,6}(?:next |new )?(?:question|q|problem|human|user|instruction)\b[ \d]{0,4}\*{0,2}(?::|\n)",
    re.IGNORECASE,
)
_ASKING = re.compile(r"\n([^\n#]{20,600}\?)[ \t]*\n")


def own_words(text: str, question: str | None) -> str:
    """Leave out reasoning in <think> tags, whatever follows the end of the turn, and copies of the prompt."""
    if "<" in text:
        if "</think>" in text:
            text = text.rpartition("</think>")[2]
        elif "<think>" in text and "####" not in text and "\\boxed" not in text:
            return ""
        if ("<|" in text or "</s>" in text or "<e" in text) and _END_OF_TURN.search(text):
            text = next((part for part in _END_OF_TURN.split(text, maxsplit=8) if part.strip()), "")
    if turn := _NEXT_TURN.search(text, 0, 32768):
        head = _without(text[: turn.start()], question)
        known = _known(text, turn.start(), turn.end(), question)
        if not known and head.strip() and (last_marker(head) or closing(head, question).value is not None):
            return head
    text = _without(text, question)
    if "?" in text:
        for asking in islice(_ASKING.finditer(text, 0, 32768), 8):
            if not _is_problem(asking[1]) or _known(text, asking.start(), asking.start(1), question):
                continue
            head = text[: asking.start()]
            marked = last_marker(head)
            rest = text[asking.start() : asking.end() + SLICE]
            if marked and marked.value is not None and not RETRACTED.search(rest):
                return head
    return text


COPIED = 24  # characters from which on a line of the prompt is a copy, not a coincidence


def _is_problem(line: str) -> bool:
    """Whether a line could be a word problem of its own: it tells two numbers or more, then asks "how many"."""
    lower = line.lower()
    story = lower[: max(lower.rfind("how many"), lower.rfind("how much"), 0)].rstrip()
    return ("." in story or "," in story) and len(_DIGIT.findall(story)) > 1


def _known(text: str, end: int, at: int, question: str | None) -> bool:
    """Whether what begins at `at` is asked in the prompt or before `end`, and so is no new problem."""
    asked = text[at : at + COPIED].strip()
    return len(asked) > COPIED // 2 and asked in text[:end] + (question or "")


def _without(text: str, question: str | None) -> str:
    """The text without the lines of the prompt that it copies."""
    for line in (question or "").split("\n"):
        line = line.strip()
        if len(line) >= COPIED and line in text:
            text = text.replace(line, " ")
    return text


# -- What comes after a marker, or right before it -----------------------------------------------------------

_DIGIT = re.compile(r"\d")
_CONFIRMED = re.compile(
    r"(?:\b(?:is|are|was|looks|seems|all|yes,?|so)|'s) (?:indeed |also |all )?(?:correct|right)\b|confirm"
    r"|checks out|matches|verified",
    re.IGNORECASE,
)
_WITHDRAWN = Cue(
    "wrong|incorrect|mistake|not right|not correct|t be |back|disregard|ignore",
    r"wrong|incorrect|mistake|(?:not|can'?t be) (?:right|correct)|take (?:that|it) back"
    r"|disregard|ignore (?:that|this|the above)",
)
_OTHERWISE = Cue(
    f"{HEDGE_STEMS}|could|might|may",
    rf"(?:\A|[.!?;,(\n])\W*(?:{HEDGE})\b|\b(?:could|might|may) (?:also |well )?(?:be|have been)\b",
)


def _revised(text: str, marked: Marked, question: str | None) -> tuple[Number | None, How, str]:
    """Let a correction or an alternative after the marker change the answer."""
    unchanged = marked.value, marked.how, marked.span
    tail = text[marked.end : marked.end + REACH]
    if not tail or not (_DIGIT.search(tail) or _WITHDRAWN.search(tail)):
        return unchanged
    if cue := RETRACTED.search(tail):
        rest = tail[cue.start() :]
        later = closing(rest, question)
        if later.value not in (None, marked.value) and not _CONFIRMED.search(rest):
            return later.value, How.CLOSING, later.span
        withdrawn = later.value is None and _WITHDRAWN.search(rest[:200])
        return (None, How.NONE, marked.span) if withdrawn else unchanged
    if doubt := _OTHERWISE.search(tail):
        others = scan(plain(tail[doubt.start() : doubt.start() + 80]))
        if others and others[0].value != marked.value:
            return None, How.NONE, marked.span
    line = tail[:SLICE].partition("\n")[0].rstrip()
    parts = sentences(line)
    if marked.how is How.PHRASE and len(parts) > 1 and concludes(parts[-1]):  # Answer: 5 a day. So a week takes 35.
        later = closing(line, question)
        if later.value not in (None, marked.value):
            return later.value, How.CLOSING, later.span
    return unchanged


_CONNECTOR = re.compile(
    rf"(?:\W|\b(?:{HEDGE}|and|also|so|therefore|the|my|final|is|it|answer|boxed|could|might|be|either|a)\b)*",
    re.IGNORECASE,
)
_LAST_DIGIT = re.compile(r"\d(?=\D*\Z)")
_ANOTHER = re.compile(r"\b(?:another|alternative|other) (?:reading|answer|interpretation|possib|solution|option)")


def _has_rival(text: str, value: Number, start: int) -> bool:
    """Whether another marker stands right before this one with another number, as in `#### 18` `#### 20`."""
    ahead = text[max(0, start - 80) : start].lower()
    if not ("####" in ahead or "\\boxed" in ahead or "answer" in ahead):
        return False
    digit = _LAST_DIGIT.search(ahead)
    at = max(ahead.rfind(marker, 0, digit.start()) for marker in ("####", "\\boxed", "answer")) if digit else -1
    if at < 0:
        return False
    between = plain(ahead[at:])
    tokens = scan(between)
    return (
        len(tokens) == 1
        and tokens[0].value != value
        and _CONNECTOR.fullmatch(between, 0, tokens[0].start) is not None
        and (_CONNECTOR.fullmatch(between, tokens[0].end) or _ANOTHER.search(between, tokens[0].end)) is not None
    )
