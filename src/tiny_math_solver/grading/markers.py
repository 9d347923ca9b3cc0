r"""Explicit markers of an answer: `#### 18`, `\boxed{18}`, "the answer is 18", `Answer: 18`.

`read_last_marker` goes through the markers from the last one back until one of them decides. A marker is passed over
if it turns out to be none, such as the heading `#### Step 1` or "to answer this"; a marker that holds several
candidates decides that there is no answer.
"""

import re
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from tiny_math_solver.grading.cues import any_of, cue
from tiny_math_solver.grading.gaps import link_between
from tiny_math_solver.grading.links import UNFINISHED, Reading, line_numbers, read_opening
from tiny_math_solver.grading.markup import plain, sentences
from tiny_math_solver.grading.numerals import MAX_DIGITS, Number, find_numbers, find_numerals, negate
from tiny_math_solver.grading.prose import read_line_sentence, read_sentence
from tiny_math_solver.grading.refusals import OTHERWISE, is_conditional, refuses
from tiny_math_solver.grading.working import HEADING_LINE, NAMED, NUMBERED, is_list, is_open, works_on

MAX_SPAN = 400  # characters read after a marker
MAX_MARKERS = 16  # markers looked at


class How(StrEnum):
    """The place where the final answer was found; the strict score counts the one that the prompt asks for."""

    HASHES = "hashes"  # after ####
    BOXED = "boxed"  # in \boxed{}
    TAG = "tag"  # in <answer>
    PHRASE = "phrase"  # "the answer is", "Answer:"
    CLOSING = "closing"  # stated by the closing sentence
    NONE = "none"  # no single answer


class MarkedAnswer(NamedTuple):
    """The reading of one marker, which begins at `start` of the text; the reading ends at `end`."""

    value: Number | None
    how: How
    span: str
    start: int
    end: int
    equivalent: Number | None = None  # as in Reading
    calculated: bool = False  # as in Reading
    denied: bool = False  # "the answer is not 20" decides only if there is no other marker


def read_last_marker(text: str, question: str | None = None) -> MarkedAnswer | None:
    """The reading of the last marker that decides; None if there is none."""
    offset = max(0, len(text) - 65536)
    lower = text[offset:].lower()
    if len(lower) != len(text) - offset:  # some capitals grow when lowered
        lower = text[offset:]
    hashes, boxed, phrase = text.rfind("####"), text.rfind("\\boxed"), lower.rfind("answer")
    denial: MarkedAnswer | None = None
    for _ in range(MAX_MARKERS):
        last = max(hashes, boxed, phrase + offset if phrase >= 0 else -1)
        if last < 0:
            break
        if last == hashes:
            found = read_hashes(text, hashes)
            hashes = text.rfind("####", 0, max(hashes - 3, 0))
        elif last == boxed:
            found = _read_box(text, boxed)
            boxed = text.rfind("\\boxed", 0, boxed)
        else:
            found = _read_phrase(text, last, question)
            phrase = lower.rfind("answer", 0, phrase)
        if found is not None and found.denied:
            denial = denial or found
        elif found is not None:
            return denial if denial is not None and denial.span == found.span else found
    return denial


# A number alone on the rest of its line, as most answers are
_BARE = re.compile(r"[ \t]*\$?(\d{1,15}|[1-9]\d{0,2}(?:,\d{3}){1,4})[ \t]*\.?[ \t]*(?:\n|\Z)", re.ASCII)


def _bare(text: str, at: int, start: int, how: How) -> MarkedAnswer | None:
    """The reading of the marker at `at` if only a number follows from `start` to the end of the line."""
    match = _BARE.match(text, start)
    return MarkedAnswer(Decimal(match[1].replace(",", "")), how, match[1], at, match.end(1)) if match else None


def _marked(found: Reading, how: How, at: int, start: int, raw: str) -> MarkedAnswer:
    """The reading of the marker at `at`, of which the raw text from `start` was read in plain."""
    shown = raw.find(found.span)
    end = start + (shown + len(found.span) if shown >= 0 else len(raw))  # all of it if markup hides the number
    return MarkedAnswer(found.value, how, found.span, at, end, found.equivalent, found.calculated)


def read_hashes(text: str, at: int) -> MarkedAnswer | None:
    """The reading of the `####` at `at`; None if it is a heading and not a marker."""
    start = at + 4
    while text[start : start + 1] == "#":
        start += 1
    if (at == 0 or text[at - 1] == "\n") and (bare := _bare(text, at, start, How.HASHES)):
        return bare
    raw, start = _line(text, start)
    if _ANSWER_HEADING.fullmatch(raw):
        raw, start = _line(text, start + len(raw))
    words, end = plain(raw), start + len(raw)
    if not words or HEADING_LINE.match(words):
        return None
    final = not text[end : end + MAX_SPAN].strip(" \n\r\t#*`$")
    nothing = MarkedAnswer(None, How.NONE, words, at, start)
    if final and _instructed(text, at):
        return nothing
    mentions = line_numbers(words)
    if not mentions:
        return nothing if final and refuses(words) else None
    found = read_opening(words, mentions)
    if found is None and not final:
        return None  # a heading with a number in it
    if not _commits(words):
        return nothing
    found = found or read_line_sentence(words)
    if (found.calculated and works_on(text, end)) or is_list(raw, text, end):
        return None  # working: the closing sentence has the answer
    return _marked(found, How.HASHES, at, start, raw)


def _read_box(text: str, at: int) -> MarkedAnswer | None:
    r"""The reading of the `\boxed` at `at`; None if it holds words and no number."""
    start = at + len("\\boxed")
    while text[start : start + 1] == " ":
        start += 1
    end = _box_end(text, start)
    words = plain(text[start:end])
    nothing = MarkedAnswer(None, How.NONE, words, at, end)
    mentions = line_numbers(words)
    if _instructed(text, at):
        return nothing
    if not mentions:
        return None if words.strip() else nothing
    if not _commits(words):
        return nothing
    found = read_opening(words, mentions) or read_line_sentence(words)
    value = found.value
    if value is not None and text[at - 1 : at] == "-" and not text[max(0, at - 2) : at - 1].isalnum():
        value = negate(value)
    if value is not None and _DIGIT.search(text, end, end + 80):
        after = plain(text[end : end + 80].partition("\n")[0])
        others = find_numerals(after)
        if others and others[0].value != value and link_between(after[: others[0].start]) in ("hedge", *UNFINISHED):
            value = None  # \boxed{18}, 20; \boxed{18} * 2
    return MarkedAnswer(value, How.BOXED, found.span, at, end, found.equivalent, found.calculated)


def _box_end(text: str, start: int) -> int:
    """The end of the braces that open at `start`, or of the line if they never close."""
    if text[start : start + 1] != "{":
        return start + len(text[start : start + 40].split("\n")[0])
    depth = 0
    for brace in _BRACE.finditer(text, start, start + MAX_SPAN):
        depth += {"{": 1, "}": -1, "\n": -MAX_SPAN}[brace[0]]
        if depth <= 0:
            return brace.end()
    return min(len(text), start + MAX_SPAN)


def _read_phrase(text: str, at: int, question: str | None) -> MarkedAnswer | None:
    """The reading of "answer" at `at` with a verb or colon after it; None if it introduces no number."""
    match = _PHRASE.match(text, at + len("answer"), at + 200)
    if match is None or _NOT_THE_NOUN.search(text[max(0, at - 24) : at]):
        return None
    if match["about"] and (_NOT_FINAL.search(match["about"]) or (match["label"] and _DIGIT.search(match["about"]))):
        return None
    if bare := _bare(text, at, match.end(), How.PHRASE):
        return bare
    below, raw, start = "\n" in match[0], *_line(text, match.end())
    if below and is_list(raw, text, start + len(raw)):
        return None  # the closing sentence has the answer
    if below and raw.startswith("- "):
        raw, start = raw[2:], start + 2  # a bullet, not a minus
    raw = raw[: raw.find("####") if raw.find("####") > 0 else None]
    words, end = plain(raw), start + len(raw)
    mentions = line_numbers(words)
    if not mentions or _NO_ANSWER.match(words):
        return None
    nothing = MarkedAnswer(None, How.NONE, words, at, start)
    first = mentions[0]
    if _DENIAL.fullmatch(words, 0, first.start) and not _INSTEAD.search(words, first.end):
        return nothing._replace(span=words[first.start : first.end], denied=True)
    if refuses(words):
        return nothing
    heads = below or match["label"] is not None  # a heading or a label, over working if more numbers follow
    more = _DIGIT.search(text, end, end + MAX_SPAN) is not None
    found = read_opening(words, mentions)
    if found is not None:
        if not _commits(words):
            return nothing
        goes_on = (heads and (more or _DIGIT.search(words, found.end))) or works_on(text, end)
        return None if found.calculated and goes_on else _marked(found, How.PHRASE, at, start, raw)
    parts = sentences(words)
    if (heads and (more or len(parts) > 1)) or not find_numbers(parts[0]):
        return None  # the closing sentence has the answer
    if OTHERWISE.search(words):
        return nothing
    found = read_sentence(parts[0], question=question)
    return _marked(found._replace(calculated="=" in parts[0]), How.PHRASE, at, start, raw)


def _commits(words: str) -> bool:
    """True unless an answer line refuses, names a case or a variable, or lists several numbers."""
    several = NUMBERED.match(words) or NAMED.fullmatch(words)
    return not (several or refuses(words) or is_conditional(words) or is_open(words))


def _instructed(text: str, at: int) -> bool:
    """True if the marker at `at` belongs to an instruction about the format, as quoted from a prompt."""
    return _INSTRUCTION.search(text[max(0, at - 60) : at]) is not None


def _line(text: str, start: int) -> tuple[str, int]:
    """The first line with text at or after `start`, at most MAX_SPAN characters of it, and where it begins."""
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
        if text[start : start + 64].isspace():
            start += 64
    end = text.find("\n", start, start + MAX_SPAN)
    if end < 0:
        end = start + MAX_SPAN
        if text[end - 1 : end].isdigit():  # a number must not be cut short
            end = _RUN.match(text, end, end + MAX_DIGITS).end()  # type: ignore[union-attr]
    return text[start:end], start


_RUN = re.compile(r"[\d.,]*")
_DIGIT = re.compile(r"\d")
_BRACE = re.compile(r"[{}\n]")
_ANSWER_HEADING = cue(r"\W*(?:the )?(?:final )?answer\W*")
_INSTRUCTION = cue(
    r"\b(?:your|you should|(?:put|write|give) (?:your|the)|e\.g|for example|format is|in the format|such as"
    r"|(?:end|finish) (?:it )?with)\b[^\n]*\Z"
)
_PHRASE = re.compile(
    r"""s?['"*_`)>\]\s]*(?:\([^()\n]{0,40}\))?[\s*_]*
    (?P<about>(?:to|for|in|of|here|given|that|we|i|should|must|would|will|can|could|might|may|,)(?!\w)
       [^.:=?\n]{0,100}?)?
    (?:\b(?P<verb>is|was|are|be|equals|becomes)\b\s*:?|(?P<label>[:=>]+|-+>?(?=\s)|\n))[\s*_`"']*""",
    re.VERBOSE | re.IGNORECASE,
)
_OTHER_ANSWER = any_of("""
    first|second|third|wrong|incorrect|mistaken|common|naive|tempting|initial|previous|original|old|earlier|partial
    intermediate
""")
_NOT_THE_NOUN = cue(
    rf"(?:\b(?:to|we|can|{_OTHER_ANSWER}(?: final)?|not (?:an|the)"
    r"|(?:if|suppose|assume|(?:might|may|could|would) (?:think|guess|say|expect)(?: that)?)(?: the)?) |ease |/)\Z"
)
_ADJECTIVE = any_of("""
    correct|right|reasonable|plausible|valid|consistent|verified|sensible|positive|obvious|independent|based|expected
    in (dollars|cents|units|hours|minutes)|checked|easy|simple|straightforward|a whole number|derived|obtained|found
    (more|less|greater|smaller|larger|higher|lower) than the
""")
_NO_ANSWER = cue(  # "The answer is reasonable because ..." is a remark on an answer
    r"\W*(?:indeed |also |clearly |quite |therefore |obtained |found |given |verified |consistent |in |expressed "
    rf"|rounded )*{_ADJECTIVE}\b(?!\W*(?:answer|one|value)?\W*(?:is|:|=)?\W*\d)"
)
_DENIAL = cue(r"\W*(?:certainly |definitely |obviously |just |simply )?(?:not|never|n't)\b[^.?!]{0,24}")
_INSTEAD = cue(r"\b(?:but|rather|instead|it'?s|it is|answer)\b[^\n]*\d")
_NOT_FINAL = cue(r"\b(?:part|first|step|sub|previous|second)\b")
