"""The `tiny-math` command: finds the command that was typed, and ends every mistake in one line and an exit code.

Each command has a file of its own with its `HELP`, `add_arguments(parser)` and `run(args, console)`. Heavy imports stay
inside `run`, so that `--help` answers at once.
"""

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Sequence

from tiny_math_solver.cli import (
    bench,
    check,
    evaluate,
    export,
    fetch,
    fields,
    forecasts,
    init,
    merge,
    play,
    push,
    quickstart,
    report,
    seeds,
    solve,
    train,
    watch,
)
from tiny_math_solver.cli.arguments import Parser, split_overrides
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console, print_anything
from tiny_math_solver.support.environment import (
    check_library_variables,
    give_way_if_busy,
    print_plainly_in_notebooks,
    share_cores,
)
from tiny_math_solver.support.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_NO_READER, StoppedError, UserError
from tiny_math_solver.support.redaction import without_secrets
from tiny_math_solver.support.signals import Ended, ended_by_signals

COMMANDS = {
    "quickstart": quickstart,
    "init": init,
    "train": train,
    "check": check,
    "seeds": seeds,
    "eval": evaluate,
    "merge": merge,
    "export": export,
    "push": push,
    "report": report,
    "forecasts": forecasts,
    "watch": watch,
    "solve": solve,
    "play": play,
    "bench": bench,
    "fields": fields,
    "fetch": fetch,
}
# `--section.key value` for any field of the configuration
TAKE_OVERRIDES = ("quickstart", "train", "seeds", "check", "fetch")
COMPUTE = ("quickstart", "train", "check", "eval", "export", "solve", "play")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Bad input is one line on stderr and exit code 2."""
    # the libraries' advice is for developers, not for the users of a command
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_SYMLINKS_WARNING", "1")  # Windows allows links only in its developer mode
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # operators that MPS lacks are computed on the CPU
    print_plainly_in_notebooks()
    print_anything()
    console = Console(ends_with_reader=True)
    try:
        with ended_by_signals():
            typed = sys.argv[1:] if arguments is None else list(arguments)
            args = parse(typed)
            args.typed = typed
            check_library_variables()
            if args.command in COMPUTE and "torch" not in sys.modules:
                share_cores()
                give_way_if_busy()
            sys.argv[1:] = map(without_secrets, sys.argv[1:])  # trackers record the command line, and so do we
            return COMMANDS[args.command].run(args, console)
    except (Exception, KeyboardInterrupt, Ended) as error:
        return _end(error, console)


def _end(error: BaseException, console: Console) -> int:
    """Print `error` unless another process has, and return the exit code; raises what is no mistake of the user."""
    if not processes.is_first_to_fail(error):
        return processes.exit_code(error)
    error = processes.lost_process(error) or error
    if isinstance(error, (UserError, StoppedError, Ended)):
        console.note(_on_one_line(error))
        return error.exit_code
    if limit := _hardware_limit(error):
        console.note(limit)
        return EXIT_BAD_INPUT
    if isinstance(error, KeyboardInterrupt):
        console.note("interrupted")
        return EXIT_INTERRUPTED
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EIO):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python fails to flush it at exit
        return EXIT_NO_READER
    raise error


def _hardware_limit(error: BaseException) -> str:
    """The line for an error of the memory or of MPS, with the way round it; empty for every other error."""
    if "torch" not in sys.modules:
        return ""
    from tiny_math_solver.support.device import is_refused_by_mps
    from tiny_math_solver.support.out_of_memory import is_out_of_memory

    if is_out_of_memory(error):
        return "out of memory: lower --batch-size and --max-new-tokens where the command has them, or free some memory"
    return f"MPS: {_on_one_line(error)[:200]}; ACCELERATE_USE_CPU=true computes on the CPU" * is_refused_by_mps(error)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command and its arguments; options may stand before, between and after positional ones.

    Raises UserError where something is wrong. `--help` prints and exits.
    """
    parser = Parser(
        prog="tiny-math",
        description="Teach a small language model maths with GRPO and a reward that checks the answer.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparsers.add_parser(name, help=command.HELP, description=command.HELP)
    if not arguments:
        raise UserError(f"name a command: {', '.join(COMMANDS)}; tiny-math --help explains them")
    if arguments[0] not in COMMANDS:
        return parser.parse_args(arguments)  # prints the help, or raises
    name, *rest = arguments
    subparser = subparsers.choices[name]
    COMMANDS[name].add_arguments(subparser)
    overrides, rest = split_overrides(rest) if name in TAKE_OVERRIDES else ([], rest)
    rest = subparser.with_texts_joined(rest)
    args, unknown = subparser.parse_known_intermixed_args(rest, argparse.Namespace(command=name))
    argument = unknown[0].partition("=")[0] if unknown else ""  # the value after = may be a secret
    hint = subparser.meant(argument)
    if name in TAKE_OVERRIDES and not hint:
        args.overrides = overrides + unknown
    elif unknown:
        if name == "solve" and args.question is None:
            hint += "; a question that begins with a dash goes behind --"
        raise UserError(f"unknown argument {argument!r}{hint}; see tiny-math {name} --help")
    return args


def _on_one_line(error: BaseException) -> str:
    """The message without line ends and control characters, which names read from files may hold."""
    text = " ".join(without_secrets(str(error)).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
