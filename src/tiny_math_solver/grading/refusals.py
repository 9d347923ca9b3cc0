"""Refusals and conditions: an answer that is not given, or that holds in one case only."""

import re

from tiny_math_solver.grading.cues import Cue

_INFORMATION = r"(?:information|info|data|details|context|facts)"
_REFUSAL = Cue(
    "not |n't|never|depends|dont|cant|couldnt|nable|mpossible|no answer|no solution|no unique|no definite|no single"
    "|no clear|no real|no possible|no final|no way|no idea|unknown|undetermined|insufficient|n/a|unclear|more info"
    "|more data|more det|more fact|more context|none|null|refuse|missing|undefined|indetermin|ambiguous|unanswer|unsolv"
    "|guess|give up|unsure|uncertain|lack|hard to|difficult|to know|to answer|to solve|to determine|to tell|to say",
    r"\b(?:do not|don'?t|cannot|can not|can'?t|could not|couldn'?t|unable to|impossible to|not possible to|no way"
    r" (?:to|of)|hard to|difficult to) (?:be |really |actually |reliably )?(?:know|determin|answer|calculat|solve"
    r"|find|tell"
    rf"|comput|say|figure|establish|decide|conclud)|(?:not|n'?t) (?:\w+ ){{0,2}}(?:enough|sufficient) {_INFORMATION}"
    rf"|\bi(?:'d| would| can only| could only)? guess\b|insufficient|it (?:all |really |just )?depends"
    rf"|\bdepends (?:on|upon)|more {_INFORMATION}"
    rf"|missing {_INFORMATION}|unknown|undetermined|undefined|indetermina|ambiguous|\bn/a\b"
    r"|\bno (?:unique |definite |single |clear |real |possible |final )*(?:answer|solution)\b|unclear"
    r"|not (?:\w+ )?(?:sure|certain|confident)\b|(?:is|am|'m|are|remains?|^\W*) ?(?:\w+ )?(?:unsure|uncertain)\b"
    r"|\b(?:a|my|just|only|wild|best|educated|rough) guess\b"
    r"|\bguessing|refuse to|(?:cannot|can'?t|unable to|won'?t|will not) (?:help|assist|provide|comply|give)\b"
    r"|unanswerable|unsolvable|no idea|\bgive up|(?:lacks?|lacking) (?:the |some |enough )*"
    rf"{_INFORMATION}|\b(?:problem|question|text|statement|we|it|they) (?:does not|doesn'?t|did not|didn'?t|never"
    rf"|isn'?t|is not|are not"
    rf"|aren'?t) (?:\w+ )?(?:say|state|tell|told|specif|give|given|mention|provid)|\bneeds? to know\b|\b(?:need"
    rf"|requires?)\b.{{0,60}} to (?:answer|solve|determine|tell|say) "
    rf"|^\W*(?:none|null)\b",
)
# A refusal that takes back the answer before it
GIVES_UP = re.compile(
    r"\b(?:cannot|can'?t|can not|could not|couldn'?t) (?:really |actually )?be (?:determin|answer|solv|known"
    r"|calculat|comput"
    rf"|found|certain|sure)\w*|(?:not|n'?t) (?:\w+ ){{0,2}}(?:enough|sufficient) {_INFORMATION}"
    rf"|insufficient {_INFORMATION}"
    r"|\bi(?:'?m| am) (?:really |honestly |just |still )?(?:not (?:\w+ )?(?:sure|certain|confident)|unsure|uncertain"
    r"|guessing)"
    r"|\bi (?:don'?t|do not) (?:really |actually )?know\b(?! (?:why|if you))|\bi (?:cannot|can'?t|am unable to"
    r"|could not)"
    r" (?:\w+ )?(?:solve|answer|determine|be (?:sure|certain)|say)|\b(?:is|was|that's|it's) (?:just |only )?(?:a"
    r"|my best)"
    r" (?:\w+ )?guess\b|\b(?:it|this|answer|that) (?:all |really )?depends on|\bi have no idea\b|unsolvable"
    r"|unanswerable"
    r"|\bno (?:unique|definite|single) (?:answer|solution)",
    re.IGNORECASE,
)
_CONCESSION = re.compile(r"\A\W*(?:although|though|even though|even if|while)\b[^,]*,", re.IGNORECASE)
_CONVENTION = re.compile(  # "assuming a 7-day week", "assuming each month has 4 weeks"
    r"\bassuming [^,.;]{0,30}\d+[ -](?:days?|weeks?|months?|hours?|minutes?)\b(?![^\n]*\b(?:else|otherwise|unless)\b)",
    re.IGNORECASE,
)
_RESULT_IF = re.compile(  # 8 * 7 = 56 if she reads every day
    r"[^=]*\d[^=]*=[^=a-z]*\d[\d.,]*(?: (?!(?:only|just|even)\b)[a-z]+){0,3}?,? \(?(?:if|assuming|given)\b(?! not\b)"
    r"(?:(?!\b(?:if|only|unless|else|otherwise|not)\b)[^;=\d])*\Z",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"\b(?:if|unless|provided|assuming|assumes|depending|depends|otherwise|as long as|in case|only when|supposing"
    r"|on condition|in (?:the )?(?:first|one|either|best|worst) (?:case|scenario|reading|interpretation))\b"
    r"|[,;(] ?(?:or )?else\b|\bwhen [^\n]{1,60}[,;] ?(?:and |but |or )?\$?\d[\d.,]*[^\n]{0,20} when\b",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"\b(?:maybe|perhaps|possibly|either(?= \W*\d)|estimate|at (?:the )?(?:least|most)"
    r"|or (?:more|less|fewer|nothing|none"
    r"|neither)"
    r"|no (?:more|less|fewer) than|could be (?:different|more|less|wrong|anything))\b",
    re.IGNORECASE,
)
_GIVEN = re.compile(
    r"\W*(?:so |then |and |now )*(?:if|assuming)\b[^=]*(?:,|\bthen\b)[^=]*=(?:(?!\b(?:if|unless|else"
    r"|otherwise)\b).)*\Z",
    re.IGNORECASE,
)
_OTHERWISE = Cue(
    "otherwise|unless|depending|else|case|scenario|reading|interpretation",
    r"\bin (?:the )?(?:first|one|either|best|worst|latter) (?:case|scenario|reading|interpretation)\b|\b(?:otherwise"
    r"|unless|depending on)\b|[,;] ?(?:or )?else\b",
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
    if "=" in text and (_GIVEN.match(text) or _RESULT_IF.match(text)):
        return False
    return _CONDITION.search(_CONVENTION.sub("", text)) is not None


def has_two_cases(text: str) -> bool:
    """True if a sentence gives one number for one case and leaves another for the rest."""
    return _OTHERWISE.search(text) is not None
