"""One word problem, whatever its source."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One word problem with its gold answer.

    `id` is unique within a source and the same in every run; `solution` is the worked solution in GSM8K's
    notation without its last `####` line; `answer` is the gold number as that line writes it.
    """

    id: str
    question: str
    solution: str
    answer: str

    @property
    def worked_answer(self) -> str:
        """GSM8K's `answer` column: the solution, then `#### <answer>`."""
        return f"{self.solution}\n#### {self.answer}"
