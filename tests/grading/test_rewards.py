"""The rewards in TRL's signature: values, shapes of completions, and what they refuse to pay for."""

from typing import Any

import pytest

import reward_func
from helpers.answer_cases import CASES
from helpers.hard_cases import HARD_CASES
from tiny_math_solver.grading.rewards import correctness_reward, format_reward


def chat(text: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def test_rewards_over_the_table() -> None:
    """The two rewards are the reader's verdict and nothing else, in both forms of a completion."""
    cases = [*CASES, *HARD_CASES]
    texts, golds = [case.text for case in cases], [case.gold for case in cases]
    correct = [1.0 if case.correct else 0.0 for case in cases]
    formatted = [0.5 if case.how == "hashes" else 0.0 for case in cases]
    assert correctness_reward(completions=texts, answer=golds) == correct
    assert correctness_reward(completions=[chat(text) for text in texts], answer=golds) == correct
    assert format_reward(completions=texts) == formatted
    assert format_reward(completions=[chat(text) for text in texts]) == formatted


def test_called_as_trl_calls_it() -> None:
    """TRL passes the prompts, token ids, trainer state, loggers and every other column by keyword."""
    columns: dict[str, Any] = {
        "prompts": [[{"role": "user", "content": "How many?"}]] * 3,
        "completions": [chat("#### 18"), chat("#### 20"), chat("The answer is 18.")],
        "completion_ids": [[1], [2], [3]],
        "answer": ["18", "18", "18"],
        "question": ["How many?"] * 3,
        "trainer_state": object(),
        "log_extra": print,
        "log_metric": print,
    }
    assert correctness_reward(**columns) == [1.0, 0.0, 1.0]
    assert format_reward(**columns) == [0.5, 0.5, 0.0]


def test_names_are_what_trl_logs() -> None:
    assert reward_func.correctness_reward.__name__ == "correctness_reward"
    assert reward_func.format_reward.__name__ == "format_reward"
    assert reward_func.correctness_reward is correctness_reward
    assert reward_func.format_reward is format_reward


@pytest.mark.parametrize(
    "completion",
    [
        "#### 18",
        [{"role": "assistant", "content": "#### 18"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "9 * 2"}, {"type": "text", "text": "#### 18"}]}],
        [{"role": "assistant", "content": "Let me think."}, {"role": "assistant", "content": "#### 18"}],
        {"role": "assistant", "content": "#### 18"},
    ],
)
def test_every_form_of_a_completion(completion: Any) -> None:
    assert correctness_reward([completion], ["18"]) == [1.0]
    assert format_reward([completion]) == [0.5]


@pytest.mark.parametrize(
    "completion", ["", None, [], [{}], chat(None), chat(""), chat([]), chat([{"type": "image"}]), 18]
)
def test_no_text_is_paid_nothing(completion: Any) -> None:
    assert correctness_reward([completion], ["0"]) == [0.0]
    assert format_reward([completion]) == [0.0]


def test_empty_batch() -> None:
    assert correctness_reward([], []) == []
    assert format_reward([]) == []


def test_gold_column_takes_numbers_and_whole_solutions() -> None:
    assert correctness_reward(["#### 18"] * 4, ["18", 18, 18.0, "9 * 2 = 18\n#### 18"]) == [1.0] * 4


def test_unreadable_gold_names_its_row() -> None:
    """Zero reward for a broken gold would look like a problem the model never solves."""
    with pytest.raises(ValueError, match=r"row 1: gold answer .*'eggs'"):
        correctness_reward(["#### 18", "#### 18"], ["18", "eggs"])


def test_columns_of_different_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        correctness_reward(["#### 18", "#### 18"], ["18"])


def test_copying_the_prompt_is_paid_nothing() -> None:
    prompt = "Weng earns $12 an hour for babysitting. What does she earn in 1 hour of it?"
    for prompts in ([prompt], [[{"role": "user", "content": prompt}]]):
        assert correctness_reward(["Weng earns $12 an hour for babysitting."], ["12"], prompts=prompts) == [0.0]
        assert correctness_reward(["She earns 12 * 1 = $12."], ["12"], prompts=prompts) == [1.0]


@pytest.mark.parametrize(
    "text", ["####" * 1000, "#### " * 1000, "#### #### ####", "#### x", "#### 18 or 20", "18 ####", "####\n\n"]
)
def test_hashes_without_one_number_are_no_format(text: str) -> None:
    """Format alone was once learned to 1.00 while accuracy fell: it has to hold an answer."""
    assert format_reward([text]) == [0.0]
