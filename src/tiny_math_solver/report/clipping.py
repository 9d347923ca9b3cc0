"""Very long texts: a page shows their beginning and their end."""

from typing import Any

HEAD, TAIL = 12_000, 4_000  # characters kept of a longer text


def clip(text: str) -> str | dict[str, Any]:
    """The text itself, or the two ends of a very long one and the number of characters between them."""
    if len(text) <= HEAD + TAIL:
        return text
    return {"head": text[:HEAD], "left_out": len(text) - HEAD - TAIL, "tail": text[-TAIL:]}


def clipped_length(text: str) -> int:
    """The number of characters that are left by `clip`."""
    return min(len(text), HEAD + TAIL)
