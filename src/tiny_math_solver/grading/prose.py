"""Prose: the number that a sentence states as its result.

A sentence with an equals sign states what stands after the last one. Otherwise every number in it that is neither
withdrawn nor denied is a candidate, and two that close the sentence as alternatives leave no answer. Among several
candidates the one with the most points is the result.
"""

import re
from itertools import pairwise

from tiny_math_solver.grading.cues import HEDGE, HEDGED, cue
from tiny_math_solver.grading.gaps import LINKS, MAX_GAP
from tiny_math_solver.grading.links import MONTH, Reading, follow_links, unevaluated
from tiny_math_solver.grading.numerals import Mention, find_number_words, find_numerals
from tiny_math_solver.grading.points import COMPARED, CONTEXT_WORDS, result_points
from tiny_math_solver.grading.retractions import CORRECTED
from tiny_math_solver.grading.units import counts_things, same_quantity, single_things


def read_sentence(text: str, before: str = "", question: str | None = None) -> Reading:
    """The number that a sentence states as its result; `before` is the working that leads up to it."""
    nothing = Reading(None, text[-80:], len(text))
    if len(text) < MAX_GAP and _NO_NUMBER.fullmatch(text):
        return nothing
    if ")" in text and (aside := _WORKING.search(text)) and _DIGIT.search(text, 0, aside.start()):
        text = text[: aside.start()]
    equals = max(text.rfind("="), text.rfind("->"))
    if " equal" in text:
        equals = max(equals, text.rfind(" equals "), text.rfind(" equal to "))
    found = _read_equation(text, equals) if equals >= 0 else _read_prose(text, before, question or "")
    return found or nothing


def read_line_sentence(text: str) -> Reading:
    """As `read_sentence`, for an answer line: a number after a word such as "the" or "for" is not its result."""
    found = read_sentence(text)
    lead = text[: text.rfind(found.span)].lower().rstrip(" -$").rpartition(" ")[2] if found.value is not None else ""
    return found._replace(value=None) if lead != "of" and lead in CONTEXT_WORDS else found


def _read_equation(text: str, equals: int) -> Reading | None:
    """The right side of the equals sign at `equals`, or the left one if the right is a name: `6 = x`."""
    if _UNSOLVED.search(text, 0, equals):
        return None
    if right := find_numerals(text, equals):
        return follow_links(text, right)
    left = find_numerals(text)
    if left and text[equals + 1 :].strip(" .)") and not text[left[-1].end : equals].strip(" )"):
        return Reading(left[-1].value, text[left[-1].start :], len(text))
    return None


def _read_prose(text: str, before: str, question: str) -> Reading | None:
    mentions = [mention for mention in _sentence_numbers(text) if not unevaluated(text, mention)]
    for index in range(len(mentions) - 1, 0, -1):
        relation = _relation(text, mentions, index)
        if relation == "corrected":
            mentions = mentions[index:]
            break
        if relation == "pair" and len(mentions) > 2:  # the difference between 30 and 12 is 18
            del mentions[index - 1 : index + 1]
            break
        if relation:
            return Reading(None, text[mentions[index - 1].start : mentions[index].end], len(text))
    if not mentions:
        return None
    if len({mention.value for mention in mentions}) == 1:
        chosen = mentions[-1]
        batch = None if chosen.value is None else single_things(text, chosen, chosen.value)
        return Reading(chosen.value, text[chosen.start : chosen.end], len(text), equivalent=batch)
    if not _WORDED.search(text):
        return None
    if owners := _owners(text, mentions):
        asked = [mention for mention, name in owners if name in question.rpartition(". ")[2]]
        if len(asked) != 1:
            return None
        chosen = asked[0]
    else:
        points = result_points(text, mentions, before, question)
        best = max(points)
        equal = [mention for mention, mine in zip(mentions, points, strict=True) if mine == best]
        if len({text[mention.start].isalpha() for mention in equal}) > 1:
            return None  # Six bags hold 54 oranges
        chosen = equal[-1]
    equivalents = (
        pair[pair[0] is chosen].value for pair in pairwise(mentions) if chosen in pair and same_quantity(text, *pair)
    )
    return Reading(chosen.value, text[chosen.start : chosen.end], len(text), equivalent=next(equivalents, None))


_DIGIT = re.compile(r"\d")
_WORKING = re.compile(r"(?<!=)\s\([^()]*\d\s*[-+*/=][^()]*\)\W*\Z")  # She makes 18 a day (9 * 2)
_UNSOLVED = re.compile(r"(?:\d[xyz]|\b[xyz] ?[-+*/] ?[\d.]+|[\d.] ?[-+*/] ?[xyz])\s*\Z")  # 2x = 36, x + 2 = 20
_WORDED = re.compile(r"[A-Za-z=\u0080-\uffff]")
_NO_NUMBER = re.compile(  # nothing but a bound or a date
    rf"\W*(?:(?:it )?is )?(?:(?:up to|at least|at most|(?:no|not) (?:more|less|fewer) than)\W*[\d.,]+(?: [a-z]+){{0,2}}"
    rf"|(?:on )?{MONTH} \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?)\W*",
    re.I,
)


def _sentence_numbers(text: str) -> list[Mention]:
    """The numbers of a sentence in digits, and those in words that open it or follow a result word."""
    numerals, words = find_numerals(text), find_number_words(text)
    if not numerals or not words:
        return numerals or words
    ends = [numeral.end for numeral in numerals]
    counted = [
        word
        for word in words
        if word.value not in (None, 1)
        and not _PART_OF.match(text, word.end)
        and (_COUNTS.search(text[: word.start]) or any(_OR.fullmatch(text, end, word.start) for end in ends))
    ]
    return sorted([*numerals, *counted], key=lambda mention: mention.start) if counted else numerals


_COUNTS = re.compile(
    r"(?:\A\W*(?:(?:so|therefore|thus|hence|then|finally|now|overall|in total|in all),? )?"
    r"|\b(?:needs?|requires?|is|are|buys?|gets?|makes?|has|have|takes?|total of) (?:about |exactly |only "
    r"|at least )?)\Z",
    re.IGNORECASE,
)
_OR = cue(rf"[^\d.]{{0,24}}\b{HEDGE}\b\W*")
_PART_OF = re.compile(
    r"-| (?:of|times|more|less|fewer|other|friends?|people|types?|kinds?|boys?|girls?|men|women|sisters?|brothers?"
    r"|hundred|\d)"
)
_LISTED = re.compile(r"[\s%)]*[,;]\s*(?:and )?(?:\w+\s*[:=]\s*)?[(\s]*|\s+|\s*\(?[A-E][).:]\s*", re.IGNORECASE)
_REASON = cue(r"\b(?:because|since|as|from)\b")
_PAIR = re.compile(r"\b(?:between|from|either|sum of|product of|difference of)\s*$", re.IGNORECASE)


def _relation(text: str, mentions: list[Mention], index: int) -> str | None:
    """The relation of a number to the one before: "corrected" from it, its "rival", a "pair" with it, or None.

    Prose lists its givens ("3 cats and 4 dogs"), so two numbers are rivals only if they close the sentence.
    """
    left, right = mentions[index - 1], mentions[index]
    gap = text[left.end : right.start]
    bare = gap.strip(" ,;")
    if CORRECTED.search(gap):
        return "corrected"
    if left.value == right.value or len(gap) > MAX_GAP:
        return None
    final = index == len(mentions) - 1
    signed = gap.endswith("-") and right.value is not None and right.value < 0
    lead = text[max(0, left.start - 20) : left.start]
    if LINKS["compound"].fullmatch(gap) or (bare in ("and", "to", "up to", "-") and _PAIR.search(lead)):
        return "pair"
    following = "" if final else text[right.end : mentions[index + 1].start]
    if LINKS["result"].fullmatch(following) and LINKS["operator"].fullmatch(gap):
        return "pair"  # 170 - 60 is 110
    if bare in ("-", "+-", "to", "up to", "/") or HEDGED.search(gap) or (bare == "and" and final and index == 1):
        rival = True
    elif not final or COMPARED.match(text, right.end):
        rival = False
    elif _LISTED.fullmatch(gap):
        rival = not lead.endswith((" in ", " on ", " by ")) and not counts_things(text, gap, right)
    else:
        rival = not signed and LINKS["operator"].fullmatch(gap) is not None
        if rival and _REASON.search(text, mentions[0].end, left.start):
            return "pair"  # It is 18 because of 9 * 2
    return "rival" if rival and not same_quantity(text, left, right) else None


_NO_LIST = cue(r"\b(?:when|while|if|because|since|so|therefore|thus|then)\b")
_OWNER = re.compile(r"\b([A-Z][a-z]+)\b(?: (?:will|would|can|should)\b)?(?: ([a-z]+)(?: [a-z]+){0,2})? \Z")


def _owners(text: str, mentions: list[Mention]) -> list[tuple[Mention, str]] | None:
    """The name that owns each number of a sentence such as "Tom has 18 eggs and Ann has 12"; None of any other."""
    owners: list[tuple[Mention, str]] = []
    verb, end = None, 0
    for mention in mentions:
        match = _OWNER.search(text, end, mention.start)
        if match is None or (owners and _NO_LIST.search(text, end, mention.start)):
            return None
        if match[2] not in (verb, None) if owners else match[2] is None:
            return None
        verb, end = verb or match[2], mention.end
        owners.append((mention, match[1]))
    return owners if len({name for _, name in owners}) == len(owners) else None
