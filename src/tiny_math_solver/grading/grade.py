"""A completion and its gold answer → `Graded`, the one shape that training, evaluation and the playground use."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.numerals import MAX_DIGITS, Number, canonical, parse_number, write_number
from tiny_math_solver.grading.reader import extract_answer
from tiny_math_solver.grading.turns import visible

CORRECTNESS_REWARD = 1.0
FORMAT_REWARD = 0.5

Gold = str | int | float | Number  # "18", 18, or a whole GSM8K solution that ends in "#### 18"


@dataclass(frozen=True, slots=True)
class Graded:
    """One graded completion; `value` is None exactly when `how` is NONE."""

    value: Number | None  # the number read off the completion
    how: How  # where it was found
    correct: bool  # lenient: it equals the gold, wherever it was found
    text: str = ""  # the completion

    @property
    def answer(self) -> str | None:
        """The number as text; equal numbers have equal texts."""
        return None if self.value is None else write_number(self.value)

    @property
    def strict(self) -> bool:
        """True if the answer is correct and stands after `####`."""
        return self.correct and self.how is How.HASHES

    @property
    def rewards(self) -> dict[str, float]:
        return rewards_of(self.text, self.correct, self.how)


def grade(question: str | None, text: str | None, gold: Gold | None) -> Graded:
    """Read the answer off `text` and compare it with `gold`; without a gold nothing is correct.

    `question` is the whole prompt as text, system prompt included: whatever the completion copies from it is not an
    answer. Raises ValueError if the gold cannot be read.
    """
    return grade_against(question, text, None if gold is None else parse_gold(gold))


def grade_against(question: str | None, text: str | None, expected: Number | None) -> Graded:
    """As `grade`, with the gold already parsed."""
    found = extract_answer(text, question=question)
    return Graded(found.value, found.how, expected is not None and found.equals(expected), text or "")


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


def rewards_of(text: str, correct: bool, how: str) -> dict[str, float]:
    """The rewards of a completion by name: for the right number, and for an answer after `####`, right or wrong."""
    return {
        "correctness_reward": CORRECTNESS_REWARD if correct else 0.0,
        "format_reward": FORMAT_REWARD if how == How.HASHES else 0.0,
    }


REWARDS = tuple(rewards_of("", True, How.HASHES))  # their names, in the order in which TRL calls them
