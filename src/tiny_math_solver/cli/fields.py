"""`tiny-math fields`: list the fields of a configuration."""

import argparse
import shutil
import sys
import textwrap
from typing import Any

from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.progress import loading

HELP = "list every configuration field with its type, default and meaning"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "section", nargs="?", metavar="SECTION", help="only this section, or this field: grpo, grpo.learning_rate"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.config.schema import Config

    wanted, _, field = (args.section or "").partition(".")
    if wanted:
        _check(wanted, list(Config.model_fields), "section")
        lines = _lines(wanted, field)
    else:
        lines = [line for section in Config.model_fields if section not in _LIBRARIES for line in _lines(section)]
        lines += [_summary(section) for section in _LIBRARIES]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0  # in a file a field is a line
    for line in lines:
        console.say(textwrap.fill(line, max(width, 40), subsequent_indent="    ") if width else line)
    return 0


_LIBRARIES = {"lora": "PEFT's LoraConfig", "grpo": "TRL's GRPOConfig"}


def _lines(section: str, field: str = "") -> list[str]:
    """A line for every field of a section, or for one."""
    with loading():
        from tiny_math_solver.config.fields import known_fields

        known = known_fields(section)
    if field:
        _check(field, list(known), f"field in section {section}")
        known = {field: known[field]}
    return [
        f"{section}.{name} ({_name(kind)}, default {default!r}): {help}"
        for name, (kind, default, help) in known.items()
    ]


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def _summary(section: str) -> str:
    """What a section of a library's fields is, without loading the library."""
    from tiny_math_solver.config.sections import GRPO_DEFAULTS, LORA_DEFAULTS

    defaults = {"lora": LORA_DEFAULTS, "grpo": GRPO_DEFAULTS}[section]
    ours = ", ".join(f"{name} {value!r}" for name, value in defaults.items())
    return f"{section}.* (every field of {_LIBRARIES[section]}; tiny-math fields {section}): defaults of ours: {ours}"


def _check(name: str, known: list[str], what: str) -> None:
    from tiny_math_solver.config.values import nearest

    if name not in known:
        close = nearest(name, known)
        hint = f"did you mean {close}?" if close else f"choose from {', '.join(known[:12])}"
        raise UserError(f"no {what} is called {name!r}; {hint}")
