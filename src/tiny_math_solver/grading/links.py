"""Links: the number that a chain of numbers comes to, each linked to the one before as `gaps` tells.

`read_opening` reads text that should begin with its answer, such as the rest of a line after a marker. `follow_links`
walks from number to number.
"""

import re
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from tiny_math_solver.grading.cues import cue, phrases
from tiny_math_solver.grading.gaps import MAX_GAP, SAYS_MORE, link_between, without_asides
from tiny_math_solver.grading.numerals import Mention, Number, find_number_words, find_numerals
from tiny_math_solver.grading.units import RESTATES, counts_things, same_quantity, single_things


class Reading(NamedTuple):
    """The number that a stretch of text commits to; `value` is None if it commits to no single one."""

    value: Number | None
    span: str  # the part of the text that was read
    end: int  # where that part ends
    calculated: bool = False  # the number is the result of a calculation that is written out
    equivalent: Number | None = None  # the same quantity in another unit, as in "1.5 hours (90 minutes)"


def line_numbers(text: str) -> list[Mention]:
    """The numbers of an answer line: those in digits, and those in words that are linked to a number beside them."""
    numerals, words = find_numerals(text), find_number_words(text)
    if not (numerals and words):
        return numerals or words
    mentions = sorted([*numerals, *words], key=lambda mention: mention.start)
    opens = not text[: mentions[0].start].strip(" ($*")
    kept = mentions[:1] if mentions[0] in numerals or (opens and linked(text, *mentions[:2])) else []
    for left, right in pairwise(mentions):
        if right in numerals or (kept[-1:] == [left] and linked(text, left, right)):
            kept.append(right)
    return kept


def linked(text: str, left: Mention, right: Mention) -> bool:
    """True if the text between two neighbouring numbers makes them parts of one calculation or rivals."""
    gap = text[left.end : right.start]
    kind = link_between(gap) if gap.strip() else None
    return gap == " (" or kind == "hedge" or (kind not in (None, "context") and right.value != 1)  # one week


def read_opening(text: str, mentions: list[Mention], *, is_answer_line: bool = True) -> Reading | None:
    """The reading of a text that opens with a number, after filler such as "about" or "Answer:"; else None."""
    opens = mentions and _FILLER.fullmatch(text, 0, mentions[0].start)
    return follow_links(text, mentions, is_answer_line=is_answer_line) if opens else None


# Filler between a marker and its number: words such as "about", a label with a colon, or `Total earnings =`.
_FILLER = re.compile(
    r"(?:[^\w?]|\b(?:the|an?|final|correct|answer|is|are|was|be|it|its|s|that|this|there|so|therefore|thus|hence"
    r"|approximately|approx|about|around|roughly|exactly|only|just|total|of|equals?|us|usd|rs|eur|minus|negative"
    r"|value|result|would|will|actually|indeed|simply|[a-z](?=\s*=))\b)*"
    r"|(?!\W*(?:none|null|nan|n/a)\b)[^.?!]*[:=>][^\w?]*",
    re.IGNORECASE,
)


def follow_links(text: str, mentions: list[Mention], *, is_answer_line: bool = False) -> Reading:
    """The reading of a text from its first number on, through every number that is linked to the one before.

    On an answer line a second number that says nothing about the first is another candidate.
    """
    chain = _Chain(text, mentions[0], is_answer_line=is_answer_line)
    for mention in mentions[1:]:
        if not chain.take(mention):
            break
    return chain.reading()


class _Chain:
    """A walk from number to number of a text; `best` is the number that it has come to."""

    def __init__(self, text: str, first: Mention, *, is_answer_line: bool) -> None:
        self.text, self.is_answer_line = without_asides(text), is_answer_line
        self.first = self.last = self.end = first  # the last number seen, and the last that is no context
        self.best = first.value
        self.left: Number | None = None  # the left side of an equation, if it is a plain number
        self.equivalent: Number | None = None
        self.unfinished = unevaluated(text, first)  # no answer yet: `9 * 2`, `18, 20`
        self.calculated = self.compound = self.contradicted = self.corrected = False
        self.remark = False  # the numbers that follow say more about `best`
        self.rival = False  # two candidates

    def take(self, mention: Mention) -> bool:
        """Go on to the next number; False if the chain ends before it."""
        gap = self.text[self.last.end : mention.start]
        if gap[-1:] == "^" and gap[-2:-1].isalpha():
            self.last = mention  # 18 cm^2
            return True
        kind = self._kind(gap, mention)
        if not self.unfinished and same_quantity(self.text, self.last, mention):
            turned = kind == "equals"
            self.best, self.equivalent = (mention.value, self.best) if turned else (self.best, mention.value)
        elif kind in (None, "context") and self._restates(gap, mention):
            self.best, self.unfinished = mention.value, False
        elif kind is None or (kind == "list" and mention.value != self.best and counts_things(self.text, gap, mention)):
            return False
        elif kind == "context" or (self.remark and kind in UNFINISHED):
            self.rival = self._is_aside(gap, mention)
            self.remark = self.remark or SAYS_MORE.search(gap) is not None
            self.last = mention
            return not self.rival
        else:
            self._link(kind, gap, mention)
        self.last = self.end = mention
        return not self.rival

    def _kind(self, gap: str, mention: Mention) -> str | None:
        kind = link_between(gap, unfinished=self.unfinished or self.corrected)
        around = f"{gap}#{self.text[mention.end : mention.end + MAX_GAP]}"  # with # for the number
        if gap == "(":
            return "operator"  # 22(.50) = 11
        if _EXPLAINS.search(around) and kind in ("operator", "hedge", "list"):
            return None
        if kind == "context":
            fraction = "/" in self.text[self.last.start : self.last.end] and _OF.match(gap)
            if fraction or _SHARE.match(self.text, self.last.end - 1):
                return "operator"
            second = self.last is self.end and (
                _SECOND.search(around) or (_OF_MANY.match(around) and not self.calculated)
            )
            if self.is_answer_line and (second or not (self.remark or SAYS_MORE.search(gap))):
                return "list"
        if self.unfinished and kind in ("list", "both") and _TOTALLED.search(around):
            return "conclusion"
        return kind

    def _is_aside(self, gap: str, mention: Mention) -> bool:
        """True if another number stands alone in parentheses: `44 (typo, 45)`."""
        closed = self.text[mention.end : mention.end + 1] == ")"
        return closed and mention.value != self.best and _ASIDE.fullmatch(gap) is not None

    def _restates(self, gap: str, mention: Mention) -> bool:
        return _rounds(self.best, mention.value) or (self.compound and RESTATES.fullmatch(gap) is not None)

    def _link(self, kind: str, gap: str, mention: Mention) -> None:
        if kind in ("operator", "compound"):
            self.unfinished = self.calculated = True
            self.compound, self.contradicted = kind == "compound", False
        elif kind in ("equals", "result", "conclusion", "corrected"):
            if kind == "corrected":
                self.corrected = True  # by a number, or by what a calculation in words comes to
            else:
                self.rival = kind == "equals" and _TO_SOLVE.search(gap) is not None
                alone = self.last is self.end and not self.unfinished and not gap.strip(" ()=")
                self.contradicted = alone and not _agree(self.best, mention.value)  # 18 = 81
                self.left = self.left if self.unfinished else self.best
                self.calculated = True
            self.best, self.equivalent, self.unfinished, self.remark = mention.value, None, False, False
        elif kind in ("list", "both") and (self.unfinished or mention.value != self.best):
            self.unfinished, self.left = True, None
        elif mention.value != self.best:
            self.rival = True

    def reading(self) -> Reading:
        """The reading, once every linked number is taken."""
        text, end = self.text, self.end
        if self.rival:
            return Reading(None, text[self.first.start : end.end], end.end)
        best = self.left if self.unfinished else self.best  # `18 = 9 * 2` keeps 18; `9 * 2` alone is no answer
        undone = _UNDONE.match(text, end.end) or (self.is_answer_line and _MULTIPLE.match(text, end.end))
        if undone or (self.contradicted and not self.unfinished):
            best = None
        equivalent = self.equivalent
        if best is not None and equivalent is None:
            equivalent = single_things(text, end, best)
        whole = best is None or equivalent is not None
        span = text[(self.first if whole else end).start : end.end]
        return Reading(best, span, end.end, self.calculated, equivalent)


# Links after which a number alone is no answer
UNFINISHED = ("operator", "compound", "list", "both", "range")
_ASIDE = cue(r"[^(]*\((?!(?:out of|from|of|in|for|at|per|by|see|step|on|with|to|after)\b)(?:[a-z']+[,:;]? ){0,3}")
# In the patterns for the text around a number, # stands for it. An explanation is no link: `18 - 3 more than Ann`,
# `56 pages, or 8 a day`, "25 books; the $48 she earned isn't needed"
_EXPLAINS = cue(
    r"[-+] ?#(?: [a-z]+)? (?:more|less|fewer) than\b|[a-z],? or \$?#(?: per| an?| each)\b"
    r"|[,;] (?:the|her|his|their|its|those|these) #(?: [a-z]+)? (?:that|which|she|he|they|we|i|you)\b"
)
# A second quantity, of each thing or for another case: `5 dogs with 4 legs each`; `20; with pears 27`
_SECOND = phrases(r"""
    \s(with|of|at|holding|containing|having|costing|for)\W*#((\s+[a-z]+){0,2}(\s+in)?\s+(each|apiece|per)\b|/)
    \beach (with|has|have|having|holds|holding|contains|containing|costs|costing)\W*#
    [,;] ?(with|without|including|excluding|counting) (the )?[a-z]+\W*#( [a-z]+){0,2}\W*\Z
""")
_OF_MANY = re.compile(r"\s[a-z]+ (?:of|holding|containing) \$?#")  # 3 boxes of 6 pens
_TOTALLED = cue(r"#(?: [a-z]+){0,2} (?:(?:in )?total|altogether|in all|combined|overall)\b")  # 80 km, 140 km in total
_SHARE = re.compile(r"(?:%|.? ?percent) of ")
_OF = re.compile(r"\s*of (?:the )?\Z")  # 20% of 90
_TO_SOLVE = cue(r"[-+*/] ?[b-hj-z] ?=")  # 5 + x = 12

MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}\.?"
# Text after a number that makes it something else: `18 squared`, `18 < x`, `18 is not the answer`, `18 eggs?`
_THE = r"(?:the|her|his|its|their)"
_COSTS = r"(?:tax(?:es)?|tips?|costs?|price|discount|shipping|fees?|expenses|rent|interest|delivery|change|loss(?:es)?)"
_UNDONE = cue(
    r"!\s*[-+*/=]|-?ish\b|[,;]? ?\(?(?:doubled|tripled|halved|twice\W*\Z|(?:multiply|divide) by)\b|\+\s*(?:[a-z.]|\Z)"
    r"|\s*(?:[<>\u2717\u2718\u274c]|(?:squared|cubed|factorial|mod|choose|isn't|is (?:not|wrong))\b)|[^.!?\n]{0,30}\?"
    rf"| over [\d.,]+\W*\Z| {MONTH} \d{{4}}|(?<=%) of \d| percent of \d| (?:more|less|fewer) than \d"
    r"| or (?:more|less|fewer|higher|lower|greater|above|below)\b"
    r"|\(\d| / [knpqrxyz]\b|\s*[-+*^]\s*(?![ai]\b)[a-z]\b(?![.'])|(?: [a-z]+){0,3}(?:"  # 100 - y, 70 dollars + tax
    r" (?:increased|decreased|reduced|raised|lowered|multiplied|divided|doubled|tripled|halved|squared)\b| [+*] [a-z(]"
    rf"| (?:plus|minus|divided by|multiplied by)\b| times [b-hj-z]\b| [a-z]+ times (?:{_THE}|that)\b"
    rf"| less (?:{_THE}|an?)\b| - (?:{_THE} |any )?{_COSTS}\W*\Z)"
)
_MULTIPLE = cue(rf" times (?:{_THE}|that|what|as (?:many|much))\b")

_NOT = "not|never|cannot|except"
_FUNCTION = "sqrt|log|ln|sin|cos|tan|under|below|above|twice|double|triple|thrice"
_PART = "half|thirds?|quarters?|fifths?|tenths?|root|square|cube|percent|%|multiple"
# Text before a number that denies it or operates on it: `not 18`, `> 18`, `sqrt(18)`, `x + 18`, `f(18)`, `--18`
_OPERATES = cue(
    r"(?:(?:\A|[^a-z\d\s])\s*--|[a-z]\s*[+*^/]|(?:\A|[\s(=+*/])[b-hj-z] ?-|[a-z](?=\(\Z)|[!<>]=|<|(?<![-=])>"
    rf"|(?:\A|\s)(?:{_FUNCTION}|(?:more|less|fewer|greater) than|(?:{_PART}) of|anything but|(?:such|many|much) as"
    rf"|(?:{_NOT})(?: \S+)?)|n't(?: \S+)?)[ (]*\Z"
)


def unevaluated(text: str, mention: Mention) -> bool:
    """True if the text before a number says that the number is not the value that is meant."""
    return _OPERATES.search(text[max(0, mention.start - 20) : mention.start]) is not None


def _rounds(value: Number | None, other: Number | None) -> bool:
    """True if `other` is `value` rounded up or down to a whole number, as in "6.67, so 7 buses"."""
    whole = other is not None and Fraction(other).denominator == 1
    return whole and value not in (None, other) and _agree(value, other)


def _agree(value: Number | None, other: Number | None) -> bool:
    """True if both sides of an equation are equal, or the left one is a fraction less than 1 away."""
    if value is None or other is None or value == other:
        return True
    exact = Fraction(value)
    return exact.denominator != 1 and abs(exact - Fraction(other)) < 1
