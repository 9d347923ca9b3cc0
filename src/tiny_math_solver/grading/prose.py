"""Prose: the number that a sentence states as its result.

A sentence with an equals sign states what stands after the last one. Otherwise every number in it that is neither
withdrawn nor denied is a candidate, and two that close the sentence as alternatives leave no answer. Among several
candidates the one with the most points is the result: `result_points` adds them up from the word lists and patterns
below, and docs/grading.md works through examples.
"""

import re
from itertools import pairwise

from tiny_math_solver.grading.cues import HEDGE, HEDGED, cue, word_set
from tiny_math_solver.grading.gaps import LINKS, MAX_GAP
from tiny_math_solver.grading.links import MONTH, Reading, follow_links, unevaluated
from tiny_math_solver.grading.markup import plain
from tiny_math_solver.grading.numerals import Mention, Number, find_number_words, find_numerals, write_number
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
    return found._replace(value=None) if lead != "of" and lead in _CONTEXT_WORDS else found


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
    if bare in ("-", "+-", "to", "up to", "/") or HEDGED.search(gap):
        rival = True
    elif not final or _COMPARED.match(text, right.end):
        rival = False
    elif _LISTED.fullmatch(gap):
        rival = not lead.endswith((" in ", " on ", " by ")) and not counts_things(text, gap, right)
    else:
        rival = not signed and LINKS["operator"].fullmatch(gap) is not None
    return "rival" if rival and not same_quantity(text, left, right) else None


_OWNER = re.compile(r"\b([A-Z][a-z]+)\b(?: (?:will|would|can|should)\b)?(?: ([a-z]+)(?: [a-z]+){0,2})? \Z")


def _owners(text: str, mentions: list[Mention]) -> list[tuple[Mention, str]] | None:
    """The name that owns each number of a sentence such as "Tom has 18 eggs and Ann has 12"; None of any other."""
    owners: list[tuple[Mention, str]] = []
    verb, end = None, 0
    for mention in mentions:
        match = _OWNER.search(text, end, mention.start)
        if match is None or (match[2] not in (verb, None) if owners else match[2] is None):
            return None
        verb, end = verb or match[2], mention.end
        owners.append((mention, match[1]))
    return owners if len({name for _, name in owners}) == len(owners) else None


# The points of `result_points`
AFTER_RESULT_WORD = 4  # "is", "makes", "a total of"
AFTER_OTHER_WORD = 2
AFTER_CONTEXT_WORD = 0  # "for", "in", "after"; also of a number in an adjective ("40-minute") or in a purpose
IN_ASIDE = -4  # a subordinate clause or parentheses
IN_LAST_CLAUSE = 3
IN_CONCLUSION = 6  # a last clause that begins with a word such as "so"
COMPUTED = 3  # equals what the last equation before the sentence comes to
NOT_ONE_NUMBER = -6  # such as 2:30
NEW_IN_TEXT = 2  # does not occur in the completion before the sentence
NEW_IN_QUESTION = 3  # does not occur in the question, if that is known


def result_points(text: str, mentions: list[Mention], before: str, question: str) -> list[int]:
    """The points of every number of a sentence: the more, the more signs of being its result."""
    computed = _last_result(before)
    asides = [match.span() for match in _SUBORDINATE.finditer(text)]
    clauses = list(_CLAUSE.finditer(text[mentions[0].end : mentions[-1].start]))
    main = mentions[0].end + clauses[-1].end() if clauses else 0  # where the last clause begins
    concluded = text[main - 1 : main].isalpha()  # with a word, not a comma

    def points_of(mention: Mention) -> int:
        points = _lead_points(text, mention, is_first=mention is mentions[0])
        if any(start <= mention.start < end for start, end in asides):
            points += IN_ASIDE
        elif mention.start >= main:
            points += IN_CONCLUSION if concluded else IN_LAST_CLAUSE
        if mention.value is None:
            points += NOT_ONE_NUMBER
        if mention.value == computed:
            points += COMPUTED
        number = text[mention.start : mention.end]
        if number.isalpha() and mention.value is not None:
            digits = write_number(mention.value)
            known = [number.lower() in known.lower() or _occurs(digits, known) for known in (before, question)]
        else:
            known = [_occurs(number, before), _occurs(number, question)]
        if not known[0]:
            points += NEW_IN_TEXT
        if question and not known[1]:
            points += NEW_IN_QUESTION
        return points

    return [points_of(mention) for mention in mentions]


def _lead_points(text: str, mention: Mention, *, is_first: bool) -> int:
    """The points for the words around a number; pronouns are skipped, as in "gives her 18"."""
    lead = text[max(0, mention.start - 30) : mention.start]
    if _ADJECTIVE.match(text, mention.end) or (not is_first and " to " in lead and _PURPOSE.search(lead)):
        return AFTER_CONTEXT_WORD
    words = [word for word in lead.lower().rstrip(" -").split() if word not in _OBJECTS][-2:] or [""]
    if not _RESULT_WORDS.isdisjoint((words[-1], words[-1].removesuffix("s"))) or " ".join(words) in _RESULT_PAIRS:
        return AFTER_RESULT_WORD
    return AFTER_CONTEXT_WORD if words[-1] in _CONTEXT_WORDS else AFTER_OTHER_WORD


_RESULT_WORDS = word_set(  # with or without a final s
    "is are was were be been total equal make made earn earned have has had cost pay paid need take spent spend get"
    " save receive give leaving worth become only exactly approximately about sold sell use used ate eat"
)
_OBJECTS = word_set("her him them us")
_RESULT_PAIRS = {"total of", "sum of", "average of", "profit of", "maximum of", "minimum of", "left with"}
_CONTEXT_WORDS = word_set(
    "for in after of per every from with at by within during over than each the if these those all both other"
    " first next last plus minus day week step age her his their another and"
)
_SUBORDINATE = cue(
    r"(?<=\d)(?: [\w'-]+){1,12} (?:if|because|since|assuming|provided|so that)\b(?:(?!,? (?:so|then)\b).)*"
    r"|\b(?:by [a-z]+ing|knowing|because|since|after|if|when|given|while|before|assuming|provided|where|who"
    r"|from which|out of|so that|that costs?"
    r"|which (?:is|are|was) (?:the|a|an|how|[\d.,]+ (?:more|less|fewer|times)))\b[^,;]*|\([^()]*\)|\bi\.e\..*",
)
_CLAUSE = cue(
    r"\b(?:so(?! that)|therefore|thus|hence|then)\b|,",
)
_PURPOSE = re.compile(
    r"(?<! by \d )(?<! by \d\d )(?<!need )(?<!needs )(?<!has )(?<!have )(?<!had )\bto [a-z]+(?: [a-z]+){0,4}\s*$"
)
_COMPARED = re.compile(
    r" (?:of (?:which|whom|them|these|those)|times (?:as|more|the|that|what|his|her)|as (?:much|many)"
    r"|(?:more|less|fewer) than)\b"
)
_ADJECTIVE = re.compile(rf"{_COMPARED.pattern}|-[a-z]")


def _last_result(text: str) -> Number | None:
    """The number after the last `=` of the text."""
    at = text.rfind("=")
    right = plain(text[at + 1 : at + 32]) if at >= 0 else ""
    mentions = find_numerals(right, most=1)
    return mentions[0].value if mentions and not right[: mentions[0].start].strip(" (-") else None


def _occurs(number: str, text: str) -> bool:
    """True if the text contains the number, and not only as part of a longer one."""
    at = text.rfind(number)
    for _ in range(8):
        if at < 0:
            return False
        if not text[at - 1 : at].isdigit() and not text[at + len(number) : at + len(number) + 1].isdigit():
            return True
        at = text.rfind(number, 0, at)
    return False
