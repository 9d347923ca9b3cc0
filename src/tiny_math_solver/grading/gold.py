"""Gold answers: the exact value of a number, or of a whole solution that ends in `#### 18`."""

from decimal import Decimal
from fractions import Fraction

from tiny_math_solver.grading.numerals import MAX_DIGITS, Number, canonical, parse_number
from tiny_math_solver.grading.turns import visible


def parse_gold(answer: "str | int | float | Number") -> Number:
    """The value of a gold answer, cleaned of turn tokens and reasoning as a completion is.

    Raises ValueError if it is not one finite number.
    """
    value: Number | None = None
    if isinstance(answer, str):
        text = visible(answer)
        value = parse_number(text.rpartition("####")[2])
    elif isinstance(answer, Fraction):
        value = canonical(answer)
    elif isinstance(answer, Decimal):  # comparing writes out an exponent of thousands
        value = answer if answer.is_finite() and abs(answer.adjusted()) <= MAX_DIGITS else None
    elif isinstance(answer, (int, float)) and not isinstance(answer, bool):
        value = parse_number(str(answer))
    if value is None:
        raise ValueError(f"gold answer is not one number: {str(answer)[-80:]!r}")
    return value
