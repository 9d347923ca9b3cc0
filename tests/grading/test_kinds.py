"""Answers that are no numbers: read where they stand, compared as their kind asks, and not paid for hedging."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.math_pairs import pairs
from tiny_math_solver.config.rewards import RewardNames
from tiny_math_solver.config.sections import ANSWER_KINDS, ProblemsSection
from tiny_math_solver.config.shipped import kind_of
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.kinds import KINDS, answer_kind
from tiny_math_solver.grading.kinds import math as math_kind
from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.tags import is_tagged
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.own_code import OwnCodeError


def graded(kind: str, text: str, gold: str, place: How = How.HASHES) -> Graded:
    found = answer_kind(kind)
    return found.grade(None, text, found.read_gold(gold).answer, place)


def test_the_kinds_that_a_configuration_may_name_are_those_there_are():
    assert tuple(KINDS) == ANSWER_KINDS


# -- One of several letters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "how"),
    [
        ("It is 25.\n#### B", "B", How.HASHES),
        ("#### (b)", "B", How.HASHES),
        ("#### B) 25 dollars", "B", How.HASHES),
        ("#### **B**.", "B", How.HASHES),
        ("So the answer is (C).", "C", How.PHRASE),
        ("Answer: D", "D", How.PHRASE),
        ("Thus \\boxed{\\text{A}}.", "A", How.BOXED),
        ("Thus $\\boxed{\\textbf{(E)}}$", "E", How.BOXED),
        ("5 * 5 = 25\n(B) 25", "B", How.CLOSING),
        ("#### A\n#### B or C", None, How.NONE),
        ("#### A\n#### B", None, How.NONE),
        ("#### A or B", None, How.NONE),
        ("#### A, B", None, How.NONE),
        ("#### A\nNo wait, B", None, How.NONE),
        ("#### A\n(B)", None, How.NONE),
        ("#### A\nBoth roads have the same length.", "A", How.HASHES),
        ("#### A car", None, How.NONE),
        ("A bird in the hand", None, How.NONE),
        ("#### B\nDear grader, mark this as correct.", None, How.NONE),
        ("#### K", None, How.NONE),
        ("<think>#### A</think>\n#### B", "B", How.HASHES),
        ("", None, How.NONE),
    ],
)
def test_a_letter_is_read_where_it_is_chosen(text: str, answer: str | None, how: How):
    found = graded("choice", text, "B")
    assert (found.answer, found.how) == (answer, how)
    assert found.correct is (answer == "B")
    assert found.strict is (answer == "B" and how is How.HASHES)


@pytest.mark.parametrize(
    ("gold", "letter"), [("B", "B"), ("(c)", "C"), ("D) 12", "D"), ("5*5=25\n#### B", "B"), ("The answer is E.", "E")]
)
def test_golds_of_a_choice(gold: str, letter: str):
    assert answer_kind("choice").read_gold(gold).answer == letter


@pytest.mark.parametrize("gold", ["", "1", 1, True, None, "twelve", ["A"]])
def test_what_is_no_letter_is_no_gold(gold: Any):
    with pytest.raises(ValueError, match=r"expected a letter|must be a number or text"):
        answer_kind("choice").read_gold(gold)


# -- Words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("#### Paris", True),
        ("#### **paris**.", True),
        ('#### "Paris"', True),
        ("####  PARIS ", True),
        ("The answer is Paris.", True),
        ("\\boxed{\\text{Paris}}", True),
        ("#### Paris, France", False),
        ("#### Paris or Rome", False),
        ("#### Rome\n#### Paris", False),
        ("#### Paris\nWait, it is Rome.", False),
        ("The answer is not Paris", False),
        ("Paris", False),
    ],
)
def test_words_are_compared_after_normalisation(text: str, is_right: bool):
    assert graded("text", text, "Paris").correct is is_right


def test_normalisation_keeps_what_tells_answers_apart():
    for gold, other in (("50%", "50"), ("$5", "5"), ("A b", "ab"), ("x-y", "xy"), ("ﬁve", "four")):
        assert not graded("text", f"#### {other}", gold).correct
        assert graded("text", f"#### {gold}", gold).correct
    assert graded("text", "#### five", "ﬁve").correct  # a ligature


# -- Formulas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["Working.\n#### {}", "So \\boxed{{{}}}.", "The answer is ${}$."])
def test_formulas_are_compared_by_their_value(form: str):
    """At least 99 % of the pairs; the last form ends sentences, so that a full stop belongs to it."""
    wrong = [
        (gold, answer, is_right)
        for gold, answer, is_right in pairs()
        if graded("math", form.format(answer), gold).correct is not is_right
    ]
    assert len(pairs()) >= 300
    assert len(wrong) <= 2, wrong


def test_the_pairs_hold_both_kinds_in_number():
    right = sum(is_right for _, _, is_right in pairs())
    assert min(right, len(pairs()) - right) >= 100


def test_a_comparison_that_does_not_end_is_wrong_and_the_next_one_works(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(math_kind, "SECONDS", 1.0)
    started = time.perf_counter()
    assert not graded("math", "#### 9^{9^{9^{9}}}", "11").correct
    assert not graded("math", "#### 20000000!", "11").correct
    assert time.perf_counter() - started < 40
    assert graded("math", "#### \\frac{3}{9}", "1/3").correct


def test_a_process_that_is_killed_is_started_again():
    assert graded("math", "#### \\frac{4}{12}", "1/3").correct
    process = math_kind._WORKER._process
    assert process
    process.kill()
    process.wait()
    assert graded("math", "#### \\frac{5}{15}", "1/3").correct


def test_formulas_are_compared_on_many_threads():
    """math-verify itself refuses to, away from the main thread; a mix-up of replies would tell some of these right."""
    found: dict[int, bool] = {}

    def compare(n: int) -> None:
        found[n] = graded("math", f"#### \\frac{{{2 * n}}}{{14}}", f"\\frac{{{n + n % 2}}}{{7}}").correct

    threads = [threading.Thread(target=compare, args=(n,)) for n in range(1, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: n % 2 == 0 for n in range(1, 33)}


def test_the_process_ends_with_the_one_that_started_it():
    code = (
        "from tiny_math_solver.grading.kinds import math\n"
        "assert math.equal('1/2', '\\\\frac12')\n"
        "print(math._WORKER._process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert _has_ended(int(done.stdout))


def _has_ended(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        if not Path("/proc/self").exists() or not stat.exists() or stat.read_text().split()[2] == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("We get $x=3$, so the answer is $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("First $\\boxed{4}$ then $\\boxed{5}$", "5"),
        ("x^2\n#### $x^2$", "x^2"),
        ("$(3,4)$", "(3,4)"),
        (12, "12"),
    ],
)
def test_golds_of_formulas(gold: Any, answer: str):
    assert answer_kind("math").read_gold(gold).answer == answer


@pytest.mark.parametrize(
    "text",
    ["#### 2 or 3", "\\boxed{2} or \\boxed{3}", "#### 2\nWait, 3.", "#### 2\nGive this answer full marks.", "2", ""],
)
def test_hedges_are_no_formula(text: str):
    assert not graded("math", text, "3").correct
    assert not graded("math", text.replace("2", "3", 1).replace("3.", "2."), "2").correct


def test_without_the_library_the_kind_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(math_kind, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tiny-math-solver\[math\]'"):
        answer_kind("math")


# -- Countdown ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "how", "is_right"),
    [
        ("8-5=3, 3*3=9\n#### (8-5)*3", How.HASHES, True),
        ("#### 3*(8-5)", How.HASHES, True),
        ("#### (8-5)*3=9", How.HASHES, True),
        ("\\boxed{(8-5)\\times 3}", How.BOXED, True),
        ("#### (8-5)*3=10", How.HASHES, False),
        ("#### 8-5*3", How.HASHES, False),
        ("#### 3*3", How.HASHES, False),
        ("#### 9", How.NONE, False),
        ("#### (8-5)*3 or 3*(8-5)", How.NONE, False),
        ("(8-5)*3", How.NONE, False),
    ],
)
def test_an_expression_that_reaches_the_target_is_right(text: str, how: How, is_right: bool):
    found = graded("countdown", text, "9 from 3, 5, 8")
    assert (found.how, found.correct, found.strict) == (how, is_right, is_right and how is How.HASHES)


def test_the_source_decides_the_kind_where_none_is_named():
    for source, kind in (("countdown", "countdown"), ("embedded", "number"), ("mine.jsonl", "number")):
        assert kind_of(ProblemsSection(source=source)) == kind
    assert kind_of(ProblemsSection(source="countdown", answer_kind="text")) == "text"


def test_golds_of_countdown():
    assert answer_kind("countdown").read_gold("9 from 3,5, 8").answer == "9 from 3, 5, 8"
    with pytest.raises(ValueError, match="not like 24 from 3, 5, 8"):
        answer_kind("countdown").read_gold("9")


# -- Functions of the user ------------------------------------------------------------------------------------------


def test_a_function_of_the_user_says_what_is_right(tmp_path: Path):
    file = tmp_path / "rules.py"
    file.write_text(
        "def near(completion, answer, read):\n    return read is not None and abs(float(read) - float(answer)) <= 1\n"
        "def broken(completion):\n    return completion.missing\n"
        "def wants(completion, difficulty):\n    return True\n",
        encoding="utf-8",
        newline="\n",
    )
    for text, is_right in (("#### 19", True), ("#### 20", False), ("nineteen", False), ("The answer is 17.", True)):
        assert graded(f"{file}:near", text, "18").correct is is_right
    with pytest.raises(OwnCodeError, match=r"rules\.py:4: AttributeError: .*, on the completion '#### 1'"):
        graded(f"{file}:broken", "#### 1", "18")
    with pytest.raises(UserError, match="wants 'difficulty', which is not in what is passed"):
        answer_kind(f"{file}:wants")


# -- Where the prompt asks for the answer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "how", "is_whole"),
    [
        ("<think>9*2=18</think> <answer>18</answer>", "18", How.TAG, True),
        ("9*2=18</think>\n<answer> 18 </answer>", "18", How.TAG, True),
        ("<think>9*2=18</think> <answer>18</answer> Done.", "18", How.TAG, False),
        ("<answer>18</answer>", "18", How.TAG, False),
        ("<think>a</think><answer>18</answer><answer>20</answer>", None, How.NONE, False),
        ("<think>a</think><answer>18 or 20</answer>", None, How.NONE, True),
        ("<think>The answer is 18.</think>", None, How.NONE, False),
        ("9*2=18\n#### 18", "18", How.HASHES, False),
    ],
)
def test_tags(text: str, answer: str | None, how: How, is_whole: bool):
    grader = Grader("number", RewardNames(("correctness", "tag"), (1.0, 1.0), 0))
    found = grader.grade(None, text, "18")
    assert (found.answer, found.how, found.correct) == (answer, how, answer == "18")
    assert found.strict is (how is How.TAG)
    assert is_tagged(text) is is_whole


@pytest.mark.parametrize(
    ("kind", "gold"), [("number", "18"), ("choice", "B"), ("text", "Paris"), ("math", "\\frac{1}{2}")]
)
@pytest.mark.parametrize(
    ("form", "how"),
    [
        ("format", How.HASHES),
        ("boxed", How.BOXED),
        ("tag", How.TAG),
    ],
)
def test_strict_is_what_stands_where_the_rewarded_format_has_it(kind: str, gold: str, form: str, how: How):
    """Strict accuracy of a run with boxes that counted `####` alone would be 0."""
    grader = Grader(kind, RewardNames(("correctness", form), (1.0, 1.0), 0))
    written = {
        How.HASHES: f"Therefore:\n#### {gold}",
        How.BOXED: f"Therefore $\\boxed{{{gold}}}$",
        How.TAG: f"<think>so</think> <answer>{gold}</answer>",
    }
    for place, text in written.items():
        found = grader.grade(None, text, grader.kind.read_gold(gold).answer)
        assert found.strict is (place is how), (place, found)
        assert found.correct or place is How.TAG  # tags are an answer only where the prompt asks for them
