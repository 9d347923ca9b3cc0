"""The console: where lines and notes go, and what happens when nobody reads them any more."""

import errno
import io
import sys

import pytest

from tiny_math_solver.support.console import (
    CollectingConsole,
    Console,
    NotesConsole,
    QuietConsole,
    print_anything,
    printable,
)


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


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("utf-8", "8.4% → 97.0%, −5 × 2 ≤ 3… ███ 日"),
        ("cp1252", "8.4% -> 97.0%, -5 × 2 <= 3… ### ?"),
        ("ascii", "8.4% -> 97.0%, -5 x 2 <= 3... ### ?"),
    ],
)
def test_what_the_encoding_of_a_stream_lacks_is_spelled_out(
    monkeypatch: pytest.MonkeyPatch, encoding: str, printed: str
):
    """Redirected output is cp1252 on Windows and ASCII under LC_ALL=C: an arrow ended the command."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding, newline="") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    print_anything()
    Console().say("8.4% → 97.0%, −5 × 2 ≤ 3… ███ 日")
    Console().note("→")
    assert out.buffer.getvalue().decode(encoding) == f"{printed}\n"
    assert b"tiny-math: " in err.buffer.getvalue()


def test_a_pipe_that_nobody_reads_is_one_on_windows_too(monkeypatch: pytest.MonkeyPatch):
    class Closed(ClosedPipe):
        def write(self, text: str) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(OSError, match="Invalid argument") as elsewhere:
        Console(ends_with_reader=True).say("a line")
    assert elsewhere.value.errno == errno.EINVAL
    monkeypatch.setattr("tiny_math_solver.support.console.IS_WINDOWS", True)
    with pytest.raises(BrokenPipeError):
        Console(ends_with_reader=True).say("a line")
