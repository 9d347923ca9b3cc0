"""The process that compares formulas: a line `["gold", "answer"]` in, `true` or `false` out, until its input ends."""

import json
import logging
import re
import sys
from fractions import Fraction
from typing import Any


def plainer(text: str) -> str:
    """A formula in the notation that math-verify reads: degrees of an angle, repeating decimals, imaginary parts."""
    text = _DEGREES.sub(r"\1(\2\\pi/180)", text)
    text = _REPEATING.sub(lambda match: _fraction(match[1], match[2], match[3]), text)
    return _ONE_I.sub("i", _SPACED_I.sub("i", text))


def _fraction(whole: str, fixed: str, repeated: str) -> str:
    """The value of `whole.fixed` with `repeated` for ever after it."""
    shift = 10 ** len(fixed)
    tail = Fraction(int(repeated), (10 ** len(repeated) - 1) * shift)
    value = int(whole or 0) + Fraction(int(fixed or 0), shift) + tail
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


_DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc))\s*[({]?\s*(\d+(?:\.\d+)?)\s*\^\s*\{?\\circ\}?\s*[)}]?")
_REPEATING = re.compile(r"(\d{0,15})\.(\d{0,15})\\overline\{(\d{1,15})\}")
_SPACED_I = re.compile(r"(?<=\d)\s+i\b")
_ONE_I = re.compile(r"(?<![\d.])1i\b")


def main() -> None:
    sys.setrecursionlimit(3000)
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no reply
    logging.disable(logging.CRITICAL)
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
    from sympy import Basic, ceiling, floor

    ways = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]

    def read(text: str) -> list[Any]:
        # whoever waits for the reply ends this process if it takes too long
        found = parse(f"\\boxed{{{plainer(text)}}}", ways, parsing_timeout=None)
        return [part.doit() if isinstance(part, Basic) and part.has(floor, ceiling) else part for part in found]

    def is_equal(gold: str, answer: str) -> bool:
        one, other = read(gold), read(answer)
        return bool(one and other and verify(one, other, timeout_seconds=None))

    is_equal("\\frac{1}{2}", "0.5")  # sympy's first comparison takes a second
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        try:
            reply = is_equal(*json.loads(line))
        except Exception:  # of sympy and its parsers, which raise whatever they like
            reply = False
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
