"""The console: where lines and notes go, and what happens when nobody reads them any more."""

import errno
import sys

import pytest

from tiny_math_solver.support.console import CollectingConsole, Console, NotesConsole, QuietConsole, printable


class ClosedPipe:
    """A stream whose reader has ended."""

    tries = 0

    def write(self, text: str) -> int:
        self.tries += 1
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def flush(self) -> None:
        pass


def test_lines_go_to_stdout_and_notes_to_stderr_both_without_secrets(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_Ab12Cd34")
    console = Console()
    console.say("reward 1.5, hf_Ab12Cd34")
    console.say("a piece", end="")
    console.note("retrying with hf_Ab12Cd34")
    assert capsys.readouterr() == ("reward 1.5, ***\na piece", "tiny-math: retrying with ***\n")


@pytest.mark.parametrize(
    ("console", "out", "err"),
    [
        (QuietConsole(), "", "tiny-math: a note\n"),
        (NotesConsole(), "", "tiny-math: a line\ntiny-math: a note\n"),
        (CollectingConsole(), "", "tiny-math: a note\n"),
    ],
)
def test_other_consoles_differ_in_where_lines_go(console: Console, out: str, err: str, capsys):
    with console:
        console.say("a line")
        console.note("a note")
    assert capsys.readouterr() == (out, err)
    assert not isinstance(console, CollectingConsole) or console.lines == ["a line"]


def test_a_run_goes_on_when_stdout_is_closed_and_prints_nothing_more(monkeypatch: pytest.MonkeyPatch):
    pipe = ClosedPipe()
    monkeypatch.setattr(sys, "stdout", pipe)
    console = Console()
    console.say("first")
    console.say("second")
    assert console.gone
    assert pipe.tries == 1


def test_a_command_that_only_prints_ends_with_its_reader(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    with pytest.raises(BrokenPipeError):
        Console(ends_with_reader=True).say("first")


def test_a_note_nobody_can_read_is_dropped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", ClosedPipe())
    console = Console(ends_with_reader=True)
    console.note("a note")
    assert not console.gone


def test_printable_text_holds_no_control_characters():
    assert printable("\x1b[31mred\tand\nmore\x07") == "\ufffd[31mred\tand\nmore\ufffd"
