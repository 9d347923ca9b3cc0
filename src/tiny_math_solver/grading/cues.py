"""Cues: tables of words that change what the numbers around them commit to, and those that more than one reader needs.

A table holds phrases as regular expressions in lower case, on as many lines as they take; a plain parenthesis groups
and captures nothing.
"""

import re


def any_of(table: str) -> str:
    """The pattern that matches any phrase of a table."""
    lines = filter(None, (line.strip().strip("|") for line in table.split("\n")))
    return f"(?:{re.sub(_GROUP, '(?:', '|'.join(lines))})"


_GROUP = r"(?<!\\)\((?!\?)"


def cue(pattern: str) -> "re.Pattern[str]":
    return re.compile(pattern, re.IGNORECASE)


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


class Cue:
    """A long pattern that is searched only in text with one of its stems in it, which takes a hundredth of the time.

    Every match of the pattern has to contain one of the stems, which are in lower case and separated by bars.
    """

    def __init__(self, stems: str, pattern: str) -> None:
        self.stems = tuple(stems.split("|"))
        self.pattern = cue(pattern)

    def occurs(self, text: str) -> bool:
        lower = text.lower()
        for stem in self.stems:  # noqa: SIM110  (any() takes twice as long)
            if stem in lower:
                return True
        return False

    def search(self, text: str) -> "re.Match[str] | None":
        return self.pattern.search(text) if self.occurs(text) else None


HEDGE = r"(?:or|alternatively|maybe|perhaps|possibly|versus|vs)"
HEDGED = cue(rf"\b{HEDGE}\b")
HEADING = r"(?:step|part|phase|case|method|section|question|problem|example|option|stage|solution|task|chapter|table)"
CONCLUSION = r"(?:so|therefore|thus|hence)"
# How a conclusion begins
CONCLUDES = cue(rf"\W*(?:{CONCLUSION}|in conclusion|in total|finally|overall)\b")
