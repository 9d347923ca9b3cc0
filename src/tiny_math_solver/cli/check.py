"""`tiny-math check`: try a configuration before a run is started with it."""

import argparse
from pathlib import Path

from tiny_math_solver.cli.arguments import not_negative, positive
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console, NotesConsole, QuietConsole
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING
from tiny_math_solver.support.launcher import run_together
from tiny_math_solver.support.progress import loading

HELP = "check in under a minute if a run is worth starting here: memory, time, base model, …"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Takes the same --section.key overrides as train. Exit code 0: go; 3: do not start."
    parser.add_argument("config", type=Path, help="YAML file, such as configs/quickstart.yaml")
    parser.add_argument(
        "--processes", type=positive, metavar="N", default=1, help="check a run of N processes on this machine"
    )
    parser.add_argument("--price", type=not_negative, help="cost of this machine per hour, for an estimate of the run")


def run(args: argparse.Namespace, console: Console) -> int:
    processes.check_launcher_variables()
    if args.processes > 1 and not processes.is_launched():
        return run_together(args.processes, args.typed)
    if not processes.is_main():
        console = QuietConsole()
    worst = "ok"
    with loading():
        from tiny_math_solver.config.loading import load_config

        config = load_config(args.config, args.overrides, console)
        from tiny_math_solver.config.library_checks import check_arguments
        from tiny_math_solver.preflight.check import check
        from tiny_math_solver.support.device import unused_gpu

    check_arguments(config.grpo_config)
    if processes.is_main() and (text := unused_gpu()):
        console.note(text)
    progress = NotesConsole() if processes.is_main() else console
    for finding in check(config, args.price, progress):
        console.say(str(finding))
        worst = max(worst, finding.verdict, key=("ok", "warn", "fail").index)
    processes.part()
    console.say({"ok": "go", "warn": "go, but see the warnings", "fail": "do not start this run"}[worst])
    return EXIT_LEARNED_NOTHING if worst == "fail" else 0
