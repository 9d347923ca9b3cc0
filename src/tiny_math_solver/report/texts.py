"""Texts of a run in the order in which its page takes them, until it is full: test answers, problems, rollouts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from tiny_math_solver.report.clipping import clip
from tiny_math_solver.report.preference import Choice, preference, whole_from
from tiny_math_solver.report.records import RunRecords
from tiny_math_solver.report.rollouts import Row
from tiny_math_solver.report.training_problems import COURSES, problem_list

ROWS, CHARACTERS = 50_000, 40_000_000  # of rollouts, which a browser filters at once
ROW = 100  # characters of a rollout beside its completion


class Texts(Protocol):
    @property
    def sizes(self) -> Sequence[int]:
        """The size of each text, in characters."""

    def first(self, n: int) -> Any:
        """The data for the page with the first `n` texts."""


class TestTexts:
    """One cell per test problem, with question and both answers; those that training changed come first."""

    __test__ = False  # no test of pytest's

    def __init__(self, records: RunRecords):
        later = {row["id"]: row for row in records.after}
        self.pairs = [(row, later.get(row["id"])) for row in records.before]
        self.order = sorted(range(len(self.pairs)), key=lambda i: not _is_changed(*self.pairs[i]))
        self.sizes = [
            sum(len(str(row["completion"])) + len(row["question"]) for row in self.pairs[i] if row) for i in self.order
        ]

    def first(self, n: int) -> list[dict[str, Any]]:
        whole = set(self.order[:n])
        return [
            {
                "id": before["id"],
                "question": before["question"] if i in whole else None,
                "gold": before["gold"],
                "before": _answer(before, i in whole),
                "after": after and _answer(after, i in whole),
            }
            for i, (before, after) in enumerate(self.pairs)
        ]


class ProblemTexts:
    """The problems of training; those with the most samples come first."""

    def __init__(self, records: RunRecords):
        self.problems = problem_list(records.rollouts)
        self.sizes = [len(row["question"]) + 8 * len(row["points"]) for row in self.problems]

    def first(self, n: int) -> dict[str, Any]:
        counts = Counter(row["course"] for row in self.problems)
        asked_again = any(row["visits"] > 1 for row in self.problems)
        return {
            "total": len(self.problems),
            "courses": [
                {"name": name, "meaning": meaning, "count": counts[name]}
                for name, meaning in COURSES.items()
                if asked_again or counts[name]
            ],
            "rows": self.problems[:n],
        }


class RolloutTexts:
    """The completions of training in the order of `preference`, in columns, each problem stored once."""

    def __init__(self, records: RunRecords):
        self.log = records.rollouts
        self.chosen = self._choose(records.undone)
        self.sizes = [ROW + self.log.steps[step].sizes[row] for step, row in self.chosen]
        self._read: list[Row] = []

    def _choose(self, undone: set[int]) -> list[Choice]:
        chosen: list[Choice] = []
        characters = 0
        for step, row in preference(self.log.steps, undone):
            characters += self.log.steps[step].sizes[row]
            if len(chosen) == ROWS or characters > CHARACTERS:
                break
            chosen.append((step, row))
        return chosen

    def first(self, n: int) -> dict[str, Any]:
        steps, chosen = self.log.steps, self.chosen[:n]
        if missing := self.chosen[len(self._read) : n]:
            self._read.extend(self.log.rows(steps[step].places[row] for step, row in missing))
        in_order = sorted(zip(chosen, self._read, strict=False), key=lambda pair: pair[0])
        rows = [row for _, row in in_order]
        total = sum(len(step.places) for step in steps)
        block = {"total": total, **_columns(rows)}
        if not all(row.get("used", True) for row in rows):
            block["used"] = [row.get("used", True) for row in rows]
        if n < total:
            block["whole_from"] = whole_from(steps, set(chosen))
            block["kind"] = [steps[step].kinds[row] for (step, row), _ in in_order]
        return block


def _is_changed(before: Row, after: Row | None) -> bool:
    return after is not None and before["correct"] != after["correct"]


def _answer(row: Row, whole: bool) -> Row:
    kept = {name: value for name, value in row.items() if name not in ("id", "question", "gold")}
    return kept if whole else {**kept, "completion": None, "slip": None}


def _columns(rows: list[Row]) -> dict[str, Any]:
    problems: dict[str, int] = {}
    asked: list[dict[str, Any]] = []
    place = []
    for row in rows:
        if row["id"] not in problems:
            problems[row["id"]] = len(asked)
            asked.append({"id": row["id"], "question": clip(row["question"]), "gold": row["gold"]})
        place.append(problems[row["id"]])
    names = list(rows[0]["rewards"]) if rows else []
    return {
        "problems": asked,
        "problem": place,
        "completion": [clip(row["completion"]) for row in rows],
        "rewards": {name: _column(row["rewards"][name] for row in rows) for name in names},
        **{
            name: _column(row.get(name) for row in rows)
            for name in ("step", "answer", "how", "advantage", "tokens", "finished")
        },
    }


def _column(values: Iterable[Any]) -> list[Any]:
    return [round(value, 4) if isinstance(value, float) else value for value in values]
