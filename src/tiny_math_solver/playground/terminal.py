"""`tiny-math solve`: one question, or a prompt for one after another."""

import sys
from collections.abc import Iterator

from tiny_math_solver.playground.solver import Solver
from tiny_math_solver.support.console import Console, printable


def solve_once(solver: Solver, question: str, temperature: float, samples: int, console: Console) -> None:
    """Print the completion as it is generated, its answer, and the vote of `samples` completions if there are any."""
    if doubt := solver.doubt(question):
        console.note(doubt)
    stream = solver.stream(question, temperature)
    for piece in stream:
        console.say(printable(piece), end="")
    if not stream.is_finished:
        console.say(f"\n… cut off after {solver.settings.max_new_tokens} tokens (--max-new-tokens)", end="")
    console.say(f"\nanswer: {solver.read(question, stream.text).answer or 'none found'}")
    if samples:
        console.say(f"vote: {solver.vote(question, samples, temperature)}")


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
