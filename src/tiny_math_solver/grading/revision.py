"""Revisions: text around a marker that corrects its number, offers an alternative, or gives another answer."""

import re

from tiny_math_solver.grading.closing import MAX_TAIL, read_closing
from tiny_math_solver.grading.cues import (
    COMES_TO,
    CONCLUDES,
    CONCLUSION,
    CONFIRMED,
    FILLER,
    HEDGE,
    REMARK,
    any_of,
    cue,
    phrases,
)
from tiny_math_solver.grading.markers import MAX_SPAN, How, MarkedAnswer, read_last_marker
from tiny_math_solver.grading.markup import plain, sentences
from tiny_math_solver.grading.numerals import Number, find_numbers, find_numerals
from tiny_math_solver.grading.refusals import GIVES_UP
from tiny_math_solver.grading.retractions import FAULT, RETRACTED, WITHDRAWN
from tiny_math_solver.grading.units import restated


def revised(text: str, marked: MarkedAnswer, question: str | None) -> MarkedAnswer:
    """The answer after what follows the marker: a correction, a refusal, an alternative or another step."""
    nothing = marked._replace(value=None)
    rest = text[marked.end : marked.end + MAX_TAIL]
    if len(rest) < 3:
        return marked
    retracted = RETRACTED.search(rest)
    if retracted and not _about_another(rest, retracted, marked.value):
        correction = rest[retracted.start() :].lstrip(".!?;:,\n ")
        value, span = _corrected(correction, marked, question)
        if value is None and (WITHDRAWN.search(correction[:200]) or _has_alternative(correction, marked.value)):
            return nothing
        if value not in (None, marked.value):
            how = marked.how if "\n" not in rest[: rest.find(span)] else How.CLOSING
            return marked._replace(value=value, how=how, span=span, equivalent=None)
        return marked
    if GIVES_UP.search(rest) or _has_alternative(rest, marked.value) or _other_number_below(rest, marked.value):
        return nothing
    return _next_step(rest, marked, question)


def _about_another(rest: str, retracted: re.Match[str], value: Number | None) -> bool:
    """True if what is said to be wrong is another number: "I also considered 20, but that ignores the muffins"."""
    if FAULT.fullmatch(retracted[0].lstrip(" ,.;:!?-")) is None:
        return False
    ahead = sentences(rest[: retracted.start()].rpartition("\n")[2])[-1]
    numbers = find_numerals(plain(ahead))
    return bool(numbers) and value not in {number.value for number in numbers} and not ahead.rstrip().endswith(".")


def _corrected(correction: str, marked: MarkedAnswer, question: str | None) -> tuple[Number | None, str]:
    """The number that a correction puts in place of the marked one, which may be the same, or None."""
    later = read_closing(correction, question)
    if later.value in (None, marked.value):
        return later.value, later.span
    if CONFIRMED.search(correction) and not _OTHER_CONFIRMED.search(correction):
        return marked.value, marked.span
    own = sentences(correction.partition("\n")[0])[0]  # "I forgot the 4 muffins" gives no answer yet
    if FAULT.search(own) and later.span in own and not _GIVES_RESULT.search(own):
        return None, ""
    if not WITHDRAWN.search(correction[:200]) and not _claims(plain(correction), later.span):
        return None, ""  # "Actually, this is a problem from 2021"
    return later.value, later.span


def _claims(text: str, number: str) -> bool:
    """True if the last occurrence of a number in a plain text is what something is said to be or to come to."""
    return _CLAIM_LEAD.search(text[: text.rfind(number)]) is not None


def _has_alternative(rest: str, value: Number | None) -> bool:
    """True if another number is offered as the answer: "or maybe 20", "Alternatively, 10 * 2 = 20"."""
    for doubt in _OTHERWISE.finditer(rest):
        claim = sentences(plain(rest[doubt.end() : doubt.end() + MAX_SPAN].lstrip().partition("\n")[0]))[0]
        if doubt["other"] and doubt[0].lower().endswith("or"):
            claim = _CASE.sub("", claim)
        others = find_numbers(claim)
        if not others or (value is not None and restated(value, claim, others[0])):
            continue
        first = others[0]
        if first.value != value and _CLAIM.fullmatch(claim, 0, first.start) and _UNIT_ONLY.match(claim, first.end):
            return True
        known = value in {other.value for other in others}
        if doubt["other"] and "=" in claim and not _SUPPOSED.search(claim) and not known:
            return True
    if any(_differs(also[0], value) for also in _ALSO.finditer(rest)):
        return True
    return any(_differs(rest[claim.end() - 1 : claim.end() + 24], value) for claim in _CLAIMED.finditer(rest))


def _other_number_below(rest: str, value: Number | None) -> bool:
    """True if the next line is another number and nothing else."""
    match = _BARE_LINE.match(rest)
    return match is not None and _differs(match[1], value)


def _differs(text: str, value: Number | None) -> bool:
    """True if the first number of a text is not `value`."""
    first = find_numerals(plain(text), most=1)
    return bool(first) and first[0].value != value


def _next_step(rest: str, marked: MarkedAnswer, question: str | None) -> MarkedAnswer:
    """The answer once the line has gone on calculating with the number after the marker, if it does."""
    line = rest[:MAX_SPAN].partition("\n")[0].rstrip()
    parts = sentences(line)
    concluded = marked.how is How.PHRASE and CONCLUDES.match(parts[-1])  # Answer: 5 a day. So a week takes 35.
    if len(parts) < 2 or not (concluded or marked.how is How.HASHES or marked.calculated):
        return marked
    if not concluded and not any(_goes_on(part, marked.value) for part in parts[1:]):
        return marked
    later = read_closing(line, question)
    if not concluded and (later.value is None or not marked.calculated):
        return marked._replace(value=None)
    if later.value in (None, marked.value):
        return marked
    how = How.CLOSING if concluded else marked.how
    return marked._replace(value=later.value, how=how, span=later.span, equivalent=None)


def _goes_on(part: str, value: Number | None) -> bool:
    """True if a sentence after the number comes to another one, and neither checks nor explains it."""
    words = plain(part)
    numbers = find_numerals(words)
    if not numbers or numbers[-1].value == value or REMARK.match(words) or CONFIRMED.search(words):
        return False
    return "=" in words or _claims(words, words[numbers[-1].start : numbers[-1].end])


def has_rival(text: str, value: Number, start: int) -> bool:
    """True if a marker with another number stands right before the one at `start`, as in `#### 18` `#### 20`."""
    ahead = text[max(0, start - 80) : start]
    rival = read_last_marker(ahead)
    if rival is None or rival.calculated or rival.value in (None, value):
        return False
    between = plain(ahead[rival.end :])
    return (_CONNECTOR.fullmatch(between) or _ANOTHER.search(between)) is not None


_OTHER_CONFIRMED = cue(r"= ?\$?[\d.,]+(?: \w+)? (?:is|looks) (?:correct|right)\b")
_GIVES_RESULT = cue(rf"=|\b(?:{CONCLUSION}|{COMES_TO}|should be|answer|it'?s)\b")
_OTHERWISE = cue(
    r"(?P<other>(?:\A|[.!?\n])[^\w\n]*(?:alternatively|otherwise|or else|or)\b)"
    rf"|(?:\A|[.!?;:,(\n])[^\w\n]*(?:(?:and|but|so|then|it is|it's)\W+)?(?:{HEDGE}|or else|otherwise)\b"
    r"|\b(?:could|might|may) (?:also |well |equally )*(?:be|have been)\b"
)
_POSSIBLE = r"(?:good|valid|right|correct|acceptable|possible|plausible|fine|answer)"
_BARE_NUMBER = r"(?:it(?:'s| is) |then )?[$*]*\d[\d,.]*(?: [a-z]+){0,2}"
_BE = r"(?:is|(?:would|could|can|may|might) be)"
# "126 would be an equally good answer", "126 works too", "Also acceptable: 126", "With tax: 126"
_ALSO = phrases(rf"""
    (?<![\d.,])\d[\d,.]*\d?( [a-z%]+){{0,2}} {_BE}( an?)? (also|equally|just as|as|another) (an? )?{_POSSIBLE}\b
    (?<![\d.,])\d[\d,.]*\d?( [a-z%]+){{0,2}} (works|is {_POSSIBLE}),? (too|as well|also)\b
    \b(also|equally|other|another|alternative) {_POSSIBLE}( [a-z]+)? ?(is|would be|[:=])[ $*]*\d[\d,.]*
    \balternative( [a-z]+)? ?(is|would be|[:=])[ $*]*\d[\d,.]*
    (\A|[.!?]\s|\n)\W*\d[\d,.]*( [a-z%]+){{0,2}} (if|when|counting|including|excluding)\b
    (\A|[.!?]\s|\n)\W*(if|with|without|including|excluding|counting) [^\d.,:\n]{{1,40}}[,:] {_BARE_NUMBER}\W*(\n|\Z)
""")
_CASE = cue(r"\A\W*if [^,\d]{1,60},")  # Or, if you count Tom, 7
_CLAIM = cue(rf"(?:\W|\b(?:{FILLER}|correct)\b)*")
_UNIT_ONLY = cue(r"(?:\s*(?!(?:more|less|fewer|times|of|other)\b)[a-z%]+){0,3}\s*(?:[.!?,;:)]|\Z| if | depending )")
_SUPPOSED = cue(r"\b(?:if|would|could|had|were|suppose|check|verif\w+)\b")
_CORRECT_ANSWER = (
    r"(?:(?:correct|real|actual|true|right|final|proper)(?: final)?"
    r" (?:answer|total|result|value|amount|number|solution)(?: \w+){0,3}?|answer|result)"
)
_NEW_ANSWER = any_of(rf"""
    (final|corrected|revised|updated|new)( \w+)? ?[:=]|{_CORRECT_ANSWER} (is|(should|must|would) be|=|:|becomes)
    (it )?(should|must|has to|ought to) be
""")
_CLAIMED = cue(  # "The correct total is 20", "It should be 20", "Final: 20"
    rf"(?:\A|[.!?]\s|\n)[^\w\n]*(?:(?:{CONCLUSION}|but|and|however|in fact|now|oh)\W+)*(?:(?:the|my|our|your) )?"
    rf"{_NEW_ANSWER}(?: (?:about|around|exactly|actually|only|really|instead))*:?\s*[*$(]*"
    r"\d(?![\d.,]*[^\S\n]*[-+*/x\u00d7\u00f7])"
)
_BARE_LINE = cue(r"[^\n]{0,40}\n\s*(?:[-*]\s+|or )?([*$]*\d[\d.,]*%?[*$]*(?: [a-z]+){0,2})[. ]*(?:\n|\Z)")
_CLAIM_WORDS = any_of("""
    was|be|been|equals?|costs?|total of|gets?|needs?|has|have|had|means?|meant|answer|only|exactly|about|actually|rather
    say|think|earns?|pays?|receives?|spends?|takes?|left with|to|just|her|him|them|it|wait|no|kidding|oops|sorry
    correction|thought
""")
_CLAIM_LEAD = cue(rf"(?:\A|[,.:;!?(=>-]|'s|\b(?:{COMES_TO}|{CONCLUSION}|{_CLAIM_WORDS}))[\s*_$(=:]*\Z")
_CONNECTOR = cue(rf"(?:\W|\b(?:{FILLER}|{HEDGE}|{CONCLUSION}|and|my|boxed|either)\b)*")
_ANOTHER = cue(r"\b(?:another|alternative|other) (?:reading|answer|interpretation|possib|solution|option)")
