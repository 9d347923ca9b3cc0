"""Collapse: right answers, or the reward, that are lost within a few steps, and the step that the loss dates from.

The last few logged steps, one to WITHIN of them, are compared with up to BEFORE steps before those. A run has collapsed
if its right answers have halved by more than noise explains, and so much else has changed that it is no dip: the
format was learned, completions halved, or entropy doubled. Without such a sign the evidence has to be stronger.

docs/reliability.md has the rule in words, with its reasons.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import median

from tiny_math_solver.config.rewards import CORRECTNESS_REWARD, DEFAULT, FORMAT_REWARD, RewardNames
from tiny_math_solver.grading.graded import PLACES
from tiny_math_solver.grading.markers import How
from tiny_math_solver.runs.records import MetricsRow
from tiny_math_solver.training.measures import is_finite

WITHIN, BEFORE = 5, 10  # logged steps
LOST = 0.5  # of what there was
NEEDED = (5.0, 3.5, 2.5, 2.5)  # standard errors that the loss has to exceed, by the number of signs
FORMAT_RISE, SHORTER, ENTROPY_RISE = 0.2, 0.5, 2.0  # signs: a difference of shares, and factors
STEEP, STEEP_NEEDED = 0.4, 3.0  # a rise of the format, and the standard errors that suffice beside it
BLOWN_UP = 3.0, 1.0  # factor and nats a token by which entropy rises where that alone is a collapse
DAMAGED = 0.1  # of the way from before to after that a sign has gone at a step that is damaged already
ALIKE = 0.3  # correlation of right answers among the samples of one problem; 0.2 to 0.4 in a 0.5B model on GSM8K

LENGTH, ENTROPY, REWARD = "completions/mean_length", "entropy", "reward"


@dataclass(frozen=True)
class Batch:
    """The completions that a logged step stands for, in groups of `samples`, and their rewards."""

    completions: int
    samples: int
    names: RewardNames = DEFAULT

    @property
    def independent(self) -> float:
        """The number of independent completions that are as noisy: those of one problem are alike."""
        return self.completions / (1 + ALIKE * (self.samples - 1))


@dataclass(frozen=True)
class Collapse:
    """`text` has the measured values; `clean` is the last logged step before the damage, 0 if there is none."""

    text: str
    clean: int
    errors: float  # standard errors of the loss


def find_collapse(rows: Sequence[MetricsRow], batch: Batch, undone: int = 0) -> Collapse | None:
    """The clearest collapse that ends in the last of `rows`, the logged steps so far without those undone.

    `undone` is the last step that was: no damage since then dates from before.
    """
    found = [_Change(rows, len(rows) - last, batch).collapse() for last in range(1, min(WITHIN, len(rows) - 1) + 1)]
    clearest = max(filter(None, found), key=lambda collapse: collapse.errors, default=None)
    return clearest and replace(clearest, clean=max(clearest.clean, undone))


class _Change:
    """The logged steps from index `start` on, compared with those before."""

    def __init__(self, rows: Sequence[MetricsRow], start: int, batch: Batch):
        self.rows, self.start, self.batch = rows, start, batch
        self.right, self.marked = batch.names.right, batch.names.marked
        self.before, self.after = rows[max(0, start - BEFORE) : start], rows[start:]

    def collapse(self) -> Collapse | None:
        signs = self._signs()
        right = self.means(self.right)
        needed = min(NEEDED[len(signs)], STEEP_NEEDED if self._has_risen(STEEP) else NEEDED[0])
        losses = [(self._errors(self.right), needed), (self._errors(REWARD), NEEDED[0])]
        errors = max((errors for errors, needed in losses if errors >= needed), default=0.0)
        if not errors and not (self._is_noise() and right is not None and right[1] <= right[0]):
            return None
        clean = self._last_clean(signs)
        return Collapse(self._text(), 0 if clean < 0 else self.rows[clean].get("step", clean + 1), errors)

    def means(self, name: str | None) -> tuple[float, float] | None:
        """The mean `(before, after)`; None where one is missing."""
        if name is None:
            return None
        before, after = _values(self.before, name), _values(self.after, name)
        return (sum(before) / len(before), sum(after) / len(after)) if before and after else None

    def _errors(self, name: str) -> float:
        """Standard errors by which a reward fell, 0 if it did not halve."""
        if (means := self.means(name)) is None or means[1] > LOST * means[0]:
            return 0.0
        deviation = self._deviation(name)
        return (means[0] - means[1]) / deviation if deviation else 0.0

    def _deviation(self, name: str) -> float:
        """Standard error of the difference of the means of a reward, were nothing to have changed; 0 if unknown."""
        names = self.batch.names
        if name == REWARD:
            parts = [f"rewards/{part}/mean" for part in names.names] if names.are_known else []
            return sum(abs(weight) * self._deviation(part) for weight, part in zip(names.weights, parts, strict=False))
        if (means := self.means(name)) is None:
            return 0.0
        paid = CORRECTNESS_REWARD if name == self.right else FORMAT_REWARD
        # few problems that are nearly all solved vary more downwards than their variance tells
        before, after = (mean / paid for mean in means)
        variance = max(0.0, *(share * (1 - share) for share in (before, (before + after) / 2)))
        steps = 1 / len(_values(self.before, name)) + 1 / len(_values(self.after, name))
        return paid * sqrt(variance * steps / self.batch.independent)

    def _signs(self) -> list[str]:
        """The quantities that changed as in a collapse."""
        length, entropy = self.means(LENGTH), self.means(ENTROPY)
        return [
            name
            for name, is_sign in (
                (self.marked, self._has_risen(FORMAT_RISE)),
                (LENGTH, length is not None and length[1] <= SHORTER * length[0]),
                (ENTROPY, entropy is not None and entropy[1] >= ENTROPY_RISE * entropy[0]),
            )
            if name and is_sign
        ]

    def _has_risen(self, share: float) -> bool:
        """True if so many more of the completions give their answer where the prompt asks for it."""
        form = self.means(self.marked)
        return form is not None and form[1] - form[0] >= share * FORMAT_REWARD

    def _is_noise(self) -> bool:
        """True if two steps or more have an entropy that no learning leads to."""
        entropy = self.means(ENTROPY)
        return (
            len(self.after) > 1
            and entropy is not None
            and entropy[1] >= max(BLOWN_UP[0] * entropy[0], entropy[0] + BLOWN_UP[1])
        )

    def _last_clean(self, signs: Sequence[str]) -> int:
        """The index of the last logged step before any sign set out; -1 if there is none."""
        first = self.start - 1
        while first >= max(0, self.start - WITHIN) and any(self._is_damaged(self.rows[first], name) for name in signs):
            first -= 1
        return first

    def _is_damaged(self, row: MetricsRow, name: str) -> bool:
        before, after = median(_values(self.before, name)), sum(a := _values(self.after, name)) / len(a)
        return is_finite(row.get(name)) and (row[name] - before) / (after - before) >= DAMAGED

    def _text(self) -> str:
        """The measured values, before → after."""
        place = PLACES[How(self.batch.names.place)]
        names = ((self.right, "right", CORRECTNESS_REWARD), (self.marked, place, FORMAT_REWARD))
        shares = [
            f"{name} {means[0] / paid:.1%} → {means[1] / paid:.1%}"
            for key, name, paid in names
            if (means := self.means(key))
        ]
        others = [
            f"{name} {means[0]:{form}} → {means[1]:{form}}"
            for key, name, form in ((LENGTH, "tokens", ".0f"), (ENTROPY, "entropy", ".2g"), (REWARD, "reward", ".2f"))
            if (means := self.means(key))
        ]
        return ", ".join([*shares, *others])


def _values(rows: Sequence[MetricsRow], name: str) -> list[float]:
    return [row[name] for row in rows if is_finite(row.get(name))]
