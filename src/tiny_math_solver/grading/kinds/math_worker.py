"""The process that compares formulas: a line `["gold", "answer"]` in, `true` or `false` out, until its input ends."""

import json
import logging
import sys


def main() -> None:
    sys.setrecursionlimit(3000)
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no reply
    logging.disable(logging.CRITICAL)
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    ways = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]

    def is_equal(gold: str, answer: str) -> bool:
        # whoever waits for the reply ends this process if it takes too long
        one, other = (parse(f"\\boxed{{{text}}}", ways, parsing_timeout=None) for text in (gold, answer))
        return bool(one and other and verify(one, other, timeout_seconds=None))

    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        try:
            reply = is_equal(*json.loads(line))
        except Exception:  # of sympy and its parsers, which raise whatever they like
            reply = False
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
