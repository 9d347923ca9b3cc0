"""Train, dev and test: dev is carved from train, and nothing of test is left in either."""

import hashlib
from dataclasses import dataclass, field

from tiny_math_solver.config.schema import EMBEDDED, ProblemsSection
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.sources import is_file, read_file, read_hub
from tiny_math_solver.support.errors import UserError

EMBEDDED_TRAIN, EMBEDDED_TEST, EMBEDDED_UNSEEN = 2000, 500, 200
MOST_EMBEDDED = 50_000  # of a split: seconds to make up


@dataclass(frozen=True)
class Splits:
    """Disjoint problems, and in plain words what was found and dropped on the way."""

    train: list[Problem]
    dev: list[Problem]
    test: list[Problem]
    unseen: list[Problem] = field(default_factory=list)  # embedded only: scenarios that are never in training
    notes: list[str] = field(default_factory=list)


def load_splits(section: ProblemsSection) -> Splits:
    """Load and split the problems of a config. Raises UserError for unreadable or too few problems."""
    if section.source == EMBEDDED:
        _check_embedded(section)
        return Splits(
            train=embedded_problems("train", section.train or EMBEDDED_TRAIN, section.seed),
            dev=embedded_problems("dev", section.dev, section.seed),
            test=embedded_problems("test", section.test or EMBEDDED_TEST, section.seed),
            unseen=embedded_problems("unseen", min(EMBEDDED_UNSEEN, section.test or EMBEDDED_TEST), section.seed),
        )
    test = _whole_test(section)
    if is_file(section.source):
        pool = read_file(section.source)
    else:
        pool = read_hub(section.source, section.subset, section.revision, "train")
    pool, notes = _without_repeats(pool, test)  # all of test, however few of it this run uses
    if len(pool) <= section.dev:
        dropped = f" ({', '.join(notes)})" if notes else ""
        raise UserError(
            f"{section.source}: {len(pool)} train problems{dropped}, {section.dev} of them wanted for dev; "
            + ("lower problems.dev" if len(pool) > 1 else "choose another train file, or another test file")
        )
    dev, train = _first_by_hash(pool, section.dev, "dev")
    if section.train is not None:
        train, _ = _first_by_hash(train, section.train, f"train/{section.seed}")
    return Splits(train, dev, _chosen_test(section, test), notes=notes)


def load_test_problems(section: ProblemsSection) -> list[Problem]:
    """The test split alone, whole or the `test` problems of it that `seed` picks."""
    if section.source == EMBEDDED:
        _check_embedded(section)
        return embedded_problems("test", section.test or EMBEDDED_TEST, section.seed)
    return _chosen_test(section, _whole_test(section))


def _check_embedded(section: ProblemsSection) -> None:
    for key in ("train", "dev", "test"):
        if (getattr(section, key) or 0) > MOST_EMBEDDED:
            raise UserError(f"problems.{key}: there are at most {MOST_EMBEDDED:,} embedded problems for each split")
    if section.test_source:
        raise UserError("problems.test_source goes with a file in problems.source, not with embedded problems")


def _whole_test(section: ProblemsSection) -> list[Problem]:
    if not is_file(section.source):
        if section.test_source:
            raise UserError(f"problems.test_source goes with a file in problems.source, not with {section.source}")
        return read_hub(section.source, section.subset, section.revision, "test")
    if section.test_source is None:
        raise UserError(f"problems.source is the file {section.source}: name the test file in problems.test_source")
    return read_file(section.test_source)


def _chosen_test(section: ProblemsSection, test: list[Problem]) -> list[Problem]:
    return test if section.test is None else _first_by_hash(test, section.test, f"test/{section.seed}")[0]


def _without_repeats(pool: list[Problem], test: list[Problem]) -> tuple[list[Problem], list[str]]:
    """Drop repeated questions and those that stand in test too; say how many."""
    tested = {_key(p) for p in test}
    kept: dict[str, Problem] = {}
    repeated = overlapping = 0
    for problem in pool:
        key = _key(problem)
        if key in tested:
            overlapping += 1
        elif key in kept:
            repeated += 1
        else:
            kept[key] = problem
    notes = []
    if repeated:
        notes.append(f"{repeated} repeated train problems dropped")
    if overlapping:
        notes.append(f"{overlapping} train problems dropped because they are in test")
    if (twice := len(test) - len(tested)) > 0:
        notes.append(f"{twice} test problems stand there twice (kept)")
    return list(kept.values()), notes


def _key(problem: Problem) -> str:
    return " ".join(problem.question.casefold().split())


def _first_by_hash(problems: list[Problem], count: int, salt: str) -> tuple[list[Problem], list[Problem]]:
    """`(the count problems with the smallest salted hash, the rest)`, each in the order of the file.

    A hash of the question, unlike a position, picks the same problems after a file is reordered or extended.
    """
    ranked = sorted(problems, key=lambda p: hashlib.sha256(f"{salt}/{p.question}".encode()).digest())
    chosen = {id(p) for p in ranked[:count]}
    return [p for p in problems if id(p) in chosen], [p for p in problems if id(p) not in chosen]
