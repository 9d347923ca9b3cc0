"""The countdown problems: solvable, the same everywhere, and no target in two splits."""

import hashlib
import random
import re
from fractions import Fraction
from itertools import islice

from tiny_math_solver.grading.expression import parse_expression, parse_gold, reaches
from tiny_math_solver.problems.countdown import (
    LARGEST_NUMBER,
    TARGETS,
    beyond,
    countdown_problems,
    drill,
    expression_of,
    guess,
    search,
    split_of,
    stream,
    values,
)
from tiny_math_solver.problems.problem import Problem


def of_all_splits(count: int) -> list[Problem]:
    return [problem for split in ("train", "dev", "test") for problem in countdown_problems(split, count)]


def test_the_same_seed_gives_the_same_problems_on_every_machine():
    text = "\n".join(p.question + p.solution + p.answer for p in countdown_problems("test", 500))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "2ae6cd0312082ef4"
    assert countdown_problems("train", 20, seed=1) != countdown_problems("train", 20, seed=2)


def test_splits_share_no_target_under_any_seed():
    targets = {
        split: {parse_gold(p.answer)[0] for seed in (0, 1, 2) for p in countdown_problems(split, 1000, seed)}
        for split in ("train", "dev", "test")
    }
    assert not targets["train"] & targets["dev"]
    assert not targets["train"] & targets["test"]
    assert not targets["dev"] & targets["test"]
    assert set.union(*targets.values()) <= set(TARGETS)
    assert len(targets["test"]) >= 15
    assert len(targets["dev"]) >= 10


def test_the_split_of_a_target_never_moves():
    """Catches another hash: the shipped model's held-out targets would be among those that it was pretrained on."""
    assert [target for target in TARGETS if split_of(target) == "test"][:8] == [18, 23, 32, 42, 43, 55, 59, 60]
    assert [target for target in TARGETS if split_of(target) == "dev"][:8] == [33, 38, 39, 41, 46, 47, 49, 75]


def test_every_gold_is_reached_by_the_expression_of_its_solution():
    for problem in of_all_splits(500):
        target, numbers = parse_gold(problem.answer)
        assert len(numbers) == 3
        assert all(1 <= number <= LARGEST_NUMBER for number in numbers)
        assert reaches(expression_of(problem), target, numbers), problem
        assert not reaches(expression_of(problem), target + 1, numbers)


def test_the_question_says_what_the_gold_says():
    for problem in of_all_splits(200):
        target, numbers = parse_gold(problem.answer)
        assert sorted(map(int, re.findall(r"\d+", problem.question))) == sorted([target, *numbers])
        assert problem.question.endswith(".")
        assert not re.search(r"[{}]|\s\s", problem.question)


def test_ids_and_questions_are_unique():
    problems = countdown_problems("test", 500)
    assert len({p.id for p in problems}) == len({p.question for p in problems}) == 500


def test_every_equation_of_a_search_is_right_and_of_whole_numbers():
    for problem in countdown_problems("train", 500):
        for left, right in re.findall(r"([-+*/()\d]+)=(\d+)", problem.solution):
            assert parse_expression(left).value == int(right), problem


def test_larger_numbers_share_no_target_with_the_splits_that_are_held_out():
    """Catches pretraining on a held-out target: the limits are those of scripts/pretrain_embedded.py."""
    for problem in islice(stream("train", 0, 20, range(16, 241)), 2000):
        target, numbers = parse_gold(problem.answer)
        assert split_of(target) == "train"
        assert reaches(expression_of(problem), target, numbers)


def test_a_search_in_detail():
    """Catches another style: the shipped model has learned to write this one."""
    assert search(36, [11, 2, 14]) == (
        "11 last: 36-11=25 36+11=47\n"
        "2+14=16 14-2=12 2*14=28 14/2=7 no\n"
        "2 last: 36-2=34 36+2=38 36/2=18 36*2=72\n"
        "11+14=25 14-11=3 11*14=154 no\n"
        "14 last: 36-14=22 36+14=50\n"
        "11+2=13 11-2=9 11*2=22 yes\n"
        "(11*2)+14=36"
    )


def test_a_search_finds_an_expression_wherever_there_is_one():
    """Catches a way to use the last number that the search forgets."""
    for target in TARGETS:
        for numbers in ([3, 5, 8], [1, 2, 12], [6, 6, 6], [4, 7, 13], [2, 10, 15], [1, 1, 14], [15, 15, 3]):
            assert (search(target, numbers) is not None) == can_reach(target, numbers), (target, numbers)


def can_reach(target: int, numbers: list[int]) -> bool:
    """By trying everything, without negative numbers or fractions on the way."""
    for place, last in enumerate(numbers):
        for made in values(*numbers[:place], *numbers[place + 1 :]):
            value = Fraction(made.value)
            results = {value + last, value - last, last - value, value * last, value / last}
            if target in results | ({last / value} if value else set()):
                return True
    return False


def test_a_guess_uses_the_given_numbers_and_is_seldom_right():
    rng, right = random.Random(0), 0
    problems = countdown_problems("train", 1000)
    for problem in problems:
        target, numbers = parse_gold(problem.answer)
        expression = guess(problem, rng)
        assert sorted(parse_expression(expression).numbers) == sorted(numbers)
        right += reaches(expression, target, numbers)
    assert right < 100


def test_a_question_beyond_the_models_targets_is_doubted():
    assert beyond("Use 25, 50 and 75, each once, with + - * / and brackets to make 952.").startswith("952 is above")
    assert all(beyond(p.question) == "" for p in of_all_splits(50))


def test_an_exercise_is_arithmetic_without_a_problem():
    """Catches an exercise that gives away how a held-out target is reached."""
    rng = random.Random(0)
    for _ in range(100):
        question, answer = drill(rng)
        assert re.fullmatch(r"Write sums of (\d+ and \d+(, )?){4}\.", question)
        for line in answer.split("\n"):
            for sum_ in line.split(" "):
                left, right = sum_.split("=")
                made = parse_expression(left)
                assert made.value == int(right)
                assert len(made.numbers) == 2
