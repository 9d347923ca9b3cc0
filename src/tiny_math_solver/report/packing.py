"""Data of a page, compressed: gzip in base64, which the browser unpacks; and how much of it fits."""

import base64
import json
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

GZIP = 16 + zlib.MAX_WBITS
ROUNDS = 8


def as_json(data: Any) -> bytes:
    """JSON as a browser reads it, in UTF-8: null for a number that is not finite, "?" for half a surrogate pair."""
    try:
        text = _dumps(data)
    except ValueError:
        text = _dumps(json.loads(json.dumps(data), parse_constant=lambda name: None))
    return text.encode("utf-8", errors="replace")


def _dumps(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def gzipped(content: bytes, level: int = 6) -> bytes:
    """The same bytes for the same content: gzip without a time."""
    packer = zlib.compressobj(level, zlib.DEFLATED, GZIP)
    return packer.compress(content) + packer.flush()


def packed(content: bytes, level: int = 6) -> str:
    """Compressed content as text of letters, digits, `+`, `/` and `=` alone, safe in any HTML element."""
    return base64.b64encode(gzipped(content, level)).decode("ascii")


def unpacked(text: str) -> bytes:
    """The content that was `packed`."""
    return zlib.decompress(base64.b64decode(text), GZIP)


def packed_size(data: Any) -> int:
    """The length of data as they stand in a page."""
    return -(-len(gzipped(as_json(data))) // 3) * 4


def fitting(sizes: Sequence[int], limit: int, measure: Callable[[int], int], guess: float = 2.5) -> int:
    """A number of items, from the first on, that measure at most `limit`: all, or almost as many as fit.

    `sizes` are those of the items in characters, `guess` how many of them make one packed character; `measure(n)` is
    the packed size with the first n items, which is taken a few times.
    """
    if not sizes or (empty := measure(0)) >= limit:
        return 0
    total = [0, *accumulate(sizes)]
    room, fits, too_many = limit - empty, 0, len(sizes) + 1
    n = min(len(sizes), max(1, _below(total, room * guess)))
    for _ in range(ROUNDS):
        taken = max(1, measure(n) - empty)
        if taken <= room:
            fits = n
            if n == len(sizes) or taken > 0.95 * room:
                break
        else:
            too_many = n
        n = _below(total, total[n] * 0.98 * room / taken)
        if not fits < n < too_many:
            n = (fits + too_many) // 2
        if n in (fits, too_many):
            break
    return fits


def _below(total: Sequence[int], size: float) -> int:
    """The largest n with total[n] ≤ size."""
    return bisect_right(total, size) - 1
