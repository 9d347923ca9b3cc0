"""The closing sentence: the result that a completion without a marker states at its end.

Lines are read from the last one up, sentence by sentence. Pleasantries, remarks and up to four sentences without a
number are passed over; the first sentence that remains decides. A question, a refusal, a plan, an option, two cases or
a copy of the prompt states no result.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from tiny_math_solver.grading.cues import CONCLUDES, HEADING, cue, phrases
from tiny_math_solver.grading.links import Reading, read_opening
from tiny_math_solver.grading.markup import last_characters, plain, sentences
from tiny_math_solver.grading.numerals import find_number_words, find_numerals, parse_number
from tiny_math_solver.grading.prose import read_sentence
from tiny_math_solver.grading.refusals import OTHERWISE, refuses
from tiny_math_solver.grading.working import ENTRY, ITEM

MAX_TAIL = 4000  # characters read at the end of the text
MAX_LINE = 800  # characters read of one line
MAX_LINES = 12
MAX_SENTENCES_WITHOUT_NUMBER = 4
COPIED_SENTENCE = 16  # characters of a sentence from which it is a copy of the prompt, not a coincidence


def read_closing(text: str, question: str | None) -> Reading:
    """The result stated by the last sentence with a number in it, if only pleasantries and remarks follow."""
    body = last_characters(text[-16 * MAX_TAIL :].rstrip(), MAX_TAIL)
    if "\n---" in body and (foot := _FOOTNOTE.search(body)):
        body = body[: foot.start()]
    if body.endswith(("}", "}\n```")) and (keys := list(_KEY.finditer(body))):
        value = plain(body[keys[-1].end() : keys[-1].end() + MAX_LINE])
        return read_opening(value, find_numerals(value), is_answer_line=False) or Reading(None, value, 0)
    without_number = 0
    for sentence, ahead, line, line_above in _from_the_end(body):
        words = plain(sentence)
        words = words[_ITEM.match(words).end() :].strip()  # type: ignore[union-attr]
        nothing = Reading(None, words, 0)
        if _PLEASANTRY.search(words):
            continue
        if words.endswith("?") or refuses(words) or _UNSETTLED.search(words):
            return nothing
        if not _DIGIT.search(words) and not _has_number_word(words):
            without_number += 1
            if without_number > MAX_SENTENCES_WITHOUT_NUMBER or _cut_off(words):
                return nothing
            continue
        if _REMARK.match(words) and (ahead or line_above):
            continue
        copied = question and len(sentence) >= COPIED_SENTENCE and sentence.strip() in question
        if copied or _is_list(line_above, line) or _states_no_result(words) or refuses(ahead):
            return nothing
        before = body[: body.rfind(sentence)]
        return _read_bold(sentence) or read_sentence(last_characters(words, MAX_LINE // 2), before, question)
    return Reading(None, "", 0)


def _from_the_end(body: str) -> Iterator[tuple[str, str, str, str]]:
    """The sentences from the last one back, each with the one before it in its line, its line, and the line above."""
    lines = [line for line in body.rsplit("\n", MAX_LINES)[-MAX_LINES:] if line.strip(" \r\t$`-#*[]\\|")]
    for line, above in pairwise([*reversed(lines), ""]):
        parts = sentences(last_characters(line, MAX_LINE))
        for place in range(len(parts) - 1, -1, -1):
            yield parts[place], parts[place - 1] if place else "", line, above


def _states_no_result(words: str) -> bool:
    """True of an option, a supposition, a plan and of two cases."""
    planned = _PLAN.match(words) and not _GIVES.search(words)
    return bool(planned or _NO_RESULT.search(words) or OTHERWISE.search(words))


_DIGIT = re.compile(r"\d")
_FOOTNOTE = re.compile(r"\n-{3,}\s*\n[*_(][^\n]*[*_)]\Z")
_KEY = cue(r'"(?:final_?)?(?:result|solution|value|total|output)"\s*:')  # {"result": 18}
_ITEM = cue(rf"[#>\s]*(?:{HEADING}\s*#?\d{{1,2}}\b[.):]?|\d{{1,2}}[.):]\s+|[-*\u2022]\s+)?")
_PLEASANTRY = phrases(r"""
    would you like|do you (have|need|want)|let me know|feel free|(i )?hope (this|that|it)|happy to help
    is there anything|does (this|that|it) (help|make)|any (other |more )?questions|(can|may) i (help|assist)
""")
_REMARK = cue(
    r"\W*(?:note\b|this assumes|remember|(?:(?:let me|let'?s|to|we can) )?(?:check|verify|double.check)|verif|proof"
    r"|explanation|(?<=\()[^()]*[a-z]{3}[^()]*\)\W*\Z|if [^.,]{0,80}\b(?:had|were)\b[^.,]*, [^.]*\bwould\b"
    r"|(?:assuming|(?:(?:this|that|it) is |that's )?because)\b(?!.*, .*\d))"
)
_NO_RESULT = phrases(r"""
    ^\W*((option|choice|candidate|possibility)\s*\w{1,2}|answer\s*#?\d|possible( \w+)?)\s*[:.)]
    ^\W*((my|the) )?(first|second|third|another|alternative) (answer|option|choice|guess|possibility)\b
    ^\W*(suppose|assume|imagine)\b|\byour (final )?answer (should|must|in)\b
""")
_ADD = r"(?:add|subtract|multipl[yi]|divid|convert|deduct|combin|doubl|tripl|halv)(?:e|es|ed|s)?\b(?!.*[=\d])"
_UNSETTLED = phrases(rf"""
    \b(is|was|be|that's) ([a-z]+ly )?(incorrect|wrong|not (right|correct|the (\w+ )?answer))\b
    \b(we|i|you|she|he|they) (still |now |then |just |only )*(needs?|has|have|must) ((still|now|then|also|to) )*{_ADD}
    ^\W*(next|now|then),? (we |i )?(must |have to |need to )?{_ADD}
    \b(must|has to|have to|needs? to|should) (now |then |still )?be {_ADD}
""")  # denied, or unfinished: "We still have to add the eggs", "Next, multiply by the price"
_PLAN = cue(
    r"\W*(?:let'?s|let us|we (?:need|have) to|now,? (?:we(?! (?:know|have|see)\b)|let)|next,? (?:we|let)|first,"
    r"|to (?:find|calculate|determine|solve))\b"
)
_GIVES = cue(r"=|\b(?:gives?|giving|leaving|(?:to|we) get|so|which (?:is|makes|leaves))\b")  # add 2, which gives 18
_SIGN_OFF = cue(r"\b(?:hope|help|answer|final|done|correct|thank|enjoy|glad|luck|questions?)\b")


def _has_number_word(text: str) -> bool:
    """True if a sentence contains one number in words; "one" counts in a conclusion only ("the one we want")."""
    mentions = find_number_words(text)
    several = [mention for mention in mentions if mention.value != 1]
    return len(several or mentions) == 1 and bool(several or CONCLUDES.match(text))


def _cut_off(text: str) -> bool:
    """True of text that ends in the middle of a sentence, unless it reads like a sign-off."""
    return not text.endswith((".", "!", ":", ")")) and " " in text and not _SIGN_OFF.search(text)


def _read_bold(sentence: str) -> Reading | None:
    """The number in bold type, if only part of the sentence is bold."""
    bold = [part for part in sentence.split("**")[1::2] if _DIGIT.search(part)]
    if not bold or len(bold[-1]) >= len(sentence) - 6 or (len(bold) > 1 and "=" not in sentence):
        return None
    inner = plain(bold[-1])
    return read_opening(inner, find_numerals(inner), is_answer_line=False)


_LABEL = cue(r"^\W*(?:(?:case|option|possibility|scenario) )?(?:[A-E]|\d{1,2})[.):]\s")
_SUM = cue(
    r"total|sum|answer|result|final|altogether|all|left|remain|together|combined|average|difference|overall|profit|cost"
    r"|\b[xyznt]\b"
)


def _is_list(line: str, other: str) -> bool:
    """True if two lines are different bare numbers, as in a list of guesses, or each give a number to a name."""
    if not line or len(other) > 40 or len(line) > 40:
        return False
    one, two = ENTRY.fullmatch(plain(line)), ENTRY.fullmatch(plain(other))
    named = one and two and (one["name"] or two["name"] or (ITEM.match(line) and ITEM.match(other)))
    if one and two and named and not _SUM.search(two["name"] or ""):  # - Tom: 18 marbles
        return parse_number(one["number"]) != parse_number(two["number"])
    value = parse_number(_LABEL.sub("", line))
    return value is not None and parse_number(_LABEL.sub("", other)) not in (None, value)
