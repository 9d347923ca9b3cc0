"""Subsets and splits of Hub datasets: what is taken if none is named, and what is refused with the choice there is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.hub import HubStandin, publish
from tiny_math_solver.config.sections import ProblemsSection
from tiny_math_solver.hub.datasets import DatasetName, Purpose, folder_split
from tiny_math_solver.problems.splits import hub_datasets, load_splits
from tiny_math_solver.support.errors import UserError

NAME = "someone/set"


def write(path: Path, first: int = 0, count: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"question": f"How many are {n} and 4?", "answer": f"#### {n + 4}"} for n in range(first, first + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def build(folder: Path, subsets: dict[str, tuple[str, ...]], default: str | None = None) -> None:
    """A dataset with subsets, each with its splits, described in its README as on the Hub."""
    lines = ["---", "configs:"]
    for number, (name, splits) in enumerate(subsets.items()):
        lines += [f"- config_name: {name}", *["  default: true"] * (name == default), "  data_files:"]
        for place, split in enumerate(splits):
            write(folder / name / f"{split}.jsonl", 100 * number + 10 * place)
            lines += [f"  - split: {split}", f"    path: {name}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def chosen(folder: Path, purpose: Purpose, dataset: str = NAME) -> tuple[str, str, list[str]]:
    found = folder_split(folder, DatasetName.parse(dataset), purpose)
    return found.subset, found.split, [file.relative_to(folder).as_posix() for file in found.files]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gsm8k", ("gsm8k", None, None, None)),
        ("openai/gsm8k:socratic", ("openai/gsm8k", "socratic", None, None)),
        ("a/b:c:d@e", ("a/b", "c", "d", "e")),
        ("a/b::d", ("a/b", None, "d", None)),
        ("a/b@refs/pr/1", ("a/b", None, None, "refs/pr/1")),
        ("https://huggingface.co/datasets/a/b", ("a/b", None, None, None)),
    ],
)
def test_a_dataset_is_named_with_its_subset_split_and_revision(text: str, parts: tuple[str | None, ...]):
    named = DatasetName.parse(text)
    assert (named.name, named.subset, named.split, named.revision) == parts


def test_the_only_subset_the_default_and_main_are_taken_by_themselves(tmp_path: Path):
    """Catches: a dataset that cannot be used because it has no subset called main."""
    build(tmp_path / "one", {"only": ("train", "test")})
    build(tmp_path / "marked", {"main": ("test",), "hard": ("test",)}, default="hard")
    build(tmp_path / "main", {"easy": ("test",), "main": ("test",)})
    write(tmp_path / "plain" / "train.jsonl")
    write(tmp_path / "plain" / "test.jsonl")
    assert chosen(tmp_path / "one", "train") == ("only", "train", ["only/train.jsonl"])
    assert chosen(tmp_path / "marked", "test") == ("hard", "test", ["hard/test.jsonl"])
    assert chosen(tmp_path / "main", "test") == ("main", "test", ["main/test.jsonl"])
    assert chosen(tmp_path / "main", "test", f"{NAME}:easy") == ("easy", "test", ["easy/test.jsonl"])
    assert chosen(tmp_path / "plain", "test") == ("default", "test", ["test.jsonl"])


def test_usual_splits_are_taken_and_named_ones_win(tmp_path: Path):
    build(tmp_path, {"all": ("train", "validation", "test")})
    build(tmp_path / "held", {"all": ("train", "validation")})
    write(tmp_path / "bare" / "gsmhard.jsonl")
    assert chosen(tmp_path, "test")[1] == "test"
    assert chosen(tmp_path, "train", f"{NAME}::validation")[1] == "validation"
    assert chosen(tmp_path, "evaluation", f"{NAME}:all:train")[1] == "train"
    assert chosen(tmp_path / "held", "test")[1] == "validation"
    assert chosen(tmp_path / "bare", "evaluation")[1:] == ("train", ["gsmhard.jsonl"])  # its only split


@pytest.mark.parametrize(
    ("subsets", "dataset", "purpose", "message"),
    [
        ({"p1": ("test",), "p2": ("test",)}, NAME, "test", "several subsets (p1, p2): name one, as in someone/set:p1"),
        ({"p1": ("test",)}, f"{NAME}:p3", "test", "someone/set has no subset 'p3'; it has p1"),
        ({"p1": ("test",)}, f"{NAME}::val", "test", "someone/set has no split 'val'; it has test"),
        ({"p1": ("test",)}, NAME, "train", "it has test: to use that, name it, as in someone/set::test"),
        ({"a": ("x",), "main": ("x",)}, NAME, "train", "it has x: to use that, name it, as in someone/set:main:x"),
        ({"a": ("train",)}, NAME, "test", "someone/set has no test split; it has train"),
    ],
)  # fmt: skip
def test_a_choice_is_refused_with_what_there_is(
    subsets: dict[str, tuple[str, ...]], dataset: str, purpose: Purpose, message: str, tmp_path: Path
):
    build(tmp_path, subsets)
    with pytest.raises(UserError) as refusal:
        chosen(tmp_path, purpose, dataset)
    assert message in str(refusal.value)


def test_fetch_and_check_know_the_datasets_of_both_sources():
    section = ProblemsSection(source="a/b:c@d", test_source="e/f:g", revision="r")
    assert hub_datasets(section) == [DatasetName("a/b", "c", None, "d"), DatasetName("e/f", "g")]
    assert hub_datasets(ProblemsSection(source="a/b", test_source="a/b::val", revision="r")) == [
        DatasetName("a/b", None, None, "r")
    ]
    assert hub_datasets(ProblemsSection(source="embedded", test_source="./p.jsonl")) == []


def test_a_train_set_without_test_takes_another_source_or_carves(tmp_path: Path):
    build(tmp_path / "train", {"only": ("train",)})
    build(tmp_path / "test", {"p1": ("train", "test")})
    section = ProblemsSection(source=str(tmp_path / "train"), dev=1)
    both = load_splits(section.model_copy(update={"test_source": str(tmp_path / "test")}))
    assert len(both.test) == 4
    with pytest.raises(UserError, match=r"no test split; .*; or name other test problems in problems.test_source, or"):
        load_splits(section)
    assert len(load_splits(section.model_copy(update={"test": 2})).train) == 1


READ = """
import json, sys
from tiny_math_solver.config.sections import ProblemsSection
from tiny_math_solver.problems.splits import load_splits
for settings in json.loads(sys.argv[1]):
    section = ProblemsSection(**settings)
    parts = load_splits(section)
    print(json.dumps([[p.answer for p in part] for part in (parts.train, parts.dev, parts.test)]))
"""


def test_train_and_test_come_from_different_datasets_of_the_hub(tmp_path: Path):
    """Catches: a subset, split or revision of one dataset that is used for the other."""
    root = tmp_path / "hub"
    publish(root, "datasets", "someone/train", "a" * 40, lambda folder: write(folder / "train.jsonl"), main=True)
    symbolic: dict[str, tuple[str, ...]] = {"main": ("test",), "p1": ("test",)}
    publish(root, "datasets", "someone/test", "b" * 40, lambda folder: build(folder, symbolic), main=True)
    publish(root, "datasets", "someone/test", "c" * 40, lambda folder: write(folder / "test.csv", 50))
    (root / "datasets/someone/test" / ("c" * 40) / "test.csv").write_text("question;answer\nOld?;1.0\n")
    wanted: list[dict[str, Any]] = [
        {"source": "someone/train", "test_source": "someone/test:p1", "revision": "a" * 40, "dev": 1},
        {"source": "someone/train", "test_source": f"someone/test@{'c' * 40}", "dev": 1},
        {"source": "someone/test:p1:test", "test_source": "someone/test", "dev": 1},
    ]
    with HubStandin(root) as hub:
        env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | hub.env(tmp_path / "home")
        command = [sys.executable, "-c", READ, json.dumps(wanted)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    other_subset, other_revision, same_set = map(json.loads, done.stdout.splitlines())
    assert other_subset[2] == ["104", "105", "106", "107"]
    assert sorted(other_subset[0] + other_subset[1]) == ["4", "5", "6", "7"]
    assert other_revision[2] == ["1"]
    assert sorted(same_set[0] + same_set[1]) == ["104", "105", "106", "107"]
    assert same_set[2] == ["4", "5", "6", "7"]
    assert not hub.foreign
