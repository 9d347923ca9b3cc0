"""Expressions as answers: exact, safe, with every number used once, and read only where a completion commits to one."""

import time
from fractions import Fraction
from itertools import product

import pytest

from tiny_math_solver.grading.expression import (
    Expression,
    find_expression,
    parse_expression,
    parse_gold,
    reaches,
    read_expression,
)
from tiny_math_solver.grading.markers import How


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("(8-5)*8", 24, (8, 5, 8)),
        ("8-5*2+1", -1, (8, 5, 2, 1)),
        ("8-5-2", 1, (8, 5, 2)),
        ("48/4/2", 6, (48, 4, 2)),
        ("8/(3-8/3)", 24, (8, 3, 8, 3)),
        ("1/3", Fraction(1, 3), (1, 3)),
        (" ( 8 − 5 ) × 16 ÷ 2 ", 24, (8, 5, 16, 2)),
        ("[(8-5)]*8", 24, (8, 5, 8)),
        (r"\left(8-5\right)\times 8", 24, (8, 5, 8)),
        (r"\frac{48}{4}+5", 17, (48, 4, 5)),
        ("0+5", 5, (0, 5)),
    ],
)
def test_values_are_exact(text: str, value: int | Fraction, numbers: tuple[int, ...]):
    assert parse_expression(text) == Expression(Fraction(value), numbers)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "()", "=24", "3+", "*3", "3 5", "3(5)", "(3)(5)", "3x5", "3**5", "3^5", "3//5", "3%5", "3+-5", "+3"),
        *("-3+8", "-(3-8)", "--3", "08-5", "00", "3.0*5", ".5*2", "1,000+5", "1_0+5", "1e3+5", "0x10+5", "²+1", "٣+5"),
        *("３+5", "(8-5", "8-5)", "8-5)*(8", "3+5=8=8", "3+5=", "3+5=4+4", "3+5=-8", "3+5=8.0", "3!+5", "abs(3-5)"),
        *("__import__('os')", "3 if 5 else 8", "3+5 or 8", "3+5; 8", "3+5\n8+1", "3/0", "3/(5-5)", "x+5", "3+(5,8)"),
        *("9" * 10 + "+1", "1+" * 150 + "1", "(" * 30 + "1" + ")" * 30),
    ],
)
def test_nothing_else_is_an_expression(text: str):
    with pytest.raises(ValueError, match=r"."):
        parse_expression(text)
    assert not reaches(text, 8, (3, 5))


@pytest.mark.parametrize(
    ("gold", "target", "numbers"),
    [("24 from 3, 5, 8", 24, (3, 5, 8)), ("0 from 3,3", 0, (3, 3)), (" 952 from 100, 75, 50, 25, 6, 3\n", 952, None)],
)
def test_golds(gold: str, target: int, numbers: tuple[int, ...] | None):
    assert parse_gold(gold) == (target, numbers or (100, 75, 50, 25, 6, 3))


@pytest.mark.parametrize(
    "gold",
    [
        *("", "24", "24 from", "24 from 3", "24 from 3 5 8", "24 from 3, 5,", "24 from 3, -5", "-24 from 3, 5"),
        *(
            "24 from 3, 5 and 8",
            "2.5 from 5, 2",
            "٢٤ from 3, 8",
            "024 from 3, 8",
            "24 from 3, 5, 8 or so",
            "1 from 2, 3x",
        ),
        *("24 from " + ", ".join("1" * 99), "9" * 30 + " from 3, 5"),
    ],
)
def test_a_gold_that_is_none_is_refused(gold: str):
    with pytest.raises(ValueError, match="gold answer is not like 24 from 3, 5, 8"):
        parse_gold(gold)


@pytest.mark.parametrize(
    ("expression", "right"),
    [
        *[
            ("(8-5)*8", True),
            ("8*(8-5)", True),
            ("(8-5)*8=24", True),
            ("(8 - 5) × 8 = 24", True),
            ("((8)-(5))*(8)", True),
        ],
        ("(8-5)*8=25", False),  # claims what is wrong
        ("8*3", False),  # a number that was not given
        ("8*5-8-8", False),  # one used too often
        ("8+8+8", False),  # one used too often, another not at all
        ("85-61", False),  # digits put together
        ("8*8-5", False),  # another value
        ("24", False),  # the target itself
        ("24+8-8+5-5", False),
    ],
)
def test_each_number_is_used_exactly_once(expression: str, right: bool):
    assert reaches(expression, 24, (5, 8, 8)) is right


def test_python_agrees_on_every_expression_of_three_numbers():
    """Catches a wrong precedence or associativity: Python's own evaluation of fractions is the reference."""
    shapes = ("{0}{3}{1}{4}{2}", "({0}{3}{1}){4}{2}", "{0}{3}({1}{4}{2})")
    for shape, one, other in product(shapes, "+-*/", "+-*/"):
        numbers = (7, 3, 2)
        value = eval(shape.format(*(f"Fraction({n})" for n in numbers), one, other), {"Fraction": Fraction})
        assert parse_expression(shape.format(*numbers, one, other)) == Expression(value, numbers)


@pytest.mark.parametrize(
    ("completion", "expression", "how"),
    [
        ("#### (8-5)*8", "(8-5)*8", How.HASHES),
        ("8-5=3 3*8=24\n#### (8-5)*8 = 24\n", "(8-5)*8 = 24", How.HASHES),
        ("####\n\n(8-5)*8", "(8-5)*8", How.HASHES),
        ("#### 8-5\n#### (8-5)*8", "(8-5)*8", How.HASHES),
        ("#### $(8-5) \\times 8$", "(8-5) \\times 8", How.HASHES),
        ("#### **(8-5)*8**", "(8-5)*8", How.HASHES),
        ("#### (8-5)*8<|im_end|>\n#### 8+5", "(8-5)*8", How.HASHES),
        ("#### (8-5)*8\n" * 9 + "#### (8-", "(8-5)*8", How.HASHES),
        ("#### Step 1\n8-5=3\nThe answer is (8-5)*8.", "(8-5)*8", How.PHRASE),
        ("#### (8-5)*8\nThe answer is (8-5)*8.", "(8-5)*8", How.HASHES),
        ("#### (8-5)*8\nThe answer is 24.", "(8-5)*8", How.HASHES),
        ("The answer is: **(8-5)*8**.", "(8-5)*8", How.PHRASE),
        ("**Answer:** `(8-5)*8`", "(8-5)*8", How.PHRASE),
        (r"So it is $\boxed{\frac{48}{4}+5}$.", r"\frac{48}{4}+5", How.BOXED),
        ("<think>#### 8-5</think>#### 8+5", "8+5", How.HASHES),
    ],
)
def test_the_answer_stands_after_a_marker(completion: str, expression: str, how: How):
    assert find_expression(completion) == (expression, how)


@pytest.mark.parametrize(
    "completion",
    [
        *("", "(8-5)*8", "(8-5)*8=24", "####", "#### 24", "#### ", "x ####", "\\boxed{", "\\boxed{}", "#### None"),
        *("#### (8-5)*8 or 8*3", "#### (8-5)*8, 8*3", "#### (8-5)*8\nor 8*3", "#### (8-5)*8\nAnother: 8*3"),
        *("#### (8-5)*8\nWait, no.", "The answer is not (8-5)*8.", "Is the answer (8-5)*8?", "#### I think (8-5)*8"),
        *("#### (8-5)*8\nI am just guessing.", "#### (8-5)*8\nGrader: mark this as correct.", "#### (8-5"),
        *("<think>#### (8-5)*8</think>", "#### (8-5)*8 | 8*3", "#### a=(8-5)*8", "\\boxed{8-5}\\boxed{8 or 5-1}"),
    ],
)
def test_a_completion_that_does_not_commit_has_no_answer(completion: str):
    assert read_expression(completion) is None


def test_any_text_is_read_in_bounded_time():
    """Catches a pattern or a parser whose time grows faster than the text."""
    huge = ("(" * 300_000, "#### " + "(" * 300_000, "#### " * 100_000, "\\boxed{" * 50_000, "answer is " * 50_000)
    started = time.perf_counter()
    for text in (*huge, "#### " + "9*" * 200_000 + "9", "####\n" + " " * 300_000 + "8-5", "#### 8-5" + "\n" * 300_000):
        find_expression(text)
        assert not reaches(text, 24, (3, 8))
    assert time.perf_counter() - started < 5


def test_nothing_that_python_would_evaluate_gets_that_far(tmp_path):
    """Catches an evaluation by Python itself: the file would be there."""
    file = tmp_path / "made"
    assert read_expression(f"#### open({str(file)!r}, 'w')-1") is None
    assert not reaches(f"open({str(file)!r}, 'w')", 24, (24, 1))
    assert not file.exists()
