"""What a stretch of plain text commits to: one number, or nothing.

Two numbers in a row are read by the link between them: `6 * 3 = 18` is finished by its equals sign, `18 or 20` and
`17-19` leave two candidates, "20, no wait, 18" replaces one by the other. Where a sentence in prose has several
numbers and no such link, the one with the most signs of being the result is taken.
"""

import re
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from tiny_math_solver.grading.markup import Cue, plain
from tiny_math_solver.grading.numerals import Number, Token, numbers, scan

WIDE = 60  # characters between two numbers that may still be linked


class Reading(NamedTuple):
    """`value` is None where the text up to `end` commits to no single number; `span` is what was read."""

    value: Number | None
    span: str
    end: int
    calculated: bool = False  # the number is the result of a calculation written out
    twin: Number | None = None  # the same quantity in another unit, as in "1.5 hours (90 minutes)"


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
HEDGE_STEMS = "or|altern|maybe|perhaps|possib|vs|versus"
_HEDGED = Cue(HEDGE_STEMS, rf"\b{HEDGE}\b")
_RETRACTED = (
    r"wait|actually|correction|corrected|no(?=[,.:;-])|no wait|sorry|mistake|wrong|incorrect|not (?:right|correct)"
    r"|i mean|i meant|oops|kidding|edit(?=:)|can'?t be (?:right|correct)|scratch|take (?:that|it) back|never ?mind"
    r"|disregard|ignore (?:that|this|the above)"
)
_STEMS = (
    "wait|actual|correct|no,|no.|no:|no;|no-|sorry|mistake|wrong|not right|mean|oops|kidding|edit:|t be |scratch"
    "|back|never|disregard|ignore"
)
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
    lower = gap.lower()
    if len(gap) <= WIDE:
        if gap.count(" ") < 8:
            for kind, cue in LINKS.items():
                if cue.fullmatch(lower):
                    return kind
        if _HEDGED.search(lower):
            return "hedge"
    return "corrected" if CORRECTED.search(lower) else None


def chain(text: str, tokens: list[Token]) -> Reading:
    """Follow the links from the first number on: `6 * 3 = 18`, `18 or 20`, `20, no wait, 18`."""
    first = last = tokens[0]
    best = first.value
    left: Number | None = None  # the left side of an equation, if it is a plain number
    twin: Number | None = None
    unfinished = _unevaluated(text, first)
    calculated = compound = false = False
    for token in tokens[1:]:
        gap = text[last.end : token.start]
        kind = link(gap)
        if not unfinished and _same_quantity(text, last, token):
            best, twin = (token.value, best) if kind == "equals" else (best, token.value)
        elif kind is None:
            if not (_rounds(best, token.value) or (compound and _RESTATES.fullmatch(gap))):
                break
            best, unfinished = token.value, False
        elif kind in ("operator", "compound"):
            unfinished = calculated = True
            compound = kind == "compound"
            false = False
        elif kind == "equals":
            false = not unfinished and not gap.strip(" ()=") and not _close(best, token.value)  # 18 = 81
            left = left if unfinished else best
            best, twin, unfinished, calculated = token.value, None, False, True
        elif kind == "corrected":
            best, twin, unfinished = token.value, None, False
        elif token.value != best:
            if kind == "list" and _counts(text, gap, token):
                break
            return Reading(None, text[first.start : token.end], token.end)
        last = token
    if unfinished:  # `18 = 9 * 2` keeps 18, `9 * 2` alone is not an answer
        best = left
    if (false and not unfinished) or _UNDONE.match(text, last.end):
        best = None
    whole = best is None or twin is not None
    return Reading(best, text[(first if whole else last).start : last.end], last.end, calculated, twin)


MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}\.?"
# What undoes the number in front of it: `18 squared`, `18 < x`, `18 is not the answer`, `18 eggs?`, `18% of 50`
_UNDONE = re.compile(
    r"\s*(?:[<>]|(?:squared|cubed|factorial|mod|choose|is not|isn't)\b)|[^.!?\n]{0,30}\?| over [\d.,]+\W*\Z"
    rf"| {MONTH} \d{{4}}|(?<=%) of \d| (?:more|less|fewer) than \d",
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEGATIONS = _words("not never cannot except")
_NOT_A_VALUE = _NEGATIONS | _words("sqrt log ln sin cos tan twice double triple thrice")
_COMPARISONS = _words("more less fewer greater")
_PARTS = _words("half third quarter root square cube")


def _unevaluated(text: str, token: Token) -> bool:
    """Whether what stands before a number denies it or makes another of it: `not 18`, `> 18`, `sqrt(18)`, `x + 18`."""
    lead = text[max(0, token.start - 20) : token.start].rstrip(" (").lower()
    if lead.endswith("--") and token.value is not None and not lead[:-2].rstrip()[-1:].isalnum():
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


def _counts(text: str, gap: str, token: Token) -> bool:
    """Whether a number counts things that have one in their name: `2 $10 bills`, `12 200-kilobyte videos`."""
    return gap == " " and _UNIT.match(text, token.end + (text[token.end : token.end + 1] == "-")) is not None


def _rounds(value: Number | None, other: Number | None) -> bool:
    """Whether `other` is `value` made whole, as in "6.67, so 7 buses"."""
    if value is None or other is None:
        return False
    exact, whole = Fraction(value), Fraction(other)
    return exact.denominator != 1 and whole.denominator == 1 and abs(exact - whole) < 1


def _close(value: Number | None, other: Number | None) -> bool:
    """Whether two sides of an equation agree, up to a rounding to or from a fraction."""
    if value is None or other is None or value == other:
        return True
    exact = Fraction(value)
    return exact.denominator != 1 and abs(exact - Fraction(other)) < 1


_UNIT = re.compile(r"\s*((?:per |a )?(?!or\b|and\b|is\b)[A-Za-z]{1,12})")
_RESTATES = Cue(
    "(|/|=| or|,or| is|equals|i.e",
    r"[\sa-z.%]{0,20}(?:[(/=]|[ ,]+(?:or|is|equals|i\.e\.))[\s(,=~]*(?:about |exactly |equivalently )?",
)
_SAME = {7, 12, 24, 60, 100, 365, 1000, 3600}
_HUNDREDTHS = ("%", "percent", "cent")
_MEASURES = (
    *_HUNDREDTHS, "dollar", "dozen", "sec", "min", "hour", "hr", "day", "week", "month", "year", "inch", "foot", "feet",
    "ft", "yard", "met", "cm", "kilo", "km", "kg", "gram", "lit", "per ", "a ",
)  # fmt: skip


def _same_quantity(text: str, left: Token, right: Token) -> bool:
    """Whether the two are one quantity in two units, as in `90 minutes or 1.5 hours`, `0.54 or 54%`."""
    if not (left.value and right.value) or not _RESTATES.fullmatch(text[left.end : right.start]):
        return False
    one, other = sorted((_unit(text, left), _unit(text, right)))
    if one == other or not other.startswith(_MEASURES if one else _HUNDREDTHS):
        return False
    if one and not one.startswith(_MEASURES):
        return False
    ratio = abs(Fraction(left.value) / Fraction(right.value))
    return ratio in _SAME or 1 / ratio in _SAME


def _unit(text: str, token: Token) -> str:
    """The word or the percent sign behind a number; empty if there is none."""
    if text[token.end - 1] == "%":
        return "%"
    unit = _UNIT.match(text, token.end)
    return unit[1].lower() if unit else ""


# -- A sentence in prose ----------------------------------------------------------------------------------------

_DIGIT = re.compile(r"\d")
_WORKING = re.compile(r"(?<!=)\s\([^()]*\d\s*[-+*/=][^()]*\)\W*\Z")  # She makes 18 a day (9 * 2)
_UNSOLVED = re.compile(r"(?:\d[xyz]|\b[xyz] ?[-+*/] ?[\d.]+|[\d.] ?[-+*/] ?[xyz])\s*\Z")  # 2x = 36, x + 2 = 20
_WORDED = re.compile(r"[A-Za-z=\u0080-\uffff]")
_NO_NUMBER = re.compile(  # a bound or a date and nothing else
    rf"\W*(?:(?:it )?is )?(?:(?:up to|at least|at most|(?:no|not) (?:more|less|fewer) than)\W*[\d.,]+(?: [a-z]+){{0,2}}"
    rf"|(?:on )?{MONTH} \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?)\W*",
    re.I,
)


def statement(text: str, before: str = "", question: str | None = None) -> Reading:
    """The number that a sentence states as its result; `before` is the working that leads up to it."""
    nothing = Reading(None, text[-80:], len(text))
    if len(text) < WIDE and _NO_NUMBER.fullmatch(text):
        return nothing
    if ")" in text and (aside := _WORKING.search(text)) and _DIGIT.search(text, 0, aside.start()):
        text = text[: aside.start()]
    equals = max(text.rfind("="), text.rfind("->"))
    if " equal" in text:
        equals = max(equals, text.rfind(" equals "), text.rfind(" equal to "))
    if equals >= 0:
        if _UNSOLVED.search(text, 0, equals):
            return nothing
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
    if len({token.value for token in tokens}) <= 1:
        return Reading(tokens[-1].value, text[tokens[-1].start : tokens[-1].end], len(text)) if tokens else nothing
    if not _WORDED.search(text):
        return nothing
    if owners := _owners(text, tokens):
        asked = [token for token, name in owners if name in (question or "").rpartition(". ")[2]]
        chosen = asked[0] if len(asked) == 1 else None
    else:
        chosen = _result(text, tokens, before, question or "")
    if chosen is None:
        return nothing
    twins = (
        pair[pair[0] is chosen].value for pair in pairwise(tokens) if chosen in pair and _same_quantity(text, *pair)
    )
    return Reading(chosen.value, text[chosen.start : chosen.end], len(text), twin=next(twins, None))


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
    if LINKS["compound"].fullmatch(gap) or (bare in ("and", "to", "up to", "-") and _PAIR.search(lead)):
        return "pair"
    if bare in ("-", "+-", "to", "up to", "/") or _HEDGED.search(gap):
        rival = True
    elif not final or _COMPARED.match(text, right.end):
        rival = False
    elif LINKS["list"].fullmatch(gap):
        rival = not lead.endswith((" in ", " on ", " by ")) and not _counts(text, gap, right)
    else:
        rival = LINKS["operator"].fullmatch(gap) is not None
    return "rival" if rival and not _same_quantity(text, left, right) else None


_OWNER = re.compile(r"\b([A-Z][a-z]+)\b(?: (?:will|would|can|should)\b)?(?: ([a-z]+)(?: [a-z]+){0,2})? \Z")


def _owners(text: str, tokens: list[Token]) -> list[tuple[Token, str]] | None:
    """Whose each number is, where the sentence gives one to each of several: "Tom has 18 eggs and Ann has 12"."""
    owners: list[tuple[Token, str]] = []
    verb, end = None, 0
    for token in tokens:
        match = _OWNER.search(text, end, token.start)
        if match is None or (match[2] not in (verb, None) if owners else match[2] is None):
            return None
        verb, end = verb or match[2], token.end
        owners.append((token, match[1]))
    return owners if len({name for _, name in owners}) == len(owners) else None


_RESULT_WORDS = _words(  # also with an s
    "is are was were be been total equal make made earn earned have has had cost pay paid need take spent spend get"
    " save receive give leaving worth become only exactly approximately about sold sell use used ate eat"
)
_OBJECTS = _words("her him them us")
_RESULT_PAIRS = {"total of", "sum of", "average of", "profit of", "maximum of", "minimum of", "left with"}
_CONTEXT_WORDS = _words(
    "for in after of per every from with at by within during over than each the if these those all both other"
    " first next last plus minus day week step age her his their another and"
)
_SUBORDINATE = Cue(
    "by|knowing|because|since|after|if|when|given|while|before|assuming|provid|wh|out of|that|(|i.e",
    r"(?<=\d)(?: [\w'-]+){1,12} (?:if|because|since|assuming|provided|so that)\b(?:(?!,? (?:so|then)\b).)*"
    r"|\b(?:by [a-z]+ing|knowing|because|since|after|if|when|given|while|before|assuming|provided|where|who"
    r"|from which|out of|so that|that costs?"
    r"|which (?:is|are|was) (?:the|a|an|how|[\d.,]+ (?:more|less|fewer|times)))\b[^,;]*|\([^()]*\)|\bi\.e\..*",
)
_CLAUSE = Cue(
    ",|so|therefore|thus|hence|then",
    r"\b(?:so(?! that)|therefore|thus|hence|then)\b|,",
)
_PURPOSE = re.compile(
    r"(?<! by \d )(?<! by \d\d )(?<!need )(?<!needs )(?<!has )(?<!have )(?<!had )\bto [a-z]+(?: [a-z]+){0,4}\s*$"
)
_COMPARED = re.compile(
    r" (?:of (?:which|whom|them|these|those)|times (?:as|more|the|that|what|his|her)|as (?:much|many)"
    r"|(?:more|less|fewer) than)\b"
)
_ADJECTIVE = re.compile(rf"{_COMPARED.pattern}|-[a-z]")


def _result(text: str, tokens: list[Token], before: str, question: str) -> Token:
    """The number of the sentence with the most signs of being its result; of equals, the last one."""
    computed = _last_result(before)
    asides = _SUBORDINATE.spans(text)
    clauses = _CLAUSE.spans(text[tokens[0].end : tokens[-1].start])
    main = tokens[0].end + clauses[-1][1] if clauses else 0
    concluded = text[main - 1 : main].isalpha()  # the last clause begins with "so"

    def signs(token: Token) -> int:
        lead = text[max(0, token.start - 30) : token.start]
        words = [word for word in lead.lower().rstrip(" -").split() if word not in _OBJECTS][-2:] or [""]
        if _ADJECTIVE.match(text, token.end) or (token is not tokens[0] and " to " in lead and _PURPOSE.search(lead)):
            points = 0
        elif not _RESULT_WORDS.isdisjoint((words[-1], words[-1].removesuffix("s"))) or " ".join(words) in _RESULT_PAIRS:
            points = 4
        else:
            points = 0 if words[-1] in _CONTEXT_WORDS else 2
        aside = any(start <= token.start < end for start, end in asides)
        points += -4 if aside else (3 + 3 * concluded) * (token.start >= main)  # in the last clause
        points += 3 * (token.value == computed) - 6 * (token.value is None)  # the working came to it
        number = text[token.start : token.end]
        points += 2 * (not _occurs(number, before))  # appears for the first time
        return points + 3 * (bool(question) and not _occurs(number, question))  # and not in the question

    return max(reversed(tokens), key=signs)


def _last_result(text: str) -> Number | None:
    """What the last `=` in the text comes to."""
    at = text.rfind("=")
    tail = plain(text[at + 1 : at + 32]) if at >= 0 else ""
    tokens = scan(tail, most=1)
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
