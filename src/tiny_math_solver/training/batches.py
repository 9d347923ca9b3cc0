"""The rows of each generation batch: chosen problems, with groups that teach nothing replaced by others.

A group is dead if all its rewards are equal: its advantages are 0. DAPO's dynamic sampling (arXiv 2503.14476) samples
further problems until the batch has none; here for at most `rounds` further rounds, after which dead groups stay in.

Several processes share the completions of a batch: each group is dealt to one of them, as it costs, and all have all
results, in an order that does not depend on how many they are. Nor do the draws.

    sampler.py          which problems
    generation.py       their completions, graded
    problem_history.py  what each of them showed
"""

import hashlib
import math
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from tiny_math_solver.prompts import first_samples
from tiny_math_solver.runs.records import RolloutRow
from tiny_math_solver.support import processes
from tiny_math_solver.support.dealing import dealt, group_parts
from tiny_math_solver.training.generation import DatasetRow, Generation, Sample
from tiny_math_solver.training.problem_history import ProblemHistory
from tiny_math_solver.training.sampler import ProblemSampler

PROMPT_COST = 0.1  # of a prompt's token in one of a completion, which are decoded one by one
Group = list[Sample]


class Batches:
    """Chooses the problems of each generation batch; unless switched on, those that TRL's data loader gives.

    `rows` are the training problems. All processes choose the same, and share the work of each round.
    """

    def __init__(self, trainer: Any, rows: Sequence[DatasetRow], *, adaptive: bool = False, rounds: int = 0):
        self.rows, self.adaptive, self.rounds = rows, adaptive, rounds
        self._places = {row["id"]: place for place, row in enumerate(rows)}
        self.history, self.lengths = ProblemHistory(), Lengths()
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

        Then `generation` holds the completions of all, unless a backend of TRL's own is to make them.
        """
        self.set_aside = []
        generation, samples = self._generation, self._trainer.num_generations
        if self.adaptive or self.rounds:
            problems = self.sampler.batch()
        else:
            names = chain(*processes.gather([row["id"] for row in given]))
            problems = [self._places[name] for name in names][::samples]
        generation.begin(processes.own_part(self._rows_of(problems)))
        if self._trainer.rollout_func is not None:
            generation.hold(list(chain(*self._full_batch(problems, seed))))
        return generation.rows

    def records(self, step: int) -> list[RolloutRow]:
        """The completions set aside as rows of rollouts.jsonl."""
        return [self._generation.record(step, sample, advantage=0.0, used=False) for sample in chain(*self.set_aside)]

    def observe(self, step: int, rows: Sequence[RolloutRow]) -> None:
        """Take the rows of a graded batch, of all processes, into the history."""
        samples, right, tokens = Counter[str](), Counter[str](), Counter[str]()
        for row in rows:
            samples[row["id"]] += 1
            right[row["id"]] += row["correct"]
            tokens[row["id"]] += row["tokens"]
        self.history.observe_batch(step, [(problem, right[problem], count) for problem, count in samples.items()])
        self.lengths.observe({problem: tokens[problem] / count for problem, count in samples.items()})

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).state_dict() for name in ("history", "lengths", "sampler")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)

    # -- Rounds ---------------------------------------------------------------------------------------------------

    def _full_batch(self, problems: list[int], seed: int) -> list[Group]:
        """The groups of a batch, dead ones replaced as far as `rounds` allow."""
        groups = self._sampled(problems, seed)
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
        rows, samples, prompts = self._rows_of(problems), self._trainer.num_generations, self._generation.prompts
        numbers = first_samples((row["group"] for row in rows), 1)  # problems with the same prompt draw as one group
        shares = self._shares(problems)
        own = shares[processes.rank()]

        def make() -> list[Any]:
            made = self._generation.make([rows[place] for place in own], [numbers[place] for place in own], seed)
            return [(sample.rollout, sample.graded, sample.rewards) for sample in made]

        parts = self._generation.together(make)
        whole = sorted(zip(chain(*shares), chain(*parts), strict=True), key=operator.itemgetter(0))
        found = [Sample(row, *results) for row, (_, results) in zip(rows, whole, strict=True)]
        if any(sample.rollout.prompt_ids != prompts[sample.row["group"]].ids for sample in found):
            raise RuntimeError("the processes have dealt the completions of a step in different ways")
        return [found[first : first + samples] for first in range(0, len(found), samples)]

    def _shares(self, problems: list[int]) -> list[list[int]]:
        """The places of each process among the completions of `problems`."""
        samples, prompts = self._trainer.num_generations, self._generation.prompts
        parts = group_parts(len(problems), samples, processes.count())
        costs, places = [], []
        for first, problem in enumerate(problems):
            row = self.rows[problem]
            prompt, completion = len(prompts[row["group"]].ids), self.lengths.expected(row["id"])
            for part in parts:
                costs.append(PROMPT_COST * prompt + len(part) * completion)
                places.append(range(first * samples + part.start, first * samples + part.stop))
        return [list(chain(*(places[unit] for unit in share))) for share in dealt(costs, processes.count())]

    def _is_dead(self, group: Group) -> bool:
        trainer, rewards = self._trainer, [list(sample.rewards.values()) for sample in group]
        weights = trainer.reward_weights.tolist()
        paid = [[weight * (reward or 0.0) for weight, reward in zip(weights, each, strict=True)] for each in rewards]
        if trainer.multi_objective_aggregation == "sum_then_normalize":
            paid = [[sum(each)] for each in paid]
        return all(math.isclose(a, b, abs_tol=1e-8) for each in paid for a, b in zip(each, paid[0], strict=True))

    def _rows_of(self, problems: list[int]) -> list[DatasetRow]:
        return [dict(self.rows[problem]) for problem in problems for _ in range(self._trainer.num_generations)]

    @property
    def _generation(self) -> Generation:
        return self._trainer.generation


class Lengths:
    """The mean number of tokens of each problem's completions at its last visit, and of all completions of late."""

    FADES = 0.9  # the mean of all, with each batch

    def __init__(self) -> None:
        self.of_problem: dict[str, float] = {}
        self.of_all = 1.0

    def observe(self, means: Mapping[str, float]) -> None:
        """Take in the mean lengths of a batch, by problem."""
        if not means:
            return
        latest = sum(means.values()) / len(means)
        self.of_all = self.FADES * self.of_all + (1 - self.FADES) * latest if self.of_problem else latest
        self.of_problem |= means

    def expected(self, problem: str) -> float:
        """Tokens of a completion of `problem`."""
        return self.of_problem.get(problem, self.of_all)

    def state_dict(self) -> dict[str, Any]:
        names, tokens = list(self.of_problem), list(self.of_problem.values())
        return {"problems": names, "tokens": tokens, "of_all": self.of_all}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.of_problem = dict(zip(state["problems"], state["tokens"], strict=True))
        self.of_all = state["of_all"]


def round_seed(seed: int, number: int) -> int:
    """The seed of the draws in a further round of the batch with `seed`."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest(), "little")
