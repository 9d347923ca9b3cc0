"""Arguments that several commands share: their types, groups of options, and the check of `--out`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tiny_math_solver.support.errors import UserError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="embedded, a Hub name, a model folder, or an adapter folder")
    parser.add_argument("--adapter", help="adapter folder to put on the model")
    parser.add_argument("--revision", help="commit of a Hub model")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto (default)")
    parser.add_argument("--system", help="system prompt (default: the run's own, else the one for GSM8K)")
    parser.add_argument(
        "--max-new-tokens", type=token_count, help="longest completion, in tokens (default: the run's own, else 512)"
    )
    parser.add_argument("--batch-size", type=positive, default=128, help="completions decoded at once (default 128)")


def add_port_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=port, default=0, help="port to serve on (default: any free one)")


def check_out(path: Path | None, suffix: str) -> None:
    """Raise UserError if `--out` could not be written, or would overwrite a file of another kind."""
    from tiny_math_solver.support.files import check_writable

    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{path} is a folder; --out takes the name of a file")
    if path.exists() and path.suffix != suffix:
        raise UserError(f"{path}: exists and is not a {suffix} file; choose another --out")
    check_writable(path.parent, "choose another --out")


# -- Types ----------------------------------------------------------------------------------------------------


def not_negative(text: str) -> float:
    return _number(text, float, lambda number: 0 <= number < float("inf"), "a number of 0 or more")


def fraction(text: str) -> float:
    return _number(text, float, lambda number: 0 < number <= 1, "a number above 0 and at most 1")


def share(text: str) -> float:
    return _number(text, float, lambda number: 0 <= number <= 1, "a number from 0 to 1")


def positive(text: str) -> int:
    return _number(text, int, lambda number: 1 <= number < 2**31, "a whole number of 1 or more")


def token_count(text: str) -> int:
    return _number(text, int, lambda number: 1 <= number <= 2**17, "a whole number from 1 to 131072")


def natural(text: str) -> int:
    return _number(text, int, lambda number: 0 <= number < 2**31, "a whole number of 0 or more")


def seed(text: str) -> int:
    return _number(text, int, lambda number: 0 <= number < 2**32, "a whole number from 0 to 4294967295")


def port(text: str) -> int:
    return _number(text, int, lambda number: 0 <= number < 2**16, "a port, 0 to 65535")


def _number(text: str, kind: type[int] | type[float], fits: Callable[[Any], bool], meant: str) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not fits(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not {meant}")
    return number
