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


def phrases(table: str) -> "re.Pattern[str]":
    """The compiled pattern of a table."""
    return cue(any_of(table))


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


# Words that may stand between what announces a number and the number
FILLER = any_of("""
    the|an?|it|its|it's|that|that's|this|these|there|is|are|was|were|be|been|will|would|should|must|could|might|may|can
    so|then|answer|result|final|total|value|number|of|about|around|roughly|approximately|exactly|only|just|even
    also|actually|really|instead|rather|say|i|we|you|he|she|they|one|have|has|had|gets?|got|let|me|see|right|to
    think|guess|argue|maybe|perhaps|possibly|equally|or|else|closer|more|like|left|earns?
    as (little|much|many|low|high) as|needs?|makes?|pays?|spends?|costs?|takes?
""")
COMES_TO = any_of("""
    is|are|makes?|making|gives?|giving|leaves?|leaving|yields?|totals?|totall?ing|comes? to|get|becomes?|adds? up to
""")
HEDGE = r"(?:or|alternatively|maybe|perhaps|possibly|versus|vs)"
HEDGED = cue(rf"\b{HEDGE}\b")
HEADING = r"(?:step|part|phase|case|method|section|question|problem|example|option|stage|solution|task|chapter|table)"
CONCLUSION = r"(?:so|therefore|thus|hence)"
# How a conclusion begins
CONCLUDES = cue(rf"\W*(?:{CONCLUSION}|in conclusion|in total|finally|overall)\b")
# How a remark on a result begins, and what a check of it says
REMARK = cue(
    r"\W*(?:note|check|verif|because|since|this|that(?:'s| is)|here|as\b|i\.e|thank|hope|good luck|explanation|proof"
    r"|rounded|alternativ|if\b|for\b|where|to (?:see|check|verify)|let me (?:check|verify)|remember|confidence|time|\()"
)
CONFIRMED = cue(
    r"(?:\b(?:is|are|was|looks|seems|all|yes,?|so)|'s) (?:indeed |also |all )?(?:correct|right|fine|good)\b|confirm"
    r"|checks out|match(?:es)?|verified|stands|as given|as expected|\u2713|\u2705"
)
