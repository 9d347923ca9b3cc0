"""Read problems in GSM8K's layout (`question`, `answer` ending in `#### N`) from the Hub or a local file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiny_math_solver.answers import parse_gold
from tiny_math_solver.errors import UserError
from tiny_math_solver.hub import hub_errors, snapshot
from tiny_math_solver.problems.problem import Problem

COLUMNS = ("question", "answer")
FILE_SUFFIXES = (".jsonl", ".parquet", ".json")
Row = tuple[str, dict[str, Any]]  # where it was read (file:line), and its columns


def is_file(source: str) -> bool:
    """Whether a source is a path, going by its look: a mistyped file must not be looked for on the Hub."""
    return source.endswith(FILE_SUFFIXES) or source.startswith((".", "/", "~")) or Path(source).exists()


def read_file(source: str | Path) -> list[Problem]:
    """Problems of one `.jsonl` or `.parquet` file. Raises UserError naming file and line of the first bad row."""
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"no such problem file: {path}")
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _jsonl_rows(path)
    problems = [_problem(f"{path.stem}-{number}", where, row) for number, (where, row) in enumerate(rows, 1)]
    if not problems:
        raise UserError(f"{path}: no problems in this file")
    return problems


def read_hub(name: str, subset: str, revision: str | None, split: str) -> list[Problem]:
    """One split of a Hub dataset at a pinned revision, from the Hub cache through `datasets.load_dataset`."""
    from datasets import load_dataset

    folder = snapshot("dataset", name, revision)
    with hub_errors(f"dataset {name} ({subset}, {split})", folder.name):
        rows = load_dataset(str(folder), subset, split=split)
    numbered = enumerate(rows, 1)
    return [_problem(f"{split}-{number}", f"{name} {split} row {number}", row) for number, row in numbered]


def _jsonl_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path}:{number}", _json_object(f"{path}:{number}", line)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _json_object(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        message = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise UserError(f"{where}: not a JSON object: {message}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with question and answer, found {type(row).__name__}")
    return row


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{path} row {number}", row


def _problem(id: str, where: str, row: dict[str, Any]) -> Problem:
    for column in COLUMNS:
        if column not in row:
            raise UserError(f"{where}: no column {column!r} (found: {', '.join(map(str, row)) or 'none'})")
        if not isinstance(row[column], str):
            raise UserError(f"{where}: {column} must be text, found {type(row[column]).__name__}")
    if not row["question"].strip():
        raise UserError(f"{where}: the question is empty")
    solution, marker, answer = row["answer"].rpartition("####")
    try:
        parse_gold(row["answer"])
    except ValueError:
        raise UserError(
            f"{where}: cannot read a gold number from the answer {row['answer'][-60:]!r}; "
            "expected it to end in '#### 18'"
        ) from None
    return Problem(id, row["question"].strip(), solution.strip() if marker else "", answer.strip())
