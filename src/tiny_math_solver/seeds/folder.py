"""The folder of several seeds: each run in `seed-N`, as `tiny-math train` leaves it, and the verdict over them.

seeds.json    the verdict and each seed's result, written after every seed; it makes the folder one of seeds
report.html   the page of all runs, under the one verdict
seed-N.log    what the run of a seed has printed, unless that went to the terminal
"""

import re
from pathlib import Path
from typing import Any

from tiny_math_solver.config.schema import Config
from tiny_math_solver.evaluation.evaluate import Evaluation
from tiny_math_solver.evaluation.over_seeds import SeedResult
from tiny_math_solver.models.starting_adapter import starting_adapter
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.lock import take_lock
from tiny_math_solver.runs.records import SUMMARY, as_recorded, read_config, read_json, read_jsonl
from tiny_math_solver.runs.resume import differences
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.files import free_name

SEEDS = "seeds.json"


class SeedsFolder(RunFolder):
    """The folder of the runs of one configuration with several seeds; while they are at work it is locked."""

    mark, kind = SEEDS, "a folder of tiny-math seeds"

    @classmethod
    def beside(cls, output_dir: Path) -> "SeedsFolder":
        """`<output_dir>-seeds`, which no ordinary run of the configuration writes to.

        Raises UserError for a path that has no name.
        """
        path = output_dir if output_dir.name not in ("", "..") else output_dir.resolve()
        if not path.name:
            raise UserError(f"grpo.output_dir {output_dir}: has no name to which -seeds could be added; choose another")
        return cls(path.with_name(f"{path.name}-seeds"))

    def run_of(self, seed: int) -> Path:
        return self.path / f"seed-{seed}"

    def log_of(self, seed: int) -> Path:
        return self.path / f"seed-{seed}.log"

    def begun(self) -> list[int]:
        """The seeds that have a run here, finished or not."""
        found = (re.fullmatch(r"seed-(\d+)", path.name) for path in self.path.glob("seed-*"))
        seeds = sorted(int(match[1]) for match in found if match)
        return [seed for seed in seeds if RunFolder(self.run_of(seed)).holds_run]

    def result(self, seed: int) -> SeedResult | None:
        """The result of a seed's run, None if it has none. Raises UserError if its records are damaged."""
        folder = self.run_of(seed)
        if not RunFolder(folder).finished:
            return None
        try:
            summary = read_json(folder / SUMMARY)
            before, after = (
                Evaluation.from_rows(read_jsonl(folder / f"eval/{when}.jsonl")).greedy for when in ("before", "after")
            )
            if not before or [record.id for record in before] != [record.id for record in after]:
                raise ValueError("eval/before.jsonl and eval/after.jsonl have other problems")
            return SeedResult(
                seed,
                [record.id for record in before],
                [record.correct for record in before],
                [record.correct for record in after],
                summary["best_reward"] > 0,
                summary["train_seconds"],
            )
        except (KeyError, TypeError, ValueError) as error:
            text = f"{folder}: its records are damaged ({error}); remove the folder to have this seed trained again"
            raise UserError(text) from error

    def changes(self, config: Config) -> dict[str, str]:
        """`{dotted key: "old → new"}` of what sets `config` apart from the runs that are here, but for the seed."""
        if not (begun := self.begun()):
            return {}
        config = config.with_sections(model=starting_adapter(config.model)[0])  # as runs record it
        new = as_recorded(config)
        changes: dict[str, str] = {}
        for seed in begun:
            old = read_config(self.run_of(seed)) or {}
            ours = {**new, "prompt": {**new["prompt"], "date": new["prompt"]["date"] or _date(old)}}
            changes |= {key: change for key, change in differences(old, ours) if key != "grpo.seed"}
        return changes

    def date(self) -> str | None:
        """The date in the prompts of the runs that are here; None if their chat template puts in none."""
        return next(filter(None, (_date(read_config(self.run_of(seed)) or {}) for seed in self.begun())), None)

    def put_back(self, aside: Path) -> Path | None:
        """Undo `create`: what it moved to `aside` has this path again.

        Returns where the rest of the folder made since is, None if that was empty.
        """
        rest = free_name(self.path) if any(self.path.iterdir()) else None
        with self._writing(self.path):
            if rest:
                self.path.rename(rest)
            else:
                self.path.rmdir()
            aside.rename(self.path)
        return rest

    def is_at_work(self, seed: int) -> bool:
        """True if a process trains this seed: one that outlived the command that had started it, or somebody else's."""
        folder = self.run_of(seed)
        if not folder.is_dir():
            return False
        lock = take_lock(folder)
        if lock is not None:
            lock.release()
        return lock is None


def _date(config: dict[str, Any]) -> str | None:
    return (config.get("prompt") or {}).get("date")
