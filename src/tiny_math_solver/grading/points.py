"""Points: the signs that a number of a sentence is its result, added up; docs/grading.md works through examples."""

import re

from tiny_math_solver.grading.cues import any_of, cue, word_set
from tiny_math_solver.grading.markup import plain
from tiny_math_solver.grading.numerals import Mention, Number, find_numerals, write_number

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
        forms = [number.lower()]
        if number.isalpha() and mention.value is not None:
            forms.append(write_number(mention.value))
        if not _occurs(forms, before):
            points += NEW_IN_TEXT
        if question and not _occurs(forms, question):
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
    return AFTER_CONTEXT_WORD if words[-1] in CONTEXT_WORDS else AFTER_OTHER_WORD


_RESULT_WORDS = word_set(  # with or without a final s
    "is are was were be been total equal make made earn earned have has had cost pay paid need take spent spend get"
    " save receive give leaving worth become only exactly approximately about sold sell use used ate eat"
)
_OBJECTS = word_set("her him them us")
_RESULT_PAIRS = {"total of", "sum of", "average of", "profit of", "maximum of", "minimum of", "left with"}
CONTEXT_WORDS = word_set(
    "for in after of per every from with at by within during over than each the if these those all both other"
    " first next last plus minus day week step age her his their another and"
)
_SUBORDINATE = cue(
    r"(?<=\d)(?: [\w'-]+){1,12} (?:if|because|since|assuming|provided|so that)\b(?:(?!,? (?:so|then)\b).)*"
    r"|\b(?:by [a-z]+ing|knowing|because|since|after|if|when|given|while|before|assuming|provided|where|who"
    r"|(?:up|down) from|from which|out of|so that|that costs?"
    r"|which (?:takes?|costs?|lasts?|weighs?|holds?|includes?|contains?|covers?)"
    r"|which (?:is|are|was) (?:the|a|an|how|[\d.,]+ (?:more|less|fewer|times)))\b[^,;]*|\([^()]*\)|\bi\.e\..*",
)
_CLAUSE = cue(r"\b(?:so(?! that)|therefore|thus|hence|then)\b|,")
_PURPOSE = re.compile(
    r"(?<! by \d )(?<! by \d\d )(?<!need )(?<!needs )(?<!has )(?<!have )(?<!had )\bto [a-z]+(?: [a-z]+){0,4}\s*$"
)
_MORE = any_of("""
    more|less|fewer|older|younger|taller|shorter|longer|heavier|lighter|faster|slower|higher|lower|larger|smaller|bigger
""")
COMPARED = re.compile(
    r" (?:of (?:which|whom|them|these|those)|times (?:as|more|the|that|what|his|her)|as (?:much|many)"
    rf"|(?:[a-z]+ )?{_MORE} than)\b"
)
_ADJECTIVE = re.compile(rf"{COMPARED.pattern}|-[a-z]")


def _last_result(text: str) -> Number | None:
    """The number after the last `=` of the text."""
    at = text.rfind("=")
    right = plain(text[at + 1 : at + 32]) if at >= 0 else ""
    mentions = find_numerals(right, most=1)
    return mentions[0].value if mentions and not right[: mentions[0].start].strip(" (-") else None


def _occurs(forms: list[str], text: str) -> bool:
    """True if the text contains the number in one of its forms, and not only as part of a longer one."""
    lower = text.lower()
    for number in forms:
        at = lower.rfind(number)
        for _ in range(8):
            if at < 0:
                break
            if not lower[at - 1 : at].isdigit() and not lower[at + len(number) : at + len(number) + 1].isdigit():
                return True
            at = lower.rfind(number, 0, at)
    return False
