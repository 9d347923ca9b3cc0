"""The two rewards of GRPO training in TRL's signature, for scripts; a run takes them from a completion graded once."""

from collections.abc import Sequence
from typing import Any

from tiny_math_solver.config.rewards import CORRECTNESS_REWARD, FORMAT_REWARD
from tiny_math_solver.grading.grade import grade, grade_against, parse_gold

__all__ = ["CORRECTNESS_REWARD", "FORMAT_REWARD", "as_text", "correctness_reward", "format_reward"]


def correctness_reward(completions: Sequence[Any], answer: Sequence[Any], **kwargs: Any) -> list[float]:
    """Pay 1.0 where the completion's final answer equals the gold number, else 0.0.

    `completions` are strings or chat messages, `answer` the gold column. TRL passes the other columns by keyword;
    `prompts`, if given, keeps copied prompts from counting. Raises ValueError naming the row of an unreadable gold.
    """
    prompts = kwargs.get("prompts") or [None] * len(completions)
    rewards = []
    for row, (completion, gold, prompt) in enumerate(zip(completions, answer, prompts, strict=True)):
        try:
            expected = parse_gold(gold)
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from None
        graded = grade_against(as_text(prompt), as_text(completion), expected)
        rewards.append(CORRECTNESS_REWARD if graded.correct else 0.0)
    return rewards


def format_reward(completions: Sequence[Any], **kwargs: Any) -> list[float]:
    """Pay 0.5 where the final answer, right or wrong, stands after `####`, else 0.0."""
    prompts = kwargs.get("prompts") or [None] * len(completions)
    return [
        FORMAT_REWARD if grade(as_text(prompt), as_text(completion), None).is_marked else 0.0
        for completion, prompt in zip(completions, prompts, strict=True)
    ]


def as_text(message: Any) -> str:
    """The text of a completion or prompt: a string, a message, a list of messages or of content parts."""
    if isinstance(message, str):
        return message
    if isinstance(message, dict):
        return as_text(message.get("content") or message.get("text"))
    if isinstance(message, (list, tuple)):
        return "\n".join(filter(None, map(as_text, message)))
    return ""
