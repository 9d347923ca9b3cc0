"""Truncation: texts that the length limit has cut, in a number or in words that would go on without an end."""

import re
from fractions import Fraction

from tiny_math_solver.grading.markup import plain

PROBE = 32  # characters at the end of the text that have to occur once more before it
LONGEST = 4096  # characters of a repeated part
REPEATS = 4  # times a part has to occur to be a loop


def unlooped(text: str) -> tuple[str, bool]:
    """The text with its looping end kept once, and whether there was a loop."""
    size = len(text)
    at = text.rfind(text[-PROBE:], max(0, size - PROBE - LONGEST), size - 1)
    if at < 0 or size <= PROBE:
        return text, False
    period = size - PROBE - at
    start = size - period
    while start >= period and text[start - period : start] == text[start : start + period]:
        start -= period
    if size - start < REPEATS * period or text[start : start + period].isdigit():
        return text, False
    while start > 0 and text[start - 1] == text[start - 1 + period]:
        start -= 1
    return text[: start + period], True


def is_cut(text: str) -> bool:
    """True if the text ends in the first digits of the number that it has just calculated, or its answer amid a term.

    That number is the last result before, as in `9 * 200 = 1800` and then `#### 18`, or what the last equation comes
    to, as in `9 * 200 = 18`.
    """
    line = text[-80:].rpartition("\n")[2]
    if text[-2:-1] == " " and _OPERATOR.search(line):
        return True
    if not "0" <= text[-1:] <= "9":
        return text[-1:] == "," and _COMMA.search(text[-80:]) is not None and not _is_result(text)
    head = text[-24:].rstrip("0123456789,")
    start = max(0, len(text) - 24) + len(head)
    at = text.rfind("=", 0, start)
    if at < 0:
        return False
    number = text[start:].replace(",", "")
    if "\n" not in text[at:] and (equation := _EQUATION.search(plain(line))):
        whole = _value(*equation.groups()[:3])
        return len(number) < len(whole) and whole.startswith(number)
    shown = text[at + 1 : at + 24].lstrip(" $*<").replace(",", "")
    if not shown.startswith(number) or not shown[len(number) :][:1].isdecimal():
        return False
    result = _RESULT.match(text, at + 1)
    return result is not None and _TALK.search(text[result.end() : start]) is None


_RESULT = re.compile(r"[\s$*<>(\\]*(\d[\d,]*)(?:>>\$?\1)?")  # 18, or <<9*2=18>>18
_EQUATION = re.compile(
    r"(?:\A|[^-+*/x^().,%\d\s] ?)(?<![\d.,])(\d[\d,]*(?:\.\d+)?) ?([-+*/x]) ?(\d[\d,]*(?:\.\d+)?) ?= ?(\d[\d,]*)\Z"
)
_COMMA = re.compile(r"(?:\A|\n)(?!\s*#)[^\n]*(?<![\d,.])\d{1,3}(?:,\d{3})*,\Z")  # 1,200 cut after the comma
_OPERATOR = re.compile(r"(?:####|\b[Aa]nswer).*\d.* [-+*/\u00d7\u00f7=]\Z")  # #### 75 * 2 = 150, and finally 150 -
_TALK = re.compile(r"\d|(?:\w+\W+){8}")  # more than a unit and a marker between a result and the number


def _is_result(text: str) -> bool:
    """True if the number before the comma that ends the text is the last result, and so is whole."""
    number = text[-24:-1].replace(",", "")
    result = _RESULT.match(text, text.rfind("=") + 1)
    return result is not None and "=" in text and number.endswith(f" {result[1].replace(',', '')}")


def _value(left: str, operator: str, right: str) -> str:
    """The result of one operation, as digits if it is a whole number."""
    one, other = (Fraction(side.replace(",", "")) for side in (left, right))
    if operator == "/" and not other:
        return ""
    value = {"+": one + other, "-": one - other, "/": one / (other or 1)}.get(operator, one * other)
    return str(value) if value.denominator == 1 else ""
