"""The countdown source: reach a target with three numbers, each used once; identical for a seed on every platform.

A problem's split is a hash of its target alone, so train, dev and test never share a target under any seed, whatever
the numbers. The worked solution is a search: each number in turn is set aside to be used last, the values that the
other two would have to make are worked out backwards from the target, and compared with the values they can make.
"""

import hashlib
import random
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal, NamedTuple

from tiny_math_solver.problems.problem import Problem

Split = Literal["train", "dev", "test"]

LARGEST_NUMBER = 15
TARGETS = range(16, 121)  # above LARGEST_NUMBER
LARGEST_VALUE = LARGEST_NUMBER**2  # that two numbers can make
HELD_OUT_SHARES: dict[Split, int] = {"test": 3, "dev": 2}  # twentieths of all targets
WORDINGS = (
    "Use {numbers}, each once, with + - * / and brackets to make {target}.",
    "Make {target} from {numbers}. Use each number once, with + - * / and brackets.",
    "The numbers are {numbers}. Reach {target} with + - * / and brackets, using each of them once.",
    "Reach {target} with {numbers}: each number once, joined by + - * / and brackets.",
    "How can {numbers} make {target}? Use each of them once, with + - * / and brackets.",
    "Combine {numbers} with + - * / and brackets so that they make {target}. Use each number once.",
)


class Equation(NamedTuple):
    """`expression` = `value`, a whole number."""

    expression: str
    value: int

    def __str__(self) -> str:
        return f"{self.expression}={self.value}"


def countdown_problems(split: Split, count: int, seed: int = 0) -> list[Problem]:
    """The first `count` distinct problems of a split under `seed`."""
    return list(islice(stream(split, seed), count))


def stream(split: Split, seed: int = 0, largest: int = LARGEST_NUMBER, targets: range = TARGETS) -> Iterator[Problem]:
    """An endless stream of distinct problems of one split, determined by `seed` on every platform.

    Other limits than the defaults are for pretraining: what holds for more numbers is learned in general.
    """
    rng = random.Random(f"countdown/{split}/{seed}")
    seen: set[str] = set()
    while True:
        numbers = [rng.randint(1, largest) for _ in range(3)]
        target = _reachable(numbers, rng)
        if target not in targets or split_of(target) != split:
            continue
        rng.shuffle(numbers)
        solution = search(target, numbers)
        question = rng.choice(WORDINGS).format(target=target, numbers=_listed(numbers))
        if solution is not None and question not in seen:
            seen.add(question)
            digest = hashlib.sha256(question.encode()).hexdigest()[:10]
            yield Problem(f"countdown-{digest}", question, solution, f"{target} from {', '.join(map(str, numbers))}")


def describe_world() -> str:
    """What the shipped model knows: the numbers and targets that it was pretrained and is trained on."""
    return (
        f"countdown with three numbers up to {LARGEST_NUMBER} and targets from {TARGETS[0]} to {TARGETS[-1]}, "
        "and nothing else"
    )


def beyond(question: str) -> str:
    """What of a question the shipped model cannot know; empty if nothing is obvious."""
    large = [text for text in re.findall(r"\d+", question) if int(text) > TARGETS[-1]]
    return f"{large[0]} is above {TARGETS[-1]}, the largest target that this model has seen" if large else ""


def split_of(target: int) -> Split:
    """The split that every problem with this target belongs to."""
    slot = int(hashlib.sha256(f"countdown:{target}".encode()).hexdigest(), 16) % 20
    for split, share in HELD_OUT_SHARES.items():
        if slot < share:
            return split
        slot -= share
    return "train"


def search(target: int, numbers: list[int]) -> str | None:
    """The search as text, up to `expression=target` on its last line; None if it finds nothing."""
    lines = []
    for place, last in enumerate(numbers):
        first, second = numbers[:place] + numbers[place + 1 :]
        needed = needs(target, last)
        lines.append(f"{last} last: {_joined(needed)}")
        tried: list[str] = []
        for made in values(first, second):
            tried.append(str(made))
            ending = next((ending for equation, ending in needed.items() if equation.value == made.value), None)
            if ending is not None:
                expression = ending.format(made.expression)
                return "\n".join([*lines, f"{' '.join(tried)} yes", f"{expression}={target}"])
        lines.append(f"{' '.join(tried)} no")
    return None


def needs(target: int, last: int) -> dict[Equation, str]:
    """What the other two numbers may make so that `last` finishes the target, and the expression that then finishes."""
    found = {}
    if target >= last:
        found[Equation(f"{target}-{last}", target - last)] = f"({{}})+{last}"
    else:
        found[Equation(f"{last}-{target}", last - target)] = f"{last}-({{}})"
    found[Equation(f"{target}+{last}", target + last)] = f"({{}})-{last}"
    if last > 1 and target % last == 0:
        found[Equation(f"{target}/{last}", target // last)] = f"({{}})*{last}"
    if last > 1 and target * last <= LARGEST_VALUE:
        found[Equation(f"{target}*{last}", target * last)] = f"({{}})/{last}"
    return found


def values(first: int, second: int) -> list[Equation]:
    """What two numbers can make without a fraction or a negative number."""
    high, low = max(first, second), min(first, second)
    found = [
        Equation(f"{first}+{second}", first + second),
        Equation(f"{high}-{low}", high - low),
        Equation(f"{first}*{second}", first * second),
    ]
    if low > 1 and high % low == 0:
        found.append(Equation(f"{high}/{low}", high // low))
    return found


def expression_of(problem: Problem) -> str:
    """The expression that the worked solution finds."""
    return problem.solution.rpartition("\n")[2].partition("=")[0]


def drill(rng: random.Random) -> tuple[str, str]:
    """Arithmetic without a target, as `(question, answer)`: pairs of numbers, and what a search calculates of such."""
    pairs = [(rng.choice(TARGETS), rng.randint(1, LARGEST_NUMBER)) for _ in range(4)]
    asked = ", ".join(f"{large} and {small}" for large, small in pairs)
    return f"Write sums of {asked}.", "\n".join(_joined(needs(*pair)) for pair in pairs)


def guess(problem: Problem, rng: random.Random) -> str:
    """An expression of the right numbers, as one would name without working it out."""
    first, second, third = rng.sample(problem.answer.partition(" from ")[2].split(", "), 3)
    return f"({first}{rng.choice('+-*')}{second}){rng.choice('+-*')}{third}"


def _reachable(numbers: list[int], rng: random.Random) -> int:
    """A target drawn by putting signs between the numbers; 0 if a division is not exact."""
    first, second, third = numbers
    made = rng.choice(values(first, second)).value
    high, low = max(made, third), min(made, third)
    return rng.choice([made + third, high - low, made * third, high // low if low and high % low == 0 else 0])


def _joined(equations: Iterable[Equation]) -> str:
    return " ".join(map(str, equations))


def _listed(numbers: list[int]) -> str:
    *some, last = map(str, numbers)
    return f"{', '.join(some)} and {last}"
