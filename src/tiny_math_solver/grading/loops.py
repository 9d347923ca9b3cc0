"""Loops: a text that ends in the same words over and over, as a model that cannot stop writes it."""

PROBE = 32  # characters at the end of the text that have to occur once more before it
LONGEST = 4096  # characters of a repeated part
REPEATS = 4  # times a part has to occur to be a loop


def unlooped(text: str) -> tuple[str, bool]:
    """The text with its looping end kept once, and whether there was a loop."""
    size = len(text)
    at = text.rfind(text[-PROBE:], max(0, size - PROBE - LONGEST), size - 1)
    if at < 0 or size <= PROBE:
        return text, False
    period = size - PROBE - at
    start = size - period
    while start >= period and text[start - period : start] == text[start : start + period]:
        start -= period
    if size - start < REPEATS * period or text[start : start + period].isdigit():
        return text, False
    while start > 0 and text[start - 1] == text[start - 1 + period]:
        start -= 1
    return text[: start + period], True
