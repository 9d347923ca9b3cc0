"""The records of a run folder → the figures of its page, as plain JSON; of an unfinished run, those so far."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny_math_solver.config.rewards import names_of
from tiny_math_solver.config.sections import EMBEDDED
from tiny_math_solver.config.shipped import COUNTDOWN, SHIPPED_MODELS
from tiny_math_solver.evaluation.statistics import mcnemar, wilson_interval
from tiny_math_solver.grading.graded import PLACES
from tiny_math_solver.grading.markers import How
from tiny_math_solver.report.clipping import clip
from tiny_math_solver.report.curves import Columns, curves, read_columns, steps_per_point, total
from tiny_math_solver.report.diagnose import (
    FAILURES,
    WASTE,
    Row,
    dead_groups,
    failure_of,
    first_slip,
    gain,
    savings,
    waste,
)
from tiny_math_solver.report.rollouts import RolloutLog
from tiny_math_solver.runs.checkpoints import POLICIES
from tiny_math_solver.runs.records import (
    CONFIG,
    ENVIRONMENT,
    EVENTS,
    METRICS,
    ROLLOUTS,
    SUMMARY,
    read_config,
    read_json,
    read_jsonl,
)
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.files import sibling

RESCUE = "rescue"  # the name of an event
EVENTS_SHOWN = 200  # the last ones
EVENT_TEXT = 2_000  # characters


class RunRecords:
    """The records of one run folder; `update` reads what has changed. Raises UserError if it is no run folder."""

    def __init__(self, folder: Path):
        require_run(folder)
        self.folder = folder
        self.rollouts = RolloutLog(folder / ROLLOUTS)
        self._kept: dict[Path, tuple[tuple[int, int], Any]] = {}
        self.update()

    def update(self) -> None:
        """Raises UserError if the records are damaged."""
        with self.damage_named():
            self.rollouts.update()
            self.summary = self._json(SUMMARY)
            events = list(read_jsonl(self.folder / EVENTS))
            self.rescues = _rescues(events, self.summary)
            self.events = [event for event in events if event["name"] != RESCUE]
            self.columns: Columns = self._unless_kept(METRICS, read_columns) or {}
            self.before: list[Row] = self._unless_kept("eval/before.jsonl", _answers) or []
            self.after: list[Row] = self._unless_kept("eval/after.jsonl", _answers) or []
            self.dev = [
                self._unless_kept(f"eval/{path.name}", _dev_point)
                for path in sorted((self.folder / "eval").glob("dev-[0-9]*.jsonl"))
            ]

    @property
    def subject(self) -> str:
        """The model and the problems, of folders and files the last part of their names."""
        config = read_config(self.folder) or {}
        model, problems = (
            str((config.get(section) or {}).get(name, ""))
            for section, name in (("model", "name"), ("problems", "source"))
        )
        model = "the shipped model of a million parameters" if model in SHIPPED_MODELS else Path(model).name
        generated = {EMBEDDED: "generated problems", COUNTDOWN: "generated countdown problems"}
        return f"{model}, {generated.get(problems) or Path(problems).name}"

    @property
    def undone(self) -> set[int]:
        """The steps that a rescue undid."""
        return {step for rescue in self.rescues for step in range(rescue["undone"][0], rescue["undone"][-1] + 1)}

    def figures(self, runs: int = 1) -> dict[str, Any]:
        """Everything that the page shows about the run but completions and problems; `runs` share the page."""
        with self.damage_named():
            return self._figures(steps_per_point(self.columns, runs))

    def _figures(self, size: int) -> dict[str, Any]:
        failures = [Counter(row["failure"] for row in rows) for rows in (self.before, self.after)]
        steps = self.rollouts.steps
        return {
            "name": self.folder.absolute().name,
            "subject": self.subject,
            "summary": self.summary,
            "paid": self._paid(),
            "events": [{**event, "text": str(event["text"])[:EVENT_TEXT]} for event in self.events[-EVENTS_SHOWN:]],
            "earlier_events": max(0, len(self.events) - EVENTS_SHOWN),
            "rescues": self.rescues,
            "curves": curves(self.columns, size),
            "steps_per_point": size,
            "dev": self.dev,
            "dead": dead_groups(steps, size),
            "waste": [{"name": name, "share": share, "advice": WASTE[name]} for name, share in waste(steps).items()],
            "savings": savings(steps, round(total(self.columns, "sampler/skipped"))),
            "gain": gain(self.before, self.after) if self.before and self.after else None,
            "failures": [
                {"name": name, "meaning": meaning, "before": failures[0][name], "after": failures[1][name]}
                for name, meaning in FAILURES.items()
            ],
            "config": (self.folder / CONFIG).read_text(encoding="utf-8"),
            "environment": self._json(ENVIRONMENT),
            "hashes": {
                name: digest for name in (*POLICIES, CONFIG, ROLLOUTS) if (digest := self._unless_kept(name, _sha256))
            },
        }

    def _paid(self) -> dict[str, Any]:
        """The metrics of right answers and of those in their place, and this place in words."""
        config = read_config(self.folder) or {}
        names = names_of(config.get("rewards") or {}, (config.get("grpo") or {}).get("reward_weights"))
        return {"right": names.right, "marked": names.marked, "place": PLACES[How(names.place)]}

    def _json(self, name: str) -> Any:
        return self._unless_kept(name, read_json)

    def _unless_kept(self, name: str, read: Callable[[Path], Any]) -> Any:
        """The result of reading a file, from memory if the file is as it was; None if there is none."""
        path = self.folder / name
        if not path.is_file():
            return None
        stat = path.stat()
        stamp = stat.st_mtime_ns, stat.st_size
        if path not in self._kept or self._kept[path][0] != stamp:
            self._kept[path] = stamp, read(path)
        return self._kept[path][1]

    @contextmanager
    def damage_named(self) -> Iterator[None]:
        """Say of rows that are not as they should be that the records are damaged."""
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            text = f"{self.folder}: its records are damaged, or not those of a run ({error!r})"
            raise UserError(text) from error


def require_run(folder: Path) -> None:
    """Raise UserError where `folder` is no run folder."""
    if not folder.exists():
        raise UserError(f"no such run: {folder}{sibling(folder, [CONFIG])}")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, not a run folder")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: no config.yaml, so it is not a run folder")


def compare(records: list[RunRecords]) -> list[dict[str, Any]]:
    """The paired test between the final adapters of each two runs that were evaluated on the same problems."""
    answers = [{row["id"]: row["correct"] for row in run.after} for run in records]
    names = [run.folder.absolute().name for run in records]
    return [
        {"first": names[i], "second": names[j], **mcnemar(list(a.values()), list(b.values())).to_dict()}
        for i, a in enumerate(answers)
        for j, b in enumerate(answers)
        if i < j and a and list(a) == list(b)
    ]


def _rescues(events: list[Row], summary: Row | None) -> list[Row]:
    """The rescues of a run: the steps that were undone, the step it went back to, and what was changed."""
    found = [event for event in events if event["name"] == RESCUE] or (summary or {}).get("rescues", [])
    return [
        {
            "step": rescue["step"],
            "text": str(rescue.get("text", ""))[:EVENT_TEXT],
            "undone": [int(step) for step in rescue["undone"]],
            "back_to": rescue["back_to"],
            "changed": rescue.get("changed", {}),
        }
        for rescue in found
        if rescue.get("undone")
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _greedy(path: Path) -> Iterator[Row]:
    return (row for row in read_jsonl(path) if row["sample"] is None)


def _answers(path: Path) -> list[Row]:
    """The greedy answers to the test problems, each with the failure of a wrong one."""
    names = ("id", "question", "gold", "answer", "how", "correct", "strict", "tokens", "finished")
    found = []
    for row in _greedy(path):
        failure = failure_of(row)
        slip = first_slip(row["completion"]) if failure == "arithmetic slip" else None
        kept = {name: row[name] for name in names}
        found.append({**kept, "completion": clip(row["completion"]), "failure": failure, "slip": slip})
    return found


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
