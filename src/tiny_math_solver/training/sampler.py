"""The order in which problems are asked, where it is not left to TRL's sampler.

TRL's data loader reads ahead and, on resuming, reads again what was used: a sampler that looks at results would choose
by another history then. So the problems are chosen when their batch is generated, the data loader only gives the beat,
and a checkpoint holds the place in the order.
"""

import hashlib
from collections.abc import Sequence

import torch

from tiny_math_solver.training.problem_history import ProblemHistory


class ProblemSampler:
    """Chooses problems by their place in the training set, each at most once an epoch and once a batch.

    An epoch's order is that of TRL's sampler for the same seed. With a `history` a problem whose turn has come is asked
    with the probability found there, drawn from seed, epoch and problem alone; one that is passed over has its next
    turn in the next epoch. Where an epoch has fewer problems left than a batch of `size`, these are left out, as by
    TRL; where too few are left since some were passed over, the batch goes on in the next epoch.
    """

    def __init__(
        self,
        problems: Sequence[str],
        size: int,
        seed: int,
        *,
        shuffle: bool = True,
        history: ProblemHistory | None = None,
    ):
        self.problems, self.size, self.seed, self.shuffle = problems, size, seed, shuffle
        self.history = history
        self.skipped = 0  # problems passed over for the batch under way
        self._asked: set[int] = set()  # in that batch
        self._go_to(epoch=0, place=0)

    def batch(self) -> list[int]:
        """The problems of the next batch."""
        self._asked, self.skipped = set(), 0
        if len(self._order) - self._place < self.size:
            self._next_epoch()
        return self.more(self.size)

    def more(self, count: int) -> list[int]:
        """`count` further problems for the batch under way, fewer where it has asked nearly all there are."""
        chosen: list[int] = []
        count, turns = min(count, len(self.problems) - len(self._asked)), 0
        while len(chosen) < count:
            problem = self._next()
            if problem in self._asked:
                continue
            turns += 1
            if turns <= len(self.problems) and self._is_skipped(problem):  # once around, they are asked all the same
                self.skipped += 1
                continue
            chosen.append(problem)
            self._asked.add(problem)
        return chosen

    def _next(self) -> int:
        if self._place == len(self._order):
            self._next_epoch()
        self._place += 1
        return self._order[self._place - 1]

    def _go_to(self, epoch: int, place: int) -> None:
        self._generator, self._epoch = torch.Generator().manual_seed(self.seed), -1
        while self._epoch < epoch:  # each epoch draws its order from the same generator
            self._next_epoch()
        self._place = place

    def _next_epoch(self) -> None:
        self._epoch, self._place, count = self._epoch + 1, 0, len(self.problems)
        self._order = torch.randperm(count, generator=self._generator).tolist() if self.shuffle else list(range(count))

    def _is_skipped(self, problem: int) -> bool:
        if self.history is None:
            return False
        name = self.problems[problem]
        key = hashlib.blake2b(f"{self.seed}/{self._epoch}/{name}".encode(), digest_size=8).digest()
        return int.from_bytes(key, "little") / 2**64 >= self.history.ask_probability(name)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "place": self._place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._go_to(**state)
