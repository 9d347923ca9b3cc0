"""The rows of each generation batch: chosen problems, with groups that teach nothing replaced by others.

A group is dead if all its rewards are equal: its advantages are 0. DAPO's dynamic sampling (arXiv 2503.14476) samples
further problems until the batch has none; here for at most `rounds` further rounds, after which dead groups stay in.

    sampler.py          which problems
    generation.py       their completions, graded
    problem_history.py  what each of them showed
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

from tiny_math_solver.runs.records import RolloutRow
from tiny_math_solver.support import processes
from tiny_math_solver.training.generation import DatasetRow, Generation, Sample
from tiny_math_solver.training.problem_history import ProblemHistory
from tiny_math_solver.training.sampler import ProblemSampler

Group = list[Sample]


class Batches:
    """Chooses the rows of each generation batch; unless switched on, those that TRL's data loader gives.

    `rows` are the training problems. All processes choose the same, and share the work of each round.
    """

    def __init__(self, trainer: Any, rows: Sequence[DatasetRow], *, adaptive: bool = False, rounds: int = 0):
        self.rows, self.adaptive, self.rounds = rows, adaptive, rounds
        self.history = ProblemHistory()
        self.set_aside: list[Group] = []  # of the batch under way: dead groups that others took the place of
        self._trainer = trainer
        self.sampler = ProblemSampler(
            [row["id"] for row in rows],
            trainer.args.generation_batch_size // trainer.num_generations,
            trainer.args.seed,
            shuffle=trainer.shuffle_dataset,
            history=self.history if adaptive else None,
        )

    @property
    def metrics(self) -> dict[str, float]:
        """What the batch under way passed over and set aside."""
        found: dict[str, float] = {"sampler/skipped": self.sampler.skipped} if self.adaptive else {}
        return found | ({"sampler/replaced": len(self.set_aside)} if self.rounds else {})

    def begin(self, given: list[DatasetRow], seed: int) -> list[DatasetRow]:
        """The rows of this process for the next batch, `given` by the data loader; draws depend on `seed`.

        With further rounds their completions are made at once, and `generation` holds those of the whole batch.
        """
        self.set_aside = []
        generation = self._generation
        if not self.adaptive and not self.rounds:
            generation.begin(given, seed)
        elif not self.rounds:
            generation.begin(self._own(self._rows_of(self.sampler.batch())), seed)
        else:
            generation.begin([], seed)
            generation.hold(self._own(list(chain(*self._full_batch(seed)))))
        return generation.rows

    def records(self, step: int) -> list[RolloutRow]:
        """The completions set aside as rows of rollouts.jsonl, by one process of all that hold them."""
        samples = chain(*self.set_aside) if processes.is_main() else ()
        return [self._generation.record(step, sample, advantage=0.0, used=False) for sample in samples]

    def observe(self, step: int, rows: Sequence[RolloutRow]) -> None:
        """Take the rows of a graded batch, of all processes, into the history."""
        samples = Counter(row["id"] for row in rows)
        right = Counter(row["id"] for row in rows if row["correct"])
        self.history.observe_batch(step, [(problem, right[problem], count) for problem, count in samples.items()])

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history.state_dict(), "sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history.load_state_dict(state["history"])
        self.sampler.load_state_dict(state["sampler"])

    # -- Rounds ---------------------------------------------------------------------------------------------------

    def _full_batch(self, seed: int) -> list[Group]:
        """The groups of a batch, dead ones replaced as far as `rounds` allow."""
        groups = self._sampled(self.sampler.batch(), seed)
        for number in range(1, self.rounds + 1):
            dead = [place for place, group in enumerate(groups) if self._is_dead(group)]
            further = self.sampler.more(len(dead))
            if not further:
                break
            for group in self._sampled(further, round_seed(seed, number)):
                if self._is_dead(group):
                    self.set_aside.append(group)
                else:
                    place = dead.pop(0)
                    self.set_aside.append(groups[place])
                    groups[place] = group
        return groups

    def _sampled(self, problems: list[int], seed: int) -> list[Group]:
        """A graded group of every problem, in all processes; each has made a part of the samples."""
        rows, samples = self._rows_of(problems), self._trainer.num_generations
        made = list(chain(*processes.gather(self._generation.make(self._own(rows), seed))))
        return [made[first : first + samples] for first in range(0, len(made), samples)]

    def _is_dead(self, group: Group) -> bool:
        trainer, rewards = self._trainer, [list(sample.graded.rewards.values()) for sample in group]
        weights = trainer.reward_weights.tolist()
        paid = [[weight * reward for weight, reward in zip(weights, each, strict=True)] for each in rewards]
        if trainer.multi_objective_aggregation == "sum_then_normalize":
            paid = [[sum(each)] for each in paid]
        return all(math.isclose(a, b, abs_tol=1e-8) for each in paid for a, b in zip(each, paid[0], strict=True))

    def _rows_of(self, problems: list[int]) -> list[DatasetRow]:
        return [dict(self.rows[problem]) for problem in problems for _ in range(self._trainer.num_generations)]

    def _own(self, rows: list[Any]) -> list[Any]:
        """The part of this process: TRL's processes have consecutive parts of a batch."""
        size = math.ceil(len(rows) / processes.count())
        return rows[processes.rank() * size :][:size]

    @property
    def _generation(self) -> Generation:
        return self._trainer.generation


def round_seed(seed: int, number: int) -> int:
    """The seed of the draws in a further round of the batch with `seed`."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest(), "little")
