r"""Expressions as answers: `(8-5)*3`, which has to reach a target with given numbers, each used exactly once.

The gold is a text, `24 from 3, 5, 8`. An expression has whole numbers in ASCII digits, + - * / (also × ÷ − and their
LaTeX commands), brackets, and at most one `=` with what it comes to. Nothing else is one: no sign in front of a number,
no power, no product without `*`. Values are exact fractions and nothing is evaluated by Python itself.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from tiny_math_solver.grading.cues import cue
from tiny_math_solver.grading.judge import speaks_to_judge
from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.refusals import GIVES_UP
from tiny_math_solver.grading.retractions import RETRACTED
from tiny_math_solver.grading.truncation import unlooped
from tiny_math_solver.grading.turns import visible

MAX_LENGTH = 200  # characters of an expression
MAX_DEPTH = 20  # brackets within brackets
MAX_DIGITS = 9  # of one number
SEARCHED = 16384  # characters at the end of a completion in which its answer is looked for
AFTERWARDS = 400  # characters after the answer in which it may be taken back


class Expression(NamedTuple):
    """What an expression comes to, the numbers that it uses, in order, and what it claims to come to after `=`."""

    value: Fraction
    numbers: tuple[int, ...]
    claimed: int | None = None


class FoundExpression(NamedTuple):
    """The expression that a completion answers with, and the marker that it stands after."""

    text: str
    how: How


def parse_gold(gold: str) -> tuple[int, tuple[int, ...]]:
    """`24 from 3, 5, 8` → `(24, (3, 5, 8))`. Raises ValueError for anything else."""
    match = _GOLD.fullmatch(gold.strip()) if isinstance(gold, str) and len(gold) <= MAX_LENGTH else None
    if match is None:
        raise ValueError(f"gold answer is not like 24 from 3, 5, 8: {str(gold)[-80:]!r}")
    return int(match[1]), tuple(map(int, match[2].split(",")))


def reaches(expression: str, target: int, numbers: tuple[int, ...] | list[int]) -> bool:
    """True if the expression comes to `target` with exactly these numbers; never raises."""
    try:
        read = parse_expression(expression)
    except ValueError:
        return False
    return read.value == target and read.claimed in (None, target) and sorted(read.numbers) == sorted(numbers)


def parse_expression(text: str) -> Expression:
    """Raises ValueError if `text` is not one expression, or divides by zero."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"an expression of {len(text):,} characters is too long")
    left, equals, right = plain_signs(text).partition("=")
    parser = _Parser(left)
    value = parser.sum(0)
    if parser.next():
        raise ValueError(f"{parser.next()!r} does not go on an expression: {text!r}")
    if equals and not _NUMBER.fullmatch(right.strip()):
        raise ValueError(f"what the expression comes to is not one whole number: {text!r}")
    return Expression(value, tuple(parser.numbers), int(right) if equals else None)


def read_expression(completion: str | None) -> str | None:
    """The expression that a completion answers with; None if there is none, or it does not commit to one."""
    found = find_expression(completion)
    return found.text if found else None


def find_expression(completion: str | None) -> FoundExpression | None:
    r"""As `read_expression`, with the marker: the last `####`, `\boxed{}` or "the answer is" decides. Never raises."""
    text, _ = unlooped(visible(completion or ""))
    text = text[-SEARCHED:]
    if not text or speaks_to_judge(text):
        return None
    marked = [(at, how) for at, how in _last_markers(text) if _is_sum(text, at, how)]
    if not marked:
        return None
    at, how = max(marked)
    answer, end = _span(text, at, how)
    after = text[end : end + AFTERWARDS]
    if not _is_expression(answer) or RETRACTED.search(after) or _ANOTHER.search(after) or GIVES_UP.search(after):
        return None
    for other, other_how in marked:  # said after #### as well
        if other_how is How.HASHES and _span(text, other, How.HASHES)[0] == answer:
            how = How.HASHES
    return FoundExpression(answer, how)


def plain_signs(text: str) -> str:
    """The text with ASCII signs and round brackets in place of typographic ones and LaTeX."""
    text = _FRACTION.sub(r"((\1)/(\2))", text.strip())
    for command, sign in _LATEX.items():
        text = text.replace(command, sign)
    return text.translate(_SIGNS)


class _Parser:
    """Recursive descent over the tokens of one expression; `numbers` are those that it has met."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)
        self.place = 0
        self.numbers: list[int] = []

    def next(self) -> str:
        """The token at hand; empty at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while self.next() in ("+", "-"):
            value = value + self.product(depth) if self.take() == "+" else value - self.product(depth)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.term(depth)
        while self.next() in ("*", "/"):
            if self.take() == "*":
                value *= self.term(depth)
            elif divisor := self.term(depth):
                value /= divisor
            else:
                raise ValueError("division by zero")
        return value

    def term(self, depth: int) -> Fraction:
        token = self.next()
        if _NUMBER.fullmatch(token):
            self.numbers.append(int(self.take()))
            return Fraction(self.numbers[-1])
        if token != "(" or depth == MAX_DEPTH:
            raise ValueError(f"a number or an opening bracket is expected, found {token or 'the end'!r}")
        self.take()
        value = self.sum(depth + 1)
        if self.next() != ")":
            raise ValueError("a bracket is not closed")
        self.take()
        return value


def _last_markers(text: str) -> list[tuple[int, How]]:
    """`(where what follows begins, kind)` of the last marker of each kind."""
    last = {how: match.end() for how, marker in _MARKERS.items() for match in marker.finditer(text)}
    return [(end, how) for how, end in last.items()]


def _span(text: str, start: int, how: How) -> tuple[str, int]:
    """What stands at a marker, without markup around it, and where it ends: the first line with text, or the box."""
    if how is How.BOXED:
        end, depth = start, 1
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        return text[start : end - 1].strip(), end
    start += len(text[start:]) - len(text[start:].lstrip())
    end = text.find("\n", start)
    end = end if end >= 0 else len(text)
    line = text[start:end].strip()
    if bold := _BOLD.fullmatch(line):
        line = bold[1]
    return line.removesuffix(".").strip("$` "), end


def _is_sum(text: str, at: int, how: How) -> bool:
    """True unless a marker is a heading (`#### Step 1`) or a remark, with no sum in it."""
    return _SUM.search(plain_signs(_span(text, at, how)[0])) is not None


def _is_expression(text: str) -> bool:
    try:
        parse_expression(text)
    except ValueError:
        return False
    return True


_WHOLE = rf"(?:0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})"
_NUMBER = re.compile(_WHOLE)
_GOLD = re.compile(rf"({_WHOLE}) from ({_WHOLE}(?:, ?{_WHOLE}){{1,15}})")
_TOKEN = re.compile(r"\d+|\S", re.ASCII)
_SUM = re.compile(r"\d\s*\)*\s*[-+*/]", re.ASCII)
_BOLD = re.compile(r"\*\*([^*].*[^*])\*\*\.?")
_MARKERS = {
    How.HASHES: re.compile("####+"),
    How.BOXED: re.compile(r"\\boxed\{"),
    How.PHRASE: cue(r"\banswer(?:\*\*)?(?: is| would be|\s*[:=])(?:\*\*)?\s*:?"),
}
_ANOTHER = cue(r"\b(?:or|another|alternative(?:ly)?|maybe|perhaps|otherwise)\b")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]{1,80})\}\{([^{}]{1,80})\}")
_LATEX = {"\\times": "*", "\\cdot": "*", "\\div": "/", "\\left": "", "\\right": "", "\\,": " "}
_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "∕": "/", "−": "-", "–": "-", "[": "(", "]": ")"})
