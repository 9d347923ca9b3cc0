"""The console: everything that commands and runs print goes through it.

Lines go to stdout, notes to stderr with the prefix `tiny-math: `. Access tokens and passwords are removed from both.
"""

import codecs
import contextlib
import errno
import io
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TextIO

from tiny_math_solver.support.files import IS_WINDOWS
from tiny_math_solver.support.progress import Advance, about, progress_bar, wipe
from tiny_math_solver.support.redaction import without_secrets


class Console:
    """Prints lines and notes, with `is_verbose` in detail.

    If the terminal or pipe behind stdout is closed, `gone` is set and printing stops.

    With `ends_with_reader` the OSError is raised instead, for commands that only print. A console is a context
    manager because some, such as the live view, have to restore the screen.
    """

    def __init__(self, *, ends_with_reader: bool = False, is_verbose: bool = False):
        self.ends_with_reader, self.is_verbose = ends_with_reader, is_verbose
        self.gone = False

    def say(self, text: str, end: str = "\n") -> None:
        """Print to stdout."""
        wipe()
        self.attempt(lambda: self.write(without_secrets(text), end))

    def judge(self, judgement: str, detail: str) -> None:
        """Print a judgement, or in its place what it rests on."""
        self.say(detail if self.is_verbose else judgement)

    def note(self, text: str) -> None:
        """Print to stderr: warnings, progress, and anything else that is not the result of a command."""
        wipe()
        with contextlib.suppress(OSError):
            print(f"tiny-math: {without_secrets(text)}", file=sys.stderr, flush=True)

    def write(self, text: str, end: str) -> None:
        """Write one line to stdout; overridden by consoles whose lines go elsewhere."""
        print(text, end=end, flush=True)

    @contextlib.contextmanager
    def part(self, text: str, total: int | None = None, seconds: float | None = None) -> Iterator[Advance]:
        """Say what the block does and about how long it will take, then show its progress on a terminal."""
        self.say(text if seconds is None else f"{text}, {about(seconds)}")
        with self.progress(text, total) as advance:
            yield advance

    def progress(self, text: str, total: int | None = None) -> contextlib.AbstractContextManager[Advance]:
        """A bar while the block runs, which tells it how much of `total` is done; none if it is redirected."""
        return progress_bar(self.bar_stream, text, total)

    @property
    def bar_stream(self) -> TextIO | None:
        """The stream that bars are drawn on if it is a terminal."""
        return None if self.gone else sys.stdout

    def attempt(self, printing: Callable[[], Any]) -> None:
        """Run `printing` unless stdout is known to be closed."""
        if self.gone:
            return
        try:
            printing()
        except OSError as error:
            if self.ends_with_reader:
                raise _closed_pipe(error) from error
            self.gone = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        pass


class QuietConsole(Console):
    """Prints notes only."""

    bar_stream = None

    def write(self, text: str, end: str) -> None:
        pass


class CollectingConsole(Console):
    """Keeps what is said in `lines` instead of printing it."""

    bar_stream = None

    def __init__(self, *, is_verbose: bool = True) -> None:
        super().__init__(is_verbose=is_verbose)
        self.lines: list[str] = []

    def write(self, text: str, end: str) -> None:
        self.lines.append(text)


class NotesConsole(Console):
    """Prints lines as notes, where stdout is for the result alone."""

    @property
    def bar_stream(self) -> TextIO | None:
        return sys.stderr

    def write(self, text: str, end: str) -> None:
        self.note(text)


def _closed_pipe(error: OSError) -> OSError:
    """BrokenPipeError for what Windows says where nobody reads a pipe any more, else the error itself."""
    if IS_WINDOWS and error.errno == errno.EINVAL:
        return BrokenPipeError(errno.EPIPE, "closed pipe")
    return error


PLAIN = {"−": "-", "–": "-", "—": "-", "→": "->", "×": "x", "·": "*", "…": "...", "≤": "<=", "≥": ">=", "█": "#"}


def print_anything() -> None:
    """Have stdout and stderr print every character: those that their encoding lacks are spelled out, or become `?`.

    On Windows a file or pipe is cp1252, where an arrow would raise UnicodeEncodeError and end the command.
    """
    codecs.register_error("tiny-math", _spelled_out)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # there may be none, or one of a notebook's
            stream.reconfigure(errors="tiny-math")


def _spelled_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in missing), error.end


def printable(text: str) -> str:
    """Text that cannot move the cursor or colour the screen, whatever a model writes."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
