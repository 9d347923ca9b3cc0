"""`tiny-math train`: train an adapter and measure what it gained."""

import argparse
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from tiny_math_solver.cli.solve import EXAMPLE_QUESTION
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import CollectingConsole, Console, QuietConsole, printable
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, NotHereError, UserError
from tiny_math_solver.support.files import for_shell
from tiny_math_solver.support.progress import loading

LONG = 240  # characters of a question, which are too many to be read in a command
HELP = "train an adapter with GRPO and measure what it gained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file, such as configs/quickstart.yaml")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Everything but the configuration."""
    parser.epilog = "Any field can be set on the command line: --grpo.learning_rate 2e-3. All fields: tiny-math fields"
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and the plan, train nothing")
    parser.add_argument("--quiet", action="store_true", help="print only the verdict")
    parser.add_argument("--verbose", action="store_true", help="print what the judgements before step 1 rest on")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="resume the run in the output folder, or start over (default: resume an unfinished run of this config)",
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="KEY", help="with --resume: a field that may have changed"
    )
    parser.add_argument(
        "--force", action="store_true", help="start even if the run may not fit in memory or learn nothing"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    processes.check_launcher_variables()
    if not processes.is_main():
        console = QuietConsole()
        warnings.simplefilter("ignore")
    if args.allow and not args.resume:
        raise UserError("--allow needs --resume: it names fields that may differ from the run being resumed")
    with loading():
        from tiny_math_solver.config.loading import load_config
        from tiny_math_solver.training.trackers import choose_trackers

        config = load_config(args.config, args.overrides, console)
        choose_trackers(config, console)  # before the slow imports: a missing package is reported at once
        from tiny_math_solver.config.library_checks import check_arguments
        from tiny_math_solver.evaluation.verdict import nothing_learned, run_lines
        from tiny_math_solver.preflight.run_forecast import Truth
        from tiny_math_solver.runs.resume import ResumeOptions
        from tiny_math_solver.support.device import unused_gpu
        from tiny_math_solver.train import train
        from tiny_math_solver.training.live_view import training_console

    check_arguments(config.grpo_config)
    if processes.is_main():
        for text in filter(None, (processes.unused(), unused_gpu())):
            console.note(text)
    options = ResumeOptions(args.resume, tuple(args.allow), args.force)
    if args.dry_run:
        console.say(_dry_run(config, options))
        return 0
    with training_console(args.quiet or not processes.is_main(), args.verbose) as progress:
        outcome = train(config, progress, options)
    processes.part()
    if not outcome.earned:
        if processes.is_main():
            console.note(nothing_learned(outcome.folder))
        return EXIT_LEARNED_NOTHING
    console.say("\n".join(["", *run_lines(outcome.summary, outcome.folder)]))
    if truth := Truth.of(outcome.folder):
        console.say(str(truth))
    console.say(f"next: {_next(config, outcome)}")
    return 0


def _next(config: Any, outcome: Any) -> str:
    """The command to try, or where to read on if there is nothing new to try."""
    from tiny_math_solver.config.sections import EMBEDDED
    from tiny_math_solver.runs.records import read_jsonl

    if not outcome.summary["best_step"]:
        return "the adapter is the untrained one; docs/nothing-learned.md goes on from the causes above"
    solve = for_shell(_command_name(), "solve", str(outcome.folder))
    if config.problems.source == EMBEDDED:
        return f'{solve} "{EXAMPLE_QUESTION}"'
    question = next(read_jsonl(outcome.folder / "eval/after.jsonl"))["question"]
    return f"{solve} {for_shell(printable(question))}" if len(question) < LONG else solve


def _dry_run(config: Any, options: Any) -> str:
    """The resolved configuration, the plan, and the point at which the run would start."""
    from tiny_math_solver.runs.folder import RunFolder
    from tiny_math_solver.runs.resume import starting_point
    from tiny_math_solver.training.plan import lines_without_problems, prepare, prompt_date

    try:
        plan = processes.main_first(lambda: prepare(config, prompt_date(config, options))).plan
    except processes.EndedElsewhereError:  # it says what is not here
        return ""
    except NotHereError as error:
        return "\n".join([config.to_yaml(), *lines_without_problems(config), f"not counted: {error}"])
    console = CollectingConsole()
    run = RunFolder(config.output_dir)
    start = processes.on_main(lambda: starting_point(run, plan.config, plan.fingerprint, options, console))
    resumed = [f"would resume from {start.checkpoint}"] if start.checkpoint else []
    return "\n".join([plan.config.to_yaml(), *plan.lines, *console.lines, *resumed])


def _command_name() -> str:
    """`tiny-math`, or its path where the shell would not find this installation's."""
    ours = shutil.which("tiny-math", path=str(Path(sys.executable).parent))  # on Windows tiny-math.exe
    found = shutil.which("tiny-math")
    if ours is None or (found and Path(found).samefile(ours)):
        return "tiny-math"
    return str(Path(ours).relative_to(Path.cwd()) if Path(ours).is_relative_to(Path.cwd()) else ours)
