"""Files that are written whole or not at all, and checks of where they are to go."""

import contextlib
import difflib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tiny_math_solver.support.errors import UserError

IS_WINDOWS = os.name == "nt"


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically: a reader finds the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    write_text(part, text)
    sync(part)
    os.replace(part, path)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 with the same line ends, so the same hash, on every platform."""
    path.write_text(text, encoding="utf-8", newline="\n")


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk; Windows keeps that list itself."""
    if IS_WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if IS_WINDOWS else os.O_RDONLY)  # Windows flushes what is open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSONL text."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def for_shell(*words: str) -> str:
    """Words of a command as they can be copied into this system's shell."""
    return subprocess.list2cmdline(words) if IS_WINDOWS else shlex.join(words)


def sibling(path: Path, marks: Sequence[str]) -> str:
    """`; did you mean checkpoint/quickstart?` for what lies where `path` would and is nearly called so.

    It must hold one of the files `marks`, or end in one of them.
    """
    try:
        names = [
            other.name
            for other in path.expanduser().parent.iterdir()
            if other.name.endswith(tuple(marks)) or any((other / mark).is_file() for mark in marks)
        ]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    close = close or [name for name in names if path.name and name.startswith(path.name)]
    return f"; did you mean {path.with_name(close[0])}?" if close else ""


def require_file(path: Path, kind: str) -> None:
    """Raise UserError where `path` is no file that can be read more than once; `kind` says what it was to be."""
    if not path.exists():
        here = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"no such {kind}: {path}{here}")
    if not path.is_file():
        what = "a pipe" if path.is_fifo() else "a device" if path.is_char_device() else "no file"
        raise UserError(f"{path} is {what}, but a {kind} is read more than once: save it as a file")


def occupied(path: Path) -> bool:
    """True if something stands at `path`: a file, or a folder with more in it than hidden files."""
    return path.exists() and (not path.is_dir() or any(not file.name.startswith(".") for file in path.iterdir()))


@contextlib.contextmanager
def made_whole(folder: Path) -> Iterator[None]:
    """Empty a folder that was empty, or remove it if it was not there, should the block fail that fills it."""
    existed = folder.exists()
    before = set(folder.iterdir()) if existed else set()
    try:
        yield
    except BaseException:
        for path in set(folder.iterdir()) - before if folder.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not existed and folder.is_dir():
            folder.rmdir()
        raise


def check_writable(folder: Path, advice: str) -> None:
    """Raise UserError if nothing can be written into `folder`, which need not exist yet."""
    try:
        with tempfile.TemporaryDirectory(dir=existing_parent(folder)):
            pass  # permissions alone do not tell: root, read-only mounts
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); {advice}") from None


def existing_parent(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def free_name(path: Path) -> Path:
    """The first of `<path>.1`, `<path>.2`, … that does not exist."""
    number = 1
    while (free := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return free
