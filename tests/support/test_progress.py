"""Lines before the parts of a run, and bars that only a terminal shows."""

import io
import sys
from typing import Any

import pytest
import rich.console

from tiny_math_solver.support.console import CollectingConsole, Console, NotesConsole, QuietConsole
from tiny_math_solver.support.environment import print_plainly_in_notebooks
from tiny_math_solver.support.progress import about, in_words, progress_bar
from tiny_math_solver.training.live_view import LiveView, training_console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def a_plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "under a second"), (1, "1 s"), (99.4, "99 s"), (140, "2 min"), (840, "14 min"), (7560, "2.1 h")],
)
def test_durations_for_people(seconds: float, words: str):
    assert in_words(seconds) == words
    assert about(seconds) == ("under a second" if seconds < 1 else f"about {words}")


def test_a_terminal_sees_a_bar_with_text_and_count():
    stream = Terminal()
    with progress_bar(stream, "before-test: 64 problems", 64) as advance:
        advance(32)
        advance(64)
    assert "before-test: 64 problems" in stream.getvalue()
    assert "64/64" in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_what_is_redirected_sees_none(stream: Any):
    with progress_bar(stream, "before-test", 64) as advance:
        advance(64)
    assert stream is None or stream.getvalue() == ""


@pytest.mark.parametrize("in_notebook", [True, False])
def test_a_notebook_sees_lines_alone_though_its_commands_run_on_a_terminal(
    in_notebook: bool, monkeypatch: pytest.MonkeyPatch
):
    """Catches frames of the live view, one below the other, in the output of a cell."""
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    if in_notebook:
        monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setattr(sys, "stdout", stream := Terminal())
    print_plainly_in_notebooks()
    with progress_bar(stream, "before-test", 64) as advance:
        advance(64)
    assert (stream.getvalue() == "") is in_notebook
    assert isinstance(training_console(quiet=False), LiveView) is not in_notebook


def test_the_line_comes_before_the_work_and_stays(capsys: pytest.CaptureFixture[str]):
    with Console().part("before-test: 64 problems", 64, 40.4) as advance:
        assert capsys.readouterr().out == "before-test: 64 problems, about 40 s\n"
        advance(64)
    with Console().part("loading a model"):
        assert capsys.readouterr().out == "loading a model\n"
    assert capsys.readouterr() == ("", "")


def test_each_console_draws_where_it_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """A result on stdout, such as `eval --json`, must not get a bar; a quiet console draws none at all."""
    monkeypatch.setattr("sys.stdout", out := Terminal())
    monkeypatch.setattr("sys.stderr", error := Terminal())
    with NotesConsole().part("64 problems", 64):
        pass
    assert "0/64" in error.getvalue()
    assert out.getvalue() == ""
    for console in (QuietConsole(), CollectingConsole()):
        assert console.bar_stream is None


def test_the_live_view_draws_the_bar_below_its_lines_and_then_the_board_again():
    stream = Terminal()
    screen = rich.console.Console(file=stream, force_terminal=True, width=100)
    with LiveView(screen) as view:
        view.board = "the board"
        with view.part("before-test: 64 problems", 64, 40) as advance:
            advance(16)
    shown = stream.getvalue()
    assert "before-test: 64 problems, about 40 s" in shown
    assert shown.index("about 40 s") < shown.index("16/64") < shown.rindex("the board")
