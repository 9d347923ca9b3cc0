"""Markup to plain text: Markdown, LaTeX, HTML, currency and every script's digits become ASCII words and operators."""

import html
import re
import unicodedata


def plain(text: str) -> str:
    """Drop the markup of a short text; words, numbers and operators stay."""
    if not text.isascii():
        text = text.translate(_ASCII)
    if "&" in text and ";" in text:
        text = html.unescape(text).translate(_ASCII)
    if "<" in text or "~~" in text:
        text = _ANNOTATION.sub("", text)
    if "\\" in text:
        text = _latex(text)
    if "{" in text or "}" in text:
        text = text.replace("{,}", ",").replace("{", "").replace("}", "")
    if "$" in text:
        text = _CURRENCY.sub(" ", text).replace("$", "")
    if "*" in text:
        text = text.replace("**", "")
    if "`" in text or "__" in text:
        text = text.replace("`", "").replace("__", "")
    return text


class _Ascii(dict[int, str]):
    """Translation table from any digit, minus, space or currency sign to its ASCII form, filled on demand."""

    def __missing__(self, code: int) -> str:
        self[code] = out = self.look_up(chr(code)) if code >= 128 else chr(code)
        return out

    @staticmethod
    def look_up(char: str) -> str:
        name, category = unicodedata.name(char, ""), unicodedata.category(char)
        if (digit := unicodedata.decimal(char, None)) is not None:
            return str(digit)
        if name.startswith("SUPERSCRIPT") and (digit := unicodedata.digit(char, None)) is not None:
            return f"^{digit}"
        if name.startswith("VULGAR FRACTION"):
            return " " + unicodedata.normalize("NFKC", char).replace("\u2044", "/")
        if 0xFF01 <= ord(char) <= 0xFF5E:
            return chr(ord(char) - 0xFEE0)  # full-width punctuation and letters
        return {"Pd": "-", "Sc": "", "Cf": "", "Zs": " ", "Zl": "\n", "Zp": "\n"}.get(category, char)


_ASCII = _Ascii()
_ASCII.update(
    {ord(char): out for chars, out in (
        ("\u2212\u207b\u2796\u02d7", "-"), ("×✕✖·⋅∙", "*"), ("÷⁄∕", "/"), ("≈≃≅", "="), ("±", "+-"), ("√", " sqrt "),
        ("≠", "!="), ("≤", "<="), ("≥", ">="), ("→⇒⟹", "->"), ("’‘′", "'"), ("“”", '"'), ("。", ". "), ("π", "pi"),
        ("٬", ","), ("٫", "."),
    ) for char in chars}
)  # fmt: skip

_ANNOTATION = re.compile(r"<<[^<>\n]*>>|~~[^~\n]*~~|</?[A-Za-z][^<>\n]{0,20}>")  # calculator, struck out, tags
_CURRENCY = re.compile(r"\$(?<=\w\$)(?=\d)")  # US$18 is no identifier


def _latex(text: str) -> str:
    if "frac" in text:
        text = _FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]} ".replace(" /", "/"), text)
    if "^" in text or "{,}" in text:
        text = text.replace("{,}", ",").replace("^\\circ", "").replace("^{\\circ}", "")
    return _COMMAND.sub(lambda m: _COMMANDS.get(m[1], " "), text)


_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d))")
_COMMAND = re.compile(r"\\([A-Za-z]+\*?|.)", re.DOTALL)
_COMMANDS = dict.fromkeys(["$", "!", "(", ")", "[", "]", "{", "}", "left", "right", "boxed", "fbox", "circ"], "") | {
    "%": "%", "times": "*", "cdot": "*", "div": "/", "approx": "=", "pm": "+-", "pi": "pi", "sqrt": " sqrt ",
    "le": "<", "leq": "<", "ge": ">", "geq": ">", "lt": "<", "gt": ">", "degree": "", "to": "->",
}  # fmt: skip


def sentences(text: str) -> list[str]:
    """Split one line into its sentences."""
    for stop in _STOPS:
        if stop in text:
            return [part for part in _SENTENCE.split(text) if part.strip()] or [text]
    return [text]


_STOPS = (". ", "! ", "? ", ".*", "!*", "?*", '."', '!"', ".)", "!)")
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\bMr.)(?<!\bMs.)(?<!\bDr.)(?<!\bMrs.)[\"'*)]*\s+(?=[\"'*(\[$\\A-Z0-9])")


def tail(text: str, size: int) -> str:
    """The end of the text, without the word that the cut goes through."""
    return text if len(text) <= size else text[-size:].lstrip("0123456789.,").partition(" ")[2]


class Cue:
    """A pattern of words, searched only where one of its stems occurs: most texts hold none, at a tenth of the time.

    Stems are in lower case and separated by bars; every match of the pattern has to contain one.
    """

    def __init__(self, stems: str, pattern: str) -> None:
        self.stems = tuple(stems.split("|"))
        self.pattern = re.compile(pattern, re.IGNORECASE)

    def occurs(self, text: str) -> bool:
        lower = text.lower()
        for stem in self.stems:  # noqa: SIM110  (a generator costs twice as much)
            if stem in lower:
                return True
        return False

    def search(self, text: str) -> "re.Match[str] | None":
        return self.pattern.search(text) if self.occurs(text) else None

    def fullmatch(self, text: str) -> "re.Match[str] | None":
        return self.pattern.fullmatch(text) if self.occurs(text) else None

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in self.pattern.finditer(text)] if self.occurs(text) else []
