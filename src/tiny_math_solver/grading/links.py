"""Links: how a number belongs to the one before it, and the number that a chain of them commits to.

`read_opening` reads text that should begin with its answer, such as the rest of a line after a marker. `follow_links`
walks from number to number and asks `link_between` for the kind of each gap:

    equals      6 * 3 = 18           the right side replaces the left
    operator    6 * 3                unfinished: no answer unless an equals sign follows
    compound    5 feet 3 inches      unfinished likewise
    corrected   20, no wait, 18      the second number replaces the first
    range       17-19                two candidates: no answer
    list        18, 20               two candidates
    both        18 and 20            two candidates
    hedge       18 or 20             two candidates
    None        18 (out of 20)       not linked: the chain ends

The patterns of LINKS are tried in order, and each has to match the whole gap; hedges and corrections are searched for
anywhere in it.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from tiny_math_solver.grading.cues import CORRECTED, HEDGED, Cue, word_set
from tiny_math_solver.grading.numerals import Mention, Number
from tiny_math_solver.grading.units import RESTATES, counts_things, same_quantity

MAX_GAP = 60  # characters between two numbers that may still be linked


class Reading(NamedTuple):
    """The number that a stretch of text commits to; `value` is None if it commits to no single one."""

    value: Number | None
    span: str  # the part of the text that was read
    end: int  # where that part ends
    calculated: bool = False  # the number is the result of a calculation that is written out
    equivalent: Number | None = None  # the same quantity in another unit, as in "1.5 hours (90 minutes)"


def read_opening(text: str, mentions: list[Mention]) -> Reading | None:
    """The reading of a text that opens with a number, after filler such as "about" or "Answer:"; else None."""
    return follow_links(text, mentions) if mentions and _FILLER.fullmatch(text, 0, mentions[0].start) else None


# Filler between a marker and its number: words such as "about", a label with a colon, or `Total earnings =`.
_FILLER = re.compile(
    r"(?:[^\w?]|\b(?:the|an?|final|correct|answer|is|are|was|be|it|its|s|that|this|there|so|therefore|thus|hence"
    r"|approximately|approx|about|around|roughly|exactly|only|just|total|of|equals?|us|usd|rs|eur|minus|negative"
    r"|value|result|would|will|actually|indeed|simply|[a-z](?=\s*=))\b)*"
    r"|(?!\W*(?:none|null|nan|n/a)\b)[^.?!]*[:=>][^\w?]*",
    re.IGNORECASE,
)

LINKS = {
    "equals": Cue("=|equal|->", r"[\s%)]*(?:[a-z/]+\s*){0,3}(?:=|equals|is equal to|->)[\s(=>-]*(?:[a-z]\s?=\s*)?"),
    "operator": Cue(
        "-|+|*|^|/|x|times|plus|minus|divided|multiplied",
        r"[\s%)]*(?:[a-z/]+\s+){0,2}(?:[-+*^/x]|times|plus|minus|divided by|multiplied by)[\s(]*",
    ),
    "compound": Cue(  # 5 feet 3 inches
        "h|f|year|week|day|month|min|pound|lb|yard|gallon|quart|r",
        r"\s*(?:hours?|hrs?|h|feet|foot|ft|years?|weeks?|days?|months?|minutes?|mins?|pounds?|lbs?|yards?|gallons?"
        r"|quarts?|remainder|r)\b\s*,?\s*(?:and\s*)?",
    ),
    "range": Cue("", r"[\s%)]*(?:[|&/~:]|-+|(?:up )?to|through|\.\.+|\u2026|\+-|!=|[<>]=?)[\s(]*"),
    "list": Cue("", r"[\s%)]*[,;]\s*(?:and )?(?:\w+\s*[:=]\s*)?[(\s]*|\s+|\s*\(?[A-E][).:]\s*"),
    "both": Cue(
        "and|but",
        r"[\s%()]*(?:[a-z]+[\s,.;(]+){0,3}(?:and|but)(?:[\s,]+(?:it|is|it's|the|answer|could|might|may|also|be|about"
        r"|around|else|just|i|think)\b)*[\s(,:-]*",
    ),
}


def link_between(gap: str) -> str | None:
    """The kind of link between two numbers with the text `gap` between them; None if they are not linked."""
    if len(gap) > 2 * MAX_GAP:
        return None
    lower = gap.lower()
    if len(gap) <= MAX_GAP:
        if gap.count(" ") < 8:
            for kind, cue in LINKS.items():
                if cue.fullmatch(lower):
                    return kind
        if HEDGED.search(lower):
            return "hedge"
    return "corrected" if CORRECTED.search(lower) else None


def follow_links(text: str, mentions: list[Mention]) -> Reading:
    """The reading of a text from its first number on, through every number that is linked to the one before."""
    first = last = mentions[0]
    best = first.value
    left: Number | None = None  # the left side of an equation, if it is a plain number
    equivalent: Number | None = None
    unfinished = unevaluated(text, first)
    calculated = compound = contradicted = False
    for mention in mentions[1:]:
        gap = text[last.end : mention.start]
        kind = link_between(gap)
        if not unfinished and same_quantity(text, last, mention):
            best, equivalent = (mention.value, best) if kind == "equals" else (best, mention.value)
        elif kind is None:
            if not (_rounds(best, mention.value) or (compound and RESTATES.fullmatch(gap))):
                break
            best, unfinished = mention.value, False
        elif kind in ("operator", "compound"):
            unfinished = calculated = True
            compound = kind == "compound"
            contradicted = False
        elif kind == "equals":
            contradicted = not unfinished and not gap.strip(" ()=") and not _agree(best, mention.value)  # 18 = 81
            left = left if unfinished else best
            best, equivalent, unfinished, calculated = mention.value, None, False, True
        elif kind == "corrected":
            best, equivalent, unfinished = mention.value, None, False
        elif mention.value != best:
            if kind == "list" and counts_things(text, gap, mention):
                break
            return Reading(None, text[first.start : mention.end], mention.end)
        last = mention
    if unfinished:  # `18 = 9 * 2` keeps 18; `9 * 2` alone is no answer
        best = left
    if (contradicted and not unfinished) or _UNDONE.match(text, last.end):
        best = None
    whole = best is None or equivalent is not None
    return Reading(best, text[(first if whole else last).start : last.end], last.end, calculated, equivalent)


MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}\.?"
# Text after a number that makes it something else: `18 squared`, `18 < x`, `18 is not the answer`, `18 eggs?`
_UNDONE = re.compile(
    r"\s*(?:[<>]|(?:squared|cubed|factorial|mod|choose|is not|isn't)\b)|[^.!?\n]{0,30}\?| over [\d.,]+\W*\Z"
    rf"| {MONTH} \d{{4}}|(?<=%) of \d| (?:more|less|fewer) than \d",
)


_NEGATIONS = word_set("not never cannot except")
_NOT_A_VALUE = _NEGATIONS | word_set("sqrt log ln sin cos tan twice double triple thrice")
_COMPARISONS = word_set("more less fewer greater")
_PARTS = word_set("half third quarter root square cube")


def unevaluated(text: str, mention: Mention) -> bool:
    """True if the text before a number denies it or operates on it: `not 18`, `> 18`, `sqrt(18)`, `x + 18`."""
    lead = text[max(0, mention.start - 20) : mention.start].rstrip(" (").lower()
    if lead.endswith("--") and mention.value is not None and not lead[:-2].rstrip()[-1:].isalnum():
        return True
    if lead[-1:] in "+*^/":
        return lead[:-1].rstrip()[-1:].isalpha()
    if lead[-1:] in "<>=":
        return lead.endswith(("!=", "<=", ">=", "<", ">")) and not lead.endswith(("->", "=>"))
    rest, _, last = lead.rpartition(" ")
    word = rest.rpartition(" ")[2]
    return (
        last in _NOT_A_VALUE
        or word in _NEGATIONS
        or word.endswith("n't")
        or last.endswith("n't")
        or (last == "than" and word in _COMPARISONS)
        or (last == "of" and word in _PARTS)
        or (last == "but" and word == "anything")
        or (last == "as" and word == "such")
    )


def _rounds(value: Number | None, other: Number | None) -> bool:
    """True if `other` is `value` rounded up or down to a whole number, as in "6.67, so 7 buses"."""
    if value is None or other is None:
        return False
    exact, whole = Fraction(value), Fraction(other)
    return exact.denominator != 1 and whole.denominator == 1 and abs(exact - whole) < 1


def _agree(value: Number | None, other: Number | None) -> bool:
    """True if both sides of an equation are equal, or the left one is a fraction less than 1 away."""
    if value is None or other is None or value == other:
        return True
    exact = Fraction(value)
    return exact.denominator != 1 and abs(exact - Fraction(other)) < 1
