"""A run folder → the data of its page, as plain JSON; of an unfinished run, whatever there is so far."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tiny_math_solver.evaluation.statistics import mcnemar, wilson_interval
from tiny_math_solver.report.diagnose import (
    FAILURES,
    WASTE,
    Row,
    dead_groups,
    failure_counts,
    failure_of,
    first_slip,
    gain,
    waste,
)
from tiny_math_solver.runs.records import read_json, read_jsonl
from tiny_math_solver.support.errors import UserError


def run_data(folder: Path) -> dict[str, Any]:
    """Everything that the page shows about one run. Raises UserError if `folder` is no run folder, or a damaged one."""
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: no config.yaml, so it is not a run folder")
    try:
        return _run_data(folder)
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder}: its records are damaged, or not those of a run ({error!r})") from error


def _run_data(folder: Path) -> dict[str, Any]:
    metrics = list(read_jsonl(folder / "metrics.jsonl"))
    rollouts = [_with_grades(row) for row in read_jsonl(folder / "rollouts.jsonl")]
    before, after = (list(_greedy(folder / "eval" / f"{when}.jsonl")) for when in ("before", "after"))
    return {
        "name": folder.absolute().name,
        "summary": _json(folder / "summary.json"),
        "events": list(read_jsonl(folder / "events.jsonl")),
        "curves": _curves(metrics),
        "dev": [_dev_point(path) for path in sorted((folder / "eval").glob("dev-[0-9]*.jsonl"))],
        "dead": [{"step": step, **shares} for step, shares in dead_groups(rollouts).items()],
        "waste": [{"name": name, "share": share, "advice": WASTE[name]} for name, share in waste(rollouts).items()],
        "test": _paired(before, after),
        "gain": gain(before, after) if before and after else None,
        "failures": [
            {"name": name, "meaning": meaning, "before": counts[0][name], "after": counts[1][name]}
            for counts in [(failure_counts(before), failure_counts(after))]
            for name, meaning in FAILURES.items()
        ],
        "rollouts": _columns(rollouts),
        "config": (folder / "config.yaml").read_text(encoding="utf-8"),
        "environment": _json(folder / "environment.json"),
        "hashes": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in ("adapter_model.safetensors", "config.yaml", "rollouts.jsonl")
            if (folder / name).is_file()
        },
    }


def compare(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paired test between the final adapters of each two runs that were evaluated on the same problems."""
    answers = [{cell["id"]: cell["after"]["correct"] for cell in run["test"] if cell["after"]} for run in runs]
    return [
        {"first": runs[i]["name"], "second": runs[j]["name"], **mcnemar(list(a.values()), list(b.values())).to_dict()}
        for i, a in enumerate(answers)
        for j, b in enumerate(answers)
        if i < j and a and list(a) == list(b)
    ]


def _greedy(path: Path) -> Iterator[Row]:
    return (row for row in read_jsonl(path) if row["sample"] is None)


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _with_grades(row: Row) -> Row:
    """A row of rollouts.jsonl with `correct` and `strict`, taken from its rewards if it has neither."""
    if "correct" in row and "strict" in row:
        return row
    correct = row["rewards"]["correctness_reward"] > 0
    return {**row, "correct": correct, "strict": correct and row["how"] == "hashes"}


def _curves(metrics: list[Row]) -> dict[str, list[float | None]]:
    """Every metric of metrics.jsonl by name, with one value per step."""
    names = dict.fromkeys(name for row in metrics for name, value in row.items() if isinstance(value, int | float))
    return {name: [row.get(name) for row in metrics] for name in names}


def _dev_point(path: Path) -> dict[str, float]:
    rows = list(_greedy(path))
    correct = sum(row["correct"] for row in rows)
    low, high = wilson_interval(correct, len(rows))
    return {
        "step": int(path.stem.removeprefix("dev-")),
        "accuracy": correct / max(1, len(rows)),
        "strict": sum(row["strict"] for row in rows) / max(1, len(rows)),
        "low": low,
        "high": high,
    }


def _paired(before: list[Row], after: list[Row]) -> list[dict[str, Any]]:
    """One cell per test problem: its greedy completions before and after training."""
    later = {row["id"]: row for row in after}

    def side(row: Row | None) -> Row | None:
        if row is None:
            return None
        kept = {name: row[name] for name in ("completion", "answer", "how", "correct", "strict", "tokens", "finished")}
        failure = failure_of(row)
        slip = first_slip(row["completion"]) if failure == "arithmetic slip" else None
        return {**kept, "failure": failure, "slip": slip}

    return [
        {
            "id": row["id"],
            "question": row["question"],
            "gold": row["gold"],
            "before": side(row),
            "after": side(later.get(row["id"])),
        }
        for row in before
    ]


def _columns(rollouts: list[Row]) -> dict[str, Any]:
    """Rollouts by column, with each problem stored once, so that tens of thousands of them make a small page."""
    problems: dict[str, int] = {}
    asked: list[dict[str, str]] = []
    place = []
    for row in rollouts:
        if row["id"] not in problems:
            problems[row["id"]] = len(asked)
            asked.append({name: row[name] for name in ("id", "question", "gold")})
        place.append(problems[row["id"]])
    names = list(rollouts[0]["rewards"]) if rollouts else []
    return {
        "problems": asked,
        "problem": place,
        "rewards": {name: _column(row["rewards"][name] for row in rollouts) for name in names},
        **{
            name: _column(row.get(name) for row in rollouts)
            for name in ("step", "completion", "answer", "how", "advantage", "tokens", "finished")
        },
    }


def _column(values: Iterable[Any]) -> list[Any]:
    return [round(value, 4) if isinstance(value, float) else value for value in values]
