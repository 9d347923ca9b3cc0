"""`tiny-math fields`: list every configuration field."""

import argparse

from tiny_math_solver.support.console import Console

HELP = "list every configuration field with its type, default and meaning"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from tiny_math_solver.config.schema import Config

    parser.add_argument("section", nargs="?", choices=tuple(Config.model_fields), help="only this section")


def run(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.config.fields import known_fields
    from tiny_math_solver.config.schema import Config

    for section in [args.section] if args.section else Config.model_fields:
        for name, (kind, default, help) in known_fields(section).items():
            shown = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
            console.say(f"{section}.{name} ({shown}, default {default!r}): {help}")
    return 0
