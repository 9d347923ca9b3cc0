r"""Read the final answer off a completion and compare numbers exactly: the only copy of both.

Taking the last number of a text reads honest completions best and makes the worst reward: it pays for hedging,
for copied prompts and for text cut off by luck. A completion has to *commit* to one number instead:

1.  The last explicit marker decides: `#### 18`, `\boxed{18}`, "the answer is 18". A marker that holds no number
    (a markdown heading such as `#### Step 1`) is passed over; one that holds two candidates, a range or an
    unfinished calculation ends the search, and there is no answer.
2.  What follows the marker may still revise it: a correction ("wait, that's wrong ... 18") replaces the number,
    an alternative ("or maybe 20") withdraws it. Any other remark with numbers in it leaves it alone.
3.  Without a marker, the closing sentence has to state one number as its result.
4.  A question, a refusal and a copy of the prompt state nothing.

Numbers are `Decimal`, or `Fraction` where no finite decimal exists, so `==` is exact and never a float.
Every pattern is applied to a bounded slice, so the time is bounded on any text.
"""

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

Number = Decimal | Fraction


class How(StrEnum):
    """How the final answer was found; the strict score counts HASHES only."""

    HASHES = "hashes"  # after ####
    BOXED = "boxed"  # in \boxed{}
    PHRASE = "phrase"  # "the answer is", "Answer:"
    CLOSING = "closing"  # stated by the closing sentence
    NONE = "none"  # no single answer


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer of one completion; `value` is None exactly when `how` is NONE."""

    value: Number | None
    how: How
    text: str  # the slice it was read from


def extract_answer(text: str | None, *, question: str | None = None) -> Answer:
    """Read the one number that a completion commits to.

    `question` is the prompt, if known: whatever the completion copies from it is not an answer. Never raises.
    """
    if not text:
        return Answer(None, How.NONE, "")
    body = _own_words(text, question)
    marked = _last_marker(body)
    if marked is None:
        value, span = _closing(body, question)
        return Answer(value, How.CLOSING if value is not None else How.NONE, span)
    value, how, span, start, end = marked
    if value is not None:
        value, how, span = _revised(body, value, how, span, end, question)
    if value is not None and how is not How.CLOSING and _has_rival(body, value, start):
        value = None
    if value is None:
        return Answer(None, How.NONE, span)
    if how is not How.HASHES and _hashes_agree(body, value):
        how = How.HASHES
    return Answer(value, how, span)


def is_correct(
    text: str | None,
    gold: "str | int | float | Number",
    *,
    strict: bool = False,
    question: str | None = None,
) -> bool:
    """Say whether a completion's final answer equals the gold number; `strict` counts `####` answers only.

    Raises ValueError if the gold cannot be read.
    """
    expected = parse_gold(gold)
    answer = extract_answer(text, question=question)
    return answer.value == expected and (answer.how is How.HASHES or not strict)


def parse_gold(answer: "str | int | float | Number") -> Number:
    """Read a gold answer: a number, or a whole GSM8K solution that ends in `#### 18`.

    Raises ValueError if it is not one finite number.
    """
    if isinstance(answer, str):
        value = parse_number(answer.rpartition("####")[2])
    elif isinstance(answer, (int, float, Decimal, Fraction)) and not isinstance(answer, bool):
        value = _canonical(answer) if isinstance(answer, Fraction) else parse_number(str(answer))
    else:
        value = None
    if value is None:
        raise ValueError(f"gold answer is not one number: {str(answer)[-80:]!r}")
    return value


def parse_number(text: str) -> Number | None:
    r"""Read a text that is one number and nothing else but a sign, currency, percent or markup; else None."""
    text = text.strip()
    if len(text) <= _DIGITS and text.isascii() and text.isdigit():
        return Decimal(text)
    plain = _plain(text[: 2 * _DIGITS]).strip(" .()") if len(text) <= 2 * _DIGITS else ""
    match = _NUMBER.search(plain)
    if match is None or plain[match.end() :].strip(" )"):
        return None
    if plain[: match.start()].strip(" (+-") or plain[: match.start()].count("-") > 1:
        return None
    return _value(plain, match)


# -- Numbers ------------------------------------------------------------------------------------------------

_DIGITS = 2000  # a longer run of digits is no number anyone meant

# Starts with a character class, not a look-behind: the engine can then skip ahead to the next digit.
_NUMBER = re.compile(
    r"""(?P<body>[\d.](?<![A-Za-z0-9_].)(?:
        (?<=\d)\d{0,8}\ \d{1,9}/\d{1,9}(?![\d/])                     # 2 1/2
      | (?<=\d)\d{0,2}(?:\ \d{3})+(?![\d,])(?:\.\d+)?                # 18 000
      | (?:(?<=\d)|(?<!\.\.)(?=\d))(?:\d|[.,'_:/](?=\d))*            # 1,200.50  3/4  2:30
        (?:[eE][+-]?\d+(?!\w))?                                      # 1e3
    ))
    (?: (?P<k>[kKMB])\b | \s?(?P<scale>[Hh]undred|[Tt]housand|[MmBb]illion|[Tt]rillion)\b | \s?% )?
    """,
    re.VERBOSE | re.ASCII,
)
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|[1-9]\d?(?:,\d\d)+,\d{3}(?:\.\d+)?", re.ASCII)
_EUROPEAN = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}", re.ASCII)
_SPACED = re.compile(r"\d{1,3}(?:[ '_]\d{3})+(?:\.\d+)?", re.ASCII)
_SIMPLE = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_SCALES = {
    "k": 3, "m": 6, "b": 9, "hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12
}  # fmt: skip


def _value(text: str, match: "re.Match[str]") -> Number | None:
    """The number of a _NUMBER match with its sign; None where the digits allow two readings (1,5 or 2:30)."""
    body = match["body"]
    if len(body) > _DIGITS:
        return None
    value: Number | None
    if body.isdigit():
        value = Decimal(body)
    elif " " in body and "/" in body:
        whole, _, part = body.partition(" ")
        ratio = _ratio(*map(Decimal, part.split("/")))
        value = None if ratio is None else _canonical(Fraction(whole) + Fraction(ratio))
    elif "/" in body:
        top, _, low = body.partition("/")
        numerator, denominator = _decimal(top), _decimal(low)
        value = None if numerator is None or denominator is None else _ratio(numerator, denominator)
    else:
        value = _decimal(body)
    if value is None:
        return None
    power = _SCALES.get((match["k"] or match["scale"] or "").lower())
    if power and isinstance(value, Decimal):
        sign, digits, exponent = value.as_tuple()
        value = Decimal((sign, digits, int(exponent) + power))
    if not _negative(text, match.start()):
        return value
    return value.copy_negate() if isinstance(value, Decimal) else -value  # unary minus rounds a Decimal


def _decimal(body: str) -> Decimal | None:
    if body.isdigit() or _SIMPLE.fullmatch(body):
        return Decimal(body)
    if _GROUPED.fullmatch(body):
        return Decimal(body.replace(",", ""))
    if _SPACED.fullmatch(body):
        return Decimal(re.sub(r"[ '_]", "", body))
    if _EUROPEAN.fullmatch(body):
        return Decimal(body.replace(".", "").replace(",", "."))
    hour, _, minutes = body.partition(":")
    return Decimal(hour) if minutes == "00" and hour.isdigit() else None


def _ratio(top: Decimal, low: Decimal) -> Number | None:
    bounded = low and all(abs(int(part.as_tuple().exponent)) < 400 for part in (top, low))
    return _canonical(Fraction(top) / Fraction(low)) if bounded else None


def _canonical(value: Fraction) -> Number:
    """A Decimal where a finite one exists, so that one number has one representation up to `==`."""
    twos = fives = 0
    rest = value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return value
    places = max(twos, fives)
    return Decimal(f"{value.numerator * 2 ** (places - twos) * 5 ** (places - fives)}e-{places}")


def _negative(text: str, start: int) -> bool:
    """Whether a minus before the number is its sign, and not an operator, a range or a dash."""
    before = text[max(0, start - 12) : start].rstrip()
    if before.endswith("-"):
        ahead = before[:-1].rstrip()
        if ahead[-1:].isdigit() or ahead.endswith((")", "%", "-")):
            return False
        return text[start - 1] == "-" or not ahead or ahead[-1] in "=:("
    return before.endswith(("minus", "negative")) and not before.rpartition(" ")[0].rstrip()[-1:].isdigit()


# -- Plain text -----------------------------------------------------------------------------------------------

_SLICE = 400  # characters read after a marker or in one sentence


class _Ascii(dict[int, str]):
    """Translation table from any digit, minus, space or currency sign to its ASCII form, filled on demand."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        name = unicodedata.name(char, "")
        out = char
        if code < 128:
            out = char
        elif (digit := unicodedata.decimal(char, None)) is not None:
            out = str(digit)
        elif name.startswith("SUPERSCRIPT") and (digit := unicodedata.digit(char, None)) is not None:
            out = f"^{digit}"
        elif name.startswith("VULGAR FRACTION") or char == "⅟":
            out = " " + unicodedata.normalize("NFKC", char).replace("\u2044", "/")
        elif unicodedata.category(char) in ("Pd", "Sc"):
            out = "-" if unicodedata.category(char) == "Pd" else ""
        elif unicodedata.category(char) in ("Zs", "Zl", "Zp"):
            out = "\n" if unicodedata.category(char) != "Zs" else " "
        elif 0xFF01 <= code <= 0xFF5E:
            out = chr(code - 0xFEE0)  # full-width punctuation and letters
        self[code] = out
        return out


_ASCII = _Ascii()
_ASCII.update(
    {ord(char): out for chars, out in (
        ("\u2212\u207b\u2796\u02d7", "-"), ("×✕✖·⋅∙", "*"), ("÷⁄∕", "/"), ("≈≃≅", "="), ("±", "+-"), ("√", " sqrt "),
        ("≠", "!="), ("≤", "<="), ("≥", ">="), ("→⇒⟹", "->"),
        ("’‘′", "'"), ("“”", '"'), ("。", ". "), ("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""), ("٬", ","), ("٫", "."),
    ) for char in chars}
)  # fmt: skip

_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d))")
_COMMAND = re.compile(r"\\([A-Za-z]+\*?|.)", re.DOTALL)
_COMMANDS = {
    "$": "", "%": "%", "!": "", "(": "", ")": "", "[": "", "]": "", "{": "", "}": "", "left": "", "right": "",
    "boxed": "", "fbox": "", "times": "*", "cdot": "*", "div": "/", "approx": "=", "pm": "+-", "text": " ",
    "pi": "pi", "sqrt": " sqrt ", "circ": "",
    "le": "<", "leq": "<", "ge": ">", "geq": ">", "lt": "<", "gt": ">", "degree": "", "to": "->",
}  # fmt: skip
_ANNOTATION = re.compile(r"<<[^<>\n]*>>|~~[^~\n]*~~|</?[A-Za-z][^<>\n]{0,20}>")
_GLUED_DOLLAR = re.compile(r"(?<=\w)\$(?=\d)")  # US$18 is no identifier
_POWER_OF_TEN = re.compile(r"(?<![\d.])(?:(\d{1,20}(?:\.\d{1,20})?)\s?[*x]\s?)?10\^\(?([+-]?\d{1,3})\)?(?!\d)")


def _plain(text: str) -> str:
    """Drop the markup of a short text (Markdown, LaTeX, currency, calculator notes), keep words and operators."""
    if not text.isascii():
        text = text.translate(_ASCII)
    if "<" in text or "~~" in text:
        text = _ANNOTATION.sub("", text)
    if "\\" in text:
        if "frac" in text:
            text = _FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]} ".replace(" /", "/"), text)
        text = text.replace("{,}", ",").replace("^\\circ", "").replace("^{\\circ}", "")
        text = _COMMAND.sub(lambda m: _COMMANDS.get(m[1], " "), text)
    if "{" in text or "}" in text:
        text = text.replace("{,}", ",").replace("{", "").replace("}", "")
    if "$" in text:
        text = _GLUED_DOLLAR.sub(" ", text).replace("$", "")
    if "*" in text:
        text = text.replace("**", "")
    if "`" in text or "__" in text:
        text = text.replace("`", "").replace("__", "")
    if "10^" in text:
        text = _POWER_OF_TEN.sub(lambda m: f"{m[1] or 1}e{m[2]}", text)
    return text


_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS = {word: value for value, word in enumerate(_UNITS)}
_WORDS |= {word: 10 * value for value, word in enumerate(_TENS, start=2)}
_SPELLED = re.compile(
    r"\b(?:(?:{0})(?:[\s-]+(?:and\s+)?(?:{0}|hundred|thousand|million)\b)*)\b".format("|".join(_WORDS)), re.ASCII
)


def _spelled(text: str) -> Decimal | None:
    """The one number written in words, such as "one hundred and twenty-five"; None if none or several."""
    found = _SPELLED.findall(text.lower())
    if len(found) != 1 or "half" in text or "quarter" in text or "third" in text:
        return None
    total = group = 0
    for word in re.split(r"[\s-]+", found[0]):
        if word == "hundred":
            group *= 100
        elif word in ("thousand", "million"):
            total, group = (total + group) * 10 ** _SCALES[word], 0
        else:
            group += _WORDS.get(word, 0)
    return Decimal(total + group)


# -- One stretch of text that should hold the answer --------------------------------------------------------

_Reading = tuple[Number | None, str]  # (None, span): an attempt that commits to no single number

_LEAD = re.compile(
    r"(?:[^\w?]|\b(?:the|a|an|final|correct|answer|is|are|was|be|it|its|s|that|this|there|so|therefore|thus|hence"
    r"|approximately|approx|about|around|roughly|exactly|only|just|total|of|equals?|us|usd|rs|eur|minus|negative"
    r"|value|result|would|will|actually|indeed|simply|[a-z](?=\s*=))\b)*"
    r"|[^.?!]*[:=>]\W*",
    re.IGNORECASE,
)
_OPERATOR = re.compile(
    r"[\s%)]*(?:[a-z]+\s+){0,2}(?:[-+*^/x]|times|plus|minus|divided by|multiplied by)[\s(]*", re.IGNORECASE
)
_EQUALS = re.compile(r"[\s%)]*(?:[a-z]+\s*){0,3}(?:=|equals|is equal to|->)[\s(=>-]*(?:[a-z] ?=\s*)?", re.IGNORECASE)
_HEDGE = r"(?:or|alternatively|maybe|perhaps|possibly|versus|vs)"
_ALTERNATIVE = re.compile(
    r"[\s%)]*(?:[,;]\s*(?:[a-z]\s*=)?|[|&/~]|-+|to|through|\.\.+|…|\+-|!=|[<>]=?)[\s(]*"
    r"|\s+|\s*\(?[A-E][).:]\s*"
    rf"|[\s%)]*(?:[a-z]+[\s,.;(]*){{0,3}}?[\s(,.;]*\b(?:{_HEDGE}|and|but)\b"
    rf"(?:[\s,]*\b(?:{_HEDGE}|even|it|is|the|answer|could|might|may|also|be|about|around|else|just)\b)*[\s(,:-]*",
    re.IGNORECASE,
)
_CORRECTED = re.compile(
    r"\b(?:wait|actually|correction|corrected|no(?=[,.:;-])|no wait|sorry|mistake|wrong|incorrect|should be"
    r"|should have been|i mean|i meant|rather(?! than)|oops|scratch|instead(?! of)"
    r"|round(?:s|ed|ing)? (?:up |down |off )?(?:to|it))\b",
    re.IGNORECASE,
)
_CENTS = re.compile(r"\s*dollars?,?\s*(?:and\s*)?", re.IGNORECASE)
_COMPOUND = re.compile(
    r"\s*(?:hours?|hrs?|h|feet|foot|ft|years?|days?|weeks?|months?|minutes?|mins?|pounds?|lbs?|yards?|gallons?|quarts?)"
    r"\s*,?\s*(?:and\s*)?",
    re.IGNORECASE,
)


_ASKING = re.compile(r"[^.!?\n]{0,30}\?")
_IN_CENTS = re.compile(r"\s*cents?\b")


_BOUND = re.compile(r"(?:(?<![-=])[<>]=?|!=|\b(?:more|less|fewer|greater) than)\s*$", re.IGNORECASE)
_SYMBOL = re.compile(r"\s?(?:pi\b|π)|[xyn]\b|h\d")  # 18x is no number, nor is 1h30
_AND_A_HALF = re.compile(r"\s*and a (half|quarter)\b")


def _direct(text: str, tokens: "list[re.Match[str]]") -> tuple[_Reading, int, bool]:
    """Follow a chain such as `6 * 3 = 18`, `18 or 20`, `20, no wait, 18` from its first number.

    Returns the reading, where it ends in `text`, and whether a calculation was part of it.
    """
    best: Number | None = _halves(text, tokens[0])
    lead = text[: tokens[0].start()]
    sides: list[Number | None] = []  # of the equation, those that are plain numbers
    calculated = False
    unfinished = bool(_BOUND.search(lead)) or "sqrt" in lead or bool(_SYMBOL.match(text, tokens[0].end()))
    last = tokens[0]
    for token in tokens[1:]:
        gap = text[last.end() : token.start()]
        if len(gap) > 120:
            break
        value = _value(text, token)
        if _CENTS.fullmatch(gap) and _IN_CENTS.match(text, token.end()):
            cents = isinstance(best, Decimal) and isinstance(value, Decimal) and value < 100
            best = _canonical(Fraction(best) + Fraction(value) / 100) if cents else None  # type: ignore[arg-type]
        elif len(gap) <= 60 and _OPERATOR.fullmatch(gap):
            unfinished = calculated = True
        elif len(gap) <= 60 and _EQUALS.fullmatch(gap):
            if not unfinished:
                sides.append(best)
            best, unfinished, calculated = value, False, True
        elif _COMPOUND.fullmatch(gap):
            return (None, text[tokens[0].start() : token.end()]), token.end(), calculated
        elif len(gap) <= 60 and _ALTERNATIVE.fullmatch(gap):
            if gap.strip() == "and" and "/" in token["body"] and best is not None and value is not None and value < 1:
                best = _canonical(Fraction(best) + Fraction(value))  # 2 and 1/2
            elif value != best:
                return (None, text[tokens[0].start() : token.end()]), token.end(), calculated
        elif _CORRECTED.search(gap):
            best, unfinished = value, False
        else:
            break
        last = token
    if unfinished:  # `18 = 9 * 2` keeps 18, `9 * 2` alone is not an answer
        best = sides[-1] if sides else None
    if "?" in text and _ASKING.match(text, last.end()):
        best = None
    return (best, last[0]), last.end(), calculated


def _halves(text: str, token: "re.Match[str]") -> Number | None:
    value = _value(text, token)
    words = _AND_A_HALF.match(text, token.end()) if " and a " in text else None
    if value is None or words is None:
        return value
    return _canonical(Fraction(value) + Fraction(1, 2 if words[1] == "half" else 4))


_SUBORDINATE = re.compile(
    r"\b(?:because|since|after|if|when|given|while|before|assuming|where|from which|out of"
    r"|which (?:is|are|was) (?:the|a|an|how))\b[^,;]*",
    re.IGNORECASE,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CONTEXT = _words(
    "for in after of per every from with at by within during over than each the if these those all both other"
    " first next last plus minus day week step age her his their another and"
)
_RESULT = _words(
    "is are was were be been total totals equal equals make makes made earn earns earned has have had cost costs"
    " pay pays paid need needs take takes spent spend spends get gets save saves receive receives leaving worth"
    " becomes only exactly approximately about sold sell sells use used uses ate eat eats"
)
_RESULT_PAIRS = {"total of", "sum of", "average of", "profit of", "maximum of", "minimum of", "left with"}
_DENIED = re.compile(r"(?:(?:\bnot|n't)(?: \w+)?|(?<![-=])[<>]=?|\b(?:more|less|fewer|greater) than|sqrt)\s*$")
_PAIR = re.compile(r"\b(?:between|from|either|sum of|product of|difference of)\b")
_LISTED = re.compile(r"\s*[,;]\s*(?:and |or )?|\s*\(?[A-E][).:]\s*|\s+")
_HEDGED = re.compile(rf"\b{_HEDGE}\b", re.IGNORECASE)
_ASIDE = re.compile(r"\s(?:\([^()]*\)|,? ?\(?i\.e\..*)\W*$")
_PURPOSE = re.compile(r"\bto [a-z]+(?: the| a| her| his| their| all)?\s*$")
_CLAUSE = re.compile(r"\b(?:so|therefore|thus|hence|then|meaning|making|leaving)\b|,", re.IGNORECASE)


def _statement(text: str, before: str = "", known: "frozenset[Number]" = frozenset()) -> _Reading:
    """The number that a sentence in prose states as its result; `before` is the working that leads up to it.

    `known` are the numbers that the question gave: the less likely results.
    """
    aside = _ASIDE.search(text) if "(" in text or "i.e." in text else None
    if aside and "=" not in aside[0] and _DIGIT.search(text, 0, aside.start()):
        text = text[: aside.start()]
    equals = max(text.rfind("="), text.rfind(" equals "), text.rfind(" equal to "))
    if equals >= 0:
        after = list(_NUMBER.finditer(text, equals))[:24]
        if after:
            return _direct(text, after)[0]
    tokens = list(_NUMBER.finditer(text))[:24]
    if equals >= 0:
        named = text[equals + 1 :].strip(" .)") and tokens  # 6 = x
        alone = named and not text[tokens[-1].end() : equals].strip(" )")
        return (_value(text, tokens[-1]) if alone else None), text[-80:]
    if _mentions(text, ("not", "n't", "than", "<", ">", "sqrt")):
        tokens = [token for token in tokens if not _DENIED.search(text[max(0, token.start() - 20) : token.start()])]
    if not tokens:
        return None, text[-80:]
    values = [_value(text, token) for token in tokens]
    for index in range(len(tokens) - 1, 0, -1):
        left, right = tokens[index - 1], tokens[index]
        gap = text[left.end() : right.start()]
        if values[index - 1] == values[index] or len(gap) > 60:
            continue
        if _CORRECTED.search(gap):
            tokens, values = tokens[index:], values[index:]
            break
        lead = text[max(0, left.start() - 20) : left.start()].lower()
        paired = gap.strip() in ("and", "to", "-") and _PAIR.search(lead)
        listed = index == len(tokens) - 1 and _LISTED.fullmatch(gap) and not lead.endswith((" in ", " on ", " by "))
        ranged = gap.strip() in ("-", "to", "/")
        unfinished = _OPERATOR.fullmatch(gap) and index == len(tokens) - 1
        if paired and index < len(tokens) - 1:  # the difference between 30 and 12 is 18
            continue
        if paired or ranged or listed or unfinished or _HEDGED.search(gap):
            return None, text[left.start() : right.end()]
    if len(set(values)) == 1:
        return values[0], tokens[-1][0]
    if not _WORDED.search(text):
        return None, text[:80]
    result = _last_result(before)
    clauses = [match.span() for match in _SUBORDINATE.finditer(text)]
    main = max((match.end() for match in _CLAUSE.finditer(text, tokens[0].end(), tokens[-1].start())), default=0)
    scores = []
    for token, value in zip(tokens, values, strict=True):
        lead = text[max(0, token.start() - 30) : token.start()]
        words = lead.lower().rstrip(" -").split()[-2:] or [""]
        stated = words[-1] in _RESULT or " ".join(words) in _RESULT_PAIRS
        score = 4 if stated else 0 if words[-1] in _CONTEXT else 2
        if token is not tokens[0] and _PURPOSE.search(lead):
            score = 0
        if any(start <= token.start() < end for start, end in clauses):
            score -= 4
        score += 3 * (value == result) + 1 * (value not in known) + 3 * (token.start() >= main)
        score += 2 * (not _occurs(token["body"], before))  # worked out here
        scores.append(score)
    chosen = max(range(len(scores)), key=lambda index: (scores[index], index))
    return values[chosen], tokens[chosen][0]


def _occurs(body: str, text: str) -> bool:
    """Whether the digits stand in the text as a number of their own."""
    at = text.rfind(body)
    for _ in range(8):
        if at < 0:
            return False
        if not text[at - 1 : at].isdigit() and not text[at + len(body) : at + len(body) + 1].isdigit():
            return True
        at = text.rfind(body, 0, at)
    return False


# -- Explicit markers ----------------------------------------------------------------------------------------

_Marked = tuple[Number | None, How, str, int, int]  # value, how, span, start of the marker, end of the reading
_HEADING = re.compile(
    r"\W*(?:(?:step|part|phase|case|method|section|question|problem|example|option|stage|solution|task)\s*#?\d"
    r"|(?:1?\d|20)[.):]\s+[A-Za-z])",
    re.IGNORECASE,
)
_ANSWER_HEADING = re.compile(r"\W*(?:the )?(?:final )?answer\W*", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:do not|don'?t|cannot|can not|can'?t|could not|couldn'?t|unable to|impossible to|not possible to|no way to)"
    r" (?:be )?(?:know|determin|answer|calculat|solve|find|tell|comput|say|figure)|not enough information|insufficient"
    r"|more information|unknown|undetermined|\bn/a\b|no answer|unclear|not sure",
    re.IGNORECASE,
)
_REFUSAL_STEMS = (
    "not ", "n't", "nable", "mpossible", "nknown", "nsufficient", "/a", "/A", "no ", "No ", "nclear", "ore info",
)  # fmt: skip
_PHRASE = re.compile(
    r"""s?['"*_`)>\]\s]*(?:\([^()\n]{0,40}\))?[\s*_]*
    (?P<about>(?:to|for|in|of|here|given|that|we|i|should|must|would|will|can|could|might|may|,)(?!\w)
       [^.:=?\n]{0,100}?)?
    (?:\b(?P<verb>is|was|are|be|equals|becomes)\b\s*:?|(?P<label>[:=>]+|-+>?(?=\s)|\n))[\s*_`"']*""",
    re.VERBOSE | re.IGNORECASE,
)
_NOT_THE_NOUN = ("to ", "we ", "can ", "ease ", "if ", "if the ")  # "to answer this", "if the answer is"
_NOT_FINAL = re.compile(r"\b(?:part|first|step|sub|previous|second)\b", re.IGNORECASE)
_TRIES = 16


def _last_marker(text: str) -> _Marked | None:
    """The reading of the last marker that holds an attempt at an answer."""
    lower = text[-65536:].lower()
    offset = max(0, len(text) - 65536)
    if len(lower) != len(text) - offset:  # some capitals grow when lowered
        lower = text[-65536:]
    hashes = text.rfind("####")
    boxed = text.rfind("\\boxed")
    phrase = lower.rfind("answer")
    for _ in range(_TRIES):
        last = max(hashes, boxed, phrase + offset if phrase >= 0 else -1)
        if last < 0:
            return None
        if last == hashes:
            found = _read_hashes(text, hashes)
            hashes = text.rfind("####", 0, max(hashes - 3, 0))
        elif last == boxed:
            found = _read_box(text, boxed)
            boxed = text.rfind("\\boxed", 0, boxed)
        else:
            found = _read_phrase(text, last)
            phrase = lower.rfind("answer", 0, phrase)
        if found is not None:
            return found
    return None


def _line(text: str, start: int) -> tuple[str, int]:
    """The first line with text at or after `start`, and where it begins; at most _SLICE characters."""
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
        if text[start : start + 64].isspace():
            start += 64
    end = text.find("\n", start, start + _SLICE)
    if end < 0:
        end = start + _SLICE
        if text[end - 1 : end].isdigit():  # never read a number cut short
            end = _RUN.match(text, end, end + _DIGITS).end()  # type: ignore[union-attr]
    return text[start:end], start


def _tail(text: str, size: int) -> str:
    """The end of the text, without the word that the cut goes through."""
    return text if len(text) <= size else text[-size:].lstrip("0123456789.,").partition(" ")[2]


_RUN = re.compile(r"[\d.,]*")


def _raw_end(raw: str, body: str) -> int:
    """Where the number `body` ends in the raw slice; the whole slice if markup hides it."""
    at = raw.find(body)
    return at + len(body) if at >= 0 else len(raw)


# Most answers are a number and a few words of unit to the end of the line: nothing else needs a look.
_BARE = re.compile(
    r"[ \t]*\$?(\d{1,15}|[1-9]\d{0,2}(?:,\d{3}){1,4})"
    r"(?:[ \t]+(?!(?:or|and|maybe|perhaps|possibly|pi|hundred|thousand|million|billion|trillion|minus|plus|times|no)\b)"
    r"[A-Za-z]{2,20}){0,6}[ \t]*\.?[ \t]*(?:\n|\Z)",
    re.ASCII,
)


_INSTRUCTION = re.compile(
    r"\b(?:your|you should|(?:put|write|give) (?:your|the)|e\.g|for example|format is"
    r"|such as|(?:end|finish) (?:it )?with)\b[^\n]*\Z",
    re.IGNORECASE,
)


def _instructed(text: str, at: int) -> bool:
    """Whether the marker is part of an instruction on the format, quoted from the prompt."""
    return _INSTRUCTION.search(text, max(0, at - 60), at) is not None


def _read_hashes(text: str, at: int) -> _Marked | None:
    start = at + 4
    while start < len(text) and text[start] == "#":
        start += 1
    bare = _BARE.match(text, start)
    value: Number | None
    if bare and text[max(0, at - 1) : at] in ("", "\n"):
        value = _decimal(bare[1])
        return value, How.HASHES, bare[1], at, bare.end(1)
    raw, start = _line(text, start)
    plain = _plain(raw)
    if _ANSWER_HEADING.fullmatch(plain):
        raw, start = _line(text, start + len(raw))
        plain = _plain(raw)
    if not plain or _HEADING.match(plain):
        return None
    tokens = list(_NUMBER.finditer(plain))[:12]
    final = not text[start + len(raw) : start + len(raw) + _SLICE].strip(" \n\r\t#*`$")
    if final and _instructed(text, at):
        return None, How.NONE, plain, at, start
    if not tokens:
        value = _spelled(plain)
        if value is not None and len(plain) < 80:
            return value, How.HASHES, plain, at, start + len(raw)
        return (None, How.NONE, plain, at, start + len(raw)) if final and _REFUSAL.search(plain) else None
    if _LEAD.fullmatch(plain, 0, tokens[0].start()):
        value, span = _direct(plain, tokens)[0]
        return value, How.HASHES, span, at, start + _raw_end(raw, span)
    if not final:
        return None
    value, span = _statement(plain)
    return value, How.HASHES, span, at, start + len(raw)


_BRACE = re.compile(r"[{}\n]")


def _read_box(text: str, at: int) -> _Marked | None:
    start = at + len("\\boxed")
    while text[start : start + 1] == " ":
        start += 1
    depth, end = 0, start
    for brace in _BRACE.finditer(text, start, start + _SLICE):
        end = brace.end()
        depth += {"{": 1, "}": -1, "\n": -_SLICE}[brace[0]]
        if depth <= 0:
            break
    else:
        end = min(len(text), start + _SLICE)
    if text[start : start + 1] != "{":
        end = start + len(text[start : start + 40].split("\n")[0])
    if not text[end : end + 20].strip(" $.\n`'\"") and _instructed(text, at):
        return None, How.NONE, "", at, end
    inner = text[start + 1 : end - 1]
    plain = inner if inner.isdigit() and text[end - 1] == "}" else _plain(text[start:end])
    tokens = list(_NUMBER.finditer(plain))[:12]
    value: Number | None
    if not tokens:
        value = _spelled(plain)
        return None if value is None else (value, How.BOXED, plain, at, end)
    if _LEAD.fullmatch(plain, 0, tokens[0].start()):
        value, span = _direct(plain, tokens)[0]
    else:
        value, span = _statement(plain)
    if value is not None and text[max(0, at - 1) : at] == "-" and not text[max(0, at - 2) : at - 1].isalnum():
        value = value.copy_negate() if isinstance(value, Decimal) else -value
    tail = _plain(text[end : end + 80].partition("\n")[0]) if _DIGIT.search(text, end, end + 80) else ""
    other = _NUMBER.search(tail)
    if value is not None and other and other.start() <= 60:
        gap = tail[: other.start()]
        if _ALTERNATIVE.fullmatch(gap) and _value(tail, other) != value:
            value = None
    return value, How.BOXED, span, at, end


def _read_phrase(text: str, at: int) -> _Marked | None:
    match = _PHRASE.match(text, at + len("answer"), at + 200)
    if match is None or text[max(0, at - 8) : at].lower().endswith(_NOT_THE_NOUN):
        return None
    if match["about"] and _NOT_FINAL.search(match["about"]):
        return None
    bare = _BARE.match(text, match.end())
    value: Number | None
    if bare:
        value = _decimal(bare[1])
        return value, How.PHRASE, bare[1], at, bare.end(1)
    raw, start = _line(text, match.end())
    if "\n" in match[0] and raw.startswith("- "):
        raw, start = raw[2:], start + 2  # a bullet, not a minus
    hashes = raw.find("####")
    if hashes > 0:
        raw = raw[:hashes]
    plain = _plain(raw)
    tokens = list(_NUMBER.finditer(plain))[:12]
    if not tokens:
        value = _spelled(plain) if len(plain) < 80 else None
        return None if value is None else (value, How.PHRASE, plain, at, start + len(raw))
    more = any(char.isdigit() for char in text[start + len(raw) : start + len(raw) + _SLICE])
    if _LEAD.fullmatch(plain, 0, tokens[0].start()):
        (value, span), end, calculated = _direct(plain, tokens)
        if match["label"] and calculated and (more or re.search(r"\d", plain[end:])):
            return None
        return value, How.PHRASE, span, at, start + _raw_end(raw, span)
    sentences = _sentences(plain)
    if match["label"] and (more or len(sentences) > 1):
        return None  # a label over working: the closing sentence has the answer
    value, span = _statement(sentences[0])
    if value is None and not _NUMBER.search(sentences[0]):
        return None
    return value, How.PHRASE, span, at, start + _raw_end(raw, span)


# -- What comes after a marker, or instead of one ------------------------------------------------------------

_CONFIRMED = re.compile(
    r"(?:\b(?:is|are|was|looks|seems|all|yes,?|so)|'s) (?:indeed |also |all )?(?:correct|right)\b|confirm"
    r"|checks out|matches|verified",
    re.IGNORECASE,
)
_OTHERWISE = re.compile(
    rf"(?:\A|[.!?;,(\n])\W*(?:{_HEDGE})\b|\b(?:could|might|may) (?:also |well )?(?:be|have been)\b", re.IGNORECASE
)
_OTHERWISE_STEMS = ("or ", "altern", "maybe", "perhaps", "possib", "could", "might", "may ", "vs", "versus")
_CORRECTED_STEMS = (
    "wait", "actual", "correct", "no,", "no.", "no:", "no;", "no-", "sorry", "mistake", "wrong", "should", "mean",
    "rather", "oops", "scratch", "instead", "round",
)  # fmt: skip
_DIGIT = re.compile(r"\d")
_WORDED = re.compile(r"[A-Za-z=\u0080-\uffff]")
_CONCLUDES = re.compile(r"\W*(?:so|therefore|thus|hence|in conclusion|in total|finally|overall)\b", re.IGNORECASE)


def _mentions(text: str, stems: tuple[str, ...]) -> bool:
    """Whether any of the stems occurs: a cheap guard in front of a slow pattern."""
    for stem in stems:  # noqa: SIM110  (a generator costs twice as much)
        if stem in text:
            return True
    return False


def _revised(
    text: str, value: Number, how: How, span: str, end: int, question: str | None
) -> tuple[Number | None, How, str]:
    """Let a correction or an alternative after the marker change the answer."""
    tail = text[end : end + 4000]
    if len(tail) < 8 or not (_DIGIT.search(tail) or _mentions(tail, ("wrong", "incorrect", "mistake"))):
        return value, how, span
    lower = tail.lower()
    cue = _CORRECTED.search(tail) if _mentions(lower, _CORRECTED_STEMS) else None
    if cue:
        rest = tail[cue.start() :]
        later, later_span = _closing(rest, question)
        if later is not None and later != value and not _CONFIRMED.search(rest):
            return later, How.CLOSING, later_span
        if later is None and re.search(r"(?:wrong|incorrect|mistake)", rest[:200], re.IGNORECASE):
            return None, How.NONE, span
        return value, how, span
    doubt = _OTHERWISE.search(tail) if _mentions(lower, _OTHERWISE_STEMS) else None
    if doubt:
        other = _NUMBER.search(_plain(tail[doubt.start() : doubt.start() + 80]))
        if other and _value(other.string, other) != value:
            return None, How.NONE, span
    if how is How.PHRASE:
        sentences = _sentences(tail.strip()[-_SLICE:])
        if len(sentences) > 1 and _CONCLUDES.match(sentences[-1]):
            later, later_span = _closing(tail, question)
            if later is not None and later != value:
                return later, How.CLOSING, later_span
    return value, how, span


_MARKS = re.compile(r"####|\\boxed|answer(?: is|:)?", re.IGNORECASE)
_CONNECTOR = re.compile(rf"(?:\W|\b(?:{_HEDGE}|and|also|the|is|it|answer|could|might|be|either|a)\b)*", re.IGNORECASE)


def _has_rival(text: str, value: Number, start: int) -> bool:
    """Whether another marker stands right before this one with another number, as in `#### 18` `#### 20`."""
    before = text[max(0, start - 80) : start]
    if not _mentions(before, ("####", "boxed", "nswer", "NSWER")):
        return False
    marks = list(_MARKS.finditer(before))
    if not marks:
        return False
    plain = _plain(before[marks[-1].end() :])
    tokens = list(_NUMBER.finditer(plain))
    if len(tokens) != 1:
        return False
    token = tokens[0]
    alone = _CONNECTOR.fullmatch(plain, 0, token.start()) and _CONNECTOR.fullmatch(plain, token.end())
    return bool(alone) and _value(plain, token) != value


def _hashes_agree(text: str, value: Number) -> bool:
    at = text.rfind("####")
    found = _read_hashes(text, at) if at >= 0 else None
    return found is not None and found[0] == value


_SENTENCE = re.compile(r"(?<=[.!?])[\"'*)]*\s+(?=[\"'*(\[$\\A-Z0-9])")
_PLEASANTRY = re.compile(
    r"would you like|do you (?:have|need|want)|let me know|does (?:this|that|it) (?:help|make)"
    r"|any (?:other |more )?questions|(?:can|may) i (?:help|assist)|is there anything",
    re.IGNORECASE,
)
_SIGN_OFF = re.compile(
    r"\b(?:hope|help|let me know|answer|final|done|correct|thank|enjoy|glad|check|questions?|solution|therefore)\b",
    re.IGNORECASE,
)
_OPTION = re.compile(r"\W*(?:(?:option|choice|candidate|possibility)\s*\w{1,2}|answer\s*#?\d)\s*[:.)]", re.IGNORECASE)
_REMARK = re.compile(r"\W*(?:note\b|this assumes|assuming|remember|\(?check)", re.IGNORECASE)
_PLAN = re.compile(
    r"\W*(?:let'?s|let us|we (?:need|have) to|now,? (?:we|let)|next,? (?:we|let)|first,"
    r"|to (?:find|calculate|determine|solve))\b",
    re.IGNORECASE,
)
_BOLD = re.compile(r"\*\*([^*\n]*\d[^*\n]*)\*\*")
_ORDINAL = re.compile(r"\s*(?:[#>\s]*)(?:(?:step\s*)?\d{1,2}[.):]\s+|[-*•]\s+)?", re.IGNORECASE)


def _sentences(text: str) -> list[str]:
    if not _mentions(text, (". ", "! ", "? ", ".*", "!*", "?*", '."', ".)")):
        return [text]
    return [part for part in _SENTENCE.split(text) if part.strip()] or [text]


def _closing(text: str, question: str | None) -> _Reading:
    """The result stated by the last sentence with a number in it, if nothing but pleasantries follows."""
    body = _tail(text[-65536:].rstrip(), 4000)
    lines = [line for line in body.rsplit("\n", 12)[-12:] if line.strip(" \r\t$`-#*[]\\|")]
    skipped = 0
    for index in range(len(lines) - 1, -1, -1):
        for sentence in reversed(_sentences(_tail(lines[index], 2 * _SLICE))):
            plain = _plain(sentence)
            plain = plain[_ORDINAL.match(plain).end() :].strip()  # type: ignore[union-attr]
            if plain.endswith("?"):
                if _PLEASANTRY.search(plain):
                    continue
                return None, plain
            if _mentions(plain, _REFUSAL_STEMS) and _REFUSAL.search(plain):
                return None, plain
            if not _NUMBER.search(plain):
                if not plain.endswith((".", "!", ":", ")")) and " " in plain and not _SIGN_OFF.search(plain):
                    return None, plain  # cut off in the middle of a sentence
                value = _spelled(plain) if _CONCLUDES.match(plain) else None
                if value is not None:
                    return value, plain
                skipped += 1
                if skipped > 4:
                    return None, plain
                continue
            if _OPTION.match(plain):
                return None, plain
            if _REMARK.match(plain) and index + len(lines) > 1:
                continue
            if question and sentence.strip() in question:
                return None, plain
            if _PLAN.match(plain) and "=" not in plain:
                return None, plain
            bold = _BOLD.findall(sentence) if "**" in sentence else None
            if bold and len(bold[-1]) < len(sentence) - 6:
                inner = _plain(bold[-1])
                tokens = list(_NUMBER.finditer(inner))[:12]
                if tokens and _LEAD.fullmatch(inner, 0, tokens[0].start()):
                    return _direct(inner, tokens)[0]
            if index and not _WORDED.search(plain) and _guess_before(lines[index - 1], plain):
                return None, plain
            place = body.rfind(sentence)
            return _statement(_tail(plain, _SLICE), body[:place], _given(question))
    return None, ""


def _guess_before(line: str, other: str) -> bool:
    """Whether the line is a bare number too, and a different one: a list of guesses."""
    value = parse_number(line)
    return value is not None and value != parse_number(other)


def _last_result(text: str) -> Number | None:
    """What the last `=` in the text comes to."""
    at = text.rfind("=")
    if at < 0:
        return None
    plain = _plain(text[at + 1 : at + 60])
    token = _NUMBER.search(plain)
    return _value(plain, token) if token and not plain[: token.start()].strip(" (-") else None


@lru_cache(maxsize=1024)
def _given(question: str | None) -> "frozenset[Number]":
    if not question:
        return frozenset()
    plain = _plain(question[:4000])
    values = (_value(plain, token) for token in _NUMBER.finditer(plain))
    return frozenset(value for value in values if value is not None)


# -- Which part of the text is the completion's own answer ---------------------------------------------------

_END_OF_TURN = re.compile(r"<\|[a-z_]{2,20}\|>|</s>|<end_of_turn>|<eos>")
_NEXT_QUESTION = re.compile(r"\n[ #*]{0,6}(?:Question|Q|Problem|Human|User|Instruction)\b[ \d]{0,4}\*{0,2}:")


def _own_words(text: str, question: str | None) -> str:
    """Leave out reasoning in <think> tags, whatever follows the end of the turn, and copies of the prompt."""
    if "<" in text:
        if "</think>" in text:
            text = text.rpartition("</think>")[2]
        elif "<think>" in text and "####" not in text and "\\boxed" not in text:
            return ""
        if ("<|" in text or "</s>" in text or "<e" in text) and _END_OF_TURN.search(text):
            text = next((part for part in _END_OF_TURN.split(text, maxsplit=8) if part.strip()), "")
    if question:
        for line in question.split("\n"):
            line = line.strip()
            if len(line) >= 24 and line in text:
                text = text.replace(line, " ")
    turn = _NEXT_QUESTION.search(text, 0, 32768) if ":" in text else None
    if turn:
        head = text[: turn.start()]
        if head.strip() and (_last_marker(head) or _closing(head, question)[0] is not None):
            return head
    return text
