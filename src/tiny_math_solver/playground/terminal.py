"""`tiny-math solve`: one question, or a prompt that goes on until it is left."""

import sys
from collections.abc import Callable, Iterator

from tiny_math_solver.playground.ask import Asker
from tiny_math_solver.training.live_view import printable


def ask_once(asker: Asker, question: str, temperature: float, samples: int, write: Callable[[str], object]) -> None:
    """Write the reasoning as it is made, the answer, and where asked for the vote of `samples` completions."""
    parts = []
    for piece in asker.stream(question, temperature):
        parts.append(piece)
        write(printable(piece))
    graded = asker.read(question, "".join(parts))
    write(f"\nanswer: {graded.answer or 'none found'}\n")
    if samples:
        vote = asker.vote(question, samples, temperature)
        counted = ", ".join(f"{value}: {count}" for value, count in vote.counts) or "no sample has an answer"
        write(f"vote of {samples} samples: {counted}\n")


def ask_on(asker: Asker, temperature: float, samples: int, write: Callable[[str], object]) -> None:
    """Ask what is typed, line by line, until an empty line, Ctrl-D or Ctrl-C."""
    write("A problem, then Enter. An empty line ends.\n")
    for question in _lines(write):
        ask_once(asker, question, temperature, samples, write)


def _lines(write: Callable[[str], object]) -> Iterator[str]:
    while True:
        write("> ")
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            line = ""
        if not line.strip():
            if not line:
                write("\n")
            return
        yield line.strip()
