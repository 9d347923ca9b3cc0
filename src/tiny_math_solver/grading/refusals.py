"""Refusals and conditions: an answer that is not given, or that holds in one case only."""

import re

from tiny_math_solver.grading.cues import Cue, any_of, cue, phrases

_INFORMATION = r"(?:information|info|data|details|context|facts)"
_CANNOT = r"(?:do not|don'?t|cannot|can not|can'?t|could not|couldn'?t)"
_KNOW = r"(?:know|determin|answer|calculat|solve|find|tell|comput|say|figure|establish|decide|conclud)"
_HARD = r"(?:(?:hard|difficult|impossible|not possible) to|no way (?:to|of))"
_NEVER = r"(?:does not|doesn'?t|did not|didn'?t|never|isn'?t|is not|are not|aren'?t)"
_STATED = r"(?:\w+ )?(?:say|state|tell|told|specif|give|given|mention|provid)"
# Refusals that take back the answer before them
GIVES_UP = phrases(rf"""
    \b{_CANNOT} (really |actually )?be (determin|answer|solv|known|calculat|comput|found|certain|sure)\w*
    \bi ({_CANNOT}|am unable to) (\w+ )?(solve|answer|determine|be (sure|certain)|say)
    (not|n'?t) (\w+ ){{0,2}}(enough|sufficient) {_INFORMATION}|insufficient {_INFORMATION}
    \bi('?m| am) (really |honestly |just |still )?(not (\w+ )?(sure|certain|confident)|unsure|uncertain|guessing)
    \bi (don'?t|do not) (really |actually )?know\b(?! (why|if you))|\bi have no idea\b|\b(just|only) guessing\b
    unsolvable|unanswerable
    \b(is|was|that's|it's) (just |only )?(a|my best) (\w+ )?guess\b|\b(it|this|answer|that) (all |really )?depends on
    \bno (unique|definite|single) (answer|solution)
""")
_REFUSAL = Cue(
    "not |n't|never|depends|dont|cant|couldnt|nable|mpossible|no answer|no solution|no unique|no definite|no single"
    "|no clear|no real|no possible|no final|no way|no idea|unknown|undetermined|insufficient|n/a|unclear|more info"
    "|more data|more det|more fact|more context|none|null|refuse|missing|undefined|indetermin|ambiguous|unanswer|unsolv"
    "|guess|give up|unsure|uncertain|lack|hard to|difficult|to know|to answer|to solve|to determine|to tell|to say",
    any_of(rf"""
    {GIVES_UP.pattern}|\bi('d| would| can only| could only)? guess\b|\b(a|my|just|only|wild|best|educated|rough) guess\b
    \b({_CANNOT}|unable to|{_HARD}) (be |really |actually |reliably )?{_KNOW}|\bneeds? to know\b
    \b({_CANNOT}|unable to|won'?t|will not|refuse to) (help|assist|provide|comply|give)\b|refuse to|\bgive up|\bguessing
    it (all |really |just )?depends|\bdepends (on|upon)|no idea
    (more|missing|(lacks?|lacking)( the| some| enough)*) {_INFORMATION}
    insufficient|unknown|undetermined|undefined|indetermina|ambiguous|\bn/a\b|unclear|^\W*(none|null)\b
    \bno (unique |definite |single |clear |real |possible |final )*(answer|solution)\b
    not (\w+ )?(sure|certain|confident)\b|(is|am|'m|are|remains?|^\W*) ?(\w+ )?(unsure|uncertain)\b
    \b(problem|question|text|statement|we|it|they) {_NEVER} {_STATED}
    \b(need|requires?)\b.{{0,60}} to (answer|solve|determine|tell|say)\b
    """),
)

_CONCESSION = cue(r"\A\W*(?:although|though|even though|even if|while)\b[^,]*,")
_FIRST_CASE = r"in (?:the )?(?:first|one|either|best|worst|latter) (?:case|scenario|reading|interpretation)"
# One number for one case, and another for the rest
OTHERWISE = cue(rf"\b(?:otherwise|unless|depending on|{_FIRST_CASE})\b|[,;(] ?(?:or )?else\b")
_CONDITION = cue(
    r"\b(?:if|provided|assuming|assumes|depending|depends|as long as|in case|only when|supposing|on condition)\b"
    rf"|{OTHERWISE.pattern}|\bwhen [^\n]{{1,60}}[,;] ?(?:and |but |or )?\$?\d[\d.,]*[^\n]{{0,20}} when\b"
)
_WORKED_OUT = re.compile(r"\d[^=]*=\D*\d")
_CONVENTION = cue(  # "assuming a 7-day week", "assuming each month has 4 weeks"
    r"\bassuming [^,.;]{0,30}\d+[ -](?:days?|weeks?|months?|hours?|minutes?)\b(?![^\n]*\b(?:else|otherwise|unless)\b)"
)
# Words that leave another case open; without them "8 * 7 = 56 if she reads daily" is a result
_OTHER_CASE = cue(
    r"\b(?:(?:only|just|even) (?:if|when|assuming)|(?:if|assuming) (?:not|only)|unless|else|otherwise|depend(?:s|ing)"
    r"|provided)\b|\b(if|when)\b[^,;]*[,;].*\b\1\b"
)
_DOUBT = cue(
    r"(?:\bmin(?:imum)?\b|\blow(?:est)?\b)[^.]*\b(?:max(?:imum)?|high(?:est)?)\b|\b(?:maybe|perhaps|possibly|estimate"
    r"|either(?= \W*\d)|at (?:the )?(?:least|most)|no (?:more|less|fewer) than"
    r"|or (?:more|less|fewer|nothing|none|neither|not)|could be (?:different|more|less|wrong|anything))\b"
)


def refuses(text: str) -> bool:
    """True if a sentence says that there is no answer."""
    return _REFUSAL.search(text) is not None and _REFUSAL.search(_CONCESSION.sub("", text)) is not None


def is_conditional(text: str) -> bool:
    """True if an answer line doubts its answer, or names a case in which it holds."""
    if _DOUBT.search(text):
        return True
    if _CONDITION.search(text) is None:
        return False
    if _WORKED_OUT.search(text) and not _OTHER_CASE.search(text):
        return False
    return _CONDITION.search(_CONVENTION.sub("", text)) is not None
