"""The statistics of an evaluation: intervals, the paired test, pass@k and maj@k. No torch."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from scipy.stats import binomtest, norm


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); `(0, 1)` for n = 0."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def grouped_interval(correct: Sequence[int], samples: int) -> tuple[float, float]:
    """Wilson score interval of a share, from the numbers of right ones among the `samples` of each group.

    The samples of a group resemble each other, so they count as fewer independent ones (Kish's design effect): as many
    as would let the groups' means vary as they do, and no fewer than there are groups.
    """
    groups = len(correct)
    if groups == 0:
        return 0.0, 1.0
    share = sum(correct) / (groups * samples)
    spread = sum((right / samples - share) ** 2 for right in correct) / (groups * max(1, groups - 1))
    n = min(groups * samples, max(groups, share * (1 - share) / spread)) if spread else groups
    z = float(norm.ppf(0.975))
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


@dataclass(frozen=True)
class Paired:
    """Two models on the same problems: the counts that the second fixed and broke, and McNemar's exact p-value."""

    fixed: int
    broken: int
    p_value: float

    @property
    def is_significant(self) -> bool:
        return self.p_value < 0.05

    @property
    def has_gained(self) -> bool:
        """True if the second is better, beyond chance."""
        return self.is_significant and self.fixed > self.broken

    @property
    def outcome(self) -> Literal["gained", "lost", "unchanged"]:
        """What the second has become, beyond chance."""
        return "gained" if self.has_gained else "lost" if self.is_significant else "unchanged"

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
