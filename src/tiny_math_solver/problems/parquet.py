"""Parquet files → rows: only the columns that are needed, and no text copied before its length is known."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from pyarrow import compute, types

from tiny_math_solver.problems.rows import LONGEST_TEXT, MOST_ROWS, Located, Table
from tiny_math_solver.support.errors import UserError

BATCH_ROWS = 1000
LARGEST_BATCH = 500_000_000  # bytes, of columns whose texts are nested


def parquet_table(path: Path, name: str) -> Table:
    with _errors(name):
        metadata = pyarrow.parquet.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
    if metadata.num_rows > MOST_ROWS:
        raise UserError(f"{name}: {metadata.num_rows:,} rows, over {MOST_ROWS:,}; use fewer")
    twice = sorted({column for column in schema.names if schema.names.count(column) > 1})
    if twice:
        raise UserError(f"{name}: the column {twice[0]!r} is there twice")
    return Table(schema.names, lambda needed: _rows(path, name, schema, needed))


def _rows(path: Path, name: str, schema: pyarrow.Schema, needed: Sequence[str]) -> Iterator[Located]:
    number = 0
    texts = [column for column in needed if _is_text(schema.field(column).type)]
    nested = any(types.is_nested(schema.field(column).type) for column in needed)
    # texts as dictionaries, since a file of a few bytes may repeat one long text a million times
    with _errors(name), pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS // 20 if nested else BATCH_ROWS, columns=list(needed)):
            where = f"{name} rows {number + 1} to {number + len(batch)}"
            if batch.nbytes > LARGEST_BATCH:
                raise UserError(f"{where}: {batch.nbytes:,} bytes; the limit of a text is {LONGEST_TEXT:,} characters")
            columns = [_values(where, column) for column in batch.columns]
            for values in zip(*columns, strict=True):
                number += 1
                yield f"{name} row {number}", dict(zip(batch.schema.names, values, strict=True))


def _is_text(kind: pyarrow.DataType) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind)


def _values(where: str, column: pyarrow.Array) -> list[Any]:
    """The values of a column. Raises UserError for a text that is too long, before it is copied."""
    if types.is_dictionary(column.type) and _is_text(column.type):
        longest = compute.max(compute.binary_length(column.dictionary)).as_py() or 0
        if longest > 4 * LONGEST_TEXT:  # a character has up to four bytes
            raise UserError(f"{where}: a text of {longest:,} bytes; the limit is {LONGEST_TEXT:,} characters")
    return column.to_pylist()


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into a UserError."""
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: not a readable Parquet file: {' '.join(str(error).split())[:200]}") from None
