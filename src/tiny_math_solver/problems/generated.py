"""The generated sources: what they are called, and what is known of each."""

from collections.abc import Callable
from typing import NamedTuple

from tiny_math_solver.config.sections import EMBEDDED
from tiny_math_solver.config.shipped import COUNTDOWN
from tiny_math_solver.problems import countdown, embedded
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.support.errors import UserError

TRAIN, TEST, UNSEEN = 2000, 500, 200  # problems of a split, where no number is given


class Generated(NamedTuple):
    """A generator of problems; `describe` says what its shipped model knows, `beyond` where a question leaves that."""

    make: Callable[..., list[Problem]]  # (split, count, seed)
    splits: tuple[str, ...]
    most: int  # per split: takes seconds to generate
    describe: Callable[[], str]
    beyond: Callable[[str], str]

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """The first `count` problems of a split under `seed`; none of a split that this source lacks."""
        return self.make(split, count, seed) if split in self.splits else []


SOURCES = {
    EMBEDDED: Generated(
        embedded.embedded_problems,
        ("train", "dev", "test", "unseen"),
        50_000,
        embedded.describe_world,
        embedded.beyond,
    ),
    COUNTDOWN: Generated(
        countdown.countdown_problems,
        ("train", "dev", "test"),
        5_000,
        countdown.describe_world,
        countdown.beyond,
    ),
}


def named_split(source: str) -> list[Problem] | None:
    """The problems of `embedded`, `embedded:dev` …, the test problems if no split is named; None for another source.

    Raises UserError for a split that the generator lacks.
    """
    name, _, split = source.partition(":")
    if name not in SOURCES:
        return None
    own = SOURCES[name]
    if split not in ("", *own.splits[1:]):
        others = [f"{name}:{other}" for other in own.splits[1:] if other != "test"]
        raise UserError(f"problems {source!r}: use {', '.join([name, *others[:-1]])} or {others[-1]}")
    return own.problems(split or "test", TEST)
