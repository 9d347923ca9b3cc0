"""Problems from files and how they are split: rows that cannot be used are named, nothing leaks into training."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tiny_math_solver.config.sections import ProblemsSection
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.problems.layouts import ReadOptions
from tiny_math_solver.problems.sources import Source, read_file, read_source
from tiny_math_solver.problems.splits import Splits, load_splits, load_test_problems
from tiny_math_solver.support.errors import UserError


def notes_but_twins(splits: Splits) -> list[str]:
    """The rows of these tests differ in their numbers alone, which has tests of its own."""
    return [note for note in splits.notes if "only in numbers and names" not in note]


def row(number: int, question: str | None = None) -> dict[str, str]:
    return {
        "question": question or f"Ann has {number} pens and buys 2. How many pens does she have?",
        "answer": f"She has {number}+2=<<{number}+2={number + 2}>>{number + 2} pens.\n#### {number + 2}",
    }


def write(path: Path, rows: list[Any]) -> Path:
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
    ('{"question": 5, "answer": 5}', ":2: question must be text, found int"),
    ('{"question": "q", "answer": true}', ":2: answer must be a number or text, found bool"),
    ('{"question": "q", "answer": null}', ":2: answer must be a number or text, found null"),
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
        read_source(Source(str(path), "evaluation"), ReadOptions())
    assert str(refusal.value).startswith(f"{path}: 1 of 2 rows cannot be used; correct them, or raise problems.max_un")
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
    assert notes_but_twins(splits) == [
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
    assert notes_but_twins(splits) == ["10 train problems dropped because they are in test"]


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


@pytest.mark.parametrize(("golds", "is_said"), [(3, True), (4, True), (12, False)])
def test_golds_that_guessing_would_hit_are_pointed_out(golds: int, is_said: bool, tmp_path: Path):
    """Catches: a column of school grades taken for the answers, and the run that learns to guess them a success."""
    path = tmp_path / "p.csv"
    path.write_text("question,answer\n" + "".join(f"How many are {n}?,{n % golds}\n" for n in range(200)))
    notes = load_splits(ProblemsSection(source=str(path), test=20, dev=20)).notes
    assert any("is this the column of the answers" in note for note in notes) == is_said


def test_too_few_problems_and_a_missing_test_file_are_refused(tmp_path: Path):
    train = write(tmp_path / "train.jsonl", [row(n) for n in range(5)])
    with pytest.raises(UserError, match="name the test file in"):
        load_splits(ProblemsSection(source=str(train)))
    test = write(tmp_path / "test.jsonl", [row(9)])
    with pytest.raises(
        UserError, match=r"5 train problems, and problems.dev takes 5 of them for dev; lower problems.dev"
    ):
        load_splits(ProblemsSection(source=str(train), test_source=str(test), dev=5))


def some_bad(good: int, bad: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows of which the first and every second one is bad, as long as there are bad ones."""
    rows: list[dict[str, Any]] = [row(start + n) for n in range(good)]
    for n in range(bad):
        rows.insert(2 * n, {"question": f"No number {n}?", "answer": "#### Monday"})
    return rows


def test_a_few_unreadable_golds_are_dropped_counted_and_named(tmp_path: Path):
    """Catches: a file refused row by row, round after round; rows that vanish without a word."""
    train = write(tmp_path / "train.jsonl", some_bad(140, 7))
    test = write(tmp_path / "test.jsonl", some_bad(20, 1, start=500))
    splits = load_splits(ProblemsSection(source=str(train), test_source=str(test), dev=5))
    assert (len(splits.train), len(splits.dev), len(splits.test), splits.unreadable) == (135, 5, 20, 8)
    reason = "cannot read a gold number from the answer '#### Monday'"
    named = "; ".join(f"{train}:{line}: {reason}" for line in (1, 3, 5, 7, 9))
    assert notes_but_twins(splits) == [
        f"{train}: 7 of 147 rows dropped as unreadable: {named}; and 2 more",
        f"{test}: 1 of 21 rows dropped as unreadable: {test}:1: {reason}",
    ]


@pytest.mark.parametrize("part", ["train", "test"])
def test_many_unreadable_golds_are_refused_once_with_the_setting(part: str, tmp_path: Path):
    good, bad = (
        write(tmp_path / "good.jsonl", some_bad(20, 1)),
        write(tmp_path / "bad.jsonl", some_bad(18, 2, start=99)),
    )
    source, test = (bad, good) if part == "train" else (good, bad)
    section = ProblemsSection(source=str(source), test_source=str(test), dev=5)
    with pytest.raises(UserError) as refusal:
        load_splits(section)
    assert str(refusal.value) == (
        f"{bad}: 2 of 20 rows cannot be used; correct them, or raise problems.max_unreadable (0.05) to drop them: "
        f"{bad}:1: cannot read a gold number from the answer '#### Monday'; "
        f"{bad}:3: cannot read a gold number from the answer '#### Monday'"
    )
    splits = load_splits(section.model_copy(update={"max_unreadable": 0.1}))
    assert splits.unreadable == 3
    with pytest.raises(UserError, match=r"(1 of 21|2 of 20) rows cannot be used; .*problems.max_unreadable \(0\)"):
        load_splits(section.model_copy(update={"max_unreadable": 0.0}))


@pytest.mark.parametrize(("good", "bad", "is_read"), [(45, 5, True), (44, 5, False), (60, 6, False), (120, 6, True)])
def test_five_slips_are_few_in_a_source_of_fifty_rows(good: int, bad: int, is_read: bool, tmp_path: Path):
    """Five of 67 answers are 7.5 %: a share alone would refuse a small file for a handful of slips."""
    source = Source(str(write(tmp_path / "some.jsonl", some_bad(good, bad))), "evaluation")
    if is_read:
        assert read_source(source, ReadOptions()).unreadable == bad
    else:
        with pytest.raises(UserError, match=f"{bad} of {good + bad} rows cannot be used"):
            read_source(source, ReadOptions())
    with pytest.raises(UserError, match="rows cannot be used"):
        read_source(source, ReadOptions(max_unreadable=0))


def test_named_columns_are_for_the_test_source_too_if_it_has_them(tmp_path: Path):
    own = [{"ask": row(n)["question"], "is": n + 2, "answer": "?"} for n in range(20)]
    train = write(tmp_path / "train.jsonl", own)
    section = ProblemsSection(source=str(train), test_source="", question="ask", answer="is", dev=5)

    def tested(rows: list[dict[str, Any]], **settings: str) -> list[str]:
        test = write(tmp_path / "test.jsonl", rows)
        return [p.answer for p in load_splits(section.model_copy(update={"test_source": str(test), **settings})).test]

    assert tested([{"ask": "Same layout?", "is": 4, "question": "?", "answer": 5}]) == ["4"]
    assert tested([{"question": "GSM8K's?", "answer": "#### 5"}]) == ["5"]
    assert tested([{"q": "A third?", "a": 6}], test_question="q", test_answer="a") == ["6"]
    with pytest.raises(UserError, match=r"no column 'b', which problems.test_answer names \(found: q, a\)"):
        tested([{"q": "A third?", "a": 6}], test_question="q", test_answer="b")


def test_test_is_carved_from_train_if_there_is_none_and_a_number_is_set(tmp_path: Path):
    """Catches: test problems that are also trained on, or that change with the seed or the number for dev."""
    train = write(tmp_path / "train.jsonl", [row(n) for n in range(40)])
    section = ProblemsSection(source=str(train), dev=5, test=10)
    splits = load_splits(section)
    questions = [{p.question for p in part} for part in (splits.train, splits.dev, splits.test)]
    assert [len(part) for part in questions] == [25, 5, 10]
    assert len(set.union(*questions)) == 40
    assert notes_but_twins(splits) == ["10 test problems carved from train; problems.test_source names others"]
    other = load_splits(section.model_copy(update={"seed": 7, "dev": 9, "train": 8}))
    assert {p.question for p in other.test} == questions[2]
    assert {p.question for p in load_test_problems(section).problems} == questions[2]
    with pytest.raises(UserError, match=r"5 of them for dev, and problems\.test 35 for test; lower problems\.dev and"):
        load_splits(section.model_copy(update={"test": 35}))


def test_embedded_problems_can_be_tested_on_a_file_and_a_file_on_embedded_ones(tmp_path: Path):
    path = write(tmp_path / "p.jsonl", [row(n) for n in range(20)])
    own_test = load_splits(ProblemsSection(source="embedded", test_source=str(path), train=30, dev=4))
    assert [len(part) for part in (own_test.train, own_test.dev, own_test.test, own_test.unseen)] == [30, 4, 20, 0]
    assert own_test.test[0].question == row(0)["question"]
    embedded_test = load_splits(ProblemsSection(source=str(path), test_source="embedded", test=6, dev=4))
    assert [len(part) for part in (embedded_test.train, embedded_test.dev, embedded_test.test)] == [16, 4, 6]
    assert embedded_test.test == embedded_problems("test", 6)


def test_the_real_gsm8k_loads_whole(gsm8k_folder: Path):
    splits = load_splits(
        ProblemsSection(source=str(gsm8k_folder / "train.jsonl"), test_source=str(gsm8k_folder / "test.jsonl"))
    )
    assert len(splits.test) == 1319
    assert len(splits.dev) == 200
    assert len(splits.train) + len(splits.dev) == 7473
    (note,) = splits.notes
    assert note.startswith("1 of 1,319 test problems differs from a train problem only in numbers and names, such as ")
