"""`Graded`, the one shape of a graded completion, whatever kind its answer is of."""

from dataclasses import dataclass

from tiny_math_solver.grading.markers import How

PLACES = {How.HASHES: "after ####", How.BOXED: "in \\boxed{}", How.TAG: "in <answer>"}  # that a prompt can ask for


@dataclass(frozen=True, slots=True)
class Graded:
    """One graded completion; `answer` is None exactly when `how` is NONE."""

    answer: str | None  # as text; equal numbers have equal texts
    how: How  # where it was found
    correct: bool  # lenient: it is right, wherever it was found
    text: str = ""  # the completion
    place: How = How.HASHES  # where the prompt asks for it

    @property
    def is_marked(self) -> bool:
        """True if the answer, right or wrong, stands where the prompt asks for it."""
        return self.how is self.place

    @property
    def strict(self) -> bool:
        """True if the answer is correct and stands where the prompt asks for it."""
        return self.correct and self.is_marked
