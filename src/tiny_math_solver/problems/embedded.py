"""The embedded source: word problems generated from `scenarios.yaml`, identical for a seed on every platform.

A problem's split is a hash of its scenario and numbers, so train, dev and test cannot share a problem under
any seed, nor one that differs only in names and wording. The `unseen` split comes from scenarios that none of
the other three uses.
"""

import hashlib
import operator
import random
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from itertools import islice
from typing import Any, Literal

import yaml

from tiny_math_solver.problems.problem import Problem

Split = Literal["train", "dev", "test", "unseen"]

SHE = ("Ava", "Mia", "Zoe", "Lily", "Emma", "Nora", "Ruth", "Maya", "Ella", "Anna", "Kate", "Rosa")
HE = ("Tom", "Ben", "Sam", "Leo", "Max", "Jack", "Omar", "Noah", "Luke", "Ivan", "Finn", "Paul")
POOLS = {
    "food": ("cookies", "muffins", "apples", "pears", "plums", "rolls", "oranges", "cupcakes"),
    "toy": ("marbles", "stickers", "cards", "coins", "stamps", "beads", "shells", "buttons", "badges", "blocks"),
    "pet": ("cats", "dogs", "rabbits", "hens", "goats", "ducks"),
    "day": ("Monday", "Tuesday", "Friday", "Saturday", "Sunday"),
}
LARGEST_NUMBER = 120  # keeps the arithmetic within what a million parameters can learn
DRAWS_PER_SCENARIO = 30
HELD_OUT_SHARES: dict[Split, int] = {"test": 2, "dev": 1}  # twentieths of all draws

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
_STEP = re.compile(r"(\w+) = (\w+) ([-+*/]) (\w+) \| (.+)")
Numbers = dict[str, int]


def embedded_problems(split: Split, count: int, seed: int = 0) -> list[Problem]:
    """The first `count` distinct problems of a split under `seed`."""
    return list(islice(stream(split, seed), count))


def describe_world() -> str:
    """What the shipped model knows: the kinds of story that it was pretrained and is trained on."""
    kinds = sum(not scenario.get("unseen", False) for scenario in _scenarios())
    return f"{kinds} kinds of story, of one to four steps and with numbers up to {LARGEST_NUMBER}, and nothing else"


def beyond(question: str) -> str:
    """What of a question the shipped model cannot know; empty if nothing is obvious."""
    large = [text for text in re.findall(r"\d+", question) if int(text) > LARGEST_NUMBER]
    return f"{large[0]} is above {LARGEST_NUMBER}, the largest number that this model has seen" if large else ""


def stream(split: Split, seed: int = 0) -> Iterator[Problem]:
    """An endless stream of distinct problems of one split, determined by `seed` on every platform."""
    rng = random.Random(f"{split}/{seed}")
    scenarios = [s for s in _scenarios() if s.get("unseen", False) == (split == "unseen")]
    seen: set[str] = set()
    while True:
        scenario = rng.choice(scenarios)
        # several tries, so that scenarios whose numbers are often out of range stay about as frequent
        draws = (_draw(scenario, rng) for _ in range(DRAWS_PER_SCENARIO))
        numbers = next((n for n in draws if n is not None and _split_of(scenario, n) == split), None)
        if numbers is None:
            continue
        question, solution = _write(scenario, numbers, rng)
        if question not in seen:
            seen.add(question)
            digest = hashlib.sha256(question.encode()).hexdigest()[:10]
            yield Problem(f"{scenario['name']}-{digest}", question, solution, str(_answer(scenario, numbers)))


def scenario_names(*, unseen: bool) -> list[str]:
    """Names of the scenarios used in training, or of those kept out of it."""
    return [s["name"] for s in _scenarios() if s.get("unseen", False) == unseen]


@cache
def _scenarios() -> list[dict[str, Any]]:
    return yaml.safe_load(resources.files(__package__).joinpath("scenarios.yaml").read_text("utf-8"))


def _draw(scenario: dict[str, Any], rng: random.Random) -> Numbers | None:
    """Draw the story's numbers and compute every step; None if one is not a natural number within range."""
    numbers: Numbers = {}
    for name, bounds in scenario["draw"].items():
        low, high = bounds.split("..")
        numbers[name] = rng.randint(int(low), int(high))
    for name, expression in scenario.get("given", {}).items():
        left, op, right = expression.split()
        numbers[name] = _OPERATORS[op](_value(left, numbers), _value(right, numbers))
    for result, left, op, right, _ in _steps(scenario):
        a, b = _value(left, numbers), _value(right, numbers)
        if op == "/" and a % b:
            return None
        numbers[result] = _OPERATORS[op](a, b)
    return numbers if all(0 < n <= LARGEST_NUMBER for n in numbers.values()) else None


def _split_of(scenario: dict[str, Any], numbers: Numbers) -> Split:
    if scenario.get("unseen"):
        return "unseen"
    key = f"{scenario['name']}:{sorted(numbers.items())}"
    slot = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 20
    for split, share in HELD_OUT_SHARES.items():
        if slot < share:
            return split
        slot -= share
    return "train"


def _write(scenario: dict[str, Any], numbers: Numbers, rng: random.Random) -> tuple[str, str]:
    """The story and its solution in words: `(question, solution)`."""
    words = _words(rng)
    fill = {**words, **{name: str(n) for name, n in numbers.items()}}
    question = f"{rng.choice(scenario['story'])} {rng.choice(scenario['ask'])}".format(**fill)
    lines = []
    for result, left, op, right, sentence in _steps(scenario):
        sum_ = f"{_value(left, numbers)}{op}{_value(right, numbers)}"
        value = numbers[result]
        # GSM8K puts the currency between the annotation and its result: 4*3=$<<4*3=12>>12
        sentence = sentence.replace(f"${{{result}}}", f"{sum_}=$<<{sum_}={value}>>{value}")
        lines.append(sentence.replace(f"{{{result}}}", f"{sum_}=<<{sum_}={value}>>{value}").format(**fill))
    return question, "\n".join(lines)


def _words(rng: random.Random) -> dict[str, str]:
    """Words for the people and things of one story; the pronouns agree with `name`."""
    female = rng.random() < 0.5
    name = rng.choice(SHE if female else HE)
    name2, name3 = rng.sample([n for n in SHE + HE if n != name], 2)
    she, him, her = ("she", "her", "her") if female else ("he", "him", "his")
    words = {"name": name, "name2": name2, "name3": name3, "she": she, "him": him, "her": her}
    words |= {"She": she.title(), "Her": her.title()}
    return words | {pool: rng.choice(things) for pool, things in POOLS.items()}


def _steps(scenario: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """`(result, left, operator, right, sentence)` of every step of the solution."""
    for line in scenario["work"]:
        match = _STEP.fullmatch(line)
        if match is None:
            raise ValueError(f"scenarios.yaml: {scenario['name']}: cannot read the step {line!r}")
        yield match.groups()  # type: ignore[misc]


def _answer(scenario: dict[str, Any], numbers: Numbers) -> int:
    *_, (result, *_) = _steps(scenario)
    return numbers[result]


def _value(token: str, numbers: Numbers) -> int:
    return int(token) if token.isdigit() else numbers[token]
