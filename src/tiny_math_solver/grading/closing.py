"""The closing sentence: the result that a completion without a marker states at its end.

Lines are read from the last one up, sentence by sentence. Pleasantries, remarks and up to four sentences without a
number are passed over; the first sentence that remains decides. A question, a refusal, a plan, an option, two cases or
a copy of the prompt states no result.
"""

import re

from tiny_math_solver.grading.cues import HEADING, concludes, cue
from tiny_math_solver.grading.links import Reading, read_opening
from tiny_math_solver.grading.markup import last_characters, plain, sentences
from tiny_math_solver.grading.numerals import find_number_words, find_numerals, parse_number
from tiny_math_solver.grading.prose import read_sentence
from tiny_math_solver.grading.refusals import has_two_cases, refuses
from tiny_math_solver.grading.working import ENTRY, is_item

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
    lines = [line for line in body.rsplit("\n", MAX_LINES)[-MAX_LINES:] if line.strip(" \r\t$`-#*[]\\|")]
    without_number = 0
    for index in range(len(lines) - 1, -1, -1):
        line_sentences = sentences(last_characters(lines[index], MAX_LINE))
        for place in range(len(line_sentences) - 1, -1, -1):
            sentence = line_sentences[place]
            words = plain(sentence)
            words = words[_ITEM.match(words).end() :].strip()  # type: ignore[union-attr]
            if _PLEASANTRY.search(words):
                continue
            nothing = Reading(None, words, 0)
            if words.endswith("?") or refuses(words) or _DENIED.search(words) or _UNFINISHED.search(words):
                return nothing
            if not _DIGIT.search(words) and not _has_number_word(words):
                without_number += 1
                if without_number > MAX_SENTENCES_WITHOUT_NUMBER or _cut_off(words):
                    return nothing
                continue
            if _REMARK.match(words) and (index or place):
                continue
            copied = question and len(sentence) >= COPIED_SENTENCE and sentence.strip() in question
            listed = index and _is_list(lines[index - 1], lines[index])
            if copied or listed or _states_no_result(words, line_sentences, place):
                return nothing
            before = body[: body.rfind(sentence)]
            return _read_bold(sentence) or read_sentence(last_characters(words, MAX_LINE // 2), before, question)
    return Reading(None, "", 0)


def _states_no_result(words: str, line_sentences: list[str], place: int) -> bool:
    """True of an option, a supposition, a plan, of two cases, and of a sentence that follows a refusal."""
    return bool(
        _NO_RESULT.search(words)
        or (_PLAN.match(words) and "=" not in words)
        or (place and refuses(line_sentences[place - 1]))
        or has_two_cases(words)
    )


_DIGIT = re.compile(r"\d")
_FOOTNOTE = re.compile(r"\n-{3,}\s*\n[*_(][^\n]*[*_)]\Z")
_KEY = re.compile(r'"(?:final_?)?(?:result|solution|value|total|output)"\s*:', re.IGNORECASE)  # {"result": 18}
_ITEM = re.compile(rf"[#>\s]*(?:{HEADING}\s*#?\d{{1,2}}\b[.):]?|\d{{1,2}}[.):]\s+|[-*\u2022]\s+)?", re.IGNORECASE)
_PLEASANTRY = cue(
    r"would you like|do you (?:have|need|want)|let me know|feel free|(?:i )?hope (?:this|that|it)|happy to help"
    r"|does (?:this|that|it) (?:help|make)|any (?:other |more )?questions|(?:can|may) i (?:help|assist)"
    r"|is there anything",
)
_REMARK = re.compile(
    r"\W*(?:note\b|this assumes|remember|(?:(?:let me|let'?s|to|we can) )?(?:check|verify|double.check)|verif|proof"
    r"|explanation|(?<=\()[^()]*[a-z]{3}[^()]*\)\W*\Z"
    r"|if [^.,]{0,80}\b(?:had|were)\b[^.,]*, [^.]*\bwould\b"
    r"|(?:assuming|(?:(?:this|that|it) is |that's )?because)\b(?!.*, .*\d))",
    re.IGNORECASE,
)
_NO_RESULT = cue(
    r"^\W*(?:(?:option|choice|candidate|possibility)\s*\w{1,2}|answer\s*#?\d)\s*[:.)]"
    r"|^\W*(?:suppose|assume|imagine)\b|\byour (?:final )?answer (?:should|must|in)\b",
)
_UNFINISHED = cue(  # "We still have to add the eggs", "Next, multiply by the price"
    r"(?:\b(?:we|i|you|she|he|they) (?:still |now |then |just |only )*(?:need|needs|have|has|must)"
    r" (?:(?:still|now|then|also|to) )*|^\W*(?:next|now|then),? (?:we |i )?(?:must |have to |need to )?)"
    r"(?:add|subtract|double|triple|halve|multiply|divide|convert|deduct|combine)\b(?!.*[=\d])"
    r"|\b(?:must|has to|have to|needs? to|should) (?:now |then |still )?be (?:added|doubled|tripled|halved|multiplied"
    r"|divided|subtracted|converted)\b(?!.*[=\d])",
)
_PLAN = re.compile(
    r"\W*(?:let'?s|let us|we (?:need|have) to|now,? (?:we|let)|next,? (?:we|let)|first,"
    r"|to (?:find|calculate|determine|solve))\b",
    re.IGNORECASE,
)
_DENIED = cue(
    r"\b(?:is|was|be|that's) (?:[a-z]+ly )?(?:incorrect|wrong|not (?:right|correct|the (?:\w+ )?answer))\b",
)
_SIGN_OFF = re.compile(
    r"\b(?:hope|help|answer|final|done|correct|thank|enjoy|glad|check|questions?|solution|therefore)\b", re.IGNORECASE
)


def _has_number_word(text: str) -> bool:
    """True if a sentence contains one number in words; "one" counts in a conclusion only ("the one we want")."""
    mentions = find_number_words(text)
    return len(mentions) == 1 and (mentions[0].value != 1 or concludes(text))


def _cut_off(text: str) -> bool:
    """True of text that ends in the middle of a sentence, unless it reads like a sign-off."""
    return not text.endswith((".", "!", ":", ")")) and " " in text and not _SIGN_OFF.search(text)


_LABEL = re.compile(r"^\W*(?:(?:case|option|possibility|scenario) )?(?:[A-E]|\d{1,2})[.):]\s", re.IGNORECASE)
_SUM = re.compile(
    r"total|sum|answer|result|final|altogether|all|left|remain|together|combined|average|difference|overall|profit|cost"
    r"|\b[xyznt]\b",
    re.IGNORECASE,
)


def _read_bold(sentence: str) -> Reading | None:
    """The number in bold type, if only part of the sentence is bold."""
    bold = [part for part in sentence.split("**")[1::2] if _DIGIT.search(part)]
    if not bold or len(bold[-1]) >= len(sentence) - 6 or (len(bold) > 1 and "=" not in sentence):
        return None
    inner = plain(bold[-1])
    return read_opening(inner, find_numerals(inner), is_answer_line=False)


def _is_list(line: str, other: str) -> bool:
    """True if two lines are different bare numbers, as in a list of guesses, or each give a number to a name."""
    if len(other) > 40 or len(line) > 40:
        return False
    one, two = ENTRY.fullmatch(plain(line)), ENTRY.fullmatch(plain(other))
    if (
        one
        and two
        and (one["name"] or two["name"] or (is_item(line) and is_item(other)))
        and not _SUM.search(two["name"] or "")
    ):
        return parse_number(one["number"]) != parse_number(two["number"])  # - Tom: 18 marbles
    value = parse_number(_LABEL.sub("", line))
    return value is not None and parse_number(_LABEL.sub("", other)) not in (None, value)
