"""A row of a problem file, whatever the file's format."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

LONGEST_TEXT = 20_000  # characters of a question or an answer; GSM8K's longest has 1,228
MOST_ROWS = 1_000_000


class UnreadableError(ValueError):
    """A row that cannot be used as a problem; the message is the reason."""


Row = dict[str, Any] | UnreadableError
Located = tuple[str, Row]  # where a row was read (`file:line`), and its columns or why it has none


@dataclass(frozen=True)
class Table:
    """The rows of a file, and the names of its columns as far as they are known without reading all of it.

    `rows` takes the columns that are needed; formats that store them together yield the others too.
    """

    columns: Sequence[str]
    rows: Callable[[Sequence[str]], Iterator[Located]]


def columns_of(rows: Iterable[Row]) -> list[str]:
    """The names of the columns of some rows, in the order in which they come up."""
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def listed(names: Iterable[str]) -> str:
    """Names in one line for a message, cut to 100 characters."""
    text = re.sub(r"[\x00-\x1f\x7f]", "?", ", ".join(names)) or "none"
    return text if len(text) <= 100 else f"{text[:99]}…"


def plain_values(value: Any) -> Any:
    """A value of a row with floats in place of Decimals, which the readers keep exact.

    Raises UnreadableError for what is nested too deep.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise UnreadableError("its columns are nested too deep") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def kind_of(value: Any) -> str:
    """The type of a value as a message names it."""
    return {"Decimal": "float", "NoneType": "null"}.get(type(value).__name__, type(value).__name__)
