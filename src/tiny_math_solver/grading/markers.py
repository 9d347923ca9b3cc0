r"""Explicit markers of an answer: `#### 18`, `\boxed{18}`, "the answer is 18", `Answer: 18`."""

import re
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from tiny_math_solver.grading.closing import HEADING, TO_GRADER, refuses
from tiny_math_solver.grading.markup import Cue, plain, sentences
from tiny_math_solver.grading.numerals import DIGITS, Number, negate, numbers, scan
from tiny_math_solver.grading.statements import direct, link, statement

SLICE = 400  # characters read after a marker
TRIES = 16  # markers without a number that are passed over


class How(StrEnum):
    """How the final answer was found; the strict score counts HASHES only."""

    HASHES = "hashes"  # after ####
    BOXED = "boxed"  # in \boxed{}
    PHRASE = "phrase"  # "the answer is", "Answer:"
    CLOSING = "closing"  # stated by the closing sentence
    NONE = "none"  # no single answer


class Marked(NamedTuple):
    """What a marker holds: `start` is where the marker begins in the text, `end` where the reading ends."""

    value: Number | None
    how: How
    span: str
    start: int
    end: int
    twin: Number | None = None  # as in Reading


def last_marker(text: str, question: str | None = None) -> Marked | None:
    """The reading of the last marker that holds an attempt at an answer."""
    offset = max(0, len(text) - 65536)
    lower = text[offset:].lower()
    if len(lower) != len(text) - offset:  # some capitals grow when lowered
        lower = text[offset:]
    hashes, boxed, phrase = text.rfind("####"), text.rfind("\\boxed"), lower.rfind("answer")
    for _ in range(TRIES):
        last = max(hashes, boxed, phrase + offset if phrase >= 0 else -1)
        if last < 0:
            return None
        if last == hashes:
            found = read_hashes(text, hashes)
            hashes = text.rfind("####", 0, max(hashes - 3, 0))
        elif last == boxed:
            found = _read_box(text, boxed)
            boxed = text.rfind("\\boxed", 0, boxed)
        else:
            found = _read_phrase(text, last, question)
            phrase = lower.rfind("answer", 0, phrase)
        if found is not None:
            return found
    return None


# Most answers are a number and a few words of unit to the end of the line: nothing else needs a look.
_BARE = re.compile(
    r"[ \t]*\$?(\d{1,15}|[1-9]\d{0,2}(?:,\d{3}){1,4})"
    r"(?:[ \t]+(?!(?:or|and|maybe|perhaps|possibly|pi|hundred|thousand|million|billion|trillion|minus|plus|times|no"
    r"|remainder|is|isn|if|squared|cubed|mod|choose|x)\b)[A-Za-z]{1,20}){0,6}[ \t]*\.?[ \t]*(?:\n|\Z)",
    re.ASCII,
)
_HEADING = re.compile(rf"\W*(?:{HEADING}\s*#?\d|(?:1?\d|20)[.):]\s+[A-Za-z])", re.IGNORECASE)
_ANSWER_HEADING = re.compile(r"\W*(?:the )?(?:final )?answer\W*", re.IGNORECASE)
_INSTRUCTION = Cue(
    "your|you should|put |write |give |e.g|example|format|such as|end|finish",
    r"\b(?:your|you should|(?:put|write|give) (?:your|the)|e\.g|for example|format is|in the format"
    r"|such as|(?:end|finish) (?:it )?with)\b[^\n]*\Z",
)


def _bare(text: str, at: int, start: int, how: How) -> Marked | None:
    """The reading of the marker at `at` if from `start` to the end of the line is a number and its unit."""
    match = _BARE.match(text, start)
    return Marked(Decimal(match[1].replace(",", "")), how, match[1], at, match.end(1)) if match else None


def read_hashes(text: str, at: int) -> Marked | None:
    """What the `####` at `at` holds; None where it is the heading of a section and not a marker."""
    start = at + 4
    while text[start : start + 1] == "#":
        start += 1
    if (at == 0 or text[at - 1] == "\n") and (bare := _bare(text, at, start, How.HASHES)):
        return bare
    raw, start = _line(text, start)
    words = plain(raw)
    if _ANSWER_HEADING.fullmatch(words):
        raw, start = _line(text, start + len(raw))
        if bare := _bare(text, at, start, How.HASHES):
            return bare
        words = plain(raw)
    if not words or _HEADING.match(words):
        return None
    final = not text[start + len(raw) : start + len(raw) + SLICE].strip(" \n\r\t#*`$")
    nothing = Marked(None, How.NONE, words, at, start)
    if final and _instructed(text, at):
        return nothing
    tokens = numbers(words)
    if not tokens:
        return nothing if final and refuses(words) else None
    found = direct(words, tokens) or (statement(words) if final else None)
    if found is None:
        return None  # a heading with a number in it
    return Marked(found.value, How.HASHES, found.span, at, start + _raw_end(raw, found.span), found.twin)


_FLAT = re.compile(r"\{[^{}\n]{0,40}(?:\{[^{}\n]{0,40}\}[^{}\n]{0,40})?\}")
_BRACE = re.compile(r"[{}\n]")


def _read_box(text: str, at: int) -> Marked | None:
    start = at + len("\\boxed")
    while text[start : start + 1] == " ":
        start += 1
    end = _box_end(text, start)
    if _instructed(text, at):
        return Marked(None, How.NONE, "", at, end)
    words = plain(text[start:end])
    value: Number | None
    twin: Number | None = None
    if bare := _bare(words, 0, 0, How.BOXED):
        value, span = bare.value, bare.span
    else:
        tokens = numbers(words)
        if not tokens:
            return None if words.strip() else Marked(None, How.NONE, "", at, end)  # a box left empty
        found = direct(words, tokens) or statement(words)
        value, span, twin = found.value, found.span, found.twin
    if value is not None and text[at - 1 : at] == "-" and not text[max(0, at - 2) : at - 1].isalnum():
        value = negate(value)
    if value is not None and _DIGIT.search(text, end, end + 80):
        behind = plain(text[end : end + 80].partition("\n")[0])
        others = scan(behind)
        if others and others[0].value != value and link(behind[: others[0].start]) in ("hedge", "range", "list"):
            value = None  # \boxed{18} or 20
    return Marked(value, How.BOXED, span, at, end, twin)


def _box_end(text: str, start: int) -> int:
    """Where the braces that open at `start` close; the end of the line if they do not."""
    if flat := _FLAT.match(text, start):
        return flat.end()
    if text[start : start + 1] != "{":
        return start + len(text[start : start + 40].split("\n")[0])
    depth = 0
    for brace in _BRACE.finditer(text, start, start + SLICE):
        depth += {"{": 1, "}": -1, "\n": -SLICE}[brace[0]]
        if depth <= 0:
            return brace.end()
    return min(len(text), start + SLICE)


_PHRASE = re.compile(
    r"""s?['"*_`)>\]\s]*(?:\([^()\n]{0,40}\))?[\s*_]*
    (?P<about>(?:to|for|in|of|here|given|that|we|i|should|must|would|will|can|could|might|may|,)(?!\w)
       [^.:=?\n]{0,100}?)?
    (?:\b(?P<verb>is|was|are|be|equals|becomes)\b\s*:?|(?P<label>[:=>]+|-+>?(?=\s)|\n))[\s*_`"']*""",
    re.VERBOSE | re.IGNORECASE,
)
_NOT_THE_NOUN = Cue(
    "to |we |can |if |suppose |assume |think |guess |say |expect |first |second |third |ease |/",
    r"(?:\b(?:to|we|can|first|second|third"
    r"|(?:if|suppose|assume|(?:might|may|could|would) (?:think|guess|say|expect)(?: that)?)(?: the)?) |ease |/)\Z",
)
_NOT_FINAL = re.compile(r"\b(?:part|first|step|sub|previous|second)\b", re.IGNORECASE)


def _read_phrase(text: str, at: int, question: str | None) -> Marked | None:
    match = _PHRASE.match(text, at + len("answer"), at + 200)
    if match is None or _NOT_THE_NOUN.search(text[max(0, at - 24) : at]):
        return None
    if TO_GRADER.search(text[max(0, at - 60) : match.end() + 60]):
        return Marked(None, How.NONE, "", at, match.end())
    if match["about"] and (_NOT_FINAL.search(match["about"]) or (match["label"] and _DIGIT.search(match["about"]))):
        return None
    if bare := _bare(text, at, match.end(), How.PHRASE):
        return bare
    raw, start = _line(text, match.end())
    if "\n" in match[0] and raw.startswith("- "):
        raw, start = raw[2:], start + 2  # a bullet, not a minus
    raw = raw[: raw.find("####") if raw.find("####") > 0 else None]
    words = plain(raw)
    if bare := _bare(words, at, 0, How.PHRASE):
        return bare._replace(end=start + _raw_end(raw, bare.span))
    tokens = numbers(words)
    if not tokens:
        return None
    if refuses(words[: tokens[0].start]):
        return Marked(None, How.NONE, words, at, start)
    more = _DIGIT.search(text, start + len(raw), start + len(raw) + SLICE)
    found = direct(words, tokens)
    if found is None:
        parts = sentences(words)
        if match["label"] and (more or len(parts) > 1):
            return None  # a label over working: the closing sentence has the answer
        if not numbers(parts[0]):
            return None
        found = statement(parts[0], question=question)
    elif match["label"] and found.calculated and (more or _DIGIT.search(words, found.end)):
        return None
    return Marked(found.value, How.PHRASE, found.span, at, start + _raw_end(raw, found.span), found.twin)


def _instructed(text: str, at: int) -> bool:
    """Whether the marker is part of an instruction on the format, quoted from the prompt."""
    return _INSTRUCTION.search(text[max(0, at - 60) : at]) is not None


_RUN = re.compile(r"[\d.,]*")
_DIGIT = re.compile(r"\d")


def _line(text: str, start: int) -> tuple[str, int]:
    """The first line with text at or after `start`, and where it begins; at most SLICE characters."""
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
        if text[start : start + 64].isspace():
            start += 64
    end = text.find("\n", start, start + SLICE)
    if end < 0:
        end = start + SLICE
        if text[end - 1 : end].isdigit():  # never read a number cut short
            end = _RUN.match(text, end, end + DIGITS).end()  # type: ignore[union-attr]
    return text[start:end], start


def _raw_end(raw: str, span: str) -> int:
    """Where the number ends in the raw slice; the whole slice if markup hides it."""
    at = raw.find(span)
    return at + len(span) if at >= 0 else len(raw)
