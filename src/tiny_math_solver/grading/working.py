"""Working under or on an answer line: headings, lists and equations in which no single line is the answer."""

import re

from tiny_math_solver.grading.cues import CONFIRMED, HEADING, REMARK, any_of, cue

MAX_LOOK = 400  # characters read below a line

# "- Tom: 18 marbles", "Ann has 20" are entries of a list; the total of one is its result
ENTRY = re.compile(
    r"\W*(?:\d{1,2}[.)]\s+)?(?:(?P<name>[A-Za-z][\w' ]{0,20}?)\s*(?::|=|->|-)\s*)?(?P<number>\d[\d,.]*\d"
    r"|\d)%?(?: [a-z]+){0,3}\W*"
)
_GOES_ON = any_of(r"""
    wait|actually|but|so|note|thanks?|however|no|oops|sorry|hmm+|i|i'm|it|it's|this|that|that's|correct|correction|hold
    scratch|on|let me|my|because|since|done|good|hope|or|not|maybe|perhaps|possibly|if|unless|oh|ah|er|please|redo\w*
    recalculat\w*|alternatively|otherwise|depending|though|although|unfortunately|honestly|just|never|whoops
""")
# "2. Selling the eggs" is a heading, "18. But I forgot ..." an answer and a remark
HEADING_LINE = cue(rf"\W*(?:{HEADING}\s*#?\d|(?:1?\d|20)[.):]\s+(?!{_GOES_ON}\b)[A-Z])")
# 1) 16 - 7 = 9 2) 9 * 2 = 18
NUMBERED = re.compile(r"(?:\A|.{0,40}[:\s])\W{0,4}1[.):]\s+\S.*?[\s;,.]\(?2[.):]\s+\S")
_NAME = r"(?:[A-Z][a-z]+ ){1,2}\W?\d[\d.,]*(?: [a-z]+)?"
NAMED = re.compile(rf"\W*{_NAME}(?:\s*(?:[,;]|and)\s*(?:and )?{_NAME})+\W*")  # Monday 5, Tuesday 7
# The beginning of an item of a list
ITEM = cue(r"[ \t]*(?:[-*+\u2022]|\(?\d{1,2}[.):]|\(?[a-h][.)]|step \d+[.:)]?)[ \t]+(?=\S)")


def is_list(line: str, text: str, end: int) -> bool:
    """True if a line that ends at `end` of the text is the first item of a list, or its first entry."""
    below = _next_line(text, end)
    entries = (ENTRY.fullmatch(part) for part in (line, below))
    return bool(ITEM.match(line) and ITEM.match(below)) or all(entry and entry["name"] for entry in entries)


def is_open(line: str) -> bool:
    """True if a line is an expression with a variable and no equals sign: `x/2 + 9`."""
    return "=" not in line and _OPEN.search(line) is not None


def works_on(text: str, end: int) -> bool:
    """True if the line after `end` is an equation that goes on with the working, and no check of it."""
    line = _next_line(text, end)
    return _EQUATION.search(line) is not None and not (REMARK.match(line) or CONFIRMED.search(line))


def _next_line(text: str, end: int) -> str:
    below = text[end : end + MAX_LOOK]
    return "" if "\n" not in below else below.partition("\n")[2].lstrip("\n\r \t").partition("\n")[0]


_OPEN = re.compile(
    r"\b[a-z] ?[-+*^] ?[a-z]\b|\b[kny] ?\^ ?\d|(?:\A|[\s(+*/-])[b-hj-wyz] ?[-+*/] ?[\d(]|(?:\A|[\s(])x ?[-+*/^] ?[\d(]"
    r"|\d ?[-+*^] ?[b-hj-z](?![\w'.])"
)
_EQUATION = re.compile(r"\d[^=\n]{0,60}?[-+*/x\u00d7\u00f7][^=\n]{0,60}?\d[^=\n]{0,30}=")
