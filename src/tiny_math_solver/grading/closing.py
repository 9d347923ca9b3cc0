"""The closing sentence: what a completion states at its end when no marker shows its answer."""

import re

from tiny_math_solver.grading.markup import Cue, plain, sentences, tail
from tiny_math_solver.grading.numerals import parse_number, scan, spelled
from tiny_math_solver.grading.statements import Reading, direct, statement

LINE = 800  # characters read of one line
REACH = 4000  # and of the end of the text
COPIED = 16  # characters from which on a sentence of the prompt is a copy, not a coincidence


def closing(text: str, question: str | None) -> Reading:
    """The result stated by the last sentence with a number in it, if nothing but pleasantries follows."""
    body = tail(text[-16 * REACH :].rstrip(), REACH)
    if "\n---" in body and (foot := _FOOTNOTE.search(body)):
        body = body[: foot.start()]
    if body.endswith(("}", "}\n```")) and (keys := list(_KEY.finditer(body))):
        value = plain(body[keys[-1].end() : keys[-1].end() + LINE])
        return direct(value, scan(value)) or Reading(None, value, 0)
    lines = [line for line in body.rsplit("\n", 12)[-12:] if line.strip(" \r\t$`-#*[]\\|")]
    patience = 5
    for index in range(len(lines) - 1, -1, -1):
        line_sentences = sentences(tail(lines[index], LINE))
        for place in range(len(line_sentences) - 1, -1, -1):
            sentence = line_sentences[place]
            words = plain(sentence)
            words = words[_ITEM.match(words).end() :].strip()  # type: ignore[union-attr]
            if _PLEASANTRY.search(words):
                continue
            if words.endswith("?") or refuses(words) or _DENIED.search(words):
                return Reading(None, words, 0)
            if not _DIGIT.search(words) and not _in_words(words):
                patience -= 1
                if not patience or _cut_off(words):
                    return Reading(None, words, 0)
                continue
            if _REMARK.match(words) and (index or place):
                continue
            if (
                _NO_RESULT.search(words)
                or (_PLAN.match(words) and "=" not in words)
                or (question and len(sentence) >= COPIED and sentence.strip() in question)
                or (place and refuses(line_sentences[place - 1]))
                or TO_GRADER.search("".join(line_sentences[max(0, place - 1) : place + 1]))
                or (index and _listed(lines[index - 1], lines[index]))
            ):
                return Reading(None, words, 0)
            before = body[: body.rfind(sentence)]
            return _bold(sentence) or statement(tail(words, LINE // 2), before, question)
    return Reading(None, "", 0)


_DIGIT = re.compile(r"\d")
_FOOTNOTE = re.compile(r"\n-{3,}\s*\n[*_(][^\n]*[*_)]\Z")
_KEY = re.compile(r'"(?:final_?)?(?:result|solution|value|total|output)"\s*:', re.IGNORECASE)  # {"result": 18}
HEADING = r"(?:step|part|phase|case|method|section|question|problem|example|option|stage|solution|task|chapter|table)"
_ITEM = re.compile(rf"[#>\s]*(?:{HEADING}\s*#?\d{{1,2}}\b[.):]?|\d{{1,2}}[.):]\s+|[-*\u2022]\s+)?", re.IGNORECASE)
_PLEASANTRY = Cue(
    "would you|do you|let me|feel free|hope |happy to|does |questions|can i|may i|is there",
    r"would you like|do you (?:have|need|want)|let me know|feel free|(?:i )?hope (?:this|that|it)|happy to help"
    r"|does (?:this|that|it) (?:help|make)|any (?:other |more )?questions|(?:can|may) i (?:help|assist)"
    r"|is there anything",
)
_REMARK = re.compile(
    r"\W*(?:note\b|this assumes|remember|(?:(?:let me|let'?s|to|we can) )?(?:check|verify|double.check)|verif|proof"
    r"|explanation|(?<=\()[^()]*[a-z]{3}[^()]*\)\W*\Z"
    r"|(?:assuming|(?:(?:this|that|it) is |that's )?because)\b(?!.*, .*\d))",
    re.IGNORECASE,
)
TO_GRADER = Cue(  # words to whoever grades the text, instead of a solution
    "grader|correct|full|ignore",
    r"(?:(?:\A|\n)\W*|\b(?:dear|to|the) )grader\b|\bmark (?:this|it|me|my \w+) (?:as )?correct|\bfull (?:marks|credit)"
    r"|\bignore (?:all |any |the )*(?:previous|prior|problem|question|instructions)\b",
)
_NO_RESULT = Cue(
    "option|choice|candidate|possibility|answer|suppose|assume|imagine",
    r"^\W*(?:(?:option|choice|candidate|possibility)\s*\w{1,2}|answer\s*#?\d)\s*[:.)]"
    r"|^\W*(?:suppose|assume|imagine)\b|\byour (?:final )?answer (?:should|must|in)\b",
)
_PLAN = re.compile(
    r"\W*(?:let'?s|let us|we (?:need|have) to|now,? (?:we|let)|next,? (?:we|let)|first,"
    r"|to (?:find|calculate|determine|solve))\b",
    re.IGNORECASE,
)
_REFUSAL = Cue(
    "not |n't|depends|dont|cant|couldnt|nable|mpossible|no |known|undetermined|insufficient|n/a|unclear|more info"
    "|none|null|refuse",
    r"\b(?:do not|don'?t|cannot|can not|can'?t|could not|couldn'?t|unable to|impossible to|not possible to|no way to)"
    r" (?:be )?(?:know|determin|answer|calculat|solve|find|tell|comput|say|figure)|not enough information|insufficient"
    r"|it (?:all )?depends|more information|unknown|undetermined|\bn/a\b|no answer|unclear|not sure|refuse to"
    r"|^\W*(?:none|null)\b",
)
_DENIED = Cue(
    "incorrect|wrong|not ",
    r"\b(?:is|was|be|that's) (?:[a-z]+ly )?(?:incorrect|wrong|not (?:right|correct|the (?:\w+ )?answer))\b",
)
_SIGN_OFF = re.compile(
    r"\b(?:hope|help|answer|final|done|correct|thank|enjoy|glad|check|questions?|solution|therefore)\b", re.IGNORECASE
)
_CONCLUDES = re.compile(r"\W*(?:so|therefore|thus|hence|in conclusion|in total|finally|overall)\b", re.IGNORECASE)


def refuses(text: str) -> bool:
    """Whether a sentence says that there is no answer."""
    return _REFUSAL.search(text) is not None


def concludes(text: str) -> bool:
    """Whether a sentence opens like a conclusion: "So", "Therefore"."""
    return _CONCLUDES.match(text) is not None


def _in_words(text: str) -> bool:
    """Whether a sentence without digits gives a number; "one" counts in a conclusion only ("the one we want")."""
    numbers = spelled(text)
    return len(numbers) == 1 and (numbers[0].value != 1 or concludes(text))


def _cut_off(text: str) -> bool:
    return not text.endswith((".", "!", ":", ")")) and " " in text and not _SIGN_OFF.search(text)


_LABEL = re.compile(r"^\W*(?:(?:case|option|possibility|scenario) )?(?:[A-E]|\d{1,2})[.):]\s", re.IGNORECASE)


def _bold(sentence: str) -> Reading | None:
    """The number that a sentence prints bold, if only part of it is bold."""
    bold = [part for part in sentence.split("**")[1::2] if _DIGIT.search(part)]
    if not bold or len(bold[-1]) >= len(sentence) - 6 or (len(bold) > 1 and "=" not in sentence):
        return None
    inner = plain(bold[-1])
    return direct(inner, scan(inner))


def _listed(line: str, other: str) -> bool:
    """Whether two lines are bare numbers, and different ones: a list of guesses or of options."""
    if len(other) > 40 or len(line) > 40:
        return False
    value = parse_number(_LABEL.sub("", line))
    return value is not None and parse_number(_LABEL.sub("", other)) not in (None, value)
