"""`Graded`: the one shape of a graded completion, held to the reader and to the rewards in TRL's signature."""

from decimal import Decimal

import pytest

from helpers.answer_cases import CASES
from helpers.hard_cases import HARD_CASES
from tiny_math_solver.evaluation.evaluate import EvaluationRecord
from tiny_math_solver.grading import Graded, How, extract_answer, grade, is_correct
from tiny_math_solver.grading.rewards import correctness_reward, format_reward


def test_grading_is_what_the_reader_and_both_rewards_say() -> None:
    for case in [*CASES, *HARD_CASES]:
        graded = grade(None, case.text, case.gold)
        found = extract_answer(case.text)
        assert (graded.value, graded.how) == (found.value, found.how)
        assert graded.correct is case.correct
        assert graded.strict is is_correct(case.text, case.gold, strict=True)
        assert graded.rewards == {
            "correctness_reward": correctness_reward([case.text], [case.gold])[0],
            "format_reward": format_reward([case.text])[0],
        }


@pytest.mark.parametrize(
    ("text", "answer", "how", "correct", "strict", "rewards"),
    [
        ("9 * 2 = 18\n#### 18.00", "18", How.HASHES, True, True, (1.0, 0.5)),
        ("#### 1,900", "1900", How.HASHES, False, False, (0.0, 0.5)),
        ("The answer is 18.", "18", How.PHRASE, True, False, (1.0, 0.0)),
        ("#### 18 or 20", None, How.NONE, False, False, (0.0, 0.0)),
        ("", None, How.NONE, False, False, (0.0, 0.0)),
    ],
)
def test_a_graded_completion(
    text: str, answer: str | None, how: How, correct: bool, strict: bool, rewards: tuple[float, float]
) -> None:
    graded = grade("How many?", text, "18")
    assert (graded.answer, graded.how, graded.correct, graded.strict) == (answer, how, correct, strict)
    assert tuple(graded.rewards.values()) == rewards


def test_without_a_gold_nothing_is_correct() -> None:
    graded = grade("How many?", "#### 18", None)
    assert graded == Graded(Decimal(18), How.HASHES, correct=False, text="#### 18")
    assert (graded.answer, graded.strict) == ("18", False)
    assert graded.rewards == {"correctness_reward": 0.0, "format_reward": 0.5}


def test_an_unreadable_gold_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"gold answer .*'eggs'"):
        grade("How many?", "#### 18", "eggs")


def test_a_record_of_an_evaluation_has_the_rewards_of_training() -> None:
    for text in ("#### 18", "#### 19", "The answer is 18.", "18 or 20"):
        graded = grade(None, text, "18")
        record = EvaluationRecord(
            "p", "q", "18", text, graded.answer, graded.how.value, graded.correct, graded.strict, 3, True
        )
        assert record.rewards == graded.rewards
