"""Units: two numbers that are one quantity ("1.5 hours, or 90 minutes"), or a number that is part of a name.

Two numbers are one quantity if the text between them restates the first (RESTATES), they have different units of
measure (_MEASURES), and their ratio is one of _RATIOS, such as 60 for hours and minutes. A fraction and its percentage
count as well.
"""

import re
from fractions import Fraction

from tiny_math_solver.grading.cues import cue
from tiny_math_solver.grading.numerals import Mention, Number, canonical
from tiny_math_solver.grading.scales import batch_at


def same_quantity(text: str, left: Mention, right: Mention) -> bool:
    """True if both numbers are one quantity in two units, as in `90 minutes or 1.5 hours`, `0.54 or 54%`."""
    if not RESTATES.fullmatch(text[left.end : right.start]):
        return False
    one, other = sorted((_unit(text, left), _unit(text, right)))
    measured = other.startswith(_MEASURES) and one.startswith(_MEASURES) if one else other.startswith(_HUNDREDTHS)
    return one != other and measured and _converts(left.value, right.value)


def single_things(text: str, mention: Mention, value: Number) -> Number | None:
    """The number of single things if a number counts dozens or other batches: 36 for `3 dozen`."""
    size = batch_at(text, mention.end)
    return canonical(Fraction(value) * size) if size > 1 else None


def restated(value: Number, text: str, mention: Mention) -> bool:
    """True if a number is `value` in another unit of measure: 1800 in `1800 cents`, for 18 dollars."""
    return _unit(text, mention).startswith(_MEASURES) and _converts(value, mention.value)


def _converts(value: Number | None, other: Number | None) -> bool:
    if not value or not other:
        return False
    ratio = abs(Fraction(value) / Fraction(other))
    return ratio in _RATIOS or 1 / ratio in _RATIOS


def _unit(text: str, mention: Mention) -> str:
    """The word or percent sign after a number; empty if there is none."""
    if text[mention.end - 1] == "%":
        return "%"
    unit = _UNIT.match(text, mention.end)
    return unit[1].lower() if unit else ""


def counts_things(text: str, gap: str, mention: Mention) -> bool:
    """True if the number before the gap counts things named by `mention`: `2 $10 bills`, `12 200-kilobyte videos`."""
    return gap == " " and _UNIT.match(text, mention.end + (text[mention.end : mention.end + 1] == "-")) is not None


_UNIT = re.compile(r"\s*((?:per |a )?(?!or\b|and\b|is\b)[A-Za-z]{1,12})")
RESTATES = cue(  # an opening parenthesis, a slash, an equals sign, or a word such as "or"
    r"[\sa-z.%]{0,20}(?:[(/=]|[ ,]+(?:or|is|equals|i\.e\.))[\s(,=~]*(?:about |exactly |equivalently )?",
)
_RATIOS = {7, 12, 24, 60, 100, 365, 1000, 3600}
_HUNDREDTHS = ("%", "percent", "cent")
_MEASURES = (
    *_HUNDREDTHS, "dollar", "dozen", "sec", "min", "hour", "hr", "day", "week", "month", "year", "inch", "foot", "feet",
    "ft", "yard", "met", "cm", "kilo", "km", "kg", "gram", "lit", "per ", "a ",
)  # fmt: skip
