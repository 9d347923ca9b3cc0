"""Diagnosis of a run from its records: why answers are wrong, and which tokens were wasted.

Nothing is generated or graded again. A wrong answer is one of FAILURES: an arithmetic slip if one of its equations does
not hold (`12*3=38`), wrong steps if none is wrong.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from tiny_math_solver.grading.equations import equations
from tiny_math_solver.report.rollouts import Step

FAILURES = {
    "cut off": "the length limit was reached",
    "no answer": "no number could be read as the answer",
    "only an answer": "a number without working",
    "arithmetic slip": "an equation does not hold",
    "wrong steps": "no equation that is wrong, but the result is",
}
WASTE = {  # and the setting to change
    "all right": "every sample of the group is right: use harder problems, or stop earlier (grpo.max_steps)",
    "all wrong": "every sample of the group is wrong: use easier problems, or more samples (grpo.num_generations)",
    "cut off": "completions of other groups that reach the length limit: raise grpo.max_completion_length",
}
FEWEST_WORDS = 12  # words; in fewer there is none unless they hold an equation
Row = dict[str, Any]  # of eval/*.jsonl


def failure_of(record: Row) -> str | None:
    """The name in FAILURES of what is wrong with a completion; None if its answer is right."""
    if record["correct"]:
        return None
    if not record["finished"]:
        return "cut off"
    if record["answer"] is None:
        return "no answer"
    if len(record["completion"].split()) < FEWEST_WORDS and not equations(record["completion"]):
        return "only an answer"
    return "arithmetic slip" if first_slip(record["completion"]) else "wrong steps"


def first_slip(text: str) -> str | None:
    """The first equation of a text that does not hold, as written."""
    return next((equation for equation, holds in equations(text) if not holds), None)


def gain(before: Sequence[Row], after: Sequence[Row]) -> dict[str, float]:
    """The gain in strict accuracy as the sum of two parts: more right answers, and more of them after `####`.

    `strict = correct - (correct without ####)`, so the parts add up exactly.
    """

    def share(records: Sequence[Row], name: str) -> float:
        return sum(bool(r[name]) for r in records) / max(1, len(records))

    correct = share(after, "correct") - share(before, "correct")
    strict = share(after, "strict") - share(before, "strict")
    return {"strict": strict, "arithmetic": correct, "format": strict - correct}


def dead_groups(steps: Sequence[Step], size: int = 1) -> list[dict[str, float]]:
    """By `size` steps: the shares of groups whose rewards are all equal, all right and all wrong ones apart.

    Of a run whose sampler replaces dead groups also the share that was set aside, which the other two leave out.
    """
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for step in steps:
        counts[-(-step.number // size) * size] += step.groups
    names = ["all right", "all wrong", *(["replaced"] if any(count["replaced"] for count in counts.values()) else [])]
    return [
        {"step": step, **{name: count[name] / count.total() for name in names}}
        for step, count in sorted(counts.items())
    ]


def waste(steps: Iterable[Step]) -> dict[str, float]:
    """The shares of completion tokens that were wasted, by the names in WASTE."""
    tokens: Counter[str] = Counter()
    for step in steps:
        tokens += step.tokens
    return {name: tokens[name] / (tokens["all"] or 1) for name in WASTE}


def savings(steps: Sequence[Step], skipped: int) -> list[dict[str, str]]:
    """Each thing that sampler and `update.share` did for the update, counted; none of a run in which they did nothing.

    `skipped` is the number of problems that the sampler passed over.
    """
    tokens, unused = Counter[str](), Counter[str]()
    for step in steps:
        tokens += step.tokens
        unused += step.unused
    completions = sum(len(step.places) for step in steps) or 1
    groups = sum(step.groups.total() for step in steps) or 1
    spared = skipped * completions / groups
    replaced = sum(step.groups["replaced"] for step in steps)
    left_out = unused["left out, completions"]
    share = unused["left out, tokens"] / max(1, tokens["all"] - unused["replaced, tokens"])
    parts = [
        (skipped, "problems passed over", f"all right or all wrong lately, so about {spared:,.0f} completions with "
         f"{spared * tokens['all'] / completions:,.0f} tokens were not sampled"),
        (replaced, "dead groups replaced", f"{unused['replaced, completions']:,} completions with "
         f"{unused['replaced, tokens']:,} tokens were set aside; groups of other problems took their places"),
        (left_out, "completions not used", "those of a group with the smallest advantages (update.share): the update "
         f"computed {share:.0%} fewer tokens"),
    ]  # fmt: skip
    return [{"name": name, "count": f"{count:,}", "meaning": meaning} for count, name, meaning in parts if count]
