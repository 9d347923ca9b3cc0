"""Numbers in plain text, each with its exact value.

Values are `Decimal`, or `Fraction` where no finite decimal exists, so that `==` compares exactly.
"""

import re
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from tiny_math_solver.grading.markup import plain
from tiny_math_solver.grading.scales import POWERS, SCALE, power_of

Number = Decimal | Fraction

MAX_DIGITS = 2000  # a longer run of digits is not read as a number
MAX_NUMBERS = 24  # numbers looked at in one piece of text


class Mention(NamedTuple):
    """A number at text[start:end]; `value` is None if it is not exactly one (`1,5`, `2:30`, `18x`)."""

    value: Number | None
    start: int
    end: int


def find_numerals(text: str, start: int = 0, most: int = MAX_NUMBERS) -> list[Mention]:
    """The numbers of a plain text that are written in digits, in order, at most `most` of them."""
    mentions = []
    for match in _NUMBER.finditer(text, start):
        mentions.append(Mention(_value(text, match), match.start(), match.end()))
        if len(mentions) == most:
            break
    return mentions


def find_number_words(text: str) -> list[Mention]:
    """The numbers of a plain text that are written in words, such as "one hundred and twenty-five", in order."""
    lower = text.lower()
    if not any(word in lower for word in _STEMS):
        return []
    mentions = []
    for match in _SPELLED.finditer(text):
        value = None if match["part"] else _words_value(match["words"].lower())
        if value is not None and _negative(lower, match.start()):
            value = value.copy_negate()
        mentions.append(Mention(value, match.start(), match.end()))
    return mentions[:MAX_NUMBERS]


def find_numbers(text: str) -> list[Mention]:
    """The numbers of a plain text: those in digits if there are any, else those in words."""
    return find_numerals(text) or find_number_words(text)


def parse_number(text: str) -> Number | None:
    """The value of a text that is one number, with a sign, currency, percent or markup at most; else None."""
    text = text.strip()
    if len(text) > 2 * MAX_DIGITS:
        return None
    if len(text) <= MAX_DIGITS and text.isascii() and text.isdigit():
        return Decimal(text)
    bare = plain(text).strip(" ()").rstrip(" .()")  # a point in front belongs to the number: .5
    mentions = find_numerals(bare)
    if len(mentions) != 1 or bare[mentions[0].end :].strip(" )"):
        return None
    lead = bare[: mentions[0].start]
    return None if lead.strip(" (+-") or lead.count("-") > 1 else mentions[0].value


def write_number(value: Number) -> str:
    """A number as text; equal numbers have equal texts: 18.00 and 18 are both "18"."""
    if isinstance(value, Fraction):
        return str(value)
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def negate(value: Number) -> Number:
    return value.copy_negate() if isinstance(value, Decimal) else -value  # unary minus rounds a Decimal


def canonical(value: Fraction) -> Number:
    """The value as a Decimal if it has finitely many digits, so that equal numbers have one representation."""
    twos = fives = 0
    rest = value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return value
    places = max(twos, fives)
    return Decimal(f"{value.numerator * 2 ** (places - twos) * 5 ** (places - fives)}e-{places}")


# -- Digits ---------------------------------------------------------------------------------------------------

# Starts with a character class, not a look-behind: the engine can then skip ahead to the next digit.
_NUMBER = re.compile(
    rf"""(?P<body>[\d.](?<![A-Za-z0-9_].)(?:
        (?<=\d)\d{{0,8}}(?:\ and)?\ \d{{1,9}}/\d{{1,9}}(?![\d/])           # 2 1/2
      | (?<=\d)\d{{0,2}}(?:\ \d{{3}})+(?![\d,]|-[A-Za-z])(?:\.\d+)?      # 18 000
      | (?:(?<=\d)|(?<!\.\.)(?=\d))(?:\d|[.,'_:/](?=\d))*            # 1,200.50  3/4  2:30
        (?:[eE][+-]?\d+(?!\w))?                                      # 1e3
        (?P<ten>\s?[*x]\s?10\^\(?[+-]?\d{{1,3}}\)?|(?<=10)\^\(?[+-]?\d{{1,3}}\)?)?  # 1.8 * 10^3, 10^3
    ))
    (?: \s?%
      | (?P<glued>[A-Za-z]\w*\d|[ijnopqruvxyz]\b|\s?pi\b|\s?\u2030)          # 0x12, 18x, 18 pi, per mille
      | (?P<scale>{SCALE.replace(" ", "")})                           # 3 lakh
    )?
    (?:\ and\ a\ (?P<part>half|third|quarter)\b
      |(?:\ dollars?,?(?:\ and)?|\ and)\ (?P<cents>\d\d?)\ cents?\b  # 3 dollars and 50 cents
    )?
    """,
    re.VERBOSE | re.ASCII,
)
_SIMPLE = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|[1-9]\d?(?:,\d\d)+,\d{3}(?:\.\d+)?", re.ASCII)
_SPACED = re.compile(r"\d{1,3}(?:[ '_]\d{3})+(?:\.\d+)?", re.ASCII)
_EUROPEAN = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}", re.ASCII)
_PARTS = {"half": Fraction(1, 2), "third": Fraction(1, 3), "quarter": Fraction(1, 4)}


def _value(text: str, match: "re.Match[str]") -> Number | None:
    body = match["body"]
    if len(body) > MAX_DIGITS or match["glued"]:
        return None
    value = Decimal(body) if len(body) < 16 and body.isdigit() else _body_value(body, match["ten"])
    if match.end("body") != match.end() and value is not None:
        value = _scaled(value, match)
    return negate(value) if value is not None and _negative(text, match.start()) else value


def _body_value(body: str, ten: str | None) -> Number | None:
    if ten:
        value = _decimal(body[: len(body) - len(ten)] if "*" in ten or "x" in ten else "1")
        return None if value is None else _shifted(value, int(ten.partition("^")[2].strip("()")))
    if "/" not in body:
        return _decimal(body)
    whole, _, ratio = body.rpartition(" ")
    top, _, low = (_decimal(part) for part in ratio.partition("/"))
    if top is None or not low or any(abs(int(part.as_tuple().exponent)) > 400 for part in (top, low)):
        return None
    return canonical(Fraction(whole.removesuffix(" and") or 0) + Fraction(top) / Fraction(low))


def _decimal(body: str) -> Decimal | None:
    """The value of digits with separators; None if they can be read in two ways, as 1,5 and 2:30 can."""
    if _SIMPLE.fullmatch(body):
        return Decimal(body)
    if _GROUPED.fullmatch(body):
        return Decimal(body.replace(",", ""))
    if _SPACED.fullmatch(body):
        return Decimal(re.sub(r"[ '_]", "", body))
    if _EUROPEAN.fullmatch(body):
        return Decimal(body.replace(".", "").replace(",", "."))
    hour, _, minutes = body.partition(":")
    return Decimal(hour) if minutes == "00" and hour.isdigit() else None


def _scaled(value: Number, match: "re.Match[str]") -> Number | None:
    scale, part, cents = match["scale"], match["part"], match["cents"]
    if part or cents:
        value = canonical(Fraction(value) + (_PARTS[part] if part else Fraction(int(cents), 100)))
    if scale:
        if _SPELLED.match(match.string, match.end() + 1) or _SPELLED.match(match.string, match.end() + 5):
            return None  # 3 thousand five hundred
        power = power_of(scale)
        return None if power is None or not isinstance(value, Decimal) else _shifted(value, power)
    return value


def _shifted(value: Decimal, power: int) -> Decimal:
    """`value` times a power of ten, without the rounding of Decimal arithmetic."""
    sign, digits, exponent = value.as_tuple()
    return Decimal((sign, digits, int(exponent) + power))


def _negative(text: str, start: int) -> bool:
    """True if a minus before the number is its sign, not an operator, a range or a dash."""
    before = text[max(0, start - 12) : start].rstrip(" (")
    if "-" not in before and "minus" not in before and "negative" not in before:
        return False
    if before[-1:] == "-":
        ahead = before[:-1].rstrip()
        if ahead[-1:].isdigit() or ahead.endswith((")", "%", "-")):
            return False
        return text[start - 1] == "-" or not ahead or ahead[-1] in "=:("
    return before.endswith(("minus", "negative")) and not before.rpartition(" ")[0].rstrip()[-1:].isdigit()


# -- Words ----------------------------------------------------------------------------------------------------

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: value for value, word in enumerate(_UNITS.split())}
_WORDS |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
_STEMS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "ty", "el", "zero", "hund")
_SCALES = "thousand|million|billion|trillion|lakh|crore"
_SPELLED = re.compile(
    rf"\b(?P<words>(?:{'|'.join(_WORDS)}|an? (?=hundred|dozen|{_SCALES}))"
    rf"(?:[\s-]*(?:\band\s+)?\b(?:{'|'.join(_WORDS)}|hundred|{_SCALES})\b)*)\b"
    r"(?P<part>(?: and a|-a)?[ -](?:half|halves|(?:third|quarter|(?:four|fif|six|seven|eigh|nin|ten)th)s?)\b)?",
    re.ASCII | re.IGNORECASE,
)


def _words_value(words: str) -> Decimal:
    total = group = 0
    for word in re.split(r"[\s-]+", words):
        if word == "hundred":
            group *= 100
        elif word in POWERS:
            total, group = (total + group) * 10 ** POWERS[word], 0
        else:
            group += 1 if word in ("a", "an") else _WORDS.get(word, 0)
    return Decimal(total + group)
