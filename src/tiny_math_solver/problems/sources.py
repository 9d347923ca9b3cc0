"""Problems from a file, a folder or a Hub dataset: each row becomes a `Problem` or is counted as unreadable."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from tiny_math_solver.hub.datasets import DatasetName, Purpose, SplitFiles, folder_split, hub_split
from tiny_math_solver.problems.files import EXPECTED, FILE_SUFFIXES, File, open_table
from tiny_math_solver.problems.layouts import Layout, ReadOptions, find_layout
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.rows import LONGEST_TEXT, Row, UnreadableError, plain_values
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.files import require_file

EXAMPLES = 5  # unreadable rows that are named
FEW = 5  # unreadable rows that a source of ten times as many may have, unless none is allowed: a few slips of the pen


@dataclass
class Findings:
    """What reading a source has shown: the layout it has, and the rows that are no problems."""

    rows: int = 0
    layout: Layout | None = None
    split: SplitFiles | None = None
    unreadable: int = 0
    examples: list[str] = field(default_factory=list)  # the first unreadable rows, with their places
    unstated: int = 0  # golds taken from a sentence

    def notes(self, source: str, options: ReadOptions) -> list[str]:
        """Sentences for the user. Raises UserError if the share of unreadable rows is above the one allowed."""
        allowed = options.max_unreadable * self.rows
        if allowed and self.rows >= 10 * FEW:
            allowed = max(allowed, FEW)
        if self.unreadable > allowed:
            raise UserError(
                f"{source}: {self.unreadable:,} of {self.rows:,} rows cannot be used; correct them, or raise "
                f"{options.settings[2]} ({options.max_unreadable:g}) to drop them: {self.named()}"
            )
        notes = []
        if self.layout and not self.layout.is_gsm8k:
            notes.append(f"{source}: {self.layout}")
        if self.split and self.split.split not in ("train", "test") and self.split.split not in source:
            notes.append(f"{source}: its split {self.split.split}")
        if self.unstated:
            notes.append(f"{source}: {self.unstated:,} gold answers read from a sentence, with no #### before them")
        if self.unreadable:
            notes.append(f"{source}: {self.unreadable:,} of {self.rows:,} rows dropped as unreadable: {self.named()}")
        return notes

    def add(self, unreadable: str) -> None:
        """Count a row; `unreadable` is its place and the reason."""
        self.unreadable += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(unreadable)

    def named(self) -> str:
        more = self.unreadable - len(self.examples)
        return "; ".join(self.examples) + (f"; and {more:,} more" if more else "")


def is_file(source: str) -> bool:
    """True if a source looks like a path: a mistyped file name must not be looked up on the Hub."""
    return source.lower().endswith(FILE_SUFFIXES) or source.startswith((".", "/", "~")) or os.path.exists(source)


class Loaded(NamedTuple):
    """The problems of a source, notes in plain words of what was found and dropped, and the number of dropped rows."""

    problems: list[Problem]
    notes: list[str]
    unreadable: int = 0


@dataclass(frozen=True)
class Source:
    """Problems as a setting names them: a file, a folder or a Hub dataset, with what else is known of the latter."""

    name: str
    purpose: Purpose
    subset: str | None = None
    revision: str | None = None

    @property
    def dataset(self) -> DatasetName:
        """The Hub dataset; what its name says goes before what other settings say."""
        named = DatasetName.parse(self.name)
        return replace(named, subset=named.subset or self.subset, revision=named.revision or self.revision)


def read_source(source: Source, options: ReadOptions) -> Loaded:
    """Raises UserError for what cannot be read, and where more rows are unreadable than the options allow."""
    findings = Findings()
    if is_file(source.name):
        problems = read_file(source.name, options, findings, source)
    else:
        problems = _read_split(hub_split(source.dataset, source.purpose), source.name, options, findings)
    return Loaded(problems, findings.notes(source.name, options), findings.unreadable)


def read_file(
    file: str | Path,
    options: ReadOptions = ReadOptions(),  # noqa: B008  frozen
    findings: Findings | None = None,
    source: Source | None = None,
) -> list[Problem]:
    """The readable problems of a file, or of a folder that is laid out as Hub datasets are (a split as in `source`).

    What else was there is added to `findings`. Raises UserError where there is no readable problem at all.
    """
    path, findings = Path(file).expanduser(), findings or Findings()
    try:
        if path.is_dir():
            return _read_folder(path, source or Source(str(path), "evaluation"), options, findings)
        if "://" in str(file):
            raise UserError(f"{file}: download the file and name it here")
        require_file(path, "problem file")
        return _problems(str(path), path.stem, [File(path, str(path))], options, findings)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read_folder(path: Path, source: Source, options: ReadOptions, findings: Findings) -> list[Problem]:
    if path.name.lower().endswith(FILE_SUFFIXES) or not any(path.iterdir()):
        raise UserError(f"{path} is a folder; expected {EXPECTED}")
    split = folder_split(path, DatasetName(str(path), source.subset), source.purpose)
    return _read_split(split, str(path), options, findings)


def _read_split(found: SplitFiles, source: str, options: ReadOptions, findings: Findings) -> list[Problem]:
    findings.split = found
    files = [File(path, f"{source}/{path.relative_to(found.folder).as_posix()}") for path in found.files]
    return _problems(source, found.split, files, options, findings)


def _problems(source: str, id: str, files: list[File], options: ReadOptions, findings: Findings) -> list[Problem]:
    """The readable problems of the files of a source; `id` and its number among the rows identify each."""
    problems = []
    for file in files:
        table = open_table(file)
        layout = find_layout(str(file), table.columns, options) if table.columns else None
        findings.layout = findings.layout or layout
        needed = table.columns if options.keeps_columns else layout.columns if layout else []
        for where, row in table.rows(needed):
            findings.rows += 1
            try:
                problems.append(_problem(f"{id}-{findings.rows}", row, layout, options, findings))
            except UnreadableError as reason:
                findings.add(f"{where}: {reason}")
    if not problems:
        found = f"no row that can be used: {findings.named()}" if findings.rows else "no problems in this file"
        raise UserError(f"{source}: {found}")
    return problems


def _problem(id: str, row: Row, layout: Layout | None, options: ReadOptions, findings: Findings) -> Problem:
    if isinstance(row, UnreadableError):
        raise row
    if layout is None:
        raise UnreadableError("no columns")
    question, value, column = layout.question_of(row), layout.answer_of(row), layout.answer.text
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise UnreadableError(f"{column} has {len(value):,} characters, over {LONGEST_TEXT:,}")
    try:
        gold = options.kind.read_gold(value)
    except ValueError as error:
        raise UnreadableError(f"{column} {error}" if str(error).startswith("must ") else str(error)) from None
    findings.unstated += not gold.stated
    return Problem(id, question, gold.solution, gold.answer, plain_values(row) if options.keeps_columns else {})
