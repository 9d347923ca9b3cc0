"""Problem files → rows: JSON Lines, JSON documents, CSV and TSV, Parquet; the text formats also compressed (.gz)."""

import codecs
import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from tiny_math_solver.grading import parse_number
from tiny_math_solver.problems.rows import MOST_ROWS, Located, Table, UnreadableError, columns_of, kind_of, listed
from tiny_math_solver.support.errors import UserError

TEXT_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".ndjson")
FILE_SUFFIXES = (*TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in TEXT_SUFFIXES), ".parquet")
EXPECTED = "a .jsonl, .json, .csv, .tsv or .parquet file"
LONGEST_LINE = 1_000_000  # bytes
LARGEST_DOCUMENT = 1_000_000_000  # bytes of JSON that is not written a row a line, and has to be read whole
PEEKED_ROWS = 100  # of a file without a header, whose columns are those of its first rows
OTHER_ENCODINGS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods; .xls
DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class File:
    """A file, and its name as messages show it."""

    path: Path
    name: str

    def __str__(self) -> str:
        return self.name


def open_table(file: File) -> Table:
    """The table in a file. Raises UserError for a file that is not one; a bad row is left to who reads the rows."""
    suffix = file.path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if suffix == "parquet":
        from tiny_math_solver.problems.parquet import parquet_table

        return parquet_table(file.path, file.name)
    start = _start(file)
    if suffix in ("csv", "tsv"):
        return _csv_table(file, "\t" if suffix == "tsv" else "")
    if suffix not in ("jsonl", "json", "ndjson") and start not in (b"{", b"["):
        raise UserError(f"{file}: expected {EXPECTED}")
    rows = _json_rows(file, start)
    first = list(itertools.islice(rows, PEEKED_ROWS))
    return Table(columns_of(row for _, row in first), lambda needed: itertools.chain(first, rows))


def _open(file: File) -> IO[bytes]:
    path = file.path
    return gzip.GzipFile(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _start(file: File) -> bytes:
    """The first character of a text file that is not blank."""
    try:
        with _open(file) as stream:
            start = stream.read(4096)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file}: not a readable gzip file: {error}") from None
    if start.startswith(SPREADSHEETS):
        raise UserError(f"{file} is a spreadsheet: export it as CSV")
    if start.startswith(OTHER_ENCODINGS):
        raise UserError(f"{file}:1: not UTF-8 text but UTF-16 or UTF-32; save it as UTF-8")
    return start.removeprefix(codecs.BOM_UTF8).lstrip()[:1]


# -- JSON -----------------------------------------------------------------------------------------------------


def _json_rows(file: File, start: bytes) -> Iterator[Located]:
    """Rows of JSON Lines, or of a JSON document where the first line is not a row."""
    if start == b"[" or (start == b"{" and _is_document(file)):
        document = _documents(file, must_be_one=start == b"[")
        if document is not None:
            yield from _document_rows(file, document)
            return
    for number, line in enumerate(_lines(file), 1):
        where = f"{file}:{number}"
        if len(line) > LONGEST_LINE:
            raise UserError(f"{where}: a line of over {LONGEST_LINE:,} bytes; expected one JSON object per line")
        if number > MOST_ROWS:
            raise UserError(f"{where}: over {MOST_ROWS:,} lines; use fewer")
        if line.strip():
            yield where, _json_row(line)


def _lines(file: File) -> Iterator[bytes]:
    with _open(file) as stream:
        lines = iter(lambda: stream.readline(LONGEST_LINE + 1), b"")
        for line in itertools.islice(lines, 1):
            yield line.removeprefix(codecs.BOM_UTF8)
        yield from lines


def _is_document(file: File) -> bool:
    """True unless the first line that is not blank is a row by itself."""
    lines = (line for line in itertools.islice(_lines(file), 1000) if line.strip())
    row = _json_row(next(lines, b""))
    if isinstance(row, UnreadableError):
        return True
    return next(lines, None) is None and (_rows_within(row) is not None or len(_lists_of_rows(row)) > 1)


def _json_row(line: bytes) -> dict[str, Any] | UnreadableError:
    if b"\0" in line:
        return UnreadableError("holds NUL bytes; expected UTF-8 text")
    try:
        return _as_row(json.loads(line.decode("utf-8"), parse_float=Decimal))
    except UnicodeDecodeError as error:
        return UnreadableError(f"not UTF-8 text ({error.reason} at byte {error.start} of the line)")
    except json.JSONDecodeError as error:
        return UnreadableError(f"not a JSON object: {error.msg}")
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
        return UnreadableError(f"not a JSON object: {reason}")


def _as_row(value: Any) -> dict[str, Any] | UnreadableError:
    if isinstance(value, dict):
        return value
    return UnreadableError(f"expected an object with question and answer, found {kind_of(value)}")


def _documents(file: File, *, must_be_one: bool) -> list[Any] | None:
    """The JSON values of a file, one after the other; None if it holds something else, unless it must be JSON."""
    with _open(file) as stream:
        data = stream.read(LARGEST_DOCUMENT + 1)
    if len(data) > LARGEST_DOCUMENT:
        raise UserError(f"{file}: over {LARGEST_DOCUMENT:,} bytes of JSON; write one object per line instead")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}:{line}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    decoder, values, end = json.JSONDecoder(parse_float=Decimal), [], 0
    try:
        while end < len(text) and (found := _NOT_BLANK.search(text, end)):
            value, end = decoder.raw_decode(text, found.start())
            values.append(value)
    except (RecursionError, ValueError) as error:
        if not must_be_one:
            return None
        where, reason = str(file), "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
        if isinstance(error, json.JSONDecodeError):
            where, reason = f"{file}:{error.lineno}", error.msg
        raise UserError(f"{where}: not a JSON object or array: {reason}") from None
    return values


_NOT_BLANK = re.compile(r"\S")


def _document_rows(file: File, values: list[Any]) -> Iterator[Located]:
    """The rows of one JSON array, of an object that holds rows, or of objects one after the other."""
    rows = values
    if len(values) == 1:
        rows = values[0] if isinstance(values[0], list) else _rows_within(values[0]) or values
        if rows is values and len(lists := _lists_of_rows(values[0])) > 1:
            raise UserError(f"{file}: several lists of rows ({listed(lists)}); write each into a file of its own")
    if len(rows) > MOST_ROWS:
        raise UserError(f"{file}: {len(rows):,} rows, over {MOST_ROWS:,}; use fewer")
    for number, row in enumerate(rows, 1):
        yield f"{file} row {number}", _as_row(row)


def _rows_within(value: Any) -> list[Any] | None:
    """The rows of one JSON object: its only list of objects, an object for each row, or all values of each column."""
    if not isinstance(value, dict):
        return None
    if lists := list(_lists_of_rows(value).values()):
        return lists[0] if len(lists) == 1 else None
    parts = list(value.values())
    if len(parts) < 2 or any(map(_is_chat, parts)):
        return None
    if all(isinstance(part, dict) and part.keys() == parts[0].keys() for part in parts):
        if not all(key.isdigit() for key in parts[0]):
            return parts
        parts = [list(part.values()) for part in parts]  # as pandas writes a column: {"0": ..., "1": ...}
    if all(isinstance(part, list) and len(part) == len(parts[0]) for part in parts):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*parts, strict=True)]
    return None


def _lists_of_rows(value: dict[str, Any]) -> dict[str, list[Any]]:
    """The lists of objects within an object, but for those that are a chat."""
    lists = {name: part for name, part in value.items() if isinstance(part, list) and part}
    return {name: part for name, part in lists.items() if isinstance(part[0], dict) and not _is_chat(part)}


def _is_chat(value: Any) -> bool:
    message = value[0] if isinstance(value, list) and value else None
    return isinstance(message, dict) and ("role" in message or "from" in message)


# -- CSV ------------------------------------------------------------------------------------------------------


def _csv_table(file: File, delimiter: str) -> Table:
    """A CSV or TSV file with a header; without a `delimiter` the header's is taken, as spreadsheets differ in it."""
    with _text(file) as stream:
        head = stream.readline(LONGEST_LINE)
        if marked := re.fullmatch(r"sep=(.)\r?\n", head):  # a first line with which spreadsheets name the delimiter
            delimiter, head = marked[1], stream.readline(LONGEST_LINE)
        delimiter = delimiter or max(DELIMITERS, key=lambda mark: len(next(csv.reader([head], delimiter=mark), [])))
        header = next(csv.reader([head], delimiter=delimiter), [])
    skipped = 2 if marked else 1
    if len(header) == 2 and parse_number(header[1]) is not None:  # a problem and its answer: there is no header
        header, skipped = ["question", "answer"], skipped - 1
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise UserError(f"{file}:{skipped}: the column {twice[0]!r} is there twice")
    return Table(header, lambda needed: _csv_rows(file, header, delimiter, skipped))


def _text(file: File) -> io.TextIOWrapper:
    return io.TextIOWrapper(_open(file), encoding="utf-8-sig", errors="surrogateescape", newline="")


def _csv_rows(file: File, header: Sequence[str], delimiter: str, skipped: int) -> Iterator[Located]:
    with _text(file) as stream:
        for _ in range(skipped):
            stream.readline()
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        while True:
            line = skipped + reader.line_num + 1
            where = f"{file}:{line}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield where, UnreadableError(f"not a row of CSV: {error}")
                for swallowed in range(line + 1, skipped + reader.line_num + 1):  # by a quote that nothing closes
                    yield f"{file}:{swallowed}", UnreadableError(f"belongs to the bad row in line {line}")
                continue
            if cells is None:
                return
            if reader.line_num > MOST_ROWS:
                raise UserError(f"{where}: over {MOST_ROWS:,} lines; use fewer")
            if any(cell.strip() for cell in cells):
                yield where, _csv_row(header, cells, delimiter)


def _csv_row(header: Sequence[str], cells: list[str], delimiter: str) -> dict[str, Any] | UnreadableError:
    if len(cells) != len(header):
        return UnreadableError(f"{len(cells)} cells where the header has {len(header)}: is a text not in quotes?")
    if any(not cell.isascii() and _BAD_BYTE.search(cell) for cell in cells):
        return UnreadableError("not UTF-8 text; save the file as UTF-8")
    if any("\0" in cell for cell in cells):
        return UnreadableError("holds NUL bytes; expected UTF-8 text")
    return dict(zip(header, map(_with_decimal_point, cells) if delimiter == ";" else cells, strict=True))


def _with_decimal_point(cell: str) -> Any:
    """A cell of a table with semicolons, which spreadsheets write where the comma is the decimal sign."""
    number = cell.removesuffix(unit[0]) if (unit := _UNIT.search(cell)) else cell
    if _EITHER_SIGN.fullmatch(number):
        return UnreadableError(f"{cell} may be a number with thousands or with decimals; write it without a separator")
    if not _DECIMAL_COMMA.fullmatch(number):
        return cell
    return number.replace(".", "").replace(",", ".") + cell[len(number) :]


_UNIT = re.compile(r"(?<=\d)\s?[^\d\s.,][^\d]{0,20}$")  # 16,5 postcards
_EITHER_SIGN = re.compile(r"-?[1-9]\d{0,2}[.,]\d{3}")
_DECIMAL_COMMA = re.compile(r"-?(?:\d+|\d{1,3}(?:\.\d{3})+),\d+")


_BAD_BYTE = re.compile("[\udc80-\udcff]")  # as errors="surrogateescape" reads a byte that is not UTF-8
