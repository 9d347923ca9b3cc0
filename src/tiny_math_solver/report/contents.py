"""The data of a page, as plain JSON: the figures of its runs and, of a single run, as many texts as have room."""

from typing import Any

from tiny_math_solver.report.packing import fitting, packed_size
from tiny_math_solver.report.records import RunRecords, compare
from tiny_math_solver.report.texts import ProblemTexts, RolloutTexts, TestTexts, Texts

SHARES = {"test": 0.3, "problems": 0.45, "rollouts": 1.0}  # of the room that is taken once these texts are in


def data_of(records: list[RunRecords], room: int) -> dict[str, Any]:
    """The data of the page of one or several runs, of at most `room` bytes when packed.

    Raises UserError if the records are damaged.
    """
    runs = [run.figures(len(records)) for run in records]
    unfinished = [run["name"] for run in runs if run["summary"] is None]
    data = {
        "title": " · ".join(run["name"] for run in runs),
        "state": f"not finished: {', '.join(unfinished)}" if unfinished else "",
        "runs": runs,
        "comparisons": compare(records),
    }
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


def _add(data: dict[str, Any], name: str, texts: Texts, limit: int) -> None:
    """Add to the only run as many of the texts as the page can take."""
    (run,) = data["runs"]

    def size_with(n: int) -> int:
        run[name] = texts.first(n)
        return packed_size(data)

    run[name] = texts.first(fitting(texts.sizes, limit, size_with))
