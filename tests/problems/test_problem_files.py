"""Problems from files and how they are split: rows that cannot be used are named, nothing leaks into training."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tiny_math_solver.config.schema import ProblemsSection
from tiny_math_solver.problems.sources import read_file
from tiny_math_solver.problems.splits import load_splits
from tiny_math_solver.support.errors import UserError


def row(number: int, question: str | None = None) -> dict[str, str]:
    return {
        "question": question or f"Ann has {number} pens and buys 2. How many pens does she have?",
        "answer": f"She has {number}+2=<<{number}+2={number + 2}>>{number + 2} pens.\n#### {number + 2}",
    }


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_jsonl_and_parquet_hold_the_same_problems(tmp_path: Path):
    rows = [row(n) for n in range(3)]
    lines = write(tmp_path / "p.jsonl", rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    problems = read_file(lines)
    assert problems == read_file(tmp_path / "p.parquet")
    assert problems[1].question == "Ann has 1 pens and buys 2. How many pens does she have?"
    assert problems[1].solution == "She has 1+2=<<1+2=3>>3 pens."
    assert problems[1].answer == "3"
    assert problems[1].worked_answer == rows[1]["answer"]
    assert len({p.id for p in problems}) == 3


def test_byte_order_mark_blank_lines_and_windows_line_ends_are_fine(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(row(n)).encode() for n in (1, 2)) + b"\r\n")
    assert [p.answer for p in read_file(path)] == ["3", "4"]


BAD_LINES = [
    ('{"question": "q", "answer": "#### 1"', ":2: not a JSON object"),
    ('["q", "#### 1"]', ":2: expected an object"),
    ('{"question": "q"}', ":2: no column 'answer' (found: question)"),
    ('{"question": "q", "answer": 5}', ":2: answer must be text, found int"),
    ('{"question": " ", "answer": "#### 1"}', ":2: the question is empty"),
    ('{"question": "q", "answer": "#### many"}', ":2: cannot read a gold number"),
    ('{"question": "q", "answer": "no number at all"}', ":2: cannot read a gold number"),
    ("[" * 100_000, ":2: not a JSON object"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row(1)) + "\n" + line + "\n")
    with pytest.raises(UserError) as refusal:
        read_file(path)
    assert f"p.jsonl{message}" in str(refusal.value)


def test_files_that_hold_nothing_are_refused(tmp_path: Path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="no problems in this file"):
        read_file(tmp_path / "empty.jsonl")
    with pytest.raises(UserError, match="no such problem file"):
        read_file(tmp_path / "nowhere.jsonl")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_file(tmp_path / "cut.parquet")
    (tmp_path / "latin.jsonl").write_bytes(json.dumps(row(1, "Zoé?"), ensure_ascii=False).encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_file(tmp_path / "latin.jsonl")


def test_repeats_and_overlap_are_dropped_and_said(tmp_path: Path):
    train = write(tmp_path / "train.jsonl", [row(n) for n in range(30)] + [row(3), row(4, row(4)["question"].upper())])
    test = write(tmp_path / "test.jsonl", [row(7), row(8), row(100)])
    splits = load_splits(ProblemsSection(source=str(train), test_source=str(test), dev=5))
    assert splits.notes == [
        "2 repeated train problems dropped",
        "2 train problems dropped because they are in test",
    ]
    questions = [{p.question for p in part} for part in (splits.train, splits.dev, splits.test)]
    assert [len(q) for q in questions] == [23, 5, 3]
    assert not questions[0] & questions[1]
    assert not (questions[0] | questions[1]) & questions[2]


def test_overlap_is_with_all_of_test_however_little_is_used(tmp_path: Path):
    """A later, longer evaluation must not meet a problem that was trained on."""
    train = write(tmp_path / "train.jsonl", [row(n) for n in range(30)])
    test = write(tmp_path / "test.jsonl", [row(n) for n in range(10)] + [row(100)])
    splits = load_splits(ProblemsSection(source=str(train), test_source=str(test), dev=5, test=2))
    assert len(splits.test) == 2
    assert splits.notes == ["10 train problems dropped because they are in test"]


def test_dev_stays_the_same_when_the_file_is_reordered(tmp_path: Path):
    """A dev split by position would swap train and dev problems between two runs on the same data."""
    rows = [row(n) for n in range(40)]
    test = write(tmp_path / "test.jsonl", [row(100)])
    chosen = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        source = write(tmp_path / f"{name}.jsonl", order)
        chosen.append(load_splits(ProblemsSection(source=str(source), test_source=str(test), dev=8)))
    first, second = ({p.question for p in splits.dev} for splits in chosen)
    assert first == second
    assert {p.question for p in chosen[0].dev} != {r["question"] for r in rows[:8]}


def test_too_few_problems_and_a_missing_test_file_are_refused(tmp_path: Path):
    train = write(tmp_path / "train.jsonl", [row(n) for n in range(5)])
    with pytest.raises(UserError, match="name the test file in"):
        load_splits(ProblemsSection(source=str(train)))
    test = write(tmp_path / "test.jsonl", [row(9)])
    with pytest.raises(
        UserError, match=r"5 train problems, and problems.dev takes 5 of them for dev; lower problems.dev"
    ):
        load_splits(ProblemsSection(source=str(train), test_source=str(test), dev=5))


def test_the_real_gsm8k_loads_whole(gsm8k_folder: Path):
    splits = load_splits(
        ProblemsSection(source=str(gsm8k_folder / "train.jsonl"), test_source=str(gsm8k_folder / "test.jsonl"))
    )
    assert len(splits.test) == 1319
    assert len(splits.dev) == 200
    assert len(splits.train) + len(splits.dev) == 7473
    assert splits.notes == []
