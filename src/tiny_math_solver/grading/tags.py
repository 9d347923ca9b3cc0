"""Tags: the answer of `<think>…</think> <answer>…</answer>`, as base models are often asked to write."""

import re

from tiny_math_solver.grading.turns import visible

ANSWER = re.compile(r"<answer>(?P<inner>(?:(?!</?answer>).){0,2000}?)</answer>", re.DOTALL)
_INNER = r"(?:(?!</?(?:think|answer)>).)*"
_WHOLE = re.compile(rf"\s*(?:<think>)?{_INNER}</think>\s*<answer>{_INNER}</answer>\s*", re.DOTALL)
MOST = 65536  # characters that are looked at


def tagged(text: str | None) -> str | None:
    """What stands in the <answer> of a text, on one line: nothing if two say different things; None without one."""
    found = {" ".join(match["inner"].split()) for match in ANSWER.finditer(visible(text or "")[-MOST:])}
    return found.pop() if len(found) == 1 else "" if found else None


def is_tagged(text: str) -> bool:
    """True if a completion is `<think>…</think> <answer>…</answer>` and nothing else.

    The first tag may be missing, since prompts often end in it.
    """
    return len(text) <= MOST and _WHOLE.fullmatch(text) is not None
