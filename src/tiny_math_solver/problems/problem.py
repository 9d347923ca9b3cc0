"""What a problem is, whatever its source."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One word problem with its gold answer.

    `id` is unique within a source and stable between runs; `solution` is the worked solution in GSM8K's
    notation without its last `####` line; `answer` is the gold number as written there.
    """

    id: str
    question: str
    solution: str
    answer: str

    @property
    def worked_answer(self) -> str:
        """The whole of GSM8K's `answer` column: the solution, then `#### <answer>`."""
        return f"{self.solution}\n#### {self.answer}"
