"""`tiny-math solve`: one question, or a prompt for one after another."""

import sys
from collections.abc import Iterator

from tiny_math_solver.playground.solver import Solver
from tiny_math_solver.support.console import Console, printable


def solve_once(solver: Solver, question: str, temperature: float, samples: int, console: Console) -> None:
    """Print the completion as it is generated, its answer, and the vote of `samples` completions if there are any."""
    parts = []
    for piece in solver.stream(question, temperature):
        parts.append(piece)
        console.say(printable(piece), end="")
    graded = solver.read(question, "".join(parts))
    console.say(f"\nanswer: {graded.answer or 'none found'}")
    if samples:
        vote = solver.vote(question, samples, temperature)
        counted = ", ".join(f"{value}: {count}" for value, count in vote.counts) or "no sample gave an answer"
        console.say(f"vote of {samples} samples: {counted}")


def solve_interactively(solver: Solver, temperature: float, samples: int, console: Console) -> None:
    """Answer the questions typed in, a line each, until an empty line, Ctrl-D or Ctrl-C."""
    console.say("Type a problem and press Enter; an empty line quits.")
    for question in _lines(console):
        solve_once(solver, question, temperature, samples, console)


def _lines(console: Console) -> Iterator[str]:
    while True:
        console.say("> ", end="")
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            line = ""
        if not line.strip():
            if not line:
                console.say("")
            return
        yield line.strip()
