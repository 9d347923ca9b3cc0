"""Signals outside of training: one line, the shell's exit code, and nothing left half made."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import QUICKSTART
from tiny_math_solver.cli import main
from tiny_math_solver.support.files import made_whole


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal with its default effect, whatever the program that runs the tests has made of it."""
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_ends_a_command_in_one_line(number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys):
    """Catches: an end without a word, a library that swallows it, and a second that cuts the cleaning up short."""
    cleaned: list[bool] = []

    def work(*arguments: Any) -> int:
        try:
            with contextlib.suppress(Exception):  # as libraries do around what may fail
                signal.raise_signal(number)
            return 0
        finally:
            signal.raise_signal(number)  # a launcher passes it on to all processes
            cleaned.append(True)

    monkeypatch.setattr("tiny_math_solver.cli.fields.run", work)
    assert main(["fields"]) == 128 + number
    assert capsys.readouterr() == ("", f"tiny-math: {number.name}: stopped\n")
    assert cleaned == [True]
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_so(number: signal.Signals, monkeypatch: pytest.MonkeyPatch):
    """As under nohup."""
    signal.signal(number, signal.SIG_IGN)

    def work(*arguments: Any) -> int:
        signal.raise_signal(number)
        return 7

    monkeypatch.setattr("tiny_math_solver.cli.fields.run", work)
    assert main(["fields"]) == 7


def test_a_run_that_is_ended_before_its_first_step_leaves_nothing(tmp_path: Path):
    """Amid the checks, before training listens to signals."""
    command = [sys.executable, "-m", "tiny_math_solver", "train", str(QUICKSTART), "--problems.train", "64"]
    process = subprocess.Popen(
        [*command, "--problems.test", "4", "--grpo.output_dir", str(tmp_path / "run")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout
    for line in process.stdout:
        if line.startswith("memory:"):
            process.terminate()
            break
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "tiny-math: SIGTERM: stopped\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existed", [True, False])
def test_a_folder_is_filled_whole_or_left_as_it_was(tmp_path: Path, existed: bool):
    folder = tmp_path / "merged"
    if existed:
        folder.mkdir()
        (folder / ".keep").write_text("mine")

    def fill() -> None:
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "part").write_text("half")
        (folder / "part").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), made_whole(folder):
        fill()
    assert [path.name for path in tmp_path.rglob("*")] == (["merged", ".keep"] if existed else [])
