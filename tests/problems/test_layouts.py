"""The layouts that public data sets have, each with invented problems in its own column names and types of value."""

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tiny_math_solver.grading import parse_gold
from tiny_math_solver.problems.layouts import ReadOptions, find_layout
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.sources import Findings, read_file
from tiny_math_solver.support.errors import UserError

PENS = "Lea has 5 pens and buys 4 more. How many pens has she?"
SHEET = "A sheet of stamps costs 76 cents. Today each is 25 cents cheaper"
ASKED = "How much is a sheet today?"
CHAT = [{"role": "system", "content": "Think."}, {"role": "user", "content": PENS}]
WORKED = "5 + 4 = <<5+4=9>>9 pens.\n#### 9"

# (layout as it is said, columns of a row, question, answer)
LAYOUTS: list[tuple[str, dict[str, Any], str, Fraction]] = [
    ("GSM8K", {"question": PENS, "answer": WORKED}, PENS, Fraction(9)),
    (
        "GSM8K",  # GSM-Symbolic
        {"id": 3, "instance": 0, "question": PENS, "answer": WORKED, "original_id": 8, "original_question": "Old?",
         "original_answer": "#### 7", "canary": "x"},
        PENS,
        Fraction(9),
    ),
    ("GSM8K", {"question": PENS, "answer": WORKED, "cleaning_status": "consensus"}, PENS, Fraction(9)),  # Platinum
    (
        "SVAMP",
        {"ID": "x-1", "Body": SHEET, "Question": ASKED, "Equation": "( 76.0 - 25.0 )", "Answer": 51.0, "Type": "Sub"},
        f"{SHEET} {ASKED}",
        Fraction(51),
    ),
    (
        "SVAMP",  # as on the Hub
        {"ID": "x-1", "Body": SHEET, "Question": ASKED, "Answer": "51.0", "question_concat": f"{SHEET} {ASKED}"},
        f"{SHEET} {ASKED}",
        Fraction(51),
    ),
    (
        "ASDiv",
        {"body": SHEET, "question": ASKED, "solution_type": "Sub", "answer": "51 (cents)", "formula": "76-25=51"},
        f"{SHEET} {ASKED}",
        Fraction(51),
    ),
    (
        "GSM-Hard",
        {"input": PENS, "code": "def solution():\n    return 1e23", "target": 1e23},
        PENS,
        Fraction(10**23),
    ),
    ("GSM-Hard", {"input": PENS, "code": "", "target": 2469134.0}, PENS, Fraction(2469134)),
    ("GSM-Hard", {"input": PENS, "code": "", "target": -0.125}, PENS, Fraction(-1, 8)),
    (
        "MetaMathQA",
        {"query": PENS, "response": "5 + 4 = 9.\n#### 9\nThe answer is: 9", "type": "GSM_SV", "original_question": "?"},
        PENS,
        Fraction(9),
    ),
    ("MetaMathQA", {"query": PENS, "response": "Half of it.\nThe answer is: \\frac{1}{2}"}, PENS, Fraction(1, 2)),
    ("MGSM", {"question": PENS, "answer": None, "answer_number": 9, "equation_solution": None}, PENS, Fraction(9)),
    ("MGSM", {"question": PENS, "answer": "So 5 + 4 = 9.", "answer_number": 9}, PENS, Fraction(9)),
    ("Alpaca", {"instruction": PENS, "input": "", "output": "9"}, PENS, Fraction(9)),
    ("Alpaca", {"instruction": "Solve.", "input": PENS, "output": "She has 9 pens."}, f"Solve. {PENS}", Fraction(9)),
    (
        "verl",
        {"data_source": "own", "prompt": CHAT, "reward_model": {"style": "rule", "ground_truth": "9"},
         "extra_info": {"split": "train", "index": 0}},
        PENS,
        Fraction(9),
    ),
    ("TRL", {"prompt": CHAT, "solution": WORKED}, PENS, Fraction(9)),
    ("TRL", {"prompt": PENS, "ground_truth": "9", "solution": "5 + 4"}, PENS, Fraction(9)),
    ("TRL", {"prompt": CHAT, "completion": [{"role": "assistant", "content": WORKED}]}, PENS, Fraction(9)),
    ("MATH", {"problem": PENS, "solution": "It is $\\boxed{\\frac{9}{2}}$.", "level": "1"}, PENS, Fraction(9, 2)),
    ("MATH", {"problem": PENS, "solution": "It is 5 or 6.", "answer": "9", "unique_id": "a"}, PENS, Fraction(9)),
    ("chat", {"messages": [*CHAT, {"role": "assistant", "content": WORKED}]}, PENS, Fraction(9)),
    (
        "ShareGPT",
        {"conversations": [{"from": "human", "value": PENS}, {"from": "gpt", "value": WORKED}]},
        PENS,
        Fraction(9),
    ),
    ("MAWPS", {"sQuestion": PENS, "lSolutions": [9.0], "lEquations": ["x=5+4"]}, PENS, Fraction(9)),
    ("MultiArith", {"question": PENS, "final_ans": "9"}, PENS, Fraction(9)),
]  # fmt: skip
IDS = [f"{name}-{number}" for number, (name, *_) in enumerate(LAYOUTS)]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_one(path: Path, options: ReadOptions = ReadOptions()) -> tuple[Problem, str]:  # noqa: B008
    """The only problem of a file, and its layout in words."""
    findings = Findings()
    (problem,) = read_file(path, options, findings)
    return problem, str(findings.layout)


def exact(problem: Problem) -> Fraction:
    return Fraction(parse_gold(problem.answer))


@pytest.mark.parametrize(("name", "row", "question", "answer"), LAYOUTS, ids=IDS)
def test_a_public_layout_is_known_by_its_columns(
    name: str, row: dict[str, Any], question: str, answer: Fraction, tmp_path: Path
):
    """Catches: half of a question, a worked answer taken for the gold one, a gold rounded on its way."""
    for path in (jsonl(tmp_path / "p.jsonl", [row]), tmp_path / "p.json", tmp_path / "p.parquet"):
        if path.suffix == ".json":
            path.write_text(json.dumps([row], indent=1))
        elif path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
        problem, layout = read_one(path)
        assert (problem.question, exact(problem)) == (question, answer), path
        assert layout.startswith(f"{name} layout, question from ")


@pytest.mark.parametrize(("name", "row", "question", "answer"), LAYOUTS, ids=IDS)
def test_a_layout_is_known_whatever_the_order_of_its_columns(
    name: str, row: dict[str, Any], question: str, answer: Fraction, tmp_path: Path
):
    """Catches: columns that depend on their order in the file, or on rows that lack some of them."""
    turned = dict(reversed(row.items()))
    problems = read_file(jsonl(tmp_path / "p.jsonl", [turned, row, {**turned, "more": 1}]))
    assert [(p.question, exact(p)) for p in problems] == [(question, answer)] * 3


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (9, "9"),
        (145.0, "145"),
        (0.1, "0.1"),
        (1e23, "100000000000000000000000"),
        (9007199254740993, "9007199254740993"),
        (-7, "-7"),
        ("145.0", "145"),
        ("1,234", "1234"),
        ("$5", "5"),
        ("9 (apples)", "9"),
        ("9 apples", "9"),
        ("১৮", "18"),
        ("１８", "18"),
        ("#### 1,234", "1,234"),
        (["9"], "9"),
        ("The answer is 9.", "9"),
        ("Lea has 5 pens and buys 4 more, so she has 5 + 4 = 9 pens.", "9"),
    ],
)
def test_golds_of_every_type_keep_their_exact_value(gold: Any, answer: str, tmp_path: Path):
    problem, _ = read_one(jsonl(tmp_path / "p.jsonl", [{"question": PENS, "answer": gold}]))
    assert problem.answer == answer


@pytest.mark.parametrize(
    "gold",
    [
        True, None, [], ["9", "8"], {"value": 9}, float("nan"), float("inf"), "", "Monday", "3 and 4", "17-19", "5:30",
        "9 (apples); 3 (pears)", "2x + 1", "#### 9 or 8", "#### 9\nThe answer is: 10", "x = 5, y = 3", "A) 12 B) 14",
        "#### 2 (apples), 3 (pears)", "The three primary colours are red, blue and yellow.", "1" * 5000, "1e99999",
    ],
    ids=str,
)  # fmt: skip
def test_a_gold_that_is_not_one_number_is_no_gold(gold: Any, tmp_path: Path):
    """Catches: a reward paid for the first, or the last, of several numbers."""
    path = jsonl(tmp_path / "p.jsonl", [{"question": PENS, "answer": "9"}, {"question": "And then?", "answer": gold}])
    findings = Findings()
    assert [p.question for p in read_file(path, findings=findings)] == [PENS]
    assert findings.unreadable == 1
    assert findings.examples[0].startswith(f"{path}:2: ")


def test_a_decimal_column_keeps_its_digits(tmp_path: Path):
    gold = Decimal("12345678901234567890.125")
    table = pyarrow.table({"question": [PENS], "answer": pyarrow.array([gold], pyarrow.decimal128(30, 3))})
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    problem, _ = read_one(tmp_path / "p.parquet")
    assert problem.answer == "12345678901234567890.125"


# -- Named columns ----------------------------------------------------------------------------------------------

NESTED = {"q.text": "Flat?", "data": {"items": [{"ask": PENS}, {"ask": "Last?"}]}, "gold": {"value": 9}, "a": 1, "b": 2}


@pytest.mark.parametrize(
    ("question", "answer", "asked", "value"),
    [
        ("data.items[0].ask", "gold.value", PENS, 9),
        ("data.items[-1].ask", "a", "Last?", 1),
        ("q.text", "b", "Flat?", 2),
        ("q.text + data.items[0].ask", "b", f"Flat? {PENS}", 2),
    ],
)
def test_columns_and_places_within_them_can_be_named(
    question: str, answer: str, asked: str, value: int, tmp_path: Path
):
    problem, layout = read_one(jsonl(tmp_path / "p.jsonl", [NESTED]), ReadOptions(question, answer))
    assert (problem.question, exact(problem)) == (asked, value)
    assert layout == f"question from {question}, answer from {answer}"


def test_a_context_belongs_to_the_question(tmp_path: Path):
    rows: list[dict[str, Any]] = [
        {"context": SHEET, "question": ASKED, "answer": "51"},
        {"context": None, "question": PENS, "answer": 9},
    ]
    problems = read_file(jsonl(tmp_path / "p.jsonl", rows))
    assert [p.question for p in problems] == [f"{SHEET} {ASKED}", PENS]


def test_one_column_named_leaves_the_other_to_be_recognised(tmp_path: Path):
    path = jsonl(tmp_path / "p.jsonl", [{"question": PENS, "answer": "8", "checked": 9}])
    assert read_one(path, ReadOptions(answer="checked"))[0].answer == "9"
    assert read_one(path, ReadOptions(question="answer"))[0].question == "8"


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["Question", "Answer", "question2"], ReadOptions("Questoin"), "did you mean Question?"),
        (["a", "b"], ReadOptions("c", "b"), "no column 'c', which problems.question names (found: a, b)"),
        (
            ["a", "b"],
            ReadOptions(),
            "looks like the question (found: a, b): name it in problems.question",
        ),
        (["question", "b"], ReadOptions(), "looks like the answer (found: question, b): name it in problems.answer"),
        (["question", "problem", "answer"], ReadOptions(), "could be the question (question, problem): name it in"),
        (["question", "target", "gold"], ReadOptions(), "could be the answer (gold, target): name it in problems.ans"),
        (["question", "solution", "output"], ReadOptions(), "could be the answer (solution, output): name it in"),
        (["question", "a", "b"], ReadOptions(None, "a + b"), "'a + b': the answer has to be in one column"),
        (["question", "a"], ReadOptions(None, "a[one]"), "cannot read 'a[one]'; write it as column, column.key or"),
    ],
)
def test_columns_that_leave_a_choice_or_are_not_there_are_refused_by_name(
    names: list[str], options: ReadOptions, message: str
):
    with pytest.raises(UserError) as refusal:
        find_layout("p.csv", names, options)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": [*CHAT, *CHAT], "answer": "9"}, "prompt has 2 messages of the user; one is expected"),
        ({"prompt": [], "answer": "9"}, "prompt must be text, found list"),
        ({"prompt": [{"role": "user", "content": None}], "answer": "9"}, "prompt must be text, found null"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": "9"}, "prompt holds more than text"),
        ({"messages": CHAT}, "messages has 0 messages of the assistant; one is expected"),
        ({"prompt": PENS, "reward_model": {"style": "rule"}}, "reward_model has no .ground_truth (found: style)"),
        ({"Body": None, "Question": PENS, "Answer": 9}, "Body must be text, found null"),
        ({"instruction": "", "input": "", "output": "9"}, "the question is empty"),
    ],
)
def test_a_row_without_its_question_or_answer_is_named_with_the_reason(
    row: dict[str, Any], reason: str, tmp_path: Path
):
    with pytest.raises(UserError) as refusal:
        read_file(jsonl(tmp_path / "p.jsonl", [row]))
    assert str(refusal.value) == f"{tmp_path}/p.jsonl: no row that can be used: {tmp_path}/p.jsonl:1: {reason}"
