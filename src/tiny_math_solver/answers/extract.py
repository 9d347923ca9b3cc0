r"""Read the final answer off a completion and compare numbers exactly: the only copy of both.

Taking the last number of a text reads honest completions best and makes the worst reward: it pays for hedging,
for copied prompts and for text cut off by luck. A completion has to *commit* to one number instead:

1.  The last explicit marker decides: `#### 18`, `\boxed{18}`, "the answer is 18". A marker that holds no number
    (a markdown heading such as `#### Step 1`) is passed over; one that holds two candidates, a range or an
    unfinished calculation ends the search, and there is no answer.
2.  What follows the marker may still revise it: a correction ("wait, that's wrong ... 18") replaces the number,
    an alternative ("or maybe 20") withdraws it. Any other remark with numbers in it leaves it alone.
3.  Without a marker, the closing sentence has to state one number as its result.
4.  A question, a refusal and a copy of the prompt state nothing.

Every pattern is applied to a bounded slice, so the time is bounded on any text. `markup` makes text plain,
`numerals` finds numbers in it, `statements` says what a stretch of it commits to, `markers` and `closing` say
which stretch holds the answer.
"""

import re
from typing import NamedTuple

from tiny_math_solver.answers.closing import REACH, closing, concludes
from tiny_math_solver.answers.markers import SLICE, How, Marked, last_marker, read_hashes
from tiny_math_solver.answers.markup import Cue, plain, sentences
from tiny_math_solver.answers.numerals import Number, parse_gold, scan
from tiny_math_solver.answers.statements import HEDGE, HEDGE_STEMS, RETRACTED


class Answer(NamedTuple):
    """The final answer of one completion; `value` is None exactly when `how` is NONE."""

    value: Number | None
    how: How
    text: str  # the slice it was read from


def extract_answer(text: str | None, *, question: str | None = None) -> Answer:
    """Read the one number that a completion commits to.

    `question` is the prompt, if known: whatever the completion copies from it is not an answer. Never raises.
    """
    if not text:
        return Answer(None, How.NONE, "")
    body = own_words(text, question)
    marked = last_marker(body)
    if marked is None:
        found = closing(body, question)
        return Answer(found.value, How.CLOSING if found.value is not None else How.NONE, found.span)
    value, how, span = marked.value, marked.how, marked.span
    if value is not None:
        value, how, span = _revised(body, marked, question)
    if value is None or (how is marked.how and _has_rival(body, value, marked.start)):
        return Answer(None, How.NONE, span)
    if how is not How.HASHES and "####" in body:
        hashes = read_hashes(body, body.rfind("####"))
        how = How.HASHES if hashes and hashes.value == value else how
    return Answer(value, how, span)


def is_correct(
    text: str | None, gold: "str | int | float | Number", *, strict: bool = False, question: str | None = None
) -> bool:
    """Say whether a completion's final answer equals the gold number; `strict` counts `####` answers only.

    Raises ValueError if the gold cannot be read.
    """
    expected = parse_gold(gold)
    answer = extract_answer(text, question=question)
    return answer.value == expected and (answer.how is How.HASHES or not strict)


# -- Which part of the text is the completion's own answer ---------------------------------------------------

_END_OF_TURN = re.compile(r"<\|[a-z_]{2,20}\|>|</s>|<end_of_turn>|<eos>")
_NEXT_QUESTION = re.compile(r"\n[ #*]{0,6}(?:Question|Q|Problem|Human|User|Instruction)\b[ \d]{0,4}\*{0,2}:")
# A new word problem under the marked answer: a paragraph that asks "how many", with its own answer further down.
_NEXT_PROBLEM = re.compile(
    r"\n#### ?\$?\d[^\n]{0,60}(?=\n\s{0,4}[^\n#]{20,400}\b[Hh]ow (?:many|much)\b[^\n?]{0,200}\?\s*\n)"
)


def own_words(text: str, question: str | None) -> str:
    """Leave out reasoning in <think> tags, whatever follows the end of the turn, and copies of the prompt."""
    if "<" in text:
        if "</think>" in text:
            text = text.rpartition("</think>")[2]
        elif "<think>" in text and "####" not in text and "\\boxed" not in text:
            return ""
        if ("<|" in text or "</s>" in text or "<e" in text) and _END_OF_TURN.search(text):
            text = next((part for part in _END_OF_TURN.split(text, maxsplit=8) if part.strip()), "")
    if question:
        for line in question.split("\n"):
            line = line.strip()
            if len(line) >= 24 and line in text:
                text = text.replace(line, " ")
    turn = _NEXT_QUESTION.search(text, 0, 32768) if ":" in text else None
    if turn is None and text.find("####") != text.rfind("####"):
        problem = _NEXT_PROBLEM.search(text, 0, 32768)
        if problem and not RETRACTED.search(text[problem.end() : problem.end() + SLICE]):
            return text[: problem.end()]
    if turn:
        head = text[: turn.start()]
        if head.strip() and (last_marker(head) or closing(head, question).value is not None):
            return head
    return text


# -- What comes after a marker, or right before it -----------------------------------------------------------

_DIGIT = re.compile(r"\d")
_CONFIRMED = re.compile(
    r"(?:\b(?:is|are|was|looks|seems|all|yes,?|so)|'s) (?:indeed |also |all )?(?:correct|right)\b|confirm"
    r"|checks out|matches|verified",
    re.IGNORECASE,
)
_WITHDRAWN = Cue(
    "wrong|incorrect|mistake|not right|not correct|back",
    r"wrong|incorrect|mistake|not (?:right|correct)|take (?:that|it) back",
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
    if marked.how is How.PHRASE and concludes(sentences(line)[-1]):  # Answer: 5 a day. So in a week he eats 35.
        later = closing(line, question)
        if later.value not in (None, marked.value):
            return later.value, How.CLOSING, later.span
    return unchanged


_CONNECTOR = re.compile(
    rf"(?:\W|\b(?:{HEDGE}|and|also|the|is|it|answer|boxed|could|might|be|either|a)\b)*", re.IGNORECASE
)


def _has_rival(text: str, value: Number, start: int) -> bool:
    """Whether another marker stands right before this one with another number, as in `#### 18` `#### 20`."""
    ahead = text[max(0, start - 80) : start].lower()
    at = max(ahead.rfind("####"), ahead.rfind("\\boxed"), ahead.rfind("answer"))
    if at < 0 or not _DIGIT.search(ahead, at):
        return False
    between = plain(ahead[at:])
    tokens = scan(between)
    return (
        len(tokens) == 1
        and tokens[0].value != value
        and _CONNECTOR.fullmatch(between, 0, tokens[0].start) is not None
        and _CONNECTOR.fullmatch(between, tokens[0].end) is not None
    )
