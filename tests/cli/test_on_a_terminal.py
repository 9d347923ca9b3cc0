"""What a user sees on a terminal, where libraries say more than to a pipe."""

from pathlib import Path

import pytest

from helpers.paths import QUICKSTART
from helpers.terminal import on_terminal

COMMANDS = {
    "train": ["train", str(QUICKSTART), "--grpo.nowhere", "1"],
    "check": ["check", str(QUICKSTART), "--grpo.nowhere", "1"],
    "seeds": ["seeds", str(QUICKSTART), "--grpo.nowhere", "1"],
    "fetch": ["fetch", str(QUICKSTART), "--grpo.nowhere", "1"],
    "eval": ["eval", "./nowhere"],
    "solve": ["solve", "./nowhere", "What is 2+2?"],
    "merge": ["merge", "./nowhere", "out"],
    "report": ["report", "./nowhere"],
    "watch": ["watch", "./nowhere"],
    "play": ["play", "./nowhere"],
    "fields": ["fields", "lora.r"],
    "help": ["--help"],
}
SECONDS = 2.5  # the machine of a test may be busy; alone on two cores it is under a third of a second


@pytest.mark.parametrize("name", COMMANDS)
def test_something_is_said_at_once_and_what_was_said_of_loading_is_gone(name: str, tmp_path: Path):
    seen = on_terminal(COMMANDS[name], tmp_path, columns=200)
    assert 0 < seen.first < SECONDS
    if name == "help":
        assert seen.lines[0].startswith("usage: tiny-math")
    else:
        (line,) = seen.lines
        assert line.startswith("lora.r (int, default 16)" if name == "fields" else "tiny-math: ")
        assert name == "fields" or "nowhere" in line


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "rows"), [(40, 10), (80, 24), (200, 60)])
def test_a_run_leaves_its_lines_alone_and_no_warning_of_a_library(columns: int, rows: int, tmp_path: Path):
    small = ["--grpo.max_steps", "3", "--problems.dev", "8", "--problems.test", "8", "--evaluation.samples", "0"]
    seen = on_terminal(["train", str(QUICKSTART), *small, "--grpo.output_dir", "run"], tmp_path, columns, rows)
    text = "\n".join(seen.lines)
    assert seen.code == 0, text
    assert "warn" not in text.lower()
    assert not any(character in text for character in "╭│╰━"), "a part of the view or of a bar stays behind"
    assert text.count("verdict: ") == 1
    assert "loading libraries" not in text


@pytest.mark.slow
def test_seeds_show_each_run_as_an_ordinary_one_and_end_with_one_verdict(tmp_path: Path):
    """Catches runs that print into the view of another, and a view that a process in a group of its own cannot draw."""
    small = ["--grpo.max_steps", "2", "--problems.dev", "8", "--problems.test", "8", "--evaluation.samples", "0"]
    seen = on_terminal(["seeds", str(QUICKSTART), "--seeds", "2", *small, "--grpo.output_dir", "run"], tmp_path)
    text = "\n".join(seen.lines)
    assert seen.code == 0, text
    assert text.count("verdict: greedy accuracy") == 2
    assert text.count("verdict over 2 seeds: ") == 1
    assert text.index("seed 42, 1 of 2") < text.index("verdict: greedy") < text.index("seed 43, 2 of 2")
    assert not any(character in text for character in "╭│╰━"), "a part of the view or of a bar stays behind"
    assert not list(tmp_path.glob("run-seeds/*.log"))
