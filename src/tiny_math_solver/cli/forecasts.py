"""`tiny-math forecasts`: how far the forecasts of finished runs were off."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.progress import loading

HELP = "compare what finished runs had forecast with what they took"
FOLDER = Path("checkpoint")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help=f"run folders, or folders of them (default: {FOLDER})"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    with loading():
        from tiny_math_solver.preflight.outlook import DEAD_GROUPS, SHOWN, Compared
        from tiny_math_solver.preflight.run_forecast import Truth
        from tiny_math_solver.runs.records import SUMMARY

    folders = args.folders or [FOLDER]
    if missing := next((folder for folder in folders if not folder.is_dir()), None):
        raise UserError(f"{missing}: no such folder; name run folders, or a folder of them")
    summaries = dict.fromkeys(path for folder in folders for path in sorted(folder.rglob(SUMMARY)))
    found = [truth for path in summaries if (truth := Truth.of(path.parent))]
    if not found:
        raise UserError(f"{', '.join(map(str, folders))}: no finished run with a forecast")
    width = max(len(str(truth.run)) for truth in found)

    def row(name: str, cells: Iterable[str], last: str = "") -> str:
        return f"{name:{width}}" + "".join(f"{cell:>13}" for cell in cells) + (f"   {last}" if last else "")

    def middle(runs: Iterable[list[Compared]]) -> list[str]:
        """The median of the absolute errors of each number."""
        errors: dict[str, list[float]] = {name: [] for name in SHOWN}
        for each in (number for numbers in runs for number in numbers):
            errors[each.name].append(abs(each.error))
        units = {name: " points" if name == DEAD_GROUPS else " %" for name in SHOWN}
        return [f"{100 * median(known):.0f}{units[name]}" if known else "" for name, known in errors.items()]

    console.say(row("", SHOWN, "earlier runs"))
    for truth in found:
        off = {each.name: each.off for each in truth.expected}
        console.say(row(str(truth.run), [off.get(name, "") for name in SHOWN], str(truth.learned_from)))
    console.say(row("median", middle(truth.expected for truth in found), f"{len(found)} runs"))
    console.say(row("uncorrected", middle(truth.computed for truth in found)))
    return 0
