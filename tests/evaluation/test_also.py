"""Further test sets (`evaluation.also`): their own verdict, and no problem of theirs in training."""

import json
from pathlib import Path

import pytest

from helpers.paths import QUICKSTART
from helpers.runs import SHORT, rows, run
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.sections import ProblemsSection
from tiny_math_solver.evaluation.verdict import run_lines
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.problems.splits import load_splits
from tiny_math_solver.support.errors import UserError


def file_of(path: Path, first: int, last: int, split: str = "train") -> str:
    made = embedded_problems(split, last)[first:]  # type: ignore[arg-type]
    text = "".join(json.dumps({"question": p.question, "answer": p.worked_answer}) + "\n" for p in made)
    path.write_text(text, encoding="utf-8", newline="\n")
    return str(path)


def test_each_further_set_has_its_own_paired_verdict(tmp_path: Path):
    transfer = file_of(tmp_path / "transfer set.jsonl", 0, 6, "unseen")
    sets = f"['{transfer}', 'embedded:test']"
    done = run(tmp_path / "run", *SHORT, "--evaluation.also", sets, "--evaluation.test_limit", "3")
    also = done.summary["also"]
    assert list(also) == ["transfer-set", "embedded-test"]
    assert [also[name]["after"]["n"] for name in also] == [3, 3]
    for name, result in also.items():
        for when in ("before", "after"):
            records = rows(done.folder / "eval" / f"{when}-{name}.jsonl")
            assert sum(record["correct"] for record in records) == result[when]["correct"]
        assert set(result["paired"]) == {"fixed", "broken", "p_value"}
    assert any("6 of transfer-set, 500 of embedded-test" in line for line in done.lines)
    lines = run_lines(done.summary, done.folder)
    table = [line.split() for line in lines if line.startswith(("  further set", "  transfer-set", "  embedded-test"))]
    assert table[0] == ["further", "set", "problems", "before", "after", "fixed", "broken", "p"]
    for cells, (name, result) in zip(table[1:], also.items(), strict=True):
        shares = [f"{result[when]['accuracy']:.1%}" for when in ("before", "after")]
        counts = [str(result["paired"][key]) for key in ("fixed", "broken")]
        assert cells == [name, "3", *shares, *counts, f"{result['paired']['p_value']:.2g}"]


def test_no_problem_of_a_further_set_is_trained_on(tmp_path: Path):
    """A test of transfer whose problems were in training would show what was memorised."""
    train, overlapping = file_of(tmp_path / "train.jsonl", 0, 60), file_of(tmp_path / "other.jsonl", 20, 40)
    section = ProblemsSection(source=train, dev=10, test=5)
    splits = load_splits(section, also=[overlapping])
    held = {problem.question for problem in splits.also["other"]}
    assert len(held) == 20
    assert not held & {problem.question for problem in [*splits.train, *splits.dev]}
    assert len(load_splits(section).train) == 45
    assert len(splits.train) < 45
    assert any("train problems dropped because they are in test" in note for note in splits.notes)
    with pytest.raises(UserError, match=r"all its problems for train or dev are in evaluation\.also"):
        load_splits(ProblemsSection(source="embedded", dev=3, test=5), also=["embedded:dev"])


def test_sets_of_the_same_name_get_others(tmp_path: Path):
    (tmp_path / "a").mkdir()
    both = [file_of(tmp_path / "test.jsonl", 0, 3, "unseen"), file_of(tmp_path / "a" / "test.jsonl", 3, 6, "unseen")]
    splits = load_splits(ProblemsSection(source="embedded", train=20, dev=5, test=5), also=both)
    assert list(splits.also) == ["test-1", "test-2"]


def test_a_set_that_is_not_there_is_named(tmp_path: Path):
    config = load_config(QUICKSTART, ["--evaluation.also", "[nowhere.jsonl]"])
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        load_splits(config.problems, also=config.evaluation.also)
