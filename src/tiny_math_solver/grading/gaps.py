"""Gaps: the kind of link that the text between two numbers makes.

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

from tiny_math_solver.grading.cues import COMES_TO, CONCLUSION, FILLER, HEDGED, any_of, cue
from tiny_math_solver.grading.retractions import CORRECTED, CORRECTS, RETRACTED

MAX_GAP = 60  # characters between two numbers that may still be linked

# Words of unit between a number and what links it to the next
_UNIT = r"(?:[^-+*/^=<>.,;:!?\d]|(?:\A|(?<=[a-z]))/(?=[a-z])){0,60}?"
_OPERATOR = any_of(r"""
    [-+*^/x]|times|plus|minus|less|divided by|multiplied by|added to|subtracted from|taken from
    (divided|split|shared)( \w+)? (by|among|between|into|with)
""")
_TOTAL = (
    rf"(?:{CONCLUSION}|altogether|in all|finally|overall|(?:(?:for|making|giving|with|which is|is|in|=) )?"
    r"(?:an? |the |grand |final |overall )*total(?: cost| price| amount| number)?(?: of|:|=| is| comes to|,)?)(?![a-z])"
)
LINKS = {
    "equals": cue(
        r"[^.;!?,=]{0,80}?(?:=|\bequals?\b|\bis equal to\b|->)[\s(=>-]*(?:[a-z]\s?=\s*)?"
        r"(?:(?:about|approximately|exactly|only|just|roughly|a total of|usd|rs\.?|inr|eur)\s+)*"
    ),
    "operator": cue(
        rf"[\s%)]*[-+*^/x][\s(]*|{_UNIT}(?:[\s%)]{_OPERATOR}|[+*])[\s(]*"
        r"(?:(?!(?:in|for|an?|per|of|with|on|by|at|each|every|is|are|makes?|gives?) )[a-z']+ ){0,2}[\s(]*"
    ),
    "compound": cue(
        r"\s*(?:hours?|hrs?|h|feet|foot|ft|years?|weeks?|days?|months?|minutes?|mins?|pounds?|lbs?|yards?|gallons?"
        r"|quarts?|remainder|r)\b\s*,?\s*(?:and\s*)?"
    ),
    "result": cue(
        rf"{_UNIT},?\s(?:(?:which|that|this|it|to|you|we) )?{COMES_TO}\s+"
        r"(?:(?:a|the|total|of|us|you|her|him|them|about|only|just|exactly|sum)\s+)*"
    ),
    "conclusion": cue(
        r"[^.!?]{0,60}?\b(?:(?:to (?:get|obtain|give|arrive at|reach)|resulting in|results in) (?:a total of |about )?"
        rf"|{_TOTAL}[\s,:(]*(?:\w+ )?(?:\b{FILLER}\b\s*)*[\s:(=]*)"
    ),
    "range": cue(r"[\s%)]*(?:[|&/~:]|-+|(?:up )?to|through|\.\.+|\u2026|\+-|!=|[<>]=?)[\s(]*"),
    "list": cue(
        r"[\s%)]*(?:[a-z'/]+\s*){0,4}[,;]\s*(?:(?:and|then|plus|next|finally)\s+)*"
        r"(?:(?!(?:with|for|from|after|in|on|by|at|over) )\w+\s*[:=]?\s*)?[(\s]*|\s+"
        r"|\s*\(?[A-E][).:]\s*|[^.!?\d]{0,60}\bthen\b[\s,:]*"
    ),
    "both": cue(rf"[\s%()]*(?:[a-z]+[\s,.;(]+){{0,3}}(?:and|but|&|as well as)(?:[\s,]+{FILLER}\b)*[\s(,:-]*"),
}
# Words after which the rest of a line explains its number instead of going on with it
_EXPLAINS = re.compile(
    r"\b(?:because|since|(?<!well )as(?! well)|which|where|whereas|who|whose|given|assuming|i\.e|e\.g|than|note"
    r"|check\w*|verif\w*|not|instead|when|while|out of|if|unless)\b|[.!?][\"')*]*\s"
)
# A number after one of these words says more about the one before: 18 eggs in 3 days
SAYS_MORE = re.compile(
    r"\(|\b(?:in|for|from|by|with|after|on|over|within|during|to|into|selling|buying|using|left|every|between|among"
    r"|of)\b"
)


def link_between(gap: str, *, unfinished: bool = False) -> str | None:
    """The kind of link between two numbers with the text `gap` between them; None if they are not linked."""
    if len(gap) > 2 * MAX_GAP:
        return None
    gap = _SPACES.sub(" ", gap.lower())
    if CORRECTS.fullmatch(gap):
        return "corrected"
    if len(gap) <= MAX_GAP and HEDGED.search(gap):
        return "hedge"
    explained = CORRECTED.search(gap) or _EXPLAINS.search(gap) or RETRACTED.search(gap)
    for kind, link in LINKS.items():
        if (unfinished if kind == "result" else not explained) and link.fullmatch(gap):
            return kind
    return None if explained else "context"


_SPACES = re.compile(r" {2,}")
_ASIDE = cue(
    r"[(\[](?!\s*(?:or|but|maybe|perhaps|not|no|wait|=|i\.e|actually|oops)\b)[^()\[\]\d]*[a-z]{2}[^()\[\]\d]*[)\]]"
    r"|(?<=[\w ])\([^()]*[a-z]{2}[^()]*\)(?=\s*(?:[-+*/=x]|plus|minus|times|equals)\s)"
)


def without_asides(text: str) -> str:
    """The text with spaces in place of remarks in parentheses, which may stand between the terms of a calculation."""
    if "(" not in text and "[" not in text:
        return text
    text = text.replace("[", "(").replace("]", ")")
    return _ASIDE.sub(lambda aside: " " * len(aside[0]), text)
