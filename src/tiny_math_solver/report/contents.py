"""The data of a page, as plain JSON: the figures of its runs and, of a single run, as many texts as have room."""

from pathlib import Path
from typing import Any

from tiny_math_solver.report.packing import fitting, packed_size
from tiny_math_solver.report.records import RunRecords, compare
from tiny_math_solver.report.texts import ProblemTexts, RolloutTexts, TestTexts, Texts
from tiny_math_solver.runs.records import ABSENT, IGNORED, read_config

SHARES = {"test": 0.3, "problems": 0.45, "rollouts": 1.0}  # of the room that is taken once these texts are in


def data_of(records: list[RunRecords], room: int, seeds: dict[str, Any] | None = None) -> dict[str, Any]:
    """The data of the page of one or several runs, of at most `room` bytes when packed.

    Of runs that differ in their seed alone, `seeds` has the verdict over them; they are not compared in pairs.

    Raises UserError if the records are damaged.
    """
    runs = [run.figures(len(records)) for run in records]
    unfinished = [run["name"] for run in runs if run["summary"] is None]
    data: dict[str, Any] = {
        "title": " · ".join(run["name"] for run in runs),
        "state": f"not finished: {', '.join(unfinished)}" if unfinished else "",
        "runs": runs,
        "comparisons": compare(records) if seeds is None else [],
        "settings": differing_settings([record.folder for record in records]) if seeds is None else [],
    }
    if seeds is not None:
        data |= {"title": seeds["title"], "seeds": seeds}
    if len(records) == 1:
        with records[0].damage_named():
            kinds: dict[str, Texts] = {
                "test": TestTexts(records[0]),
                "problems": ProblemTexts(records[0]),
                "rollouts": RolloutTexts(records[0]),
            }
            for name, texts in kinds.items():
                _add(data, name, texts, int(SHARES[name] * room))
    return data


def differing_settings(folders: list[Path]) -> list[list[str]]:
    """`[name, its value in each run]` of the settings that are not the same in all of them."""
    runs = [
        {
            f"{section}.{name}": value
            for section, fields in (read_config(folder) or {}).items()
            if isinstance(fields, dict)
            for name, value in fields.items()
        }
        for folder in folders
    ]
    names = [name for name in {name: None for run in runs for name in run} if name not in IGNORED]
    values = {name: [str(run.get(name, ABSENT)) for run in runs] for name in names}
    return [[name, *of_runs] for name, of_runs in values.items() if len(set(of_runs)) > 1]


def _add(data: dict[str, Any], name: str, texts: Texts, limit: int) -> None:
    """Add to the only run as many of the texts as the page can take."""
    (run,) = data["runs"]

    def size_with(n: int) -> int:
        run[name] = texts.first(n)
        return packed_size(data)

    run[name] = texts.first(fitting(texts.sizes, limit, size_with))
