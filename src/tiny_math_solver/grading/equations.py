"""The equations that a text writes out, `12*3=36`, and whether they hold."""

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

# Every repetition is bounded: searching a megabyte of digits and signs must not take quadratic time.
_NUMBER = r"-?\$?\d[\d,]{0,20}(?:\.\d{1,10})?%?"
_EQUATION = re.compile(rf"(?<![\d.,])({_NUMBER}(?:\s?[-+*/×÷x]\s?{_NUMBER}){{1,9}})\s?=\s?({_NUMBER})")
_ANNOTATION = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator annotations repeat the equation around them
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def equations(text: str) -> list[tuple[str, bool]]:
    """Every equation `a + b = c` of a text, and True if it holds; a quotient may be rounded to the digits shown."""
    found = []
    for match in _EQUATION.finditer(_ANNOTATION.sub("", text)):
        value, shown = _value(match[1]), _value(match[2])
        if value is not None and shown is not None:
            places = len(match[2].rstrip("%").partition(".")[2])
            found.append((match[0], abs(value - shown) * 2 * 10**places < 1 if "/" in match[1] else value == shown))
    return found


def _value(text: str) -> Fraction | None:
    """The exact value of a sum of products; None if it is too long or divides by zero."""
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
