"""Markup to plain text: Markdown, LaTeX, HTML, currency and the digits of every script become ASCII."""

import html
import re
import unicodedata


def plain(text: str) -> str:
    """A short text without its markup; words, numbers and operators stay."""
    if not text.isascii():
        text = _MILLIONS.sub(r"\1M", text).translate(_ASCII)
    if "&" in text and ";" in text:
        text = html.unescape(text).translate(_ASCII)
    if "<" in text or "~~" in text:
        text = _PLACEHOLDER.sub(r"\1", _ANNOTATION.sub("", text))
    if "\\" in text:
        text = _latex(text)
    if "{" in text or "}" in text:
        text = text.replace("{,}", ",").replace("{", "").replace("}", "")
    if "$" in text:
        if "m" in text:
            text = _MILLIONS.sub(r"\1M", text)
        text = _CURRENCY.sub(" ", text).replace("$", "")
    if "*" in text:
        text = text.replace("**", "")
    if "`" in text or "__" in text:
        text = text.replace("`", "").replace("__", "")
    return text


class _Ascii(dict[int, str]):
    """A translation table from any digit, minus, space or currency sign to its ASCII form, filled on demand."""

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
_PLACEHOLDER = re.compile(r"<(\$?\d[\d.,]*)>")  # <18>, where the prompt said <answer>
_MILLIONS = re.compile(r"([$\u20ac\u00a3\u20b9\u00a5] ?\d[\d.,]* ?)m(?:il|ln|n)?\b")  # $1.2m is money, 1.2m a length
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
    """The sentences of one line."""
    for stop in _STOPS:
        if stop in text:
            return [part for part in _SENTENCE.split(text) if part.strip()] or [text]
    return [text]


_STOPS = (". ", "! ", "? ", ".*", "!*", "?*", '."', '!"', ".)", "!)")
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\bMr.)(?<!\bMs.)(?<!\bDr.)(?<!\bMrs.)[\"'*)]*\s+(?=[\"'*(\[$\\A-Z0-9])")


def last_characters(text: str, size: int) -> str:
    """The last `size` characters of a text, less the word that is cut in two."""
    return text if len(text) <= size else text[-size:].lstrip("0123456789.,").partition(" ")[2]
