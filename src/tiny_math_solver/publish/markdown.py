"""Text in Markdown that shows as it is, whoever wrote it."""

import re


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", line.replace("&", "&amp;")).replace("\\<", "&lt;")


def code(text: str) -> str:
    """Text as inline code, whatever backticks are in it; in a table too."""
    line = " ".join(text.split()).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}" if line else '""'


def fenced(text: str) -> str:
    """Text as a block of code, whatever fences are in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
