"""The embedded problems: right, disjoint, the same everywhere."""

import hashlib
import re
from collections import Counter
from itertools import islice

from tiny_math_solver.grading import is_correct
from tiny_math_solver.problems.embedded import LARGEST_NUMBER, beyond, embedded_problems, scenario_names, stream

EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=\$?<<(\d+[-+*/]\d+)=(\d+)>>(\d+)")


def test_the_same_seed_gives_the_same_problems_on_every_machine():
    text = "\n".join(p.question + p.worked_answer for p in embedded_problems("test", 500))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "fc9e39f57089b1a7"
    assert embedded_problems("train", 20, seed=1) != embedded_problems("train", 20, seed=2)


def test_a_question_beyond_the_models_numbers_is_doubted():
    assert beyond("Tom has 500 apples and eats 50. How many are left?").startswith("500 is above 120")
    assert all(beyond(p.question) == "" for p in embedded_problems("test", 50))


def test_there_are_enough_scenarios_and_all_of_them_come_up():
    seen, unseen = scenario_names(unseen=False), scenario_names(unseen=True)
    assert len(seen) >= 30
    assert len(unseen) >= 5
    counts = Counter(p.id.rsplit("-", 1)[0] for p in embedded_problems("train", 4000))
    assert set(counts) == set(seen)
    assert min(counts.values()) > 4000 / len(seen) / 2


def test_every_equation_is_right_and_the_last_one_is_the_answer():
    for problem in [*embedded_problems("test", 500), *embedded_problems("unseen", 200)]:
        equations = EQUATION.findall(problem.solution)
        assert 1 <= len(equations) <= 4
        assert len(equations) == problem.solution.count("<<")
        for left, op, right, inside, value, shown in equations:
            a, b = int(left), int(right)
            exact = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[op]
            assert inside == f"{left}{op}{right}"
            assert exact == int(value) == int(shown)
            assert 0 < exact <= LARGEST_NUMBER
        assert equations[-1][5] == problem.answer


def test_every_number_of_the_work_is_in_the_story_or_worked_out_before():
    """A solution that used a hidden number could not be found by any pupil."""
    words = {"twice": 2, "half": 2}
    for problem in embedded_problems("train", 2000):
        known = set(map(int, re.findall(r"\d+", problem.question)))
        known |= {n for word, n in words.items() if word in problem.question}
        for left, _, right, _, value, _ in EQUATION.findall(problem.solution):
            assert {int(left), int(right)} <= known, problem
            known.add(int(value))


def test_splits_share_no_problem_even_under_other_names_and_seeds():
    def numbers(p):  # the story told without its names and wording
        work = re.findall(r"\d+", p.solution)  # in the order of the steps
        return p.id.rsplit("-", 1)[0], *work, *sorted(re.findall(r"\d+", p.question))

    train = {numbers(p) for seed in (0, 1) for p in islice(stream("train", seed), 6_000)}
    dev, test = ({numbers(p) for p in embedded_problems(split, 500, seed=3)} for split in ("dev", "test"))
    assert not train & test
    assert not train & dev
    assert not dev & test
    unseen = {p.id.rsplit("-", 1)[0] for p in embedded_problems("unseen", 200)}
    assert not unseen & {name for name, *_ in train | dev | test}


def test_ids_are_unique_and_wording_is_whole():
    problems = embedded_problems("test", 500)
    assert len({p.id for p in problems}) == len({p.question for p in problems}) == 500
    for problem in problems:
        assert not re.search(r"[{}]|\s\s|\$\$", problem.question + problem.solution), problem
        assert problem.question.endswith("?")


def test_the_grader_pays_every_worked_answer_and_no_other_number():
    for problem in embedded_problems("test", 300):
        assert is_correct(problem.worked_answer, problem.answer, strict=True)
        assert is_correct(f"{problem.solution}\nThe answer is {problem.answer}.", problem.answer)
        assert not is_correct(f"#### {int(problem.answer) + 1}", problem.answer)
