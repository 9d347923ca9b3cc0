"""A completion and its gold number → `Graded`."""

from decimal import Decimal
from fractions import Fraction

from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.numerals import MAX_DIGITS, Number, canonical, parse_number, write_number
from tiny_math_solver.grading.reader import extract_answer
from tiny_math_solver.grading.tags import tagged
from tiny_math_solver.grading.turns import visible

Gold = str | int | float | Number  # "18", 18, or a whole GSM8K solution that ends in "#### 18"


def grade(question: str | None, text: str | None, gold: Gold | None, place: How = How.HASHES) -> Graded:
    """Read the answer off `text` and compare it with `gold`; without a gold nothing is correct.

    `question` is the whole prompt as text, system prompt included: whatever the completion copies from it is not an
    answer. `place` is where the prompt asks for the answer. Raises ValueError if the gold cannot be read.
    """
    return grade_against(question, text, None if gold is None else parse_gold(gold), place)


def grade_against(question: str | None, text: str | None, expected: Number | None, place: How = How.HASHES) -> Graded:
    """As `grade`, with the gold already parsed."""
    inner = tagged(text) if place is How.TAG else None
    found = extract_answer(text if inner is None else f"#### {inner}", question=question)
    how = How.TAG if inner is not None and found.how is How.HASHES else found.how
    answer = None if found.value is None else write_number(found.value)
    return Graded(answer, how, expected is not None and found.equals(expected), text or "", place)


def is_correct(text: str | None, gold: Gold, *, strict: bool = False, question: str | None = None) -> bool:
    """True if a completion's answer equals the gold number; with `strict` only if it stands after `####`.

    Raises ValueError if the gold cannot be read.
    """
    graded = grade(question, text, gold)
    return graded.strict if strict else graded.correct


def parse_gold(answer: Gold) -> Number:
    """The value of a gold answer or solution, cleaned of turn tokens and reasoning as a completion is.

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
