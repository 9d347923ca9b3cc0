"""Links: how a number belongs to the one before it, and the number that a chain of them commits to.

`read_opening` reads text that should begin with its answer, such as the rest of a line after a marker. `follow_links`
walks from number to number and asks `link_between` for the kind of each gap:

    equals      6 * 3 = 18               the right side replaces the left
    result      6 times 3 makes 18       likewise, after a calculation
    conclusion  6 red, 3 blue, so 9      likewise, after anything
    operator    6 * 3, 6 eggs + 3        unfinished: no answer unless one of the three above follows
    compound    5 feet 3 inches          unfinished likewise
    list        18, 20                   two candidates, unfinished likewise
    both        18 and 20                likewise
    corrected   20, no wait, 18          the second number replaces the first
    range       17-19                    two candidates: no answer
    hedge       18 or 20                 two candidates: no answer
    context     18 eggs in 3 days        the second number is passed over
    None        18, because 9 * 2 ...    the chain ends

The patterns of LINKS are tried in order, and each has to match the whole gap, which is first rid of remarks in
parentheses; hedges are searched for anywhere in it.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from tiny_math_solver.grading.cues import CORRECTED, CORRECTED_STEMS, HEDGED, RETRACTIONS, Cue, word_set
from tiny_math_solver.grading.numerals import Mention, Number, find_number_words, find_numerals
from tiny_math_solver.grading.retractions import RETRACTED
from tiny_math_solver.grading.units import RESTATES, counts_things, same_quantity, single_things

MAX_GAP = 60  # characters between two numbers that may still be linked


class Reading(NamedTuple):
    """The number that a stretch of text commits to; `value` is None if it commits to no single one."""

    value: Number | None
    span: str  # the part of the text that was read
    end: int  # where that part ends
    calculated: bool = False  # the number is the result of a calculation that is written out
    equivalent: Number | None = None  # the same quantity in another unit, as in "1.5 hours (90 minutes)"


def line_numbers(text: str) -> list[Mention]:
    """The numbers of an answer line: those in digits, and those in words if the line opens with a list of both."""
    numerals, words = find_numerals(text), find_number_words(text)
    if not (numerals and words):
        return numerals or words
    together = sorted([*numerals, *words], key=lambda mention: mention.start)
    first, second = together[:2]
    gap = text[first.end : second.start]
    opens = first is words[0] and second is numerals[0] and not text[: first.start].strip(" ($*")
    linked = opens and gap.strip() and link_between(gap) not in (None, "context")
    return together if linked else numerals


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

_UNIT = r"[^-+*/^=<>.,;:!?\d]{0,60}?"  # words of unit between a number and what links it to the next
_TOTAL = (
    r"(?:so|therefore|thus|hence|altogether|in all|finally|overall|(?:(?:for|making|giving|with|which is|is|in|=) )?"
    r"(?:an? |the |grand |final |overall )*total(?: cost| price| amount| number)?(?: of|:|=| is| comes to|,)?)(?![a-z])"
)
LINKS = {
    "corrected": Cue(
        CORRECTED_STEMS,
        rf"[^\d.]{{0,12}}?(?:[\s,;:.!?(\u2026~]|-)*\b(?:(?:{RETRACTIONS}|should be|should have been|make (?:that|it)"
        rf"|rather"
        r"|or (?:rather|better)|hold on|hang on|hmm+|er+m?|um+|uh+|round(?:s|ed|ing)? (?:up |down |off )?(?:to"
        r"|it)(?: to)?)"
        r"(?:[\s,;:.!?(*]|-|\b(?:it|is|it's|that|that's|the|answer|i|think|so|be|must|to|was|should|make|let|me|see"
        r"|about|instead|got|get|right|there|are)\b)*)+",
    ),
    "equals": Cue(
        "=|equal|->",
        r"[^.;!?,=]{0,80}?(?:=|\bequals?\b|\bis equal to\b|->)[\s(=>-]*(?:[a-z]\s?=\s*)?(?:(?:about|approximately"
        r"|exactly|only|just|roughly|a total of|usd|rs\.?|inr|eur)\s+)*",
    ),
    "operator": Cue(
        "-|+|*|^|/|x|times|plus|minus|divided|multiplied|less|added|subtract|taken|split|shared",
        rf"[\s%)]*[-+*^/x][\s(]*|{_UNIT}(?:[\s%)](?:[-+*^/x]|times|plus|minus|less|divided by|multiplied by|added to"
        r"|subtracted from|taken from|(?:divided|split|shared)(?: \w+)? (?:by|among|between|into|with))"
        r"|[+*])[\s(]*(?:[a-z']+ ){0,2}[\s(]*",
    ),
    "compound": Cue(  # 5 feet 3 inches
        "h|f|year|week|day|month|min|pound|lb|yard|gallon|quart|r",
        r"\s*(?:hours?|hrs?|h|feet|foot|ft|years?|weeks?|days?|months?|minutes?|mins?|pounds?|lbs?|yards?|gallons?"
        r"|quarts?|remainder|r)\b\s*,?\s*(?:and\s*)?",
    ),
    "result": Cue(
        "is|are|make|making|give|giving|leav|yield|total|come|get|becom|add",
        rf"{_UNIT},?\s(?:(?:which|that|this|it|to|you|we) )?(?:is|are|makes?|making|gives?|giving|leav(?:es?|ing)"
        r"|yields?|totals?|totall?ing|comes? to|get|becomes?|adds? up to)\s+(?:(?:a|the|total|of|us|you|her|him|them"
        r"|about|only|just|exactly|sum)\s+)*",
    ),
    "conclusion": Cue(
        "so|therefore|thus|hence|total|in all|altogether|finally|overall",
        rf"[^.!?]{{0,60}}?\b{_TOTAL}[\s,:(]*(?:\w+ )?(?:\b(?:the|an?|answer|final|total|is|are|it|it's|that's|there|we"
        r"|he|she|they|i|you|has|have|had|needs?|makes?|pays?|gets?|earns?|spends?|costs?|be|will|would|of|about|left"
        r"|takes?|only|just|exactly)\b\s*)*[\s:(=]*",
    ),
    "range": Cue("", r"[\s%)]*(?:[|&/~:]|-+|(?:up )?to|through|\.\.+|\u2026|\+-|!=|[<>]=?)[\s(]*"),
    "list": Cue(
        "",
        r"[\s%)]*(?:[a-z'/]+\s*){0,4}[,;]\s*(?:(?:and|then|plus|next|finally)\s+)*(?:\w+\s*[:=]?\s*)?[(\s]*|\s+"
        r"|\s*\(?[A-E][).:]\s*|[^.!?\d]{0,60}\bthen\b[\s,:]*",
    ),
    "both": Cue(
        "and|but|&",
        r"[\s%()]*(?:[a-z]+[\s,.;(]+){0,3}(?:and|but|&)(?:[\s,]+(?:it|is|it's|the|answer|could|might|may|also|be|about"
        r"|around|else|just|i|think|then)\b)*[\s(,:-]*",
    ),
}
# Words after which the rest of a line explains its number instead of going on with it
_EXPLAINS = re.compile(
    r"\b(?:because|since|as|which|where|whereas|who|whose|given|assuming|i\.e|e\.g|than|note|check\w*|verif\w*|not"
    r"|instead|when|while|out of|if|unless)\b|[.!?][\"')*]*\s"
)
# A number after one of these words says more about the one before: 18 eggs in 3 days
_SAYS_MORE = re.compile(
    r"\b(?:in|for|from|by|with|after|on|over|within|during|to|into|selling|buying|using|left|every|between|among|of)\b"
)


def link_between(gap: str, *, unfinished: bool = False) -> str | None:
    """The kind of link between two numbers with the text `gap` between them; None if they are not linked."""
    if len(gap) > 2 * MAX_GAP:
        return None
    lower = gap.lower()
    if "  " in lower:
        lower = _SPACES.sub(" ", lower)
    corrected = CORRECTED.occurs(lower)
    if corrected and LINKS["corrected"].fullmatch(lower):
        return "corrected"
    if len(gap) <= MAX_GAP and HEDGED.search(lower):
        return "hedge"
    if (corrected and CORRECTED.search(lower)) or _EXPLAINS.search(lower) or RETRACTED.search(lower):
        return "result" if unfinished and LINKS["result"].fullmatch(lower) else None
    for kind, cue in LINKS.items():
        if kind == "corrected" or (kind == "result" and not unfinished):
            continue
        if cue.fullmatch(lower):
            return kind
    return "context"


_SPACES = re.compile(r" {2,}")
_ASIDE = re.compile(
    r"[(\[](?!\s*(?:or|but|maybe|perhaps|not|no|wait|=|i\.e|actually|oops)\b)[^()\[\]\d]*[a-z]{2}[^()\[\]\d]*[)\]]"
    r"|(?<=[\w ])\([^()]*[A-Za-z]{2}[^()]*\)(?=\s*(?:[-+*/=x]|plus|minus|times|equals)\s)",
    re.I,
)


def without_asides(text: str) -> str:
    """The text with spaces in place of remarks in parentheses, which may stand between the terms of a calculation."""
    if "(" not in text and "[" not in text:
        return text
    text = text.replace("[", "(").replace("]", ")")
    return _ASIDE.sub(lambda aside: " " * len(aside[0]), text)


def follow_links(text: str, mentions: list[Mention]) -> Reading:
    """The reading of a text from its first number on, through every number that is linked to the one before."""
    first = last = end = mentions[0]
    best = first.value
    left: Number | None = None  # the left side of an equation, if it is a plain number
    equivalent: Number | None = None
    unfinished = unevaluated(text, first)
    calculated = compound = contradicted = remark = False
    text = without_asides(text)
    for mention in mentions[1:]:
        gap = text[last.end : mention.start]
        if gap[-1:] == "-" and _SIGNED.search(gap):
            gap = gap[:-1]
        kind = link_between(gap, unfinished=unfinished)
        if kind == "context" and _SHARE.match(text, last.end - 1):
            kind = "operator"
        if unfinished and kind in ("list", "both") and _TOTALLED.match(text, mention.end):
            kind = "conclusion"  # 80 km, 60 km, 140 km in total
        if kind == "equals" and _TO_SOLVE.search(gap):
            return Reading(None, text[first.start : mention.end], mention.end)
        if not unfinished and same_quantity(text, last, mention):
            best, equivalent = (mention.value, best) if kind == "equals" else (best, mention.value)
        elif kind in (None, "context") and (_rounds(best, mention.value) or (compound and RESTATES.fullmatch(gap))):
            best, unfinished = mention.value, False
        elif kind is None:
            break
        elif kind == "context" or (remark and kind in ("operator", "compound", "list", "both", "range")):
            remark = remark or "(" in gap or _SAYS_MORE.search(gap) is not None
            last = mention
            continue
        elif kind in ("operator", "compound"):
            unfinished = calculated = True
            compound = kind == "compound"
            contradicted = False
        elif kind in ("equals", "result", "conclusion"):
            alone = last is end and not unfinished and not gap.strip(" ()=")
            contradicted = alone and not _agree(best, mention.value)  # 18 = 81
            left = left if unfinished else best
            best, equivalent, unfinished, calculated = mention.value, None, False, True
            remark = False
        elif kind == "corrected":
            best, equivalent, unfinished, remark = mention.value, None, False, False
        elif kind in ("list", "both"):
            if mention.value != best or unfinished:
                if kind == "list" and counts_things(text, gap, mention):
                    break
                unfinished, left = True, None
        elif mention.value != best:
            return Reading(None, text[first.start : mention.end], mention.end)
        last = end = mention
    if unfinished:  # `18 = 9 * 2` keeps 18; `9 * 2` alone is no answer
        best = left
    if (contradicted and not unfinished) or _UNDONE.match(text, end.end) or _OPEN_TERM.match(text, end.end):
        best = None
    elif best is not None and equivalent is None:
        equivalent = single_things(text, end, best)
    whole = best is None or equivalent is not None
    return Reading(best, text[(first if whole else end).start : end.end], end.end, calculated, equivalent)


MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}\.?"
# Text after a number that makes it something else: `18 squared`, `18 < x`, `18 is not the answer`, `18 eggs?`
_UNDONE = re.compile(
    r"!\s*[-+*/=]|\s*(?:[<>\u2717\u2718\u274c]|(?:squared|cubed|factorial|mod|choose|is not|isn't)\b)|[^.!?\n]{0,30}\?"
    r"| over [\d.,]+\W*\Z"
    rf"| {MONTH} \d{{4}}|(?<=%) of \d| percent of \d| (?:more|less|fewer) than \d| or (?:more|less|fewer|higher"
    rf"|lower|greater|above|below)\b",
)
_OPEN_TERM = re.compile(  # 100 - y, 70 dollars + shipping
    r"\(\d|\s*[-+*^]\s*(?![ai]\b)[a-z]\b(?![.'])|(?: [a-z]+){0,3}(?: [+*] [a-z(]| (?:plus|minus|divided by"
    r"|multiplied by)\b"
    r"| times [b-hj-z]\b|(?: [a-z]+){1,3} times (?:the|an?|her|his|its|their|that)\b| less (?:the|an?|her|his|its"
    r"|their)\b"
    r"| - (?:the |her |his |its |their |any )?(?:tax(?:es)?|tips?|costs?|price|discount|shipping|fees?|expenses|rent"
    r"|interest|delivery)\W*\Z)",
    re.IGNORECASE,
)
_TO_SOLVE = re.compile(r"[-+*/] ?[b-hj-z] ?=", re.IGNORECASE)  # 5 + x = 12
_SHARE = re.compile(r"(?:%|.? ?percent) of ")  # 20% of 90
_TOTALLED = re.compile(r"(?: [a-z]+){0,2}(?: in total| total| altogether| in all| combined| overall)\b", re.IGNORECASE)
_SIGNED = re.compile(r"(?:\b(?:is|was|are|be|of|to|about|equals)|=)\s*-\Z")  # the sign of the number that follows
_VARIABLE = re.compile(r"(?:\A|[\s(=+*/])[b-hj-z] ?-\Z")  # x - 18


_NEGATIONS = word_set("not never cannot except")
_NOT_A_VALUE = _NEGATIONS | word_set("sqrt log ln sin cos tan twice double triple thrice")
_COMPARISONS = word_set("more less fewer greater")
_PARTS = word_set("half third thirds quarter quarters fifth fifths tenth tenths root square cube percent % multiple")


def unevaluated(text: str, mention: Mention) -> bool:
    """True if the text before a number denies it or operates on it: `not 18`, `> 18`, `sqrt(18)`, `x + 18`."""
    lead = text[max(0, mention.start - 20) : mention.start].rstrip(" (").lower()
    if lead.endswith("--") and mention.value is not None and not lead[:-2].rstrip()[-1:].isalnum():
        return True
    if lead[-1:] in "+*^/":
        return lead[:-1].rstrip()[-1:].isalpha()
    if lead[-1:] == "-" and _VARIABLE.search(lead):
        return True
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
        or (last == "as" and word in ("such", "many", "much"))
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
