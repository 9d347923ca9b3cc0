"""`tiny-math solve`: query a model in the terminal."""

import argparse
from typing import Any

from tiny_math_solver.cli.arguments import (
    add_model_arguments,
    check_model,
    check_prompt,
    natural,
    not_negative,
    settings_of,
)
from tiny_math_solver.support.console import Console, NotesConsole
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.progress import loading

HELP = "answer a question and stream the reasoning; without one, read questions at a prompt"
EXAMPLE_QUESTION = (
    "Ava is 8 years old and has 3 bags of 7 marbles. She loses 4 marbles. How many marbles does Ava have?"
)
EXAMPLE_GOLD = "17"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("question", nargs="?", help="a word problem in quotes")
    parser.add_argument("--temperature", type=not_negative, metavar="T", default=0.0, help="default 0: greedy")
    parser.add_argument(
        "--samples", type=natural, metavar="N", default=0, help="also sample N completions and vote on the answer"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    if args.question is not None and not args.question.strip():
        raise UserError("the question is empty; leave it out to type questions at a prompt")
    solver = load_solver(args)
    from tiny_math_solver.playground.terminal import solve_interactively, solve_once

    if solver.about:
        console.note(solver.about)
    if args.question:
        solve_once(solver, args.question, args.temperature, args.samples, console)
    else:
        solve_interactively(solver, args.temperature, args.samples, console)
    return 0


def load_solver(args: argparse.Namespace) -> Any:
    """The playground's Solver for the model that the arguments name."""
    check_model(args)
    with loading():
        from tiny_math_solver.config.shipped import SHIPPED_MODELS
        from tiny_math_solver.models.load import load_model, locate
        from tiny_math_solver.playground.solver import Solver
        from tiny_math_solver.problems.generated import SOURCES
        from tiny_math_solver.rollouts import make_rollouts

    settings = settings_of(args)
    console = NotesConsole()
    loaded = load_model(args.model, adapter=args.adapter, revision=args.revision, dtype=args.dtype)
    check_prompt(args, loaded, settings, console)
    rollouts = make_rollouts(
        loaded.model, loaded.tokenizer, args.batch_size, console=console, stop_strings=settings.stop_strings
    )
    grader = settings.grader(args.answer_kind, "correctness")
    base, _, _ = locate(args.model, args.revision, args.adapter)
    if base not in SHIPPED_MODELS:
        return Solver(loaded, rollouts, settings, grader)
    known = SOURCES[SHIPPED_MODELS[base].problems]
    about = f"this model of a million parameters knows {known.describe()}"
    return Solver(loaded, rollouts, settings, grader, about, known.beyond)
