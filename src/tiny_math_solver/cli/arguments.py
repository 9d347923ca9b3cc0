"""Arguments that several commands share: their types, groups of options, and the check of `--out`."""

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.files import sibling


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        hint = ""
        if found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            hint = self.meant(found[1], re.findall(r"[\w-]+", found[2]))
        raise UserError(f"{message.removeprefix('argument ')}{hint}; see {self.prog} --help")

    def meant(self, typed: str, known: Sequence[str] | None = None) -> str:
        """`; did you mean --dry-run?` for the one of `known`, by default the options, that is nearly what was typed."""
        close = difflib.get_close_matches(
            typed, list(self._option_string_actions if known is None else known), n=1, cutoff=0.7
        )
        return f"; did you mean {close[0]}?" if close else ""

    def with_texts_joined(self, arguments: Sequence[str]) -> list[str]:
        """`["--system", "-x"]` → `["--system=-x"]`: a text may begin with a dash, if it is no option itself."""
        joined: list[str] = []
        for argument in arguments:
            action = self._option_string_actions.get(joined[-1]) if joined and "--" not in joined else None
            is_text = isinstance(action, argparse._StoreAction) and action.nargs is None
            if is_text and argument.startswith("-") and argument not in (*self._option_string_actions, "--"):
                joined[-1] += f"={argument}"
            else:
                joined.append(argument)
        return joined


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """`(overrides of the configuration with their values, all other arguments)`.

    A value may be any text: one that begins with a dash is no option, and one before the file's name is not the file.
    """
    from tiny_math_solver.config.overrides import is_override

    overrides: list[str] = []
    others: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not is_override(argument):
            others.append(argument)
            continue
        overrides.append(argument)
        if "=" not in argument and rest and not is_override(rest[0]):
            overrides.append(rest.pop(0))
    return overrides, others


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="embedded, embedded-countdown, a Hub name, a model folder, or an adapter folder")
    parser.add_argument("--adapter", metavar="FOLDER", help="adapter to put on the model")
    parser.add_argument("--revision", metavar="COMMIT", help="of a Hub model (default: the pinned one, or main)")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto (default)")
    add_answer_kind(parser)
    parser.add_argument(
        "--system", metavar="TEXT", help="system prompt (default: the run's own, else the one for GSM8K)"
    )
    parser.add_argument(
        "--template", metavar="NAME", help="chat template: plain, think or a .jinja file (default: the model's own)"
    )
    parser.add_argument(
        "--chat-template-kwargs",
        type=template_variables,
        metavar="JSON",
        help="variables of the chat template, such as '{\"enable_thinking\": false}' (default: the run's own)",
    )
    parser.add_argument(
        "--date", type=iso_date, help="for chat templates that put in today's, as 2026-01-31 (default: the run's own)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=token_count,
        metavar="N",
        help="longest completion, in tokens (default: the run's own, else 512)",
    )
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", default=128, help="completions decoded at once (default 128)"
    )


def check_model(args: argparse.Namespace) -> None:
    """Raise UserError for a model that is none, before its name is looked up on the Hub."""
    from tiny_math_solver.config.sections import EMBEDDED
    from tiny_math_solver.config.shipped import SHIPPED_MODELS

    name = args.model
    if Path(name).exists():
        return
    if close := sibling(Path(name), ["adapter_config.json"]):
        raise UserError(f"no such run: {name}{close}")
    if "/" in name:
        return
    if len(name.split()) > 1:
        raise UserError(f'{name!r} is no model: name one first, as in tiny-math solve {EMBEDDED} "…"')
    close_names = difflib.get_close_matches(name.lower(), SHIPPED_MODELS, cutoff=0.8)
    if close_names and name not in SHIPPED_MODELS:
        raise UserError(f"no such model: {name}; did you mean {close_names[0]}?")


def settings_of(args: argparse.Namespace) -> Any:
    """The PromptSettings of the model that the arguments name, with what they override."""
    from tiny_math_solver.evaluation.prompt_settings import prompt_settings

    return prompt_settings(
        args.adapter or args.model,
        args.system,
        args.max_new_tokens,
        args.chat_template_kwargs,
        args.date,
        args.template,
    )


def check_prompt(args: argparse.Namespace, loaded: Any, settings: Any, console: Console) -> None:
    """Put the template of the settings in place, and say what also ends completions.

    Raises UserError for variables that the model's chat template lacks.
    """
    from tiny_math_solver.evaluation.prompt_settings import run_config
    from tiny_math_solver.models.ends import added_end_line
    from tiny_math_solver.prompts import TEMPLATE_VARIABLES, check_variables

    if settings.template is not None:
        loaded.tokenizer.chat_template = settings.template
    if loaded.added_end:
        console.say(added_end_line(loaded.added_end))
    setting = "--chat-template-kwargs"
    if args.chat_template_kwargs is None:  # they are the run's own
        setting = f"{run_config(Path(args.adapter or args.model))}: {TEMPLATE_VARIABLES}"
    check_variables(loaded.tokenizer, settings.prompt, setting)


def add_problem_arguments(parser: argparse.ArgumentParser, sources: str, *, several: bool = False) -> None:
    """`--problems`, with `sources` for its help, and how they are read; with `several` it is a list, or None."""
    parser.add_argument("--problems", metavar="SOURCE", help=sources, action="append" if several else "store")
    parser.add_argument(
        "--question", metavar="COLUMN", help="column of the questions in --problems (default: recognised)"
    )
    parser.add_argument("--answer", metavar="COLUMN", help="column of the answers in --problems (default: recognised)")
    parser.add_argument(
        "--max-unreadable",
        type=share,
        metavar="SHARE",
        help="share of the rows of --problems that may be dropped as unreadable (default: the run's own, else 0.05)",
    )


def answer_kind_of(args: argparse.Namespace, problems: str | None) -> str | None:
    """The kind of answers that `--answer-kind` names, or that generated `problems` have; None: the run's own."""
    from tiny_math_solver.config.shipped import kind_of_source

    return args.answer_kind or kind_of_source(problems)


def add_answer_kind(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--answer-kind",
        metavar="KIND",
        help="number, math, choice, text, countdown, or a function as file.py:function (default: the run's own)",
    )


def check_problem_arguments(args: argparse.Namespace) -> None:
    """Raise UserError if the arguments tell how to read problems, but not which."""
    if args.problems is None and (args.question, args.answer, args.max_unreadable) != (None, None, None):
        raise UserError("--question, --answer and --max-unreadable go with --problems")


def read_options(args: argparse.Namespace, settings: Any, grader: Any) -> Any:
    """The ReadOptions for `--problems`; `settings` are those of the model, and `grader` knows the kind of answers."""
    from tiny_math_solver.problems.layouts import ReadOptions

    unreadable = settings.problems.max_unreadable if args.max_unreadable is None else args.max_unreadable
    names = ("--question", "--answer", "--max-unreadable")
    options = ReadOptions(
        args.question, args.answer, unreadable, names, kind=grader.kind, keeps_columns=bool(grader.own)
    )
    if args.question is None and args.answer is None:  # those of the run, where the file has them
        own = settings.problems
        options = replace(options, question=own.question, answer=own.answer, fallback=True)
    return options


def proof_problems(args: argparse.Namespace, model: str, console: Console) -> tuple[Any, Any, list[Any]]:
    """The settings of a model, its grader, and the problems on which it is compared with what is made of it.

    Any questions will do for that: a model of another program needs no dataset.
    """
    from tiny_math_solver.config.sections import EMBEDDED
    from tiny_math_solver.config.shipped import SHIPPED_MODELS
    from tiny_math_solver.evaluation.prompt_settings import evaluation_problems, prompt_settings, run_config

    settings = prompt_settings(model)
    grader = settings.grader(answer_kind_of(args, args.problems), "correctness")
    is_ours = run_config(Path(model)) or model in SHIPPED_MODELS
    source = EMBEDDED if args.problems is None and not is_ours else args.problems
    problems, notes, _ = evaluation_problems(source, settings, read_options(args, settings, grader))
    for note in notes:
        console.note(note)
    return settings, grader, problems


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


def template_variables(text: str) -> dict[str, Any]:
    from tiny_math_solver.config.yaml_file import read_value

    try:
        value = read_value(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping such as '{{\"enable_thinking\": false}}'")
    return _setting("grpo.chat_template_kwargs", dict, value)


def iso_date(text: str) -> str:
    return _setting("prompt.date", str, text)


def _setting(key: str, kind: type, value: Any) -> Any:
    """`value`, checked as the field of a configuration."""
    from tiny_math_solver.config.values import checked

    try:
        return checked(key, kind, value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(text: str, kind: type[int] | type[float], fits: Callable[[Any], bool], meant: str) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not fits(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not {meant}")
    return number
