"""Every command without what Windows lacks (helpers/windows.py), and what cannot be seen by running: the sources."""

import ast
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import QUICKSTART, ROOT
from helpers.runs import SHORT, rows, without_duration
from helpers.windows import MISSING_MODULES
from tiny_math_solver.problems.embedded import describe_world

SOURCES = sorted((ROOT / "src").rglob("*.py"))
TRAIN = ["train", str(QUICKSTART), *SHORT, "--evaluation.every", "1", "--grpo.output_dir", "run"]
LONGER = ["--grpo.max_steps", "2", "--resume", "--allow", "grpo.max_steps"]
TORCH_ALONE = (
    "tiny-math: torch computes alone, slower than with the compiled kernels: no OpenMP runtime to share with torch"
)
PARTS = [  # of a check, told before each
    "tiny-math: loading model embedded",
    "tiny-math: trying the longest rows: 50 + 112 tokens",
    "tiny-math: comparing the engine with transformers on 16 prompts",
    "tiny-math: forecast: sampling train problems",
]
COMMANDS = {
    "train": TRAIN,
    "resume": [*TRAIN, *LONGER],
    "anew": [*TRAIN, "--no-resume", "--quiet"],
    "check": ["check", *TRAIN[1:]],
    "seeds": ["seeds", *TRAIN[1:], "--seeds", "1,"],
    "eval": ["eval", "run.1", "--limit", "4", "--samples", "2", "--out", "records.jsonl"],
    "solve": ["solve", "run", "--samples", "2", "Ava has 3 bags of 7 marbles. How many marbles does Ava have?"],
    "report": ["report", "run.1", "run", "--out", "page.html"],
    "merge": ["merge", "run", "merged"],
    "push": ["push", "run", "ada/sums", "--dry-run", "--out", "published"],
    "watch": ["watch", "run"],
    "play": ["play", "run"],
    "fields": ["fields", "grpo"],
    "fetch": ["fetch", str(QUICKSTART)],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("windows")


@pytest.fixture(scope="module")
def done(folder: Path) -> dict[str, dict[str, Any]]:
    """Exit code, stdout, stderr and pages of every command, all of them run in one process."""
    (folder / "commands.json").write_text(json.dumps(list(COMMANDS.values())), encoding="utf-8")
    program = [sys.executable, "-X", "warn_default_encoding", str(ROOT / "tests/helpers/windows.py"), "commands.json"]
    variables = {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        program, cwd=folder, env=os.environ | variables, capture_output=True, text=True, encoding="utf-8"
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "in use:" not in result.stderr  # nothing was deleted or replaced that is still open
    return dict(zip(COMMANDS, json.loads(result.stdout), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_runs_without_what_windows_lacks(name: str, done: dict[str, dict[str, Any]]):
    """Catches fcntl, SIGHUP, getuid, CDLL(None), a folder that is opened, an arrow in cp1252, a file still mapped."""
    ran = done[name]
    notes = [TORCH_ALONE] if name in ("eval", "solve", "play") else PARTS if name == "check" else []
    notes += [f"tiny-math: this model of a million parameters knows {describe_world()}"] * (name == "solve")
    assert (ran["code"], [without_duration(line) for line in ran["err"].splitlines()]) == (0, notes), ran["err"]
    said = {
        "train": "step 1/1",
        "resume": "step 1: resumed: from run/checkpoint-1",
        "anew": "verdict: greedy accuracy",
        "check": TORCH_ALONE.removeprefix("tiny-math: "),
        "seeds": "verdict over 1 seed: ",
        "eval": "of 4 problems",
        "solve": "\nanswer: ",
        "report": "page.html",
        "merge": "merged",
        "push": "written into published",
        "watch": "http://127.0.0.1",
        "play": "http://127.0.0.1",
        "fields": "grpo.learning_rate (",
        "fetch": "nothing to download",
    }
    assert said[name] in ran["out"]
    for page in ran["pages"]:
        assert "<html" in page
    assert len(ran["pages"]) == (name in ("watch", "play"))


@pytest.mark.slow
def test_the_files_are_those_of_other_systems(folder: Path, done: dict[str, dict[str, Any]]):
    assert [row["step"] for row in rows(folder / "run.1" / "metrics.jsonl")] == [1, 2]
    assert [row["step"] for row in rows(folder / "run" / "metrics.jsonl")] == [1]
    assert len(rows(folder / "records.jsonl")) == 4 * (1 + 2)
    assert (folder / "merged" / "model.safetensors").is_file()
    assert b"\r" not in (folder / "published" / "README.md").read_bytes()
    assert "<html" in (folder / "page.html").read_text(encoding="utf-8")
    checkpoint = folder / "run.1" / "checkpoint-2"
    sums = [line.split("  ") for line in (checkpoint / "SHA256SUMS").read_text(encoding="utf-8").splitlines()]
    assert "best/adapter_model.safetensors" in {name for _, name in sums}
    for digest, name in sums:
        assert hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() == digest
    assert not list((folder / "run.1").rglob(".*"))  # the lock is beside the folder


# -- What the sources say ----------------------------------------------------------------------------------------


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))


def named(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def faults(path: Path) -> Iterator[str]:
    """Text files whose encoding or line ends are the platform's."""
    for call in calls(path):
        name, keys = named(call), {keyword.arg for keyword in call.keywords}
        of_what = getattr(getattr(call.func, "value", None), "id", "")
        if name in ("read_text", "write_text"):
            is_ours = of_what in ("run", "self")  # RunFolder.write_text
            has_encoding = "encoding" in keys or (name == "read_text" and call.args)
            if not is_ours and not has_encoding and name + of_what != "write_text":
                yield f"{path.name}:{call.lineno}: {name} without encoding"
            if name == "write_text" and isinstance(call.func, ast.Attribute) and not is_ours and "newline" not in keys:
                yield f"{path.name}:{call.lineno}: write_text without newline"
        if name == "open" and of_what not in ("os", "events"):
            place = 0 if isinstance(call.func, ast.Attribute) else 1
            given = [*(k.value for k in call.keywords if k.arg == "mode"), *call.args[place : place + 1]]
            mode = str(next((node.value for node in given if isinstance(node, ast.Constant)), "r"))
            if "b" not in mode and "encoding" not in keys:
                yield f"{path.name}:{call.lineno}: open without encoding"
            if set(mode) & set("wax") and "b" not in mode and "newline" not in keys:
                yield f"{path.name}:{call.lineno}: open for writing without newline"


def test_text_files_have_the_same_bytes_everywhere():
    """Catches cp1252, which cannot hold a completion, and line ends of two bytes, which change every hash."""
    assert [fault for path in SOURCES for fault in faults(path)] == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("path.read_text()", 1),
        ('path.read_text(encoding="utf-8")', 0),
        ('path.write_text(text, encoding="utf-8")', 1),
        ('open(path, "w", encoding="utf-8")', 1),
        ('path.open("a", encoding="utf-8", newline="\\n")', 0),
        ("open(path)", 1),
        ('path.open("rb")', 0),
    ],
)
def test_the_search_finds_what_it_looks_for(tmp_path: Path, source: str, count: int):
    (tmp_path / "one.py").write_text(source, encoding="utf-8")
    assert len(list(faults(tmp_path / "one.py"))) == count


def test_no_module_needs_one_that_only_posix_has():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & MISSING_MODULES, path


def test_names_in_records_have_the_same_separator_everywhere():
    """Catches a backslash before adapter_model.safetensors in SHA256SUMS: every checkpoint would count as damaged."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FormattedValue) or (isinstance(node, ast.Call) and named(node) == "str"):
                for shown in [node.value] if isinstance(node, ast.FormattedValue) else node.args:
                    assert not (isinstance(shown, ast.Call) and named(shown) == "relative_to"), f"{path}:{node.lineno}"
