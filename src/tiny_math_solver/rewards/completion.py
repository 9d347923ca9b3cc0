"""What a reward is told of one completion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.prompts import Message

Rewards = dict[str, float | None]  # of a completion, by name; None: the reward does not apply


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion of `ids`, graded; `row` has the columns of its problem."""

    prompt: list[Message]
    row: Mapping[str, Any]
    ids: Sequence[int]
    graded: Graded
