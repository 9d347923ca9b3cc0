"""`tiny-math solve`: one question, or a prompt for one after another."""

import sys
from collections.abc import Iterator

from tiny_math_solver.playground.ask import Asker
from tiny_math_solver.support.console import Console, printable


def ask_once(asker: Asker, question: str, temperature: float, samples: int, console: Console) -> None:
    """Print the completion as it is generated, its answer, and the vote of `samples` completions if there are any."""
    parts = []
    for piece in asker.stream(question, temperature):
        parts.append(piece)
        console.say(printable(piece), end="")
    graded = asker.read(question, "".join(parts))
    console.say(f"\nanswer: {graded.answer or 'none found'}")
    if samples:
        vote = asker.vote(question, samples, temperature)
        counted = ", ".join(f"{value}: {count}" for value, count in vote.counts) or "no sample gave an answer"
        console.say(f"vote of {samples} samples: {counted}")


def ask_on(asker: Asker, temperature: float, samples: int, console: Console) -> None:
    """Answer the questions typed in, a line each, until an empty line, Ctrl-D or Ctrl-C."""
    console.say("Type a problem and press Enter; an empty line quits.")
    for question in _lines(console):
        ask_once(asker, question, temperature, samples, console)


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
