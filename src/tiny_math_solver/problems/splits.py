"""Train, dev and test splits: dev is carved from train, and neither shares a question with test."""

import hashlib
from dataclasses import dataclass, field

from tiny_math_solver.config.schema import EMBEDDED, ProblemsSection
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.sources import is_file, read_file, read_hub
from tiny_math_solver.support.errors import UserError

EMBEDDED_TRAIN, EMBEDDED_TEST, EMBEDDED_UNSEEN = 2000, 500, 200
MOST_EMBEDDED = 50_000  # per split: takes seconds to generate


@dataclass(frozen=True)
class Splits:
    """Disjoint problems, and notes in plain words of what was dropped and found."""

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
    pool, notes = _without_repeats(pool, test)  # all of test, not only what this run uses of it
    if len(pool) <= section.dev:
        dropped = f" ({', '.join(notes)})" if notes else ""
        remedy = "lower problems.dev" if len(pool) > 1 else "at least 2 are needed: choose a larger train file"
        raise UserError(
            f"{section.source}: {len(pool)} train problem{'s' * (len(pool) != 1)}{dropped}, and problems.dev takes "
            f"{section.dev} of them for dev; {remedy}"
        )
    dev, train = _first_by_hash(pool, section.dev, "dev")
    if section.train is not None:
        train, _ = _first_by_hash(train, section.train, f"train/{section.seed}")
    return Splits(train, dev, _chosen_test(section, test), notes=notes)


def load_test_problems(section: ProblemsSection) -> list[Problem]:
    """The test split alone, all of it or the `test` problems that `seed` picks."""
    if section.source == EMBEDDED:
        _check_embedded(section)
        return embedded_problems("test", section.test or EMBEDDED_TEST, section.seed)
    return _chosen_test(section, _whole_test(section))


def _check_embedded(section: ProblemsSection) -> None:
    for key in ("train", "dev", "test"):
        if (getattr(section, key) or 0) > MOST_EMBEDDED:
            raise UserError(f"problems.{key}: at most {MOST_EMBEDDED:,} embedded problems per split")
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
    """The pool without repeated questions and those of test, and notes of how many there were."""
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
        notes.append(f"{twice} repeated test problems kept")
    return list(kept.values()), notes


def _key(problem: Problem) -> str:
    return " ".join(problem.question.casefold().split())


def _first_by_hash(problems: list[Problem], count: int, salt: str) -> tuple[list[Problem], list[Problem]]:
    """`(the count problems with the smallest salted hash, the others)`, each in the order of the file.

    A hash of the question, unlike its position, picks the same problems after the file is reordered, and mostly the
    same after it is extended.
    """
    ranked = sorted(problems, key=lambda p: hashlib.sha256(f"{salt}/{p.question}".encode()).digest())
    chosen = {id(p) for p in ranked[:count]}
    return [p for p in problems if id(p) in chosen], [p for p in problems if id(p) not in chosen]
