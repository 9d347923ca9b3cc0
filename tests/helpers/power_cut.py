"""Runs that end as at a power cut, and the records of runs without what the clock puts into them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOTrainer

from helpers.runs import rows


class PowerCutError(Exception):
    pass


@contextmanager
def power_cut(step: int) -> Iterator[None]:
    """Have the run in the block end within optimizer step `step` + 1: nothing more is written."""
    training_step = GRPOTrainer.training_step

    def cut(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = training_step(self, *args, **kwargs)
        if self.state.global_step == step:
            raise PowerCutError
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "training_step", cut)
        with pytest.raises(PowerCutError):
            yield


def timeless(path: Path) -> list[dict[str, Any]]:
    """Metrics without timings, and without what Trainer sums up since it was started."""
    ours = ("time", "per_second", "train_loss")
    return [{k: v for k, v in row.items() if k != "seconds" and not any(o in k for o in ours)} for row in rows(path)]


def timeless_summary(folder: Path) -> dict[str, Any]:
    """A run's summary.json without seconds and bytes."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    del summary["train_seconds"]
    summary["measured"] = {name: summary["measured"][name] for name in ("tokens", "dead")}
    return summary
