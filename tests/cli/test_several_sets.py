"""`tiny-math eval` on several sets of problems: one table, one JSON object, records that name their set."""

import json
from pathlib import Path

import pytest

from helpers.runs import rows
from tiny_math_solver.cli import main
from tiny_math_solver.evaluation.verdict import set_lines

TWO = ["--problems", "embedded", "--problems", "embedded:unseen", "--limit", "5"]


def evaluated(capsys: pytest.CaptureFixture[str], *typed: str) -> str:
    assert main(["eval", "embedded", *typed]) == 0
    return capsys.readouterr().out


def test_each_set_has_the_figures_it_has_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches: a set that is answered with another's problems, or sampled from where the one before it stopped."""
    out, sampled = tmp_path / "records.jsonl", ["--limit", "5", "--samples", "2", "--json"]
    alone = {name: json.loads(evaluated(capsys, "--problems", name, *sampled)) for name in TWO[1:4:2]}
    together = json.loads(evaluated(capsys, *TWO, "--samples", "2", "--json", "--out", str(out)))
    assert together["sets"] == alone
    assert [row["set"] for row in rows(out)] == ["embedded"] * 15 + ["embedded:unseen"] * 15


def test_the_table_has_the_paired_test_of_each_set(capsys: pytest.CaptureFixture[str]):
    first, *table = evaluated(capsys, *TWO, "--against", "embedded").splitlines()
    assert first == "embedded: greedy accuracy, answers of at most 112 tokens"
    assert table[0].split()[-4:] == ["embedded", "fixed", "broken", "p"]
    assert [(line.split()[0], line.split()[-3:]) for line in table[1:]] == [
        (name, ["0", "0", "1"]) for name in TWO[1:4:2]
    ]
    assert len({len(line) for line in table}) == 1


def test_the_table_of_made_up_figures():
    def block(n: int, right: int) -> dict:
        return {
            "n": n, "correct": right, "accuracy": right / n, "ci95": [0.25, 0.75], "strict_accuracy": 0.125,
            "pass_at_k": {"1": 0.5, "4": 0.75}, "maj_at_k": {"1": 0.5, "4": 0.625}, "mean_tokens": 41.6,
            "finished": 1.0,
        }  # fmt: skip

    assert set_lines({"a": block(1319, 0), "longer": block(8, 4)}) == [
        "  set     problems  accuracy  95 % interval  strict  tokens  finished  pass@4  maj@4",
        "  a          1,319      0.0%    25.0%–75.0%   12.5%      42    100.0%   75.0%  62.5%",
        "  longer         8     50.0%    25.0%–75.0%   12.5%      42    100.0%   75.0%  62.5%",
    ]


def test_a_set_that_is_named_twice_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["eval", "embedded", "--problems", "embedded", "--problems", "embedded"]) == 2
    assert "--problems embedded is there twice" in capsys.readouterr().err


def test_out_must_not_be_one_of_the_problem_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches: a check of the first file alone, and the second overwritten."""
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "2 + 2?", "answer": "4"}\n', encoding="utf-8")
    typed = ["--problems", "embedded", "--problems", str(file), "--out", str(file)]
    assert main(["eval", "embedded", *typed]) == 2
    assert "holds the problems; choose another --out" in capsys.readouterr().err
