"""`tiny-math report`: write the page of one run, or of several side by side."""

import argparse
from pathlib import Path

from tiny_math_solver.cli.arguments import check_out
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.progress import loading

HELP = "write the page of a run, or of several side by side: one offline file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--out", type=Path, help="file to write (default: report.html, in RUN, or here if there are several)"
    )
    parser.add_argument("--card", type=Path, metavar="PNG", help="write a picture of verdict and curve as well")


def run(args: argparse.Namespace, console: Console) -> int:
    with loading():
        from tiny_math_solver.report import REPORT, write_report
        from tiny_math_solver.report.card import write_card
        from tiny_math_solver.report.records import require_run

    for run_folder in args.runs:
        require_run(run_folder)
    out = args.out or (args.runs[0] / REPORT if len(args.runs) == 1 else Path(REPORT))
    check_out(out, ".html")
    check_out(args.card, ".png")
    if args.card and args.card.suffix.lower() != ".png":
        raise UserError(f"--card {args.card}: a card is a .png file")
    if args.card and len(args.runs) > 1:
        raise UserError("--card shows one run")
    write_report(args.runs, out)
    console.say(f"report: {out}")
    if args.card:
        args.card.parent.mkdir(parents=True, exist_ok=True)
        write_card(args.runs[0], args.card)
        console.say(f"card: {args.card}")
    return 0
