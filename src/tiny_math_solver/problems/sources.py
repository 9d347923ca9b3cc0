"""Problems in GSM8K's layout (`question`, `answer` ending in `#### N`), read from the Hub or a local file."""

import codecs
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tiny_math_solver.grading import is_correct, parse_gold
from tiny_math_solver.hub.snapshots import hub_errors, snapshot
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.support.errors import UserError

COLUMNS = ("question", "answer")
FILE_SUFFIXES = (".jsonl", ".parquet", ".json")
LONGEST_LINE = 1_000_000  # bytes
LONGEST_TEXT = 20_000  # characters of a question or an answer; GSM8K's longest has 1,228
MOST_PROBLEMS = 1_000_000
OTHER_ENCODINGS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
Row = tuple[str, dict[str, Any]]  # where it was read (file:line), and its columns


def is_file(source: str) -> bool:
    """True if a source looks like a path: a mistyped file name must not be looked up on the Hub."""
    return source.endswith(FILE_SUFFIXES) or source.startswith((".", "/", "~")) or os.path.exists(source)


def read_file(source: str | Path) -> list[Problem]:
    """The problems of a `.jsonl` or `.parquet` file. Raises UserError naming file and line of the first bad row."""
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; expected a .jsonl or .parquet file")
        if not path.is_file():
            raise UserError(f"no such problem file: {path}")
        rows = _parquet_rows(path) if path.suffix == ".parquet" else _jsonl_rows(path)
        problems = [_problem(f"{path.stem}-{number}", where, row) for number, (where, row) in enumerate(rows, 1)]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not problems:
        raise UserError(f"{path}: no problems in this file")
    return problems


def read_hub(name: str, subset: str, revision: str | None, split: str) -> list[Problem]:
    """One split of a Hub dataset at a pinned revision, loaded by `datasets` from the Hub cache."""
    from datasets import load_dataset

    folder = snapshot("dataset", name, revision)
    with hub_errors(f"dataset {name} ({subset}, {split})", folder.name):
        rows = load_dataset(str(folder), subset, split=split)
    numbered = enumerate(rows, 1)
    return [_problem(f"{split}-{number}", f"{name} {split} row {number}", row) for number, row in numbered]


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            where = f"{path}:{number}"
            if number == 1:
                if line.startswith(OTHER_ENCODINGS):
                    raise UserError(f"{where}: not UTF-8 text but UTF-16 or UTF-32; save it as UTF-8")
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) > LONGEST_LINE:
                raise UserError(f"{where}: a line of over {LONGEST_LINE:,} bytes; expected one JSON object per line")
            if number > MOST_PROBLEMS:
                raise UserError(f"{where}: over {MOST_PROBLEMS:,} lines; use fewer")
            if line.strip():
                yield where, _json_object(where, line)


def _json_object(where: str, line: bytes) -> dict[str, Any]:
    if b"\0" in line:
        raise UserError(f"{where}: holds NUL bytes; expected UTF-8 text")
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start} of the line)") from None
    except json.JSONDecodeError as error:
        is_cut = error.pos >= len(line.strip()) - 1
        advice = "; does it continue on the next line? write each object on its own line, without commas between them"
        raise UserError(f"{where}: not a JSON object: {error.msg}{advice * is_cut}") from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
        raise UserError(f"{where}: not a JSON object: {reason}") from None
    if not isinstance(row, dict):
        found = "a JSON array: write one object per line" if isinstance(row, list) else type(row).__name__
        raise UserError(f"{where}: expected an object with question and answer, found {found}")
    return row


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        metadata = pyarrow.parquet.read_metadata(path)
        _check_columns(path, metadata.schema.to_arrow_schema())
        if metadata.num_rows > MOST_PROBLEMS:
            raise UserError(f"{path}: {metadata.num_rows:,} rows, over {MOST_PROBLEMS:,}; use fewer")
        # as dictionaries, since a file of a few bytes may repeat one long text a million times
        with pyarrow.parquet.ParquetFile(path, read_dictionary=list(COLUMNS)) as file:
            for batch in file.iter_batches(batch_size=1000, columns=list(COLUMNS)):
                columns = [_texts(f"{path} rows {number + 1} to {number + len(batch)}", c) for c in batch.columns]
                for values in zip(*columns, strict=True):
                    number += 1
                    yield f"{path} row {number}", dict(zip(batch.schema.names, values, strict=True))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {' '.join(str(error).split())[:200]}") from None


def _check_columns(path: Path, schema: Any) -> None:
    from pyarrow import types

    for column in COLUMNS:
        there = [field.type for field in schema if field.name == column]
        if len(there) != 1:
            wrong = f"{len(there)} columns" if there else "no column"
            raise UserError(f"{path}: {wrong} {column!r} (found: {_names(schema.names)})")
        kind = there[0].value_type if types.is_dictionary(there[0]) else there[0]
        if not (types.is_string(kind) or types.is_large_string(kind)):
            raise UserError(f"{path}: {column} must be text, found {kind}")


def _texts(where: str, column: Any) -> list[str | None]:
    """The texts of a dictionary-encoded column. Raises UserError for one that is too long, before it is copied."""
    from pyarrow import compute

    longest = compute.max(compute.binary_length(column.dictionary)).as_py() or 0
    if longest > 4 * LONGEST_TEXT:  # a character has up to four bytes
        raise UserError(f"{where}: a text of {longest:,} bytes; the limit is {LONGEST_TEXT:,} characters")
    return column.to_pylist()


def _problem(id: str, where: str, row: dict[str, Any]) -> Problem:
    for column in COLUMNS:
        if column not in row:
            raise UserError(f"{where}: no column {column!r} (found: {_names(row)})")
        text = row[column]
        if not isinstance(text, str):
            raise UserError(f"{where}: {column} must be text, found {type(text).__name__}")
        if len(text) > LONGEST_TEXT:
            raise UserError(f"{where}: {column} has {len(text):,} characters, over {LONGEST_TEXT:,}")
        if not text.isascii() and _HALF_CHARACTER.search(text):
            raise UserError(f"{where}: {column} holds a lone surrogate, which is half a character")
    if not row["question"].strip():
        raise UserError(f"{where}: the question is empty")
    solution, marker, answer = row["answer"].rpartition("####")
    try:
        is_payable = is_correct(f"#### {answer.strip()}", parse_gold(row["answer"]), strict=True)
    except ValueError:
        is_payable = False
    if not is_payable:  # no completion could ever earn a reward
        raise UserError(
            f"{where}: cannot read a gold number from the answer {row['answer'][-60:]!r}; "
            "expected it to end in '#### 18'"
        )
    return Problem(id, row["question"].strip(), solution.strip() if marker else "", answer.strip())


_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def _names(columns: Iterable[str]) -> str:
    names = ", ".join(columns) or "none"
    return names if len(names) <= 100 else names[:99] + "…"
