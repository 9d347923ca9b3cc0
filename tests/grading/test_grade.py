"""`Graded`: the one shape of a graded completion, held to the reader and to the rewards in TRL's signature."""

import pytest

from helpers.answer_cases import CASES
from helpers.hard_cases import HARD_CASES
from tiny_math_solver.grading import Graded, How, extract_answer, grade, is_correct, write_number
from tiny_math_solver.grading.rewards import correctness_reward, format_reward
from tiny_math_solver.rewards.completion import Completion
from tiny_math_solver.rewards.grader import Grader


def paid(graded: Graded) -> dict[str, float | None]:
    return Grader().rewards([Completion([], {}, [1], graded)])[0]


def test_grading_is_what_the_reader_and_both_rewards_say() -> None:
    for case in [*CASES, *HARD_CASES]:
        graded = grade(None, case.text, case.gold)
        found = extract_answer(case.text)
        assert graded.answer == (None if found.value is None else write_number(found.value))
        assert graded.how is found.how
        assert graded.correct is case.correct
        assert graded.strict is is_correct(case.text, case.gold, strict=True)
        assert paid(graded) == {
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
    assert tuple(paid(graded).values()) == rewards


def test_without_a_gold_nothing_is_correct() -> None:
    graded = grade("How many?", "#### 18", None)
    assert graded == Graded("18", How.HASHES, correct=False, text="#### 18")
    assert (graded.answer, graded.strict) == ("18", False)
    assert paid(graded) == {"correctness_reward": 0.0, "format_reward": 0.5}


def test_an_unreadable_gold_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"gold answer .*'eggs'"):
        grade("How many?", "#### 18", "eggs")
