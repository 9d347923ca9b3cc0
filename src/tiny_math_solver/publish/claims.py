"""What summary.json claims, against the answers in eval/: a card says nothing that they do not show."""

from typing import Any

from tiny_math_solver.evaluation.statistics import mcnemar
from tiny_math_solver.report.records import RunRecords
from tiny_math_solver.runs.records import SUMMARY, read_jsonl
from tiny_math_solver.support.errors import UserError


def check_claims(records: RunRecords) -> None:
    """Raise UserError where summary.json claims other counts than the answers in eval/ show."""
    summary = records.summary or {}
    _check(records, "test", "", summary)
    for name, result in summary.get("also", {}).items():
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
