"""One word problem, whatever its source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One word problem with its gold answer.

    `id` is unique within a source and the same in every run; `solution` is the worked solution in GSM8K's
    notation without its last `####` line; `answer` is the gold as that line writes it. `columns` are those of the
    row it was read from, where rewards of the user may want them.
    """

    id: str
    question: str
    solution: str
    answer: str
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def row(self) -> dict[str, Any]:
        """The columns that rewards are given, ours before those of the file."""
        own = {"question": self.question, "answer": self.answer, "solution": self.solution, "id": self.id}
        return {**self.columns, **own}

    @property
    def worked_answer(self) -> str:
        """GSM8K's `answer` column: the solution, then `#### <answer>`."""
        return f"{self.solution}\n#### {self.answer}"
