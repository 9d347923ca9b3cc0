"""The answer of a row → its gold number. A gold is surer than a completion: where two numbers could be meant, none is.

A number is taken as it is. A text is read by the first of these that applies:

1.  The text, or what follows its last `####`, is a number: `1,234`, `$5`.
2.  It names its result: `The answer is: 9`, `\\boxed{9}`. Where there is a `####` too, both must give the same number.
3.  It is one line with one number: `9 (apples)`, `She has 9.`
4.  It is worked out and its last sentence states the result: "… so 5 + 4 = 9 pens are left."
"""

import re
from decimal import Decimal
from typing import NamedTuple

from tiny_math_solver.grading.grade import is_correct, parse_gold
from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.markup import plain
from tiny_math_solver.grading.numerals import Number, find_numerals, parse_number, write_number
from tiny_math_solver.grading.reader import extract_answer

_POWER = re.compile(r"(?<=[a-z])(?:[²³]|\^\{?[23]\}?)", re.IGNORECASE)  # of a unit: m², cm^3
SHORTEST_WORKING = 30  # characters of a solution whose last sentence is read


class Gold(NamedTuple):
    """A gold as text, and the solution without it; `stated` is False if it stands within a sentence."""

    answer: str
    solution: str = ""
    stated: bool = True


def read_number(value: str | int | float | Decimal) -> Gold:
    """Raises ValueError if `value` is not one number that a completion could be paid for."""
    gold = _of_text(value) if isinstance(value, str) else _of_number(value)
    if gold is None or not _is_payable(gold.answer):
        shown = value[-60:] if isinstance(value, str) else str(value)[:60]
        raise ValueError(f"cannot read a gold number from the answer {shown!r}")
    return gold


def _of_number(value: int | float | Decimal) -> Gold | None:
    try:
        return Gold(write_number(parse_gold(value)))
    except ValueError:  # not finite, or too long
        return None


def _of_text(text: str) -> Gold | None:
    solution, marker, tail = text.rpartition("####")
    tail = tail.strip()
    if (number := parse_number(tail)) is not None:
        return Gold(tail if marker else write_number(number), solution.strip())
    named = extract_answer(tail)
    if named.value is not None and named.how in (How.BOXED, How.PHRASE) and extract_answer(text).value == named.value:
        return Gold(write_number(named.value), solution.strip() if marker else text.strip())
    if (number := _only_number(tail)) is not None:
        return Gold(write_number(number), solution.strip(), stated=bool(marker) or _begins_with_number(tail))
    if not marker and "=" in text and len(tail) >= SHORTEST_WORKING and tail[-1] in ".!" and named.value is not None:
        return Gold(write_number(named.value), tail, stated=False)
    return None


def _only_number(line: str) -> Number | None:
    if "\n" in line or len(find_numerals(plain(_POWER.sub("", line)))) != 1:
        return None
    return extract_answer(f"#### {line}").value


def _begins_with_number(line: str) -> bool:
    text = plain(line)
    return not text[: find_numerals(text)[0].start].strip(" (+-=")


def _is_payable(answer: str) -> bool:
    """True if a completion that ends in this gold earns the reward."""
    try:
        return is_correct(f"#### {answer}", parse_gold(answer), strict=True)
    except ValueError:
        return False
