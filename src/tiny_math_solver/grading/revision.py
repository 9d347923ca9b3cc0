"""Revisions: text around a marker that corrects its number, offers an alternative, or gives another answer."""

import re

from tiny_math_solver.grading.closing import MAX_TAIL, read_closing
from tiny_math_solver.grading.cues import HEDGE, HEDGE_STEMS, RETRACTED, Cue, concludes
from tiny_math_solver.grading.markers import MAX_SPAN, How, MarkedAnswer
from tiny_math_solver.grading.markup import plain, sentences
from tiny_math_solver.grading.numerals import Number, find_numerals


def revised(text: str, marked: MarkedAnswer, question: str | None) -> tuple[Number | None, How, str]:
    """The value, how it was found and its span, after a correction or an alternative that follows the marker."""
    unchanged = marked.value, marked.how, marked.span
    rest = text[marked.end : marked.end + MAX_TAIL]
    if not rest or not (_DIGIT.search(rest) or _WITHDRAWN.search(rest)):
        return unchanged
    if cue := RETRACTED.search(rest):
        correction = rest[cue.start() :]
        later = read_closing(correction, question)
        if later.value not in (None, marked.value) and not _CONFIRMED.search(correction):
            return later.value, How.CLOSING, later.span
        withdrawn = later.value is None and _WITHDRAWN.search(correction[:200])
        return (None, How.NONE, marked.span) if withdrawn else unchanged
    if doubt := _OTHERWISE.search(rest):
        others = find_numerals(plain(rest[doubt.start() : doubt.start() + 80]))
        if others and others[0].value != marked.value:
            return None, How.NONE, marked.span
    line = rest[:MAX_SPAN].partition("\n")[0].rstrip()
    parts = sentences(line)
    if marked.how is How.PHRASE and len(parts) > 1 and concludes(parts[-1]):  # Answer: 5 a day. So a week takes 35.
        later = read_closing(line, question)
        if later.value not in (None, marked.value):
            return later.value, How.CLOSING, later.span
    return unchanged


def has_rival(text: str, value: Number, start: int) -> bool:
    """True if a marker with another number stands right before the one at `start`, as in `#### 18` `#### 20`."""
    ahead = text[max(0, start - 80) : start].lower()
    if not ("####" in ahead or "\\boxed" in ahead or "answer" in ahead):
        return False
    digit = _LAST_DIGIT.search(ahead)
    at = max(ahead.rfind(marker, 0, digit.start()) for marker in ("####", "\\boxed", "answer")) if digit else -1
    if at < 0:
        return False
    between = plain(ahead[at:])
    mentions = find_numerals(between)
    return (
        len(mentions) == 1
        and mentions[0].value != value
        and _CONNECTOR.fullmatch(between, 0, mentions[0].start) is not None
        and (_CONNECTOR.fullmatch(between, mentions[0].end) or _ANOTHER.search(between, mentions[0].end)) is not None
    )


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
_CONNECTOR = re.compile(
    rf"(?:\W|\b(?:{HEDGE}|and|also|so|therefore|the|my|final|is|it|answer|boxed|could|might|be|either|a)\b)*",
    re.IGNORECASE,
)
_LAST_DIGIT = re.compile(r"\d(?=\D*\Z)")
_ANOTHER = re.compile(r"\b(?:another|alternative|other) (?:reading|answer|interpretation|possib|solution|option)")
