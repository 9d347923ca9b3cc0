"""Scales: words and signs after a number that multiply it, `3 lakh` or `5万`, and those that may do so, `2 zillion`.

"Dozen" counts as a unit and as a scale: `3 dozen` answers both "how many dozens" and "how many eggs".
"""

import re

# Powers of ten, by words in lower case without a plural s
_WORDS = {
    2: "hundred hundert",
    3: "k thousand grand tausend mille mila tysiąc тысяч тысяча тысячи हज़ार हजार 千 천",
    4: "万 萬 만",
    5: "lakh lac लाख",
    6: "m mm mio mln mn million millionen millone millón milhão milhões milione milioni"
    " миллион миллиона миллионов 百万",
    7: "crore cr करोड़ करोड",
    8: "亿 億 억",
    9: "b bn arab mrd billion milliard milliarden miliardo miliardi миллиард миллиарда миллиардов",
    12: "trn trillion 兆 조",
    15: "quadrillion",
    18: "quintillion",
}
POWERS = {word: power for power, words in _WORDS.items() for word in words.split()}

_LONGEST_FIRST = sorted(POWERS, key=len, reverse=True)
_LATIN = "|".join(word for word in _LONGEST_FIRST if word.isascii() and len(word) > 1 and word not in ("mm", "grand"))
_SCRIPTS = "|".join(word for word in _LONGEST_FIRST if not word.isascii() and word != "千")
# Words that multiply, those of which a language at least says something else (`5 mil`), and those cut off at the end
SCALE = (
    rf"(?:\s?(?:[kKMB]|MM)(?![\w&'/-])|(?:\s?(?i:(?:{_LATIN})s?|grand(?=\W*\Z|[.,;:!?)])|(?:ten|hundred|thousand)ths?"
    r"|mil|(?:[a-z]*ill|mil)(?:ions?|iards?|ionen|iarden|ones|ioni|ione|iardi|iardo))(?![A-Za-z]))+"
    rf"|\s?(?:{_SCRIPTS}|千(?![克米瓦卡]))"
    r"|\s?(?i:hundr?e?|thou|thous|thousa|thousan|milli?|millio|billi?|billio|trill?|trilli|trillio|lak|cror?)\Z)"
)
_PLURAL = re.compile(r"(?<=[a-z]{3})s\Z")


def power_of(scale: str) -> int | None:
    """The power of ten of the words after a number; None if one of them is no known scale."""
    total = 0
    for word in scale.split():
        lower = word.lower()
        power = POWERS.get(lower) or POWERS.get(_PLURAL.sub("", lower))
        if power is None:
            return None
        total += power
    return total


_BATCHES = {"dozen": 12, "score": 20, "gross": 144}
_BATCH = re.compile(r"[\s-]*(dozen|score|gross)s?\b(?! (?:income|pay|profit|salary|weight|earning|sales|of \d))", re.I)


def batch_at(text: str, end: int) -> int:
    """The size of the batch that is counted by a number that ends at `end`, 12 for dozens; 1 without any."""
    match = _BATCH.match(text, end)
    return _BATCHES[match[1].lower()] if match else 1
