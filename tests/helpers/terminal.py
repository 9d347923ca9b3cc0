"""A command on a pseudo-terminal, and what its user sees at the end."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path

import pyte


@dataclass(frozen=True)
class Seen:
    """The exit code, the lines left on the terminal (and above it), and the seconds to the first character."""

    code: int
    lines: list[str]
    first: float


def on_terminal(arguments: list[str], folder: Path, columns: int = 80, rows: int = 24) -> Seen:
    """Run `tiny-math` with a pseudo-terminal as stdin, stdout and stderr."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
    environment |= {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tiny_math_solver.cli", *arguments]
    start, first, output = time.monotonic(), 0.0, b""
    with subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        while True:
            try:
                part = os.read(own, 65536)
            except OSError:  # EIO: nobody has the other end any more
                part = b""
            if not part:
                break
            first = first or time.monotonic() - start
            output += part
    os.close(own)
    screen = pyte.HistoryScreen(columns, rows, history=10_000)
    pyte.ByteStream(screen).feed(output)
    kept = [*screen.history.top, *(screen.buffer[row] for row in range(rows))]
    lines = ["".join(line[column].data for column in range(columns)).rstrip() for line in kept]
    return Seen(process.returncode, [line for line in lines if line], first)
