"""metrics.jsonl → the curves of a page: every metric by name, in as many points as a page has room for."""

import math
from array import array
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from tiny_math_solver.runs.records import read_jsonl

NUMBERS = 200_000  # on a page, in the curves of all its runs
Columns = dict[str, "array[float]"]  # one value per step, NaN where there is none


def read_columns(path: Path) -> Columns:
    """Every metric of metrics.jsonl that is a number."""
    columns: Columns = {}
    steps = 0
    for steps, row in enumerate(read_jsonl(path), 1):
        for name, value in row.items():
            if isinstance(value, int | float):
                column = columns.setdefault(name, array("d"))
                column.extend([math.nan] * (steps - 1 - len(column)))
                column.append(value)
    for column in columns.values():
        column.extend([math.nan] * (steps - len(column)))
    return columns


def steps_per_point(columns: Columns, runs: int = 1) -> int:
    """The number of steps for one point of a curve, with which `runs` runs of this length stay below NUMBERS."""
    return max(1, math.ceil(sum(map(len, columns.values())) * runs / NUMBERS))


def curves(columns: Columns, size: int) -> dict[str, list[float | None]]:
    """Every metric by name, with the mean of each `size` steps; the point is at the last step of them."""
    return {
        name: [
            _number(column[min(i + size, len(column)) - 1] if name == "step" else _mean(column[i : i + size]))
            for i in range(0, len(column), size)
        ]
        for name, column in columns.items()
    }


def total(columns: Columns, name: str) -> float:
    """The sum of a metric over all steps; a row stands for the steps since the row before, with their mean."""
    if name not in columns:
        return 0.0
    spans = zip(columns[name], pairwise([0.0, *columns["step"]]), strict=True)
    return sum(value * (step - before) for value, (before, step) in spans if math.isfinite(value))


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _number(value: float) -> Any:
    """Six digits of a number, as JSON has it."""
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else float(f"{value:.6g}")
