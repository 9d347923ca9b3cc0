"""Whether a run can have a card: it is finished, and summary.json claims what the answers in eval/ show."""

from typing import Any

from tiny_math_solver.evaluation.statistics import mcnemar
from tiny_math_solver.report.records import RunRecords
from tiny_math_solver.runs.records import METRICS, SUMMARY, read_jsonl
from tiny_math_solver.support.errors import UserError


def check_publishable(records: RunRecords) -> None:
    """Raise UserError for a run that is not finished, or whose summary contradicts its answers."""
    folder = records.folder
    if records.summary is None and not (folder / "eval").is_dir() and not (folder / METRICS).is_file():
        raise UserError(
            f"{folder}: no records of a run, of which a card is made: name the run folder; --merged merges its adapter"
        )
    if records.summary is None:
        raise UserError(f"{folder}: this run is not finished: the command that started it resumes it")
    with records.damage_named():
        _check(records, "test", "", records.summary)
        for name, result in records.summary.get("also", {}).items():
            _check(records, name, f"-{name}", result)


def _check(records: RunRecords, name: str, suffix: str, claimed: dict[str, Any]) -> None:
    """One set of problems, whose answers are in the files with `suffix`."""
    right = []
    for when in ("before", "after"):
        file, block = f"eval/{when}{suffix}.jsonl", claimed[when]
        rows = [row for row in read_jsonl(records.folder / file) if row["sample"] is None]
        counts = len(rows), sum(row["correct"] for row in rows), sum(row["strict"] for row in rows)
        if (block["n"], block["correct"], round(block["strict_accuracy"] * block["n"])) != counts:
            said = f"{block['correct']} of {block['n']} right {when} training ({name})"
            raise _contradiction(records, said, f"{file} has {counts[1]} of {counts[0]}")
        right.append({row["id"]: row["correct"] for row in rows})
    before, after = right
    if list(before) != list(after):
        raise _contradiction(records, f"the same problems before and after ({name})", "the answers are to others")
    counted, paired = mcnemar(list(before.values()), list(after.values())), claimed["paired"]
    if (counted.fixed, counted.broken) != (paired["fixed"], paired["broken"]):
        said = f"{paired['fixed']} fixed, {paired['broken']} broken ({name})"
        raise _contradiction(records, said, f"the answers in eval/ show {counted.fixed} and {counted.broken}")


def _contradiction(records: RunRecords, said: str, found: str) -> UserError:
    return UserError(
        f"{records.folder / SUMMARY} says {said}, {found}: a card would claim what the records do not show"
    )
