"""GSM8K-Platinum, SVAMP and GSM-Symbolic by their names on the Hub: rows of the layouts that they have, made up."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from helpers.hub import HubStandin, publish

PLATINUM, SVAMP, SYMBOLIC = "madrylab/gsm8k-platinum", "ChilleD/SVAMP", "apple/GSM-Symbolic"


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def described(folder: Path, subsets: dict[str, dict[str, str]]) -> None:
    lines = ["---", "configs:"]
    for name, splits in subsets.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [line for split, path in splits.items() for line in (f"  - split: {split}", f"    path: {path}")]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8", newline="\n")


def build_platinum(folder: Path) -> None:
    rows = [
        {"question": f"Ann has {n} pens and buys 4. How many pens has she?", "answer": f"{n}+4={n + 4}\n#### {n + 4}",
         "cleaning_status": status}
        for n, status in ((1000, "consensus"), (2, "verified"), (3, "revised"))
    ]  # fmt: skip
    rows[0]["answer"] = "1000+4=1004\n#### 1,004"
    parquet(folder / "main/test-00000-of-00001.parquet", rows)
    described(folder, {"main": {"test": "main/test-*"}})


def build_svamp(folder: Path) -> None:
    for split, first in (("train", 10), ("test", 20)):
        rows = [
            {"ID": f"chal-{n}", "Body": f"There are {n} cups on a table. 3 cups fall.",
             "Question": "How many are left?", "Equation": f"( {n}.0 - 3.0 )",
             "Answer": str(n - 3), "Type": "Subtraction",
             "question_concat": f"There are {n} cups on a table. 3 cups fall. How many are left?"}
            for n in (first, first + 1)
        ]  # fmt: skip
        parquet(folder / f"data/{split}-00000-of-00001.parquet", rows)
    described(folder, {"default": {"train": "data/train-*", "test": "data/test-*"}})


def build_symbolic(folder: Path) -> None:
    for subset, extra in (("main", 0), ("p1", 100), ("p2", 200)):
        rows = [
            {"id": 7, "instance": n, "question": f"A fog bank takes {n + extra} minutes for 3 miles. How many for 6?",
             "answer": f"Twice as many.\n#### {2 * (n + extra)}", "original_id": 33, "original_question": "Which one?",
             "original_answer": "#### 5", "canary": "made up"}
            for n in (1, 2)
        ]  # fmt: skip
        path = folder / subset / "test.jsonl"
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")
    described(folder, {name: {"test": f"{name}/test.jsonl"} for name in ("main", "p1", "p2")})


@pytest.fixture(scope="module")
def sets_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("further")
    for name, build in ((PLATINUM, build_platinum), (SVAMP, build_svamp), (SYMBOLIC, build_symbolic)):
        publish(root, "datasets", name, "c" * 40, build, main=True)
    return root


READ = """
import json, sys
from tiny_math_solver.config.sections import ProblemsSection
from tiny_math_solver.problems.splits import load_splits
splits = load_splits(ProblemsSection(source="embedded", train=20, dev=5, test=5), also=json.loads(sys.argv[1]))
print(json.dumps({name: [[p.question, p.answer] for p in problems] for name, problems in splits.also.items()}))
"""


def in_subprocess(hub: HubStandin, home: Path, *arguments: str) -> str:
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | hub.env(home)
    done = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=120, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert not hub.foreign
    return done.stdout


def test_each_is_read_by_its_plain_name(sets_root: Path, tmp_path: Path):
    """Catches: SVAMP's question without its body, an original question in place of a symbolic one, another subset."""
    names = [PLATINUM, SVAMP, SYMBOLIC, f"{SYMBOLIC}:p1", f"{SYMBOLIC}:p2"]
    with HubStandin(sets_root) as hub:
        read = json.loads(in_subprocess(hub, tmp_path, "-c", READ, json.dumps(names)))
    fog = "A fog bank takes {} minutes for 3 miles. How many for 6?"
    assert read == {
        "madrylab-gsm8k-platinum": [
            [f"Ann has {n} pens and buys 4. How many pens has she?", answer]
            for n, answer in ((1000, "1,004"), (2, "6"), (3, "7"))
        ],
        "ChilleD-SVAMP": [
            [f"There are {n} cups on a table. 3 cups fall. How many are left?", str(n - 3)] for n in (20, 21)
        ],
        "apple-GSM-Symbolic": [[fog.format(n), str(2 * n)] for n in (1, 2)],
        "apple-GSM-Symbolic-p1": [[fog.format(n), str(2 * n)] for n in (101, 102)],
        "apple-GSM-Symbolic-p2": [[fog.format(n), str(2 * n)] for n in (201, 202)],
    }


@pytest.mark.slow
def test_eval_has_a_row_for_each(sets_root: Path, tmp_path: Path):
    named = [word for name in (PLATINUM, SVAMP, f"{SYMBOLIC}:p2") for word in ("--problems", name)]
    with HubStandin(sets_root) as hub:
        said = in_subprocess(hub, tmp_path, "-m", "tiny_math_solver.cli", "eval", "embedded", *named)
    first, head, *table = said.splitlines()
    assert first == "embedded: greedy accuracy, answers of at most 112 tokens"
    assert head.split()[:3] == ["set", "problems", "accuracy"]
    assert [row.split()[:2] for row in table] == [[PLATINUM, "3"], [SVAMP, "2"], [f"{SYMBOLIC}:p2", "2"]]
