"""Train, dev and test splits: dev is carved from train, test too if there is none, and none shares a question."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tiny_math_solver.config.sections import ProblemsSection
from tiny_math_solver.config.shipped import kind_of
from tiny_math_solver.grading.kinds import answer_kind
from tiny_math_solver.hub.datasets import USUAL_SPLITS, DatasetName, MissingSplitError
from tiny_math_solver.problems import generated
from tiny_math_solver.problems.files import FILE_SUFFIXES
from tiny_math_solver.problems.layouts import ReadOptions
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.sources import Loaded, Source, is_file, read_source
from tiny_math_solver.problems.twins import twin_notes
from tiny_math_solver.support.errors import UserError

TEST, UNSEEN = "test", "unseen"  # names of sets of problems
ALSO = "evaluation.also"
FEW_GOLDS, GUESSABLE = 50, 0.2  # problems, and the share of one gold among them


@dataclass(frozen=True)
class Splits:
    """Disjoint problems, and notes in plain words of what was dropped and found."""

    train: list[Problem]
    dev: list[Problem]
    test: list[Problem]
    unseen: list[Problem] = field(default_factory=list)  # some generated ones: scenarios that are never in training
    notes: list[str] = field(default_factory=list)
    unreadable: int = 0  # rows of the sources that are no problems
    also: dict[str, list[Problem]] = field(default_factory=dict)  # further test sets, by name

    @property
    def tested(self) -> dict[str, list[Problem]]:
        """All problems that are answered before and after training, by the name of their set."""
        return {TEST: self.test, **({UNSEEN: self.unseen} if self.unseen else {}), **self.also}


def load_splits(section: ProblemsSection, options: ReadOptions | None = None, also: Sequence[str] = ()) -> Splits:
    """Load and split the problems of a config, by default with its `read_options`, and the further test sets `also`.

    Raises UserError for unreadable or too few problems.
    """
    options = options or read_options(section)
    sets, notes = _further(also, options)
    held = [problem for problems in sets.values() for problem in problems]
    splits = _splits(section, options, held)
    if not splits.train or not splits.dev:
        raise UserError(f"{section.source}: all its problems for train or dev are in {ALSO}, which is not trained on")
    # all problems of a generator are made of the same templates, its test problems too
    is_generated = section.source in generated.SOURCES
    twins = [] if is_generated else twin_notes(splits.train, {TEST: splits.test, **sets})
    return replace(splits, also=sets, notes=[*splits.notes, *notes, *twins])


def _further(sources: Sequence[str], options: ReadOptions) -> tuple[dict[str, list[Problem]], list[str]]:
    """The problems of each of `evaluation.also` by a name of its own, and notes on how they were read."""
    sets: dict[str, list[Problem]] = {}
    notes: list[str] = []
    for source in sources:
        read = named_problems(source, replace(options, fallback=True, settings=(*options.settings[:2], ALSO)))
        name = re.sub(r"[^\w.-]+", "-", source if not is_file(source) else Path(source).name.split(".")[0]).strip("-.")
        if name in (TEST, UNSEEN, "") or name in sets:
            name = f"{name}-{len(sets) + 1}"
        sets[name] = read.problems
        notes += read.notes
    return sets, notes


def named_problems(source: str, options: ReadOptions) -> Loaded:
    """The test problems of a source that is named on the command line or in `evaluation.also`, all of a file.

    Besides `embedded`, its test problems, `embedded:dev` and `embedded:unseen` name those of its other splits;
    `countdown` and `countdown:dev` likewise.
    """
    if (made := generated.named_split(source)) is not None:
        return Loaded(made, [])
    return read_source(Source(source, "evaluation"), options)


def _splits(section: ProblemsSection, options: ReadOptions, held: Sequence[Problem] = ()) -> Splits:
    """The splits without the problems `held` in train and dev."""
    if section.source in generated.SOURCES:
        return _generated_splits(section, held)
    known = _whole_test(section, options)
    read = read_source(_train_source(section), options)
    tested = [*(known.problems if known else []), *held]
    pool, dropped = without_repeats(read.problems, tested)  # however few this run uses
    carved = section.test or 0 if known is None else 0
    if len(pool) <= section.dev + carved:
        raise UserError(_too_few(section, len(pool), carved, dropped))
    if known is None:
        test, pool = first_by_hash(pool, carved, "test")
        known = Loaded(test, [f"{carved:,} test problems carved from train; problems.test_source names others"])
    test = _chosen_test(section, known.problems)
    dev, train = first_by_hash(pool, section.dev, "dev")
    if section.train is not None:
        train, _ = first_by_hash(train, section.train, f"train/{section.seed}")
    notes = [*read.notes, *known.notes, *dropped, *([] if options.kind.guessable else guessable(train))]
    return Splits(train, dev, test, notes=notes, unreadable=read.unreadable + known.unreadable)


def guessable(problems: list[Problem]) -> list[str]:
    """A note if one gold is so frequent that guessing it pays."""
    answer, count = Counter(problem.answer for problem in problems).most_common(1)[0]
    if len(problems) < FEW_GOLDS or count < GUESSABLE * len(problems):
        return []
    share = f"{answer} is the gold of {count / len(problems):.0%} of the train problems"
    return [f"{share}, which guessing it would earn: is this the column of the answers (problems.answer)?"]


def load_test_problems(section: ProblemsSection, options: ReadOptions | None = None) -> Loaded:
    """The test split alone, all of it or the `test` problems that `seed` picks; `options` as in `load_splits`."""
    options = options or read_options(section)
    if section.source in generated.SOURCES and not section.test_source:
        _check_counts(section)
        return _generated_test(section, section.source)
    known = _whole_test(section, options)
    if known is None:
        splits = _splits(section, options)
        return Loaded(splits.test, splits.notes, splits.unreadable)
    return known._replace(problems=_chosen_test(section, known.problems))


def _generated_splits(section: ProblemsSection, held: Sequence[Problem]) -> Splits:
    _check_counts(section)
    source = generated.SOURCES[section.source]
    train = source.problems("train", section.train or generated.TRAIN, section.seed)
    dev = source.problems("dev", section.dev, section.seed)
    if held:
        train, dev = (without_repeats(part, held)[0] for part in (train, dev))
    if section.test_source:
        test, notes, unreadable = load_test_problems(section)
        train, dev = (without_repeats(part, test)[0] for part in (train, dev))
        return Splits(train, dev, test, notes=notes, unreadable=unreadable)
    return Splits(
        train=train,
        dev=dev,
        test=_generated_test(section, section.source).problems,
        unseen=source.problems("unseen", min(generated.UNSEEN, section.test or generated.TEST), section.seed),
    )


def _generated_test(section: ProblemsSection, source: str) -> Loaded:
    return Loaded(generated.SOURCES[source].problems("test", section.test or generated.TEST, section.seed), [])


def _check_counts(section: ProblemsSection) -> None:
    most = generated.SOURCES[section.source].most
    for key in ("train", "dev", "test"):
        if (getattr(section, key) or 0) > most:
            raise UserError(f"problems.{key}: at most {most:,} {section.source} problems per split")


def hub_datasets(section: ProblemsSection) -> list[DatasetName]:
    """The Hub datasets that a config reads, each once."""
    sources = [_train_source(section), *([named_test_source(section)] if section.test_source else [])]
    found: dict[tuple[str, str | None], DatasetName] = {}
    for source in sources:
        if source.name not in generated.SOURCES and not is_file(source.name):
            found.setdefault((source.dataset.name, source.dataset.revision), source.dataset)
    return list(found.values())


def _train_source(section: ProblemsSection) -> Source:
    return Source(section.source, "train", section.subset, section.revision)


def named_test_source(section: ProblemsSection) -> Source:
    """What `test_source` names; subset and revision of the settings are for it too if it is the same dataset."""
    source, train = Source(section.test_source or "", "evaluation"), _train_source(section)
    if source.dataset.name != train.dataset.name:
        return source
    return replace(source, subset=section.subset, revision=train.dataset.revision)


def read_options(section: ProblemsSection) -> ReadOptions:
    """How rows of the train problems are read. Raises UserError for a kind of answers that is not there."""
    kind = answer_kind(kind_of(section))
    return ReadOptions(section.question, section.answer, section.max_unreadable, kind=kind)


def _whole_test(section: ProblemsSection, options: ReadOptions) -> Loaded | None:
    """All test problems; None if they are to be carved from train."""
    if section.test_source:
        return _named_test(section, options)
    try:
        return _own_test(section, options)
    except MissingSplitError as error:
        if section.test is None:
            raise UserError(f"{error}, or set problems.test to carve that many from train") from None
        return None


def _own_test(section: ProblemsSection, options: ReadOptions) -> Loaded:
    """The test split of the train problems' source. Raises MissingSplitError if it has none."""
    name, source = section.source, replace(_train_source(section), purpose="test")
    if name.lower().endswith(FILE_SUFFIXES) or Path(name).expanduser().is_file():
        raise MissingSplitError(f"problems.source is the file {name}: name the test file in problems.test_source")
    if not is_file(name):
        own = source.dataset
        if own.split in USUAL_SPLITS["test"]:
            raise MissingSplitError(
                f"problems.source is the split {own.split}: name a test set in problems.test_source"
            )
        source = replace(source, name=own.name, subset=own.subset, revision=own.revision)
    try:
        return read_source(source, options)
    except MissingSplitError as error:
        raise MissingSplitError(f"{error}; or name other test problems in problems.test_source") from None


def _named_test(section: ProblemsSection, options: ReadOptions) -> Loaded:
    if section.test_source in generated.SOURCES:
        return _generated_test(section, section.test_source)
    options = replace(
        options,
        question=section.test_question or section.question,
        answer=section.test_answer or section.answer,
        settings=("problems.test_question", "problems.test_answer", "problems.max_unreadable"),
        fallback=section.test_question is None and section.test_answer is None,
    )
    return read_source(named_test_source(section), options)


def _too_few(section: ProblemsSection, left: int, carved: int, dropped: list[str]) -> str:
    why = f" ({', '.join(dropped)})" if dropped else ""
    also = f", and problems.test {carved} for test" if carved else ""
    remedy = f"lower problems.dev{' and problems.test' * bool(carved)}"
    if left <= 1 + bool(carved):
        remedy = f"at least {2 + bool(carved)} are needed: choose a larger train file"
    return (
        f"{section.source}: {left} train problem{'s' * (left != 1)}{why}, and problems.dev takes {section.dev} of them "
        f"for dev{also}; {remedy}"
    )


def _chosen_test(section: ProblemsSection, test: list[Problem]) -> list[Problem]:
    return test if section.test is None else first_by_hash(test, section.test, f"test/{section.seed}")[0]


def without_repeats(pool: list[Problem], test: Sequence[Problem]) -> tuple[list[Problem], list[str]]:
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


def first_by_hash(problems: list[Problem], count: int, salt: str) -> tuple[list[Problem], list[Problem]]:
    """`(the count problems with the smallest salted hash, the others)`, each in the order of the file.

    A hash of the question, unlike its position, picks the same problems after the file is reordered, and mostly the
    same after it is extended.
    """
    ranked = sorted(problems, key=lambda p: hashlib.sha256(f"{salt}/{p.question}".encode()).digest())
    chosen = {id(p) for p in ranked[:count]}
    return [p for p in problems if id(p) in chosen], [p for p in problems if id(p) not in chosen]
