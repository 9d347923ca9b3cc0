"""`tiny-math fields`: list every configuration field."""

import argparse

from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError

HELP = "list every configuration field with its type, default and meaning"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "section", nargs="?", metavar="SECTION", help="only this section, or this field: grpo, grpo.learning_rate"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.config.fields import known_fields
    from tiny_math_solver.config.schema import Config

    wanted, _, field = (args.section or "").partition(".")
    if wanted:
        _check(wanted, list(Config.model_fields), "section")
    if field:
        _check(field, list(known_fields(wanted)), f"field in section {wanted}")
    for section in [wanted] if wanted else Config.model_fields:
        for name, (kind, default, help) in known_fields(section).items():
            if field and name != field:
                continue
            shown = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
            console.say(f"{section}.{name} ({shown}, default {default!r}): {help}")
    return 0


def _check(name: str, known: list[str], what: str) -> None:
    from tiny_math_solver.config.values import nearest

    if name not in known:
        close = nearest(name, known)
        hint = f"did you mean {close}?" if close else f"choose from {', '.join(known[:12])}"
        raise UserError(f"no {what} is called {name!r}; {hint}")
