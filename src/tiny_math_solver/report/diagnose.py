"""What went right and wrong, read off completions and steps alone: no model, no grading anew.

A wrong answer is one of FAILURES. Its first equation that does not hold (`12*3=38`) makes it an arithmetic slip;
equations that all hold and still lead elsewhere are wrong steps.
"""

import ast
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

FAILURES = {
    "cut off": "the length limit came before the answer",
    "no answer": "no number that could be read as an answer",
    "only an answer": "a number without any working",
    "arithmetic slip": "an equation that does not hold",
    "wrong steps": "every equation holds, but they lead elsewhere",
}
WASTE = {  # and the setting that would save it
    "all right": "groups with nothing left to learn: harder problems, or stop earlier (grpo.max_steps)",
    "all wrong": "groups out of reach: easier problems, or more samples a problem (grpo.num_generations)",
    "cut off": "completions without an end: a longer limit (grpo.max_completion_length)",
}
Row = dict[str, Any]  # of rollouts.jsonl or eval/*.jsonl

# bounded everywhere: the time to search a megabyte of digits and signs must not grow with its square
_NUMBER = r"-?\$?\d[\d,]{0,20}(?:\.\d{1,10})?%?"
_EQUATION = re.compile(rf"(?<![\d.,])({_NUMBER}(?:\s?[-+*/×÷x]\s?{_NUMBER}){{1,9}})\s?=\s?({_NUMBER})")
_ANNOTATION = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator marks repeat the equation around them
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def failure_of(record: Row) -> str | None:
    """The name of what went wrong with a completion of an evaluation or a rollout; None where the answer is right."""
    if record["correct"]:
        return None
    if record["answer"] is None:
        return "no answer" if record["finished"] else "cut off"
    if not equations(record["completion"]):
        return "only an answer"
    return "arithmetic slip" if first_slip(record["completion"]) else "wrong steps"


def first_slip(text: str) -> str | None:
    """The first equation of a text that does not hold, as it stands there."""
    return next((equation for equation, holds in equations(text) if not holds), None)


def equations(text: str) -> list[tuple[str, bool]]:
    """Every `a + b = c` of a text, and whether it holds exactly; a quotient may be rounded to what is shown."""
    found = []
    for match in _EQUATION.finditer(_ANNOTATION.sub("", text)):
        value, shown = _value(match[1]), _value(match[2])
        if value is not None and shown is not None:
            places = len(match[2].rstrip("%").partition(".")[2])
            found.append((match[0], abs(value - shown) * 2 * 10**places < 1 if "/" in match[1] else value == shown))
    return found


def _value(text: str) -> Fraction | None:
    """What a sum of products comes to, exactly; None where it is too long or divides by zero."""
    plain = re.sub(r"[$,\s]", "", text).replace("×", "*").replace("x", "*").replace("÷", "/")
    plain = re.sub(r"([\d.]+)%", r"(\1/100)", plain)
    plain = re.sub(r"\b0+(?=\d)", "", plain)
    if len(plain) > 200:
        return None
    try:
        return _evaluate(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _evaluate(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    raise ValueError("not a sum of products")


def failure_counts(records: Iterable[Row]) -> dict[str, int]:
    counts = dict.fromkeys(FAILURES, 0)
    for record in records:
        if (name := failure_of(record)) is not None:
            counts[name] += 1
    return counts


def gain(before: Sequence[Row], after: Sequence[Row]) -> dict[str, float]:
    """The gain in strict accuracy, as a sum: better answers, and right answers that keep to the format more often.

    `strict = correct - (correct without ####)`, so the two parts add up exactly.
    """

    def share(records: Sequence[Row], name: str) -> float:
        return sum(bool(r[name]) for r in records) / max(1, len(records))

    correct = share(after, "correct") - share(before, "correct")
    strict = share(after, "strict") - share(before, "strict")
    return {"strict": strict, "arithmetic": correct, "format": strict - correct}


def dead_groups(rollouts: Iterable[Row]) -> dict[int, dict[str, float]]:
    """By step: the share of groups whose rewards are all the same, split in all right and all wrong."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for (step, _), rows in _groups(rollouts).items():
        counts[step].update(["groups", _outcome(rows)])
    return {
        step: {name: count[name] / count["groups"] for name in ("all right", "all wrong")}
        for step, count in sorted(counts.items())
    }


def waste(rollouts: Iterable[Row]) -> dict[str, float]:
    """Completion tokens that taught nothing, as shares of all, by WASTE's names."""
    tokens: Counter[str] = Counter()
    for rows in _groups(rollouts).values():
        outcome = _outcome(rows)
        for row in rows:
            cut = outcome == "mixed" and not row["finished"]
            tokens["cut off" if cut else outcome] += row["tokens"]
    total = sum(tokens.values()) or 1
    return {name: tokens[name] / total for name in WASTE}


def _groups(rollouts: Iterable[Row]) -> dict[tuple[int, str], list[Row]]:
    groups: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in rollouts:
        groups[row["step"], row["id"]].append(row)
    return groups


def _outcome(rows: list[Row]) -> str:
    if len({sum(row["rewards"].values()) for row in rows}) > 1:
        return "mixed"
    return "all right" if rows[0]["correct"] else "all wrong"
