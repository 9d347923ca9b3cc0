"""`tiny-math play`: query a model on a local web page."""

import argparse

from tiny_math_solver.cli.arguments import add_model_arguments, add_port_argument
from tiny_math_solver.cli.solve import EXAMPLE_GOLD, EXAMPLE_QUESTION, load_solver
from tiny_math_solver.cli.watch import serve
from tiny_math_solver.support.console import Console

HELP = "query a model on a local web page, base and trained side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_port_argument(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.playground.play import Playground
    from tiny_math_solver.problems.embedded import embedded_problems

    examples = {EXAMPLE_QUESTION: EXAMPLE_GOLD, **{p.question: p.answer for p in embedded_problems("test", 3)}}
    return serve(Playground(load_solver(args), args.adapter or args.model, examples).serve(args.port), console)
