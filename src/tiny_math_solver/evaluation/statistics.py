"""The statistics of an evaluation: intervals, the paired test, pass@k and maj@k. No torch."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

from scipy.stats import binomtest


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); `(0, 1)` for n = 0."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Paired:
    """Two models on the same problems: the counts that the second fixed and broke, and McNemar's exact p-value."""

    fixed: int
    broken: int
    p_value: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> Paired:
    """McNemar's exact two-sided test: under the null hypothesis, a changed answer is as likely fixed as broken.

    Both sequences are in the order of the same problems. Raises ValueError if their lengths differ.
    """
    fixed = sum(a and not b for b, a in zip(before, after, strict=True))
    broken = sum(b and not a for b, a in zip(before, after, strict=True))
    p_value = float(binomtest(min(fixed, broken), fixed + broken).pvalue) if fixed + broken else 1.0
    return Paired(fixed, broken, p_value)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate, from `correct` of `n` samples, that one of `k` is correct (Chen et al. 2021, eq. 1)."""
    if not 0 < k <= n:
        raise ValueError(f"pass@k needs 1 <= k <= n, got k={k}, n={n}")
    missed = 1.0
    for i in range(n - correct + 1, n + 1):
        missed *= 1.0 - k / i
    return 0.0 if correct == 0 else 1.0 - missed if n - correct >= k else 1.0


def maj_at_k(answers: Sequence[Hashable | None], gold: Hashable, k: int) -> float:
    """Share of consecutive groups of `k` samples whose most frequent answer is `gold` (Wang et al. 2022).

    Samples without an answer do not vote; a tie counts as the chance of drawing `gold` from the tied answers.
    """
    if not 0 < k <= len(answers):
        raise ValueError(f"maj@k needs 1 <= k <= n, got k={k}, n={len(answers)}")
    groups = [answers[i : i + k] for i in range(0, len(answers) - k + 1, k)]
    return sum(_vote_is(gold, group) for group in groups) / len(groups)


def _vote_is(gold: Hashable, answers: Sequence[Hashable | None]) -> float:
    votes = Counter(a for a in answers if a is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    return (gold in winners) / len(winners)
