"""Generation batches put together: dead groups give way to further problems, in all processes alike."""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from helpers.together import together
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts import Rollout
from tiny_math_solver.support import processes
from tiny_math_solver.training.batches import Batches, Lengths, round_seed
from tiny_math_solver.training.generation import Sample
from tiny_math_solver.training.step_metrics import StepMetrics

ROWS: list[dict[str, Any]] = [{"id": f"p{n}", "group": n} for n in range(40)]
SEED = 7 << 32


class MadeUp:
    """Generation whose completion number `k` of a problem is paid `pays(problem, seed, k)`: right, format."""

    def __init__(self, pays: Callable[[int, int, int], tuple[float, float]]):
        self.pays = pays
        self.calls: list[Any] = []  # the seed and the groups of each
        self.numbers: list[int] = []
        self.step_metrics, self.prompts = (
            StepMetrics(),
            {row["group"]: Prompt([1, row["group"]], row["group"]) for row in ROWS},
        )
        self.rows: list[dict] = []

    def begin(self, rows: list[dict]) -> None:
        self.rows = rows

    def together(self, make: Callable[[], list[Any]]) -> list[list[Any]]:
        return processes.gather(make())

    def hold(self, samples: list[Sample]) -> None:
        self.held, self.rows = samples, processes.own_part([sample.row for sample in samples])

    def make(self, rows: list[dict], numbers: list[int], seed: int) -> list[Sample]:
        new: Any = Sample
        self.calls.append((seed, [row["group"] for row in rows]))
        self.numbers += numbers
        made = []
        for row, number in zip(rows, numbers, strict=True):
            paid, rollout = self.pays(row["group"], seed, number), Rollout([1, row["group"]], [number], True)
            graded: Any = SimpleNamespace()
            made.append(new(row, rollout, graded, dict(zip(("right", "format"), paid, strict=True))))
        return made


def batches(pays: Any, rounds: int, *, samples: int = 4, size: int = 8, weights=(1.0, 1.0), **trl: Any) -> Batches:
    trainer = SimpleNamespace(
        args=SimpleNamespace(generation_batch_size=size * samples, seed=7),
        num_generations=samples,
        shuffle_dataset=False,
        reward_weights=torch.tensor(weights),
        multi_objective_aggregation="sum_then_normalize",
        generation=MadeUp(pays),
        rollout_func=MadeUp,
        **trl,
    )
    return Batches(trainer, ROWS, rounds=rounds)


def odd_are_dead(problem: int, seed: int, number: int) -> tuple[float, float]:
    return (float(number == 0) if problem % 2 == 0 else 0.0), 0.0


def groups(rows: list[dict]) -> list[int]:
    return [row["group"] for row in rows[::4]]


def aside(made: Batches) -> list[int]:
    return [group[0].row["group"] for group in made.set_aside]


def test_dead_groups_give_way_to_the_next_live_ones_until_the_batch_is_full():
    """Round 1 asks for four (8–11, two of them live), round 2 for two (12, 13), round 3 for one (14)."""
    made = batches(odd_are_dead, rounds=5)
    rows = made.begin([], SEED)
    assert groups(rows) == [0, 8, 2, 10, 4, 12, 6, 14]
    assert [row["group"] for row in rows] == [group for group in groups(rows) for _ in range(4)]
    generation = made._trainer.generation
    assert [len(asked) // 4 for _, asked in generation.calls] == [8, 4, 2, 1]
    assert [seed for seed, _ in generation.calls] == [SEED, *(round_seed(SEED, n) for n in (1, 2, 3))]
    assert aside(made) == [1, 9, 3, 11, 5, 13, 7]
    assert made.metrics == {"sampler/replaced": 7}
    assert groups(made.begin([], SEED + 1)) == [24, 16, 26, 18, 28, 20, 30, 22]  # the order goes on with 15


def test_at_the_bound_the_dead_groups_that_are_left_stay_in():
    made = batches(odd_are_dead, rounds=1)
    assert groups(made.begin([], SEED)) == [0, 8, 2, 10, 4, 5, 6, 7]
    assert aside(made) == [1, 9, 3, 11]
    assert len(made._trainer.generation.calls) == 2


def test_a_batch_without_a_dead_group_asks_for_nothing_more():
    made = batches(lambda problem, seed, number: (float(number == 0), 0.0), rounds=3)
    assert groups(made.begin([], SEED)) == list(range(8))
    assert len(made._trainer.generation.calls) == 1
    assert made.metrics == {"sampler/replaced": 0}


def test_where_all_problems_are_dead_each_is_asked_once_at_most_and_the_first_stay():
    made = batches(lambda *_: (0.0, 0.0), rounds=50)
    assert groups(made.begin([], SEED)) == list(range(8))
    assert len(made.set_aside) == 32  # all others


@pytest.mark.parametrize(
    ("weights", "aggregation", "dead"),
    [
        ((1.0, 0.5), "sum_then_normalize", False),
        ((1.0, 0.0), "sum_then_normalize", True),  # only the format differs, and it is not paid
        ((0.5, 1.0), "sum_then_normalize", True),  # a right one without the format is paid as a wrong one with it
        ((0.5, 1.0), "normalize_then_sum", False),  # as each reward is normalised by itself
    ],
)
def test_dead_is_what_the_weighted_rewards_say(weights: tuple[float, float], aggregation: str, dead: bool):
    """Beside a wrong answer after ####, one without, or a right one without. Catches rewards taken unweighted."""
    paid = (0.0, 0.5), ((1.0, 0.0) if weights[0] == 0.5 else (0.0, 0.0))
    made = batches(lambda problem, seed, number: paid[number % 2], rounds=1, weights=weights)
    made._trainer.multi_objective_aggregation = aggregation
    made.begin([], SEED)
    assert bool(made.set_aside) == dead


def test_a_reward_that_is_no_number_is_left_to_the_guards():
    made = batches(lambda *_: (float("nan"), 0.0), rounds=1)
    made.begin([], SEED)
    assert made.set_aside == []


def test_unless_switched_on_the_problems_are_the_given_ones():
    made = batches(odd_are_dead, rounds=0)
    given = [ROWS[place] for place in (5, 7, 6) for _ in range(4)]
    assert groups(made.begin(given, SEED)) == [5, 7, 6]
    assert made.metrics == {}
    assert made._trainer.generation.calls == [(SEED, [row["group"] for row in given])]
    assert made._trainer.generation.numbers == [0, 1, 2, 3] * 3


def test_problems_with_one_prompt_draw_as_one_group():
    """Two rows of a file may ask the same; samples that began anew for the second would be the first's."""
    made = batches(odd_are_dead, rounds=0)
    twins = [{**ROWS[5], "group": 7}, ROWS[7]]
    made.rows = [*ROWS[:5], twins[0], *ROWS[6:]]
    made.begin([row for row in twins for _ in range(4)], SEED)
    assert made._trainer.generation.numbers == list(range(8))


def test_a_backend_of_trls_own_makes_the_completions_itself():
    made = batches(odd_are_dead, rounds=0)
    made._trainer.rollout_func = None
    given = [ROWS[5]] * 4
    assert made.begin(given, SEED) == given
    assert made._trainer.generation.calls == []


def test_processes_that_share_groups_agree_on_the_batch_and_divide_the_work(monkeypatch: pytest.MonkeyPatch):
    """Three groups of 4 for two processes, each cut into two parts, and one of the rest goes to each.

    Catches a process that decides by its own samples, or makes those of the other too, and draws that begin anew in
    each process.
    """
    monkeypatch.setenv("WORLD_SIZE", "2")

    def pays(problem: int, seed: int, number: int) -> tuple[float, float]:
        return float(number == 3 if problem == 1 else number == 0 and problem >= 5), 0.0

    def work(rank: int) -> Any:
        os.environ["RANK"] = str(rank)
        made = batches(pays, rounds=4, size=3)
        rows, generation = made.begin([], SEED), made._trainer.generation
        calls = [asked for _, asked in generation.calls]
        return [row["group"] for row in rows], aside(made), calls, generation.numbers[:6]

    (first, first_aside, first_calls, first_numbers), (second, second_aside, second_calls, second_numbers) = together(
        work
    )
    assert (first, second) == ([5, 5, 5, 5, 1, 1], [1, 1, 6, 6, 6, 6])
    assert first_aside == second_aside == [3, 4, 0, 2]
    assert first_calls == [[0, 0, 1, 1, 2, 2], [3] * 4, [5] * 4]
    assert second_calls == [[0, 0, 1, 1, 2, 2], [4] * 4, [6] * 4]
    assert (first_numbers, second_numbers) == ([0, 1] * 3, [2, 3] * 3)


def test_groups_are_dealt_by_what_they_will_take(monkeypatch: pytest.MonkeyPatch):
    """One problem had long answers: whoever gets it gets fewer of the others. A new one is as long as all of late."""
    monkeypatch.setenv("WORLD_SIZE", "2")

    def work(rank: int) -> Any:
        os.environ["RANK"] = str(rank)
        made = batches(odd_are_dead, rounds=0, size=8)
        made.lengths.observe({"p3": 700.0, **{f"p{n}": 100.0 for n in (0, 1, 2, 4, 5, 6)}})
        made.begin([ROWS[place] for place in range(rank * 4, rank * 4 + 4) for _ in range(4)], SEED)
        return sorted({group for _, asked in made._trainer.generation.calls for group in asked})

    assert together(work) == [[3, 5, 6], [0, 1, 2, 4, 7]]


def test_the_expected_length_is_the_problems_last_or_that_of_all_of_late():
    lengths = Lengths()
    lengths.observe({"a": 100.0, "b": 300.0})
    assert [lengths.expected(name) for name in "abc"] == [100, 300, 200]
    lengths.observe({"a": 400.0})
    assert [lengths.expected(name) for name in "abc"] == [400, 300, 0.9 * 200 + 0.1 * 400]
    other = Lengths()
    other.load_state_dict(lengths.state_dict())
    assert vars(other) == vars(lengths)
    lengths.observe({})
    assert vars(other) == vars(lengths)
