"""What a stretch of plain text commits to: one number, or nothing.

Two numbers in a row are read by the link between them: `6 * 3 = 18` is finished by its equals sign, `18 or 20` and
`17-19` leave two candidates, "20, no wait, 18" replaces one by the other. Where a sentence in prose has several
numbers and no such link, the one with the most signs of being the result is taken.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from tiny_math_solver.answers.markup import Cue, plain
from tiny_math_solver.answers.numerals import Number, Token, numbers, scan

WIDE = 60  # characters between two numbers that may still be linked


class Reading(NamedTuple):
    """`value` is None where the text up to `end` commits to no single number; `span` is what was read."""

    value: Number | None
    span: str
    end: int
    calculated: bool = False  # the number is the result of a calculation written out


def direct(text: str, tokens: list[Token]) -> Reading | None:
    """What the text commits to if it opens with a number, give or take words such as "about" or "Answer:"."""
    return chain(text, tokens) if tokens and _FILLER.fullmatch(text, 0, tokens[0].start) else None


# Words that may stand between a marker and its number; a label with a colon; `Total earnings =`.
_FILLER = re.compile(
    r"(?:[^\w?]|\b(?:the|an?|final|correct|answer|is|are|was|be|it|its|s|that|this|there|so|therefore|thus|hence"
    r"|approximately|approx|about|around|roughly|exactly|only|just|total|of|equals?|us|usd|rs|eur|minus|negative"
    r"|value|result|would|will|actually|indeed|simply|[a-z](?=\s*=))\b)*"
    r"|(?!\W*(?:none|null|nan|n/a)\b)[^.?!]*[:=>][^\w?]*",
    re.IGNORECASE,
)


# -- Links between two numbers ----------------------------------------------------------------------------------

HEDGE = r"(?:or|alternatively|maybe|perhaps|possibly|versus|vs)"
LINKS = {
    "equals": Cue("=|equal|->", r"[\s%)]*(?:[a-z]+\s*){0,3}(?:=|equals|is equal to|->)[\s(=>-]*(?:[a-z]\s?=\s*)?"),
    "operator": Cue(
        "-|+|*|^|/|x|times|plus|minus|divided|multiplied",
        r"[\s%)]*(?:[a-z]+\s+){0,2}(?:[-+*^/x]|times|plus|minus|divided by|multiplied by)[\s(]*",
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
HEDGE_STEMS = "or|altern|maybe|perhaps|possib|vs|versus"
_HEDGED = Cue(HEDGE_STEMS, rf"\b{HEDGE}\b")
_RETRACTED = (
    r"wait|actually|correction|corrected|no(?=[,.:;-])|no wait|sorry|mistake|wrong|incorrect|not (?:right|correct)"
    r"|i mean|i meant|oops|scratch|take (?:that|it) back|never ?mind"
)
_STEMS = "wait|actual|correct|no,|no.|no:|no;|no-|sorry|mistake|wrong|not right|mean|oops|scratch|back|never"
RETRACTED = Cue(_STEMS, rf"\b(?:{_RETRACTED})\b")
CORRECTED = Cue(  # within a sentence, milder words will do
    f"{_STEMS}|should|rather|instead|round",
    rf"\b(?:{_RETRACTED}|should be|should have been|rather(?! than)|instead(?! of)"
    r"|round(?:s|ed|ing)? (?:up |down |off )?(?:to|it))\b",
)


def link(gap: str) -> str | None:
    """How two numbers with `gap` between them belong together, by the names in LINKS; None if they do not."""
    if len(gap) > 2 * WIDE:
        return None
    if len(gap) <= WIDE:
        if gap.count(" ") < 8:
            for kind, cue in LINKS.items():
                if cue.fullmatch(gap):
                    return kind
        if _HEDGED.search(gap):
            return "hedge"
    return "corrected" if CORRECTED.search(gap) else None


def chain(text: str, tokens: list[Token]) -> Reading:
    """Follow the links from the first number on: `6 * 3 = 18`, `18 or 20`, `20, no wait, 18`."""
    first = last = tokens[0]
    best = first.value
    left: Number | None = None  # the left side of an equation, if it is a plain number
    unfinished = _unevaluated(text, first)
    calculated = False
    for token in tokens[1:]:
        kind = link(text[last.end : token.start])
        if kind is None:
            if not _rounds(best, token.value):
                break
            best = token.value
        elif kind in ("operator", "compound"):
            unfinished = calculated = True
        elif kind == "equals":
            left = left if unfinished else best
            best, unfinished, calculated = token.value, False, True
        elif kind == "corrected":
            best, unfinished = token.value, False
        elif token.value != best and not _same_quantity(text, last, token):
            return Reading(None, text[first.start : token.end], token.end)
        last = token
    if unfinished:  # `18 = 9 * 2` keeps 18, `9 * 2` alone is not an answer
        best = left
    if _UNDONE.match(text, last.end):
        best = None
    span = text[last.start : last.end] if best is not None else text[first.start : last.end]
    return Reading(best, span, last.end, calculated)


# What undoes the number in front of it: `18 squared`, `18 < x`, `18 is not the answer`, `18 eggs?`
_UNDONE = re.compile(r"\s*(?:[<>]|(?:squared|cubed|factorial|mod|choose|is not|isn't)\b)|[^.!?\n]{0,30}\?")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEGATIONS = _words("not never cannot")
_FUNCTIONS = _words("sqrt log ln sin cos tan twice double triple thrice")
_COMPARISONS = _words("more less fewer greater")
_PARTS = _words("half third quarter root square cube")


def _unevaluated(text: str, token: Token) -> bool:
    """Whether what stands before a number denies it or makes another of it: `not 18`, `> 18`, `sqrt(18)`, `x + 18`."""
    lead = text[max(0, token.start - 20) : token.start].rstrip(" (").lower()
    if lead[-1:] in "+*^/":
        return lead[:-1].rstrip()[-1:].isalpha()
    if lead[-1:] in "<>=":
        return lead.endswith(("!=", "<=", ">=", "<", ">")) and not lead.endswith(("->", "=>"))
    words = lead.split()[-2:] or [""]
    negated = any(word in _NEGATIONS or word.endswith("n't") for word in words)
    compared = words[-1] == "than" and words[0] in _COMPARISONS
    part = words[-1] == "of" and words[0] in _PARTS
    return negated or compared or part or words[-1] in _FUNCTIONS or words == ["anything", "but"]


def _rounds(value: Number | None, other: Number | None) -> bool:
    """Whether `other` is `value` made whole, as in "6.67, so 7 buses"."""
    if value is None or other is None:
        return False
    exact, whole = Fraction(value), Fraction(other)
    return exact.denominator != 1 and whole.denominator == 1 and abs(exact - whole) < 1


_UNIT = re.compile(r"\s*((?:per |a )?[A-Za-z]{1,12})")
_SAME = {7, 12, 24, 60, 100, 365, 1000, 3600}


def _same_quantity(text: str, left: Token, right: Token) -> bool:
    """Whether the two are one quantity in two units, as in `90 minutes or 1.5 hours`."""
    units = _UNIT.match(text, left.end), _UNIT.match(text, right.end)
    if not (units[0] and units[1] and left.value and right.value) or units[0][1] == units[1][1]:
        return False
    ratio = abs(Fraction(left.value) / Fraction(right.value))
    return ratio in _SAME or 1 / ratio in _SAME


# -- A sentence in prose ----------------------------------------------------------------------------------------

_WORDED = re.compile(r"[A-Za-z=\u0080-\uffff]")


def statement(text: str, before: str = "") -> Reading:
    """The number that a sentence states as its result; `before` is the working that leads up to it."""
    nothing = Reading(None, text[-80:], len(text))
    equals = max(text.rfind("="), text.rfind(" equals "), text.rfind(" equal to "))
    if equals >= 0:
        if after := scan(text, equals):
            return chain(text, after)
        tokens = scan(text)
        alone = tokens and text[equals + 1 :].strip(" .)") and not text[tokens[-1].end : equals].strip(" )")
        return Reading(tokens[-1].value, text[tokens[-1].start :], len(text)) if alone else nothing  # 6 = x
    tokens = [token for token in numbers(text) if not _unevaluated(text, token)]
    for index in range(len(tokens) - 1, 0, -1):
        kind = _prose_link(text, tokens, index)
        if kind == "corrected":
            tokens = tokens[index:]
            break
        if kind == "pair" and len(tokens) > 2:  # the difference between 30 and 12 is 18
            del tokens[index - 1 : index + 1]
            break
        if kind:
            return Reading(None, text[tokens[index - 1].start : tokens[index].end], len(text))
    if not tokens or (len({token.value for token in tokens}) > 1 and not _WORDED.search(text)):
        return nothing
    chosen = tokens[-1] if len({token.value for token in tokens}) == 1 else _result(text, tokens, before)
    return Reading(chosen.value, text[chosen.start : chosen.end], len(text))


_PAIR = re.compile(r"\b(?:between|from|either|sum of|product of|difference of)\s*$", re.IGNORECASE)


def _prose_link(text: str, tokens: list[Token], index: int) -> str | None:
    """Whether a number of a sentence is "corrected" from the one before, its "rival" or makes a "pair" with it.

    Prose lists its givens ("3 cats and 4 dogs"), so two numbers are rivals only if they close the sentence.
    """
    left, right = tokens[index - 1], tokens[index]
    gap = text[left.end : right.start]
    bare = gap.strip(" ,;")
    if CORRECTED.search(gap):
        return "corrected"
    if left.value == right.value or len(gap) > WIDE:
        return None
    final = index == len(tokens) - 1
    lead = text[max(0, left.start - 20) : left.start]
    if bare in ("and", "to", "up to", "-") and _PAIR.search(lead):
        return "pair"
    if bare in ("-", "to", "up to", "/") or _HEDGED.search(gap):
        rival = True
    else:
        kind = link(gap) if final else None
        listed = kind == "list" and not lead.endswith((" in ", " on ", " by "))
        rival = (listed or kind in ("operator", "compound")) and not _COMPARED.match(text, right.end)
    return "rival" if rival and not _same_quantity(text, left, right) else None


_RESULT_WORDS = _words(
    "is are was were be been total totals equal equals make makes made earn earns earned has have had cost costs"
    " pay pays paid need needs take takes spent spend spends get gets save saves receive receives leaving worth"
    " becomes only exactly approximately about sold sell sells use used uses ate eat eats"
)
_RESULT_PAIRS = {"total of", "sum of", "average of", "profit of", "maximum of", "minimum of", "left with"}
_CONTEXT_WORDS = _words(
    "for in after of per every from with at by within during over than each the if these those all both other"
    " first next last plus minus day week step age her his their another and"
)
_SUBORDINATE = Cue(
    "because|since|after|if|when|given|while|before|assuming|wh|out of|that|(|i.e",
    r"\b(?:because|since|after|if|when|given|while|before|assuming|where|who|from which|out of|that costs?"
    r"|which (?:is|are|was) (?:the|a|an|how|[\d.,]+ (?:more|less|fewer|times)))\b[^,;]*|\([^()]*\)|\bi\.e\..*",
)
_CLAUSE = Cue(
    ",|so|therefore|thus|hence|then|meaning|making|leaving",
    r"\b(?:so|therefore|thus|hence|then|meaning|making|leaving)\b|,",
)
_PURPOSE = re.compile(r"\bto [a-z]+(?: the| a| her| his| their| all)?\s*$")
_COMPARED = re.compile(r" (?:of (?:which|whom|them|these|those)|times|as (?:much|many)|(?:more|less|fewer) than)\b")


def _result(text: str, tokens: list[Token], before: str) -> Token:
    """The number of the sentence with the most signs of being its result; of equals, the last one."""
    computed = _last_result(before)
    asides = _SUBORDINATE.spans(text)
    clauses = _CLAUSE.spans(text[tokens[0].end : tokens[-1].start])
    main = tokens[0].end + clauses[-1][1] if clauses else 0

    def signs(token: Token) -> int:
        lead = text[max(0, token.start - 30) : token.start]
        words = lead.lower().rstrip(" -").split()[-2:] or [""]
        if _COMPARED.match(text, token.end) or (token is not tokens[0] and _PURPOSE.search(lead)):
            points = 0
        elif words[-1] in _RESULT_WORDS or " ".join(words) in _RESULT_PAIRS:
            points = 4
        else:
            points = 0 if words[-1] in _CONTEXT_WORDS else 2
        points -= 4 * any(start <= token.start < end for start, end in asides)
        points += 3 * (token.value == computed)  # the working came to it
        points += 3 * (token.start >= main)  # in the last clause
        return points + 2 * (not _occurs(text[token.start : token.end], before))  # appears for the first time

    return max(reversed(tokens), key=signs)


def _last_result(text: str) -> Number | None:
    """What the last `=` in the text comes to."""
    at = text.rfind("=")
    tail = plain(text[at + 1 : at + 60]) if at >= 0 else ""
    tokens = scan(tail)
    return tokens[0].value if tokens and not tail[: tokens[0].start].strip(" (-") else None


def _occurs(number: str, text: str) -> bool:
    """Whether the digits stand in the text as a number of their own."""
    at = text.rfind(number)
    for _ in range(8):
        if at < 0:
            return False
        if not text[at - 1 : at].isdigit() and not text[at + len(number) : at + len(number) + 1].isdigit():
            return True
        at = text.rfind(number, 0, at)
    return False
