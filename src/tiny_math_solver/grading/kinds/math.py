r"""Formulas, intervals, sets, matrices: compared by math-verify, which reads LaTeX and plain notation with sympy.

Comparing two formulas may take for ever, and math-verify's own time limit works on the main thread of a process alone.
So a process of its own compares (math_worker.py), which is killed and started anew where it takes too long: the answer
counts as wrong then.
"""

import json
import queue
import re
import subprocess
import sys
import threading
from functools import lru_cache
from importlib.util import find_spec
from typing import IO, Any

from tiny_math_solver.grading.golds import Gold
from tiny_math_solver.grading.grade import grade
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.kinds.places import as_plain, committed, has_marker, last_box, short, split_solution
from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.numerals import parse_number
from tiny_math_solver.support.errors import UserError

SECONDS = 5.0  # for one comparison
STARTING_SECONDS = 60.0  # for the import of sympy
REMEMBERED = 65536  # comparisons


class MathKind:
    """Implements `AnswerKind`. Raises UserError if math-verify is not installed."""

    guessable = False

    def __init__(self) -> None:
        if find_spec("math_verify") is None:
            raise UserError(
                "problems.answer_kind math needs math-verify: pip install 'tiny-math-solver[math]', or pip install "
                "math-verify"
            )

    def read_gold(self, value: Any) -> Gold:
        text = str(as_plain(value))
        solution, gold = split_solution(text)
        if not solution and (box := last_box(text)) is not None:
            solution, gold = text, box
        return Gold(short(written(gold)), solution)

    def grade(self, question: str | None, text: str | None, gold: str | None, place: How = How.HASHES) -> Graded:
        answer, how = committed(text, place, written) or (None, How.NONE)
        if answer is None and not has_marker(text, place):
            number = grade(question, text, None, place)
            answer, how = number.answer, number.how
        correct = gold is not None and answer is not None and equal(gold, answer)
        return Graded(answer, how, correct, text or "", place)


def written(text: str) -> str | None:
    """A formula without Markdown, dollars and the full stop around it; None if nothing is left."""
    text = _AROUND.sub("", " ".join(text.replace("**", "").replace("`", "").split()))
    return text.rstrip(".").strip() or None


_AROUND = re.compile(r"(?<!\\)\$|^\\[([]|\\[)\]]$")  # dollars, and \\( … \\)
_PLAIN = re.compile(r"-?\d[\d,]*(?:\.\d+)?")  # read without sympy


@lru_cache(REMEMBERED)
def equal(gold: str, answer: str) -> bool:
    """True if two formulas are the same, as far as math-verify can tell within SECONDS. Safe on threads."""
    if gold == answer:
        return True
    if _PLAIN.fullmatch(gold) and _PLAIN.fullmatch(answer):
        one, other = parse_number(gold), parse_number(answer)
        if one is not None and other is not None:
            return one == other
    return _WORKER.equal(gold, answer)


class Worker:
    """The process that compares, started at the first comparison; one is made at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.Queue[str] = queue.Queue()

    def equal(self, gold: str, answer: str) -> bool:
        """Raises RuntimeError if the process cannot be started, or ends of itself twice."""
        with self._lock:
            for _ in range(2):
                if self._process is None:
                    self._start()
                try:
                    return self._ask(gold, answer)
                except queue.Empty:  # too hard
                    self.stop()
                    return False
                except (OSError, ValueError):  # it has ended: out of memory, or by a signal
                    self.stop()
            return False

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tiny_math_solver.grading.kinds.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._replies = queue.Queue()
        threading.Thread(target=_read_lines, args=(self._process.stdout, self._replies), daemon=True).start()
        try:
            self._reply(STARTING_SECONDS)  # it says that it is ready
        except (queue.Empty, ValueError):
            self.stop()
            raise RuntimeError("math-verify does not start; see that it can be imported") from None

    def _ask(self, gold: str, answer: str) -> bool:
        assert self._process
        assert self._process.stdin
        self._process.stdin.write(json.dumps([gold, answer]) + "\n")
        self._process.stdin.flush()
        return self._reply(SECONDS) == "true"

    def _reply(self, seconds: float) -> str:
        line = self._replies.get(timeout=seconds)
        if not line:
            raise ValueError("the process has ended")
        return line.strip()

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _read_lines(stream: IO[str], lines: "queue.Queue[str]") -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


_WORKER = Worker()
