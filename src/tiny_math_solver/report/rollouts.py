"""The completions of a run as facts about each of its steps, however long rollouts.jsonl is.

The file is read row by row. Of each row only the place is kept, from which what the page shows is read again.
"""

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from tiny_math_solver.report.clipping import clipped_length
from tiny_math_solver.report.samples import Sample, outcome, telling_order
from tiny_math_solver.runs.records import read_jsonl_from, total_reward

Row = dict[str, Any]  # of rollouts.jsonl
QUESTION = 300  # characters of a question in the list of training problems
BEFORE = 256  # bytes ahead of the last step, by which a file that was cut and written on again is recognised


@dataclass(frozen=True, slots=True)
class Step:
    """The facts about the completions of one step."""

    number: int
    places: "array[int]"  # of its rows in the file, in bytes
    sizes: "array[int]"  # of its rows, in characters that the page would show
    kinds: list[str]  # of its rows, names in samples.KINDS
    order: "array[int]"  # of its rows, those that tell most first
    groups: Counter[str]  # by outcome
    tokens: Counter[str]  # wasted ones by the names in diagnose.WASTE, and `all`
    unused: Counter[str]  # completions, groups and tokens that the update did not get
    problems: dict[str, tuple[int, int]]  # right and all samples, by problem


class RolloutLog:
    """The steps of a rollouts.jsonl that may still grow."""

    def __init__(self, path: Path):
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.steps: list[Step] = []
        self.questions: dict[str, str] = {}  # their beginnings, by problem
        self._solved: set[str] = set()  # problems that were solved before the last step
        self._lines = 0  # ahead of the last step
        self._before = b""

    def update(self) -> None:
        """Read what was appended, and once more the last step, which may have been half written."""
        if not self._was_appended_to():
            self._forget()
        start = self.steps.pop().places[0] if self.steps else 0
        samples = map(self._sample, read_jsonl_from(self.path, start, self._lines))
        for number, of_step in groupby(samples, itemgetter(0)):
            if self.steps:
                self._close(self.steps[-1])
            self.steps.append(facts(number, [sample for _, sample in of_step], self._solved))
        self._before = self._bytes_before_last_step()

    def rows(self, places: Iterable[int]) -> Iterator[Row]:
        """The rows at these places of the file."""
        with self.path.open("rb") as file:
            for place in places:
                file.seek(place)
                yield with_grades(json.loads(file.readline().decode("utf-8", errors="replace")))

    def _close(self, step: Step) -> None:
        self._lines += len(step.places)
        self._solved.update(id for id, (right, _) in step.problems.items() if right)

    def _sample(self, placed: tuple[int, Row]) -> tuple[int, Sample]:
        place, row = placed
        row = with_grades(row)
        if row["id"] not in self.questions:
            self.questions[row["id"]] = row["question"][:QUESTION]
        return row["step"], Sample(
            place=place,
            size=clipped_length(row["completion"]),
            id=row["id"],
            correct=row["correct"],
            strict=row["strict"],
            finished=row["finished"],
            used=row.get("used", True),
            reward=total_reward(row),
            advantage=row["advantage"] or 0.0,
            tokens=row["tokens"],
        )

    def _bytes_before_last_step(self) -> bytes:
        start = self.steps[-1].places[0] if self.steps else 0
        if not start:
            return b""
        with self.path.open("rb") as file:
            file.seek(max(0, start - BEFORE))
            return file.read(min(start, BEFORE))

    def _was_appended_to(self) -> bool:
        return not self.steps or (self.path.is_file() and self._bytes_before_last_step() == self._before)


def with_grades(row: Row) -> Row:
    """A row of rollouts.jsonl with `correct` and `strict`, taken from its rewards if it has neither."""
    if "correct" in row and "strict" in row:
        return row
    correct = row["rewards"]["correctness_reward"] > 0
    return {**row, "correct": correct, "strict": correct and row["how"] == "hashes"}


def facts(number: int, samples: list[Sample], solved: Set[str]) -> Step:
    """The facts about a step, given the problems that were solved before it."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.id].append(sample)
    outcomes: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    unused: Counter[str] = Counter()
    for group in groups.values():
        found, is_used = outcome(group), any(sample.used for sample in group)
        outcomes[found if is_used else "replaced"] += 1
        for sample in group:
            tokens["all"] += sample.tokens
            tokens["cut off" if found == "mixed" and not sample.finished else found] += sample.tokens
            if not sample.used:
                name = "left out" if is_used else "replaced"
                unused[f"{name}, completions"] += 1
                unused[f"{name}, tokens"] += sample.tokens
    telling = telling_order(list(groups.values()), solved)
    index = {sample.place: i for i, sample in enumerate(samples)}
    kinds = {sample.place: kind for sample, kind in telling}
    return Step(
        number=number,
        places=array("Q", (sample.place for sample in samples)),
        sizes=array("L", (sample.size for sample in samples)),
        kinds=[kinds[sample.place] for sample in samples],
        order=array("L", (index[sample.place] for sample, _ in telling)),
        groups=outcomes,
        tokens=tokens,
        unused=unused,
        problems={id: (sum(sample.correct for sample in group), len(group)) for id, group in groups.items()},
    )
