"""A race of the settings that choose problems and rows: each alone and all together, from the same seeds.

Two pupils: the quickstart, whose 24 steps ask no problem twice; and one that learns more slowly from fewer problems and
fewer samples, so that most groups are dead at the start and problems come back. Every run takes all its steps, so that
a race also shows what is lost at the end. Times are of the processor, so that a busy machine does not decide the race.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from transformers import TrainerCallback

from tiny_math_solver.bench.steps import Side, train_side
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.schema import Config
from tiny_math_solver.evaluation.evaluate import evaluate
from tiny_math_solver.problems.splits import load_splits
from tiny_math_solver.prompts import PromptFormat
from tiny_math_solver.rewards.grader import Grader

ADAPTIVE = ("--problems.sampling", "adaptive")
REPLACE = ("--rollouts.replace_dead", "2")
SHARE = ("--update.share", "0.5")
ARMS = {
    "none": (),
    "problems.sampling adaptive": ADAPTIVE,
    "rollouts.replace_dead 2": REPLACE,
    "update.share 0.5": SHARE,
    "all three": (*ADAPTIVE, *REPLACE, *SHARE),
}
LAST = 3  # evaluations whose mean is the final accuracy


@dataclass(frozen=True)
class Pupil:
    """A learning problem: overrides of the configuration, steps, steps between evaluations, and the goal on dev."""

    overrides: tuple[str, ...]
    steps: int
    every: int
    target: float


SLOW = (
    "--problems.train", "100", "--grpo.num_generations", "4", "--grpo.per_device_train_batch_size", "32",
    "--grpo.temperature", "0.7", "--grpo.learning_rate", "1e-4",
)  # fmt: skip
PUPILS = {
    "quickstart": Pupil((), steps=24, every=2, target=0.8),
    "slow": Pupil(SLOW, steps=120, every=10, target=0.8),
}


def race(config_path: Path, pupil: Pupil, seeds: Iterable[int], tell: Callable[[str], Any]) -> dict[str, Any]:
    """Seconds of training and completions to the pupil's target, by arm; `tell` gets a line for every run."""
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        for arm in ARMS:
            overrides = [*pupil.overrides, *ARMS[arm], "--grpo.seed", str(seed)]
            curve = Curve(load_config(config_path, overrides), pupil.every)
            train_side(Side(arm, stock=False), config_path, overrides, pupil.steps, None, curve)
            found = summary(curve.points, pupil.target)
            runs[arm].append({"seed": seed, **found, "curve": curve.points})
            tell(f"{arm}, seed {seed}: {run_line(found)}")
    return {"target": pupil.target, "steps": pupil.steps, "runs": runs, "against_none": _compared(runs)}


def summary(points: list[dict[str, float]], target: float) -> dict[str, float | None]:
    """Seconds and completions at which accuracy crosses `target`, interpolated between evaluations; and the end."""
    ends = {"final_accuracy": mean(p["accuracy"] for p in points[-LAST:]), "total_seconds": points[-1]["seconds"]}
    before = {"seconds": 0.0, "completions": 0.0, "accuracy": 0.0}
    for point in points:
        if point["accuracy"] >= target:
            part = (target - before["accuracy"]) / (point["accuracy"] - before["accuracy"])
            crossed = {name: before[name] + part * (point[name] - before[name]) for name in ("seconds", "completions")}
            return {**crossed, **ends}
        before = point
    return {"seconds": None, "completions": None, **ends}


def run_line(found: dict[str, Any]) -> str:
    """One run in words."""
    end = f"{found['final_accuracy']:.1%} at the end, {found['total_seconds']:.1f} s in all"
    if found["seconds"] is None:
        return f"target not reached; {end}"
    return f"target after {found['seconds']:.1f} s, {found['completions']:,.0f} completions; {end}"


def table(measured: dict[str, Any]) -> list[str]:
    """A line per arm: medians, and how many times fewer than with none of the settings, median of the seeds."""
    lines, target = [], f"{measured['target']:.0%} on dev"
    for arm, runs in measured["runs"].items():
        ratios = measured["against_none"][arm]
        reached = [run for run in runs if run["seconds"] is not None]
        middle = {name: median(run[name] for run in reached) if reached else float("nan") for name in ratios["times"]}
        lines.append(
            f"{arm}: to {target} {middle['seconds']:.1f} s ({_times(ratios['times']['seconds'])}), "
            f"{middle['completions']:,.0f} completions ({_times(ratios['times']['completions'])}), "
            f"{len(reached)} of {len(runs)} seeds; at the end {median(r['final_accuracy'] for r in runs):.1%} "
            f"({100 * ratios['final_accuracy']:+.1f} points) after {median(r['total_seconds'] for r in runs):.1f} s"
        )
    return lines


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def _compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each arm against none of the settings, seed by seed: medians of the ratios, and of the difference at the end."""
    found = {}
    for arm, own in runs.items():
        pairs = list(zip(runs["none"], own, strict=True))
        both = [(a, b) for a, b in pairs if a["seconds"] is not None and b["seconds"] is not None]
        times = {n: median(a[n] / b[n] for a, b in both) if both else None for n in ("seconds", "completions")}
        change = median(b["final_accuracy"] - a["final_accuracy"] for a, b in pairs)
        found[arm] = {"times": times, "final_accuracy": change}
    return found


class Curve(TrainerCallback):
    """Dev accuracy every few steps, with the processor's seconds of training and the completions so far."""

    trainer: Any = None

    def __init__(self, config: Config, every: int):
        self.dev, self.every = load_splits(config.problems).dev, every
        self.ask: dict[str, Any] = {
            "prompt": PromptFormat.of(config), "max_new_tokens": config.max_completion_length,
            "grader": Grader.of(config),
        }  # fmt: skip
        self.points: list[dict[str, float]] = []
        self.seconds = self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds += time.process_time() - self._started
        if state.global_step % self.every:
            return
        self.points.append(
            {
                "seconds": self.seconds,
                "completions": self.trainer.recorder.completions,
                "accuracy": evaluate(self.trainer.rollouts, self.dev, **self.ask).accuracy,
            }
        )
