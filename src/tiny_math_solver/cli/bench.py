"""`tiny-math bench`: measure this machine, and us against the stock libraries."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from tiny_math_solver.bench import PARTS
from tiny_math_solver.cli.arguments import check_out
from tiny_math_solver.support.console import Console, NotesConsole
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.progress import loading

HELP = "measure against stock TRL, transformers' generate and vLLM, side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: those that fit this machine)"
    )
    parser.add_argument("--vllm-python", metavar="PATH", help="Python of an environment with vLLM, to measure it too")
    parser.add_argument("--limit", type=float, metavar="S", help="seconds after which a measurement is stopped")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--out", type=Path, help="JSON file for the results")


def run(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.support.files import write_whole

    for part in args.parts:
        if part not in PARTS:
            raise UserError(f"no part {part!r} to measure; choose from {', '.join(PARTS)}")
    if args.vllm_python and not shutil.which(args.vllm_python):
        raise UserError(f"no such Python: {args.vllm_python}")
    check_out(args.out, ".json")

    with loading():
        from tiny_math_solver.bench.report import run as measure

    def save(result: dict[str, Any]) -> None:
        if args.out:
            write_whole(args.out, json.dumps(result, indent=2) + "\n")

    result = measure(args.parts, args.vllm_python, NotesConsole() if args.json else console, save, args.limit)
    if args.json:
        console.say(json.dumps(result, indent=2))
    return 0
