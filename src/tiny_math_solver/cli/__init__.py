"""The `tiny-math` command: what can be typed, and how each mistake ends. What the commands do is in commands.py."""

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tiny_math_solver.cli import commands
from tiny_math_solver.cli.commands import BENCH_PARTS, SECTIONS
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.environment import check_environment
from tiny_math_solver.support.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_NO_READER, StoppedError, UserError
from tiny_math_solver.support.redaction import without_secrets


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Bad input is one line on standard error and exit code 2."""
    # the libraries' advice is about code that is not the reader's
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1" if not sys.stderr.isatty() else "0")
    console = Console(ends_with_reader=True)
    try:
        args = _parse(arguments)
        check_environment()
        sys.argv[1:] = map(without_secrets, sys.argv[1:])  # which trackers record, as we do
        return args.run(args, console)
    except UserError as error:
        console.note(_on_one_line(error))
        return EXIT_BAD_INPUT
    except StoppedError as stopped:
        console.note(_on_one_line(stopped))
        return stopped.exit_code
    except KeyboardInterrupt:
        console.note("interrupted")
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read what we print is gone
        return EXIT_NO_READER


def _on_one_line(error: Exception) -> str:
    """A message as a terminal can show it: what comes from a file may hold line ends, or codes that move the cursor."""
    text = " ".join(without_secrets(str(error)).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    args, rest = _parser().parse_known_args(arguments)
    if args.command in ("train", "check"):
        args.overrides = rest  # --section.key value
    elif rest:
        unknown = rest[0].partition("=")[0]  # what follows may be a secret
        raise UserError(f"unknown argument {unknown!r}; see tiny-math {args.command} --help")
    return args


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all bad input is answered, in place of the usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tiny-math",
        description="Teach a small language model maths with GRPO and a reward that checks the answer.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace, Console], int], help: str, epilog: str = "") -> Any:
        sub = subparsers.add_parser(name, help=help, description=help, epilog=epilog)
        sub.set_defaults(run=run)
        return sub

    for add in (_train, _eval, _merge, _show, _ask, _rest):
        add(command)
    return parser


def _train(command: Callable[..., argparse.ArgumentParser]) -> None:
    train = command(
        "train",
        commands.train,
        "train an adapter with GRPO and prove what it gained",
        "Any field can be set on the command line: --grpo.learning_rate 2e-3. All fields: tiny-math fields",
    )
    train.add_argument("config", type=Path, help="YAML file, such as configs/quickstart.yaml")
    train.add_argument("--dry-run", action="store_true", help="print the resolved config and the plan, train nothing")
    train.add_argument("--quiet", action="store_true", help="print the verdict alone")
    train.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="go on with the run in the output folder, or begin anew (default: go on where it is the same run)",
    )
    train.add_argument(
        "--allow", action="append", default=[], metavar="KEY", help="with --resume: a field that may have changed"
    )

    train.add_argument("--force", action="store_true", help="start a run that would not fit or learn nothing as it is")

    check = command(
        "check",
        commands.check,
        "say in under a minute whether a config is worth starting here: memory, time, base model, …",
        "Takes the same --section.key overrides as train. Exit code 0: go, 3: do not.",
    )
    check.add_argument("config", type=Path)
    check.add_argument("--price", type=_not_negative, help="cost of an hour of this machine")


def _eval(command: Callable[..., argparse.ArgumentParser]) -> None:
    evaluate = command(
        "eval", commands.evaluate_model, "measure a model: greedy accuracy, pass@k, maj@k, paired verdict"
    )
    _model_arguments(evaluate)
    evaluate.add_argument("--problems", help="embedded, embedded:unseen, a Hub dataset, or a .jsonl/.parquet file")
    evaluate.add_argument("--limit", type=_positive, help="only the first N problems")
    evaluate.add_argument("--samples", type=_natural, default=0, help="sampled completions a problem, for pass@k")
    evaluate.add_argument("--temperature", type=_not_negative, default=1.0, help="of the samples (default 1.0)")
    evaluate.add_argument("--top-p", type=_share, default=1.0, help="of the samples (default 1.0: all tokens)")
    evaluate.add_argument("--top-k", type=_natural, default=0, help="of the samples (default 0: all tokens)")
    evaluate.add_argument("--seed", type=_seed, default=0, help="of the samples (default 0)")
    evaluate.add_argument("--against", metavar="OTHER", help="a second model: paired verdict, OTHER is the earlier one")
    evaluate.add_argument("--out", type=Path, help="write the records there, a JSON line a completion")
    evaluate.add_argument("--json", action="store_true", help="print the summary as JSON")


def _merge(command: Callable[..., argparse.ArgumentParser]) -> None:
    merge = command("merge", commands.merge, "merge an adapter into its base, in float32, and prove the result")
    merge.add_argument("adapter", type=Path, help="adapter folder")
    merge.add_argument("out", type=Path, help="folder for the merged model")
    merge.add_argument("--dtype", help="float32, bfloat16 or float16 (default: the base's own)")
    merge.add_argument("--problems", help="what to prove it on (default: the run's own, else embedded)")


def _show(command: Callable[..., argparse.ArgumentParser]) -> None:
    report = command("report", commands.report, "write the page of a run, or of several side by side: one offline file")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    report.add_argument("--out", type=Path, help="file to write (default: report.html in RUN; of several: here)")

    watch = command("watch", commands.watch, "serve a run's page while the run goes on, to this machine alone")
    watch.add_argument("run_folder", type=Path, metavar="RUN", help="run folder")
    _port_argument(watch)


def _ask(command: Callable[..., argparse.ArgumentParser]) -> None:
    solve = command(
        "solve", commands.solve, "answer a question, reasoning shown as it is written; without one, ask for some"
    )
    _model_arguments(solve)
    solve.add_argument("question", nargs="?")
    solve.add_argument("--temperature", type=_not_negative, default=0.0, help="default 0: greedy")
    solve.add_argument("--samples", type=_natural, default=0, help="completions that vote on the answer as well")

    play = command("play", commands.play, "ask a model on a local web page, base and trained side by side")
    _model_arguments(play)
    _port_argument(play)


def _rest(command: Callable[..., argparse.ArgumentParser]) -> None:
    bench = command("bench", commands.bench, "measure against stock TRL, transformers' generate and vLLM, side by side")
    bench.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(BENCH_PARTS)} (default: those fit for this machine)"
    )
    bench.add_argument("--vllm-python", metavar="PATH", help="Python of an environment with vLLM, to measure it too")
    bench.add_argument("--json", action="store_true", help="print the results as JSON")
    bench.add_argument("--out", type=Path, help="write the results there, as JSON")

    fields = command("fields", commands.fields, "list every configuration field with its type, default and meaning")
    fields.add_argument("section", nargs="?", choices=SECTIONS, help="only this section")

    fetch = command(
        "fetch", commands.fetch, "download a config's model and dataset into the Hub cache, loading neither"
    )
    fetch.add_argument("config", type=Path)


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="embedded, a Hub name, a model folder, or an adapter folder")
    parser.add_argument("--adapter", help="adapter folder to put on the model")
    parser.add_argument("--revision", help="commit of a Hub model")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto (default)")
    parser.add_argument("--system", help="system prompt (default: the run's own, else the one for GSM8K)")
    parser.add_argument(
        "--max-new-tokens", type=_tokens, help="limit of a completion (default: the run's own, else 512)"
    )
    parser.add_argument("--batch-size", type=_positive, default=128, help="completions at once (default 128)")


def _port_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=_port, default=0, help="default: any that is free")


# -- Values ---------------------------------------------------------------------------------------------------


def _number(text: str, kind: type[int] | type[float], fits: Callable[[Any], bool], meant: str) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not fits(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not {meant}")
    return number


def _not_negative(text: str) -> float:
    return _number(text, float, lambda number: 0 <= number < float("inf"), "a number of 0 or more")


def _share(text: str) -> float:
    return _number(text, float, lambda number: 0 < number <= 1, "a number above 0 and at most 1")


def _positive(text: str) -> int:
    return _number(text, int, lambda number: 1 <= number < 2**31, "a whole number of 1 or more")


def _tokens(text: str) -> int:
    return _number(text, int, lambda number: 1 <= number <= 2**17, "a whole number from 1 to 131072")


def _natural(text: str) -> int:
    return _number(text, int, lambda number: 0 <= number < 2**31, "a whole number of 0 or more")


def _seed(text: str) -> int:
    return _number(text, int, lambda number: 0 <= number < 2**32, "a whole number from 0 to 4294967295")


def _port(text: str) -> int:
    return _number(text, int, lambda number: 0 <= number < 2**16, "a port, 0 to 65535")
