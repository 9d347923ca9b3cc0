"""`tiny-math init`: look at a file of problems, and write a configuration that trains on them here."""

import argparse
from pathlib import Path

from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.files import for_shell, write_text
from tiny_math_solver.support.progress import loading

HELP = "look at a file of your own problems and write a configuration for it"
DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="problems: a .jsonl, .json, .csv, .tsv or .parquet file")
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"to train (default {DEFAULT_MODEL}); embedded: shipped")
    parser.add_argument("--out", type=Path, help="configuration to write (default: FILE's name with .yaml, here)")
    parser.add_argument("--force", action="store_true", help="overwrite a configuration that is there")
    parser.add_argument("--question", metavar="COLUMN", help="column of the questions (default: recognised)")
    parser.add_argument("--answer", metavar="COLUMN", help="column of the answers (default: recognised)")


def run(args: argparse.Namespace, console: Console) -> int:
    args.file = args.file if args.file.name else args.file.resolve()
    name = args.file.name.removesuffix(".gz").rpartition(".")[0] or args.file.name
    out = args.out or Path(f"{name}.yaml")
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out {out}: a configuration ends in .yaml")
    if out.exists() and not args.force:
        raise UserError(f"{out} exists; --force overwrites it, --out names another")
    with loading():
        from tiny_math_solver.config.shipped import SHIPPED_MODELS
        from tiny_math_solver.preflight.starter import configuration, look
        from tiny_math_solver.problems.generated import SOURCES

    file = look(args.file, args.model, args.question, args.answer)
    for line in file.lines:
        console.say(line)
    if shipped := SHIPPED_MODELS.get(args.model):
        known = SOURCES[shipped.problems].describe()
        console.note(f"the shipped model knows {known}: for other problems name one in --model")
    elif not file.is_counted:
        console.note(f"{args.model} is no folder here and not in the cache: taken for a name on the Hub")
    write_text(out, configuration(file, args.model, name))
    console.say(f"configuration: {out}")
    console.say(f"next: {for_shell('tiny-math', 'check', str(out))}")
    console.say(f"then: {for_shell('tiny-math', 'train', str(out))}")
    return 0
