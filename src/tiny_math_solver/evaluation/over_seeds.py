"""One verdict over several runs that differ in their seed alone: the gain, and how far chance may have made it.

A gain has two sources of chance. Another seed samples other completions, in another order, from another adapter; other
test problems would be easier or harder. All seeds answer the same problems, so the two are crossed: the gains stand in
a table `[S, P]` of S seeds and P problems, each +1 (fixed), 0 or -1 (broken), and both rows and columns are samples.
Taking the S · P gains for independent, or the seeds' means alone, makes the interval too narrow: the one forgets that
the answers of one seed resemble each other, the other that all seeds share their problems. That a verdict on a method
needs several seeds, and test data as a source of variance beside them, is argued by Bouthillier et al. (Accounting for
Variance in Machine Learning Benchmarks, MLSys 2021).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from tiny_math_solver.evaluation.statistics import Paired, mcnemar, wilson_interval

FEW = 5  # seeds, below which an interval is rough
BOTH, PROBLEMS_ALONE = "seeds and problems", "problems"


@dataclass(frozen=True)
class SeedResult:
    """The greedy answers of one seed's run to the test problems, before and after training, in the same order."""

    seed: int
    ids: list[str]
    before: list[bool]
    after: list[bool]
    earned: bool  # False if no completion ever got a reward
    train_seconds: float

    @property
    def paired(self) -> Paired:
        return mcnemar(self.before, self.after)

    @property
    def gains(self) -> np.ndarray:
        """+1, 0 or -1 of each problem, `[P]`."""
        return np.array(self.after, dtype=float) - np.array(self.before, dtype=float)

    def row(self) -> dict[str, Any]:
        """The seed's entry in `runs` of seeds.json."""
        n, paired = max(1, len(self.ids)), self.paired
        return {
            "seed": self.seed,
            "before": sum(self.before) / n,
            "after": sum(self.after) / n,
            "gain": (paired.fixed - paired.broken) / n,
            **paired.to_dict(),
            "outcome": paired.outcome,
            "earned": self.earned,
            "train_seconds": self.train_seconds,
        }


def crossed_interval(gains: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of `gains` `[S, P]` over seeds and problems; of one seed, over problems alone.

    Variance components of the crossed design without replicates: with the mean squares of seeds (A), problems (B) and
    the rest (E), the mean has the variance (A + B - E) / (S · P), and Student's t as many degrees of freedom as
    Satterthwaite (1946) gives that sum. No component is taken to be below zero. Where all gains are equal, which would
    leave an interval of no width, it is that of Wilson for a share of which none was seen.

    The other way is to resample seeds and problems (the pigeonhole bootstrap, Owen 2007). With few seeds its
    percentiles are too narrow where seeds matter: resamples of five vary less than five new ones, and nothing in them
    stands for Student's t. `tests/evaluation/test_over_seeds.py` measures the coverage of both.
    """
    seeds, problems = gains.shape
    if problems < 2:
        return -1.0, 1.0
    mean, of_seeds, of_problems = float(gains.mean()), gains.mean(axis=1), gains.mean(axis=0)
    if (gains == gains[0, 0]).all():
        unseen = wilson_interval(0, problems, confidence)[1]
        return max(-1.0, mean - unseen), min(1.0, mean + unseen)
    b = seeds * float(((of_problems - mean) ** 2).sum()) / (problems - 1)
    if seeds == 1:
        variance, freedom = b, float(problems - 1)
    else:
        a = problems * float(((of_seeds - mean) ** 2).sum()) / (seeds - 1)
        rest = gains - of_seeds[:, None] - of_problems[None, :] + mean
        e = float((rest**2).sum()) / ((seeds - 1) * (problems - 1))
        variance = max(a + b - e, a, b)
        spread = a**2 / (seeds - 1) + b**2 / (problems - 1) + e**2 / ((seeds - 1) * (problems - 1))
        freedom = variance**2 / spread
    half = float(student.ppf((1 + confidence) / 2, freedom)) * math.sqrt(variance / (seeds * problems))
    return max(-1.0, mean - half), min(1.0, mean + half)


def verdict_over(results: Sequence[SeedResult]) -> dict[str, Any]:
    """The verdict over the seeds that have a result, the fields of seeds.json; empty if none has.

    Raises ValueError if they were not tested on the same problems.
    """
    if not results:
        return {}
    if any(result.ids != results[0].ids for result in results):
        raise ValueError("a verdict over seeds needs the same test problems in the same order")
    rows = [result.row() for result in results]
    gains = np.stack([result.gains for result in results])
    low, high = crossed_interval(gains)
    by_gain = sorted(rows, key=lambda row: -row["gain"])
    return {
        "n": len(results[0].ids),
        "before": float(np.mean([row["before"] for row in rows])),
        "after": float(np.mean([row["after"] for row in rows])),
        "gain": float(gains.mean()),
        "ci95": [low, high],
        "interval_over": BOTH if len(rows) > 1 else PROBLEMS_ALONE,
        "caution": _caution(len(rows)),
        "sd": float(np.std([row["gain"] for row in rows], ddof=1)) if len(rows) > 1 else None,
        **{name: sum(row["outcome"] == name for row in rows) for name in ("gained", "unchanged", "lost")},
        "best": by_gain[0]["seed"],
        "worst": by_gain[-1]["seed"],
        "same_before": all(result.before == results[0].before for result in results),
    }


def seed_line(row: dict[str, Any]) -> str:
    """One seed's result, from its entry in seeds.json."""
    nothing = "" if row["earned"] else "; no completion earned a reward"
    return (
        f"seed {row['seed']}: {row['before']:.1%} → {row['after']:.1%}, fixed {row['fixed']}, broken {row['broken']}, "
        f"p = {row['p_value']:.2g}{nothing}"
    )


def failed_line(failed: dict[str, Any]) -> str:
    """A seed without a result, from its entry in seeds.json."""
    return f"seed {failed['seed']}: no result, {failed['why']}"


def seeds_lines(record: dict[str, Any]) -> list[str]:
    """The content of seeds.json as lines: the verdict first, then each seed."""
    verdict, runs, failed = record["verdict"], record["runs"], record["failed"]
    lines = _verdict_lines(verdict, runs) if verdict else ["verdict: none, as no seed has a result"]
    if failed and verdict:
        count = len(runs)
        lines.append(
            f"  the mean is over the {count} seed{'s' * (count != 1)} with a result; {len(failed)} of "
            f"{len(failed) + count} ended without one, which no figure above counts"
        )
    lines += [f"  {seed_line(row)}" for row in runs]
    return [*lines, *(f"  {failed_line(each)}" for each in failed)]


def _verdict_lines(verdict: dict[str, Any], runs: list[dict[str, Any]]) -> list[str]:
    low, high = verdict["ci95"]
    count = len(runs)
    lines = [
        f"verdict over {count} seed{'s' * (count != 1)}: {100 * verdict['gain']:+.1f} points, greedy accuracy "
        f"{verdict['before']:.1%} → {verdict['after']:.1%} on {verdict['n']:,} test problems",
        f"  95 % interval {100 * low:+.1f} to {100 * high:+.1f} points, over {verdict['interval_over']}"
        + (f": {verdict['caution']}" if verdict["caution"] else ""),
    ]
    if count > 1:
        after = {row["seed"]: row["after"] for row in runs}
        lines += [
            f"  {verdict['gained']} of {count} gained significantly, {verdict['unchanged']} did not change, "
            f"{verdict['lost']} lost",
            f"  standard deviation over seeds {100 * verdict['sd']:.1f} points; best {after[verdict['best']]:.1%} "
            f"(seed {verdict['best']}), worst {after[verdict['worst']]:.1%} (seed {verdict['worst']})",
        ]
    if not verdict["same_before"]:
        lines.append(
            "  the answers before training differ between seeds (another device or number of threads?); each seed is "
            "compared with its own"
        )
    return lines


def _caution(count: int) -> str:
    """How an interval over so few seeds is to be taken; empty if there are enough."""
    if count == 1:
        return "one seed says nothing about others"
    return f"rough, as {count} seeds say little about others" if count < FEW else ""
