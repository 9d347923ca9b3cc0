"""The comparison as lines of text, and as a JSON object."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tiny_math_solver.evaluation.verdict import aligned, on_one_line
from tiny_math_solver.harness.comparison import LENIENT, STRICT, Comparison, Read, Step
from tiny_math_solver.support.progress import in_words

THEIRS, OURS = "lm-eval's", "ours"
END = 160  # characters of a completion in an example: its end, where answers stand
NO_ANSWER = (None, "[invalid]")  # of our grader, of a filter


@dataclass(frozen=True)
class Asked:
    """How one side asked the model, and what came of it."""

    examples: int
    chat_template: bool
    system: bool
    limits: Sequence[int]  # tokens of a completion
    stops: Sequence[str]
    cut: int  # completions that reached their limit
    cut_wrong: int  # of these
    shortened: int  # prompts without their beginning
    seconds: float

    def line(self, name: str) -> str:
        prompt = [
            f"{self.examples}-shot",
            *["system prompt"] * self.system,
            "chat template" if self.chat_template else "no chat template",
        ]
        limit = f"max {' or '.join(map(str, self.limits))} tokens"
        limit += f" ({self.cut} truncated, {self.cut_wrong} of them wrong)" * bool(self.cut)
        stops = f", stop at {', '.join(map(repr, self.stops))}" if self.stops else ""
        prompts = f"{self.shortened} prompt{'s' * (self.shortened > 1)}"
        short = f"; {prompts} truncated on the left to fit the context" if self.shortened else ""
        return f"  {name}: {', '.join(prompt)}; greedy, {limit}{stops}{short}; {in_words(self.seconds)}"


def comparison_lines(comparison: Comparison, theirs: Asked, ours: Asked) -> list[str]:
    """The table of both prompts and both readings, the steps between the scores, and examples of each difference."""
    count = len(comparison.ours)
    head = ["prompt", *(f"{name} (lm-eval)" for name in comparison.filters), f"{STRICT} (ours)", f"{LENIENT} (ours)"]
    rows = [
        [name, *(f"{comparison.right(completions, reader) / count:.1%}" for reader in comparison.readers)]
        for name, completions in ((THEIRS, comparison.theirs), (OURS, comparison.ours))
    ]
    return [
        *aligned([head, *rows]),
        theirs.line(f"{THEIRS} prompt"),
        ours.line("our prompt"),
        *(line for pair in comparison.pairs for line in _step_lines(comparison, *pair)),
        *_example_lines(comparison),
    ]


def comparison_summary(comparison: Comparison, theirs: Asked, ours: Asked) -> dict[str, Any]:
    """All figures of `comparison_lines`; rates are between 0 and 1."""
    count = len(comparison.ours)
    sides = (("lm-eval", comparison.theirs, theirs), ("ours", comparison.ours, ours))
    return {
        "accuracy": {
            prompt: {reader: comparison.right(completions, reader) / count for reader in comparison.readers}
            for prompt, completions, _ in sides
        },
        "asked": {prompt: asdict(asked) for prompt, _, asked in sides},
        "steps": [
            {"from": was, "to": then, **{kind: step.paired.to_dict() for kind, step in _named(comparison, was, then)}}
            for was, then in comparison.pairs
        ],
    }


def _named(comparison: Comparison, theirs: str, ours: str) -> list[tuple[str, Step]]:
    return list(zip(("extraction", "prompt"), comparison.steps(theirs, ours), strict=True))


def _step_lines(comparison: Comparison, theirs: str, ours: str) -> list[str]:
    count = len(comparison.ours)
    shares = comparison.right(comparison.theirs, theirs) / count, comparison.right(comparison.ours, ours) / count
    steps = _named(comparison, theirs, ours)
    total = sum(step.gain for _, step in steps)
    changes = {"extraction": f"{THEIRS} completions, read by us", "prompt": "our prompt and its completions"}
    scores = f"lm-eval's {theirs} {shares[0]:.1%} to our {ours} {shares[1]:.1%}"
    return [
        f"from {scores}: {total:+} of {count} problems, of which",
        *(
            f"  {kind} {step.gain:+}: {changes[kind]} instead: {step.paired.fixed} become right, "
            f"{step.paired.broken} wrong (McNemar p = {step.paired.p_value:.2g})"
            for kind, step in steps
        ),
    ]


# -- Examples -------------------------------------------------------------------------------------------------


def _example_lines(comparison: Comparison) -> list[str]:
    """One example of each kind of disagreement there is."""
    lines: list[str] = []
    for whose, completions in ((THEIRS, comparison.theirs), ("our", comparison.ours)):
        for theirs, ours in comparison.pairs:
            for right, wrong in ((theirs, ours), (ours, theirs)):
                lines += _read_otherwise(whose, completions, right, wrong)
    pairs = list(zip(comparison.theirs, comparison.ours, strict=True))
    for whose, both in ((THEIRS, pairs), ("our", [(b, a) for a, b in pairs])):
        lines += _asked_otherwise(f"right with {whose} prompt alone (lenient)", both, LENIENT)
        answered = [pair for pair in both if pair[1].readings[LENIENT].right]
        lines += _asked_otherwise(f"right with both prompts, but strictly with {whose} prompt alone", answered, STRICT)
    return ["examples", *lines] if lines else []


def _read_otherwise(whose: str, completions: Sequence[Read], right: str, wrong: str) -> list[str]:
    found = [each for each in completions if each.readings[right].right and not each.readings[wrong].right]
    if not found:
        return []
    one = min(found, key=lambda each: len(each.completion))
    took = [f"{name} {_taken(one, name)}" for name in (right, wrong)]
    return [
        f"  {len(found)} of {whose} completions right by {right}, not by {wrong}: such as {one.id}, gold {one.gold}",
        f"    {', '.join(took)}: {_end(one.completion)}",
    ]


def _asked_otherwise(what: str, pairs: Sequence[tuple[Read, Read]], reader: str) -> list[str]:
    found = [(a, b) for a, b in pairs if a.readings[reader].right and not b.readings[reader].right]
    if not found:
        return []
    one, other = min(found, key=lambda pair: sum(len(each.completion) for each in pair))
    return [
        f"  {len(found)} {what}: such as {one.id}, gold {one.gold}",
        f"    with it {_taken(one, reader)}: {_end(one.completion)}",
        f"    without {_taken(other, reader)}: {_end(other.completion)}",
    ]


def _taken(read: Read, reader: str) -> str:
    answer = read.readings[reader].answer
    return "nothing" if answer in NO_ANSWER else f"took {on_one_line(str(answer))}"


def _end(completion: str) -> str:
    line = on_one_line(completion)
    return "(an empty completion)" if not line else line if len(line) <= END else f"… {line[-END:]}"
