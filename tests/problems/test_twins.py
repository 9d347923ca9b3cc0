"""Test problems that differ from a train problem in numbers and names alone are counted and shown."""

import json
import time
from pathlib import Path

import pytest

from tiny_math_solver.config.sections import ProblemsSection
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.sources import read_file
from tiny_math_solver.problems.splits import load_splits
from tiny_math_solver.problems.twins import twin_notes

STORY = "Ann has 3 red pens and buys 12 more at the shop. How many pens does Ann have now?"


def problem(question: str, id: str = "train-1") -> Problem:
    return Problem(id, question, "", "15")


@pytest.mark.parametrize(
    "twin",
    [
        "Ann has 40 red pens and buys 1,200 more at the shop. How many pens does Ann have now?",
        "Max has three red pens and buys 2.5 more at the shop. How many pens does Max have now?",
        "Ann has 3 red pens, and buys $12 more at the shop.  How many pens does Ann have now",
    ],
)
def test_other_numbers_names_and_marks_make_a_twin(twin: str):
    (note,) = twin_notes([problem("What is 1 + 1?"), problem(STORY)], {"test": [problem(twin, "test-7")]})
    assert note.startswith(
        "1 of 1 test problems differs from a train problem only in numbers and names, such as test-7"
    )
    assert note.endswith(f"from train-1 ({STORY})")


@pytest.mark.parametrize(
    "other",
    [
        "Ann has 3 red pens and sells 12 more at the shop. How many pens does Ann have now?",
        "Ann has 3 red pens and buys 12 more at the shop. How many pens does Ann have now in all?",
        "Ann buys 12 red pens and has 3 more at the shop. How many pens does Ann have now?",
    ],
)
def test_another_word_or_order_makes_another_problem(other: str):
    """Catches a comparison of bags of words, or of the closing question alone."""
    assert twin_notes([problem(STORY)], {"test": [problem(other, "test-1")]}) == []


def test_a_short_question_has_no_twins():
    """Catches a note on every test problem of a file of plain sums."""
    assert twin_notes([problem("What is 3 + 4?")], {"test": [problem("What is 5 + 6?")]}) == []
    assert twin_notes([problem("3 + 4")], {"test": [problem("5 + 6")]}) == []


def test_every_set_has_its_note_and_the_shortest_example():
    long = STORY.replace("Ann", "Maximilian")
    notes = twin_notes(
        [problem(STORY)],
        {"test": [problem(long, "test-1"), problem(STORY, "test-2"), problem("Other?", "test-3")], "none": [],
         "svamp": [problem(long, "svamp-9")]},
    )  # fmt: skip
    assert [note.partition(" from a train")[0] for note in notes] == [
        "2 of 3 test problems differ",
        "1 of 1 svamp problems differs",
    ]
    assert "such as test-2 (" in notes[0]


def test_a_run_says_so_of_test_and_further_sets_and_keeps_the_problems(tmp_path: Path):
    def file(name: str, rows: list[str]) -> str:
        path = tmp_path / name
        text = "".join(json.dumps({"question": q, "answer": "#### 15"}) + "\n" for q in rows)
        path.write_text(text, encoding="utf-8", newline="\n")
        return str(path)

    others = [f"{'very ' * n}many words are in this one line of a story, are there {n}?" for n in range(6)]
    train = file("train.jsonl", [STORY, *others])
    test = file("test.jsonl", [STORY.replace("12", "99"), "How many legs do 3 cats have?"])
    also = file("more.jsonl", [STORY.replace("Ann", "Zoe")])
    section = ProblemsSection(source=train, test_source=test, dev=1, seed=1)
    splits = load_splits(section, also=[also])
    assert len(splits.test) == 2
    assert (len(splits.train), STORY in {p.question for p in splits.train}) == (6, True)
    said = [note for note in splits.notes if "only in numbers and names" in note]
    assert [note.split(" problems")[0] for note in said] == ["1 of 2 test", "1 of 1 more"]


def test_generated_problems_are_twins_by_design_and_nothing_is_said():
    splits = load_splits(ProblemsSection(source="embedded", train=300, dev=10, test=100), also=["embedded:unseen"])
    assert twin_notes(splits.train, {"test": splits.test})
    assert splits.notes == []


def test_on_the_real_gsm8k_it_takes_no_time(gsm8k_folder: Path):
    """One pair is there, about stamps; both tell the same story of Max and Bella with other numbers."""
    train, test = (read_file(gsm8k_folder / f"{split}.jsonl") for split in ("train", "test"))
    seconds = []
    for _ in range(3):
        started = time.process_time()
        (note,) = twin_notes(train, {"test": test})
        seconds.append(time.process_time() - started)
    assert note.startswith("1 of 1,319 test problems differs")
    assert "such as test-633 (" in note
    assert " from train-21 (" in note
    assert min(seconds) < 0.1
