"""The recent pass rates of each problem, and how likely a problem is to be asked again.

GRESO (arXiv 2506.02177): a group whose samples are all right or all wrong has no gradient, and a problem that was so
at its last visits will probably be so at the next. It is asked with probability `base ** streak`, where `streak` counts
its last visits in a row that were all right, or all wrong. Easy and hard problems have a base each, which moves towards
the share of such groups that a batch may hold.
"""

from collections.abc import Iterable
from typing import Any

import torch

LEAST = 0.05  # a problem is asked at least once in about 20 epochs
START, MOVE = 0.5, 0.01  # of the bases
EASY_SHARE, HARD_SHARE = 1 / 12, 1 / 6  # of a batch's groups, the paper's targets

Visit = tuple[str, int, int]  # a problem's id, how many of its samples were right, how many there were


class ProblemHistory:
    """The streak of each problem that was asked: above 0 all right, below 0 all wrong, 0 after a mixed visit."""

    def __init__(self) -> None:
        self.streaks: dict[str, int] = {}  # by the problem's id
        self.easy_base = self.hard_base = START

    def observe(self, step: int, problem: str, right: int, samples: int) -> None:
        """Take in one graded group, sampled for `step` (0: before the first one); one without samples tells nothing."""
        if not samples:
            return
        streak = self.streaks.get(problem, 0)
        if right == samples:
            self.streaks[problem] = max(streak, 0) + 1
        elif right == 0:
            self.streaks[problem] = min(streak, 0) - 1
        else:
            self.streaks[problem] = 0

    def observe_batch(self, step: int, visits: Iterable[Visit]) -> None:
        """Take in the graded groups of a generation batch, and move the bases by what they show."""
        visits = list(visits)
        for visit in visits:
            self.observe(step, *visit)
        easy = sum(right == samples for _, right, samples in visits)
        hard = sum(right == 0 for _, right, _ in visits)
        self.easy_base = _moved(self.easy_base, too_many=easy > EASY_SHARE * len(visits))
        self.hard_base = _moved(self.hard_base, too_many=hard > HARD_SHARE * len(visits))

    def ask_probability(self, problem: str) -> float:
        """The probability with which a problem whose turn has come is asked; 1 for one that was never asked."""
        streak = self.streaks.get(problem, 0)
        return max(LEAST, (self.easy_base if streak > 0 else self.hard_base) ** abs(streak))

    def state_dict(self) -> dict[str, Any]:
        return {
            "problems": list(self.streaks),
            "streaks": torch.tensor(list(self.streaks.values()), dtype=torch.int32),
            "bases": [self.easy_base, self.hard_base],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.streaks = dict(zip(state["problems"], state["streaks"].tolist(), strict=True))
        self.easy_base, self.hard_base = state["bases"]


def _moved(base: float, *, too_many: bool) -> float:
    return max(LEAST, min(1.0, base - MOVE if too_many else base + MOVE))
