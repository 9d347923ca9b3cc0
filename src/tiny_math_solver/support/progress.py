"""Durations in words, and bars that show how far a part of the work is."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

Advance = Callable[[int], Any]  # is told how much of the work is done


def in_words(seconds: float) -> str:
    """A duration for people: `40 s`, `14 min`, `2.1 h`."""
    if seconds < 1:
        return "under a second"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def about(seconds: float) -> str:
    """An estimated duration: `about 40 s`."""
    return in_words(seconds) if seconds < 1 else f"about {in_words(seconds)}"


def loading() -> contextlib.AbstractContextManager[None]:
    """Say on a terminal that libraries are loaded, which takes seconds, while the block imports them."""
    return while_it_lasts("loading libraries ...")


@contextmanager
def while_it_lasts(text: str) -> Iterator[None]:
    """A line on a terminal while the block runs, gone at its end or when something is printed (`wipe`)."""
    if not sys.stderr or not sys.stderr.isatty() or os.environ.get("TERM") in (None, "dumb"):
        yield
        return
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(text, end="", file=sys.stderr, flush=True)
        _shown.append(text)
    try:
        yield
    finally:
        wipe()


def wipe() -> None:
    """Take the line of `while_it_lasts` off the terminal, if there is one."""
    if _shown:
        _shown.clear()
        with contextlib.suppress(OSError):
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


_shown: list[str] = []


def make_bar(screen: Any, **options: Any) -> Any:
    """A rich progress display of text, bar, count and the time that is left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=screen, **options)


@contextmanager
def progress_bar(stream: TextIO | None, text: str, total: int | None) -> Iterator[Advance]:
    """A bar on `stream` while the block runs, gone at its end; none where `stream` is no terminal."""
    import rich.console

    screen = rich.console.Console(file=stream, highlight=False) if stream is not None else None
    if screen is None or not screen.is_terminal or screen.is_dumb_terminal:
        yield lambda done: None
        return
    with make_bar(screen, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)
