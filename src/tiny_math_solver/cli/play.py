"""`tiny-math play`: query a model on a local web page."""

import argparse
from itertools import islice
from pathlib import Path

from tiny_math_solver.cli.arguments import add_model_arguments, add_port_argument
from tiny_math_solver.cli.solve import EXAMPLE_GOLD, EXAMPLE_QUESTION, load_solver
from tiny_math_solver.cli.watch import serve
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.progress import loading

EXAMPLES = 4
HELP = "query a model on a local web page, base and trained side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_port_argument(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    with loading():
        from tiny_math_solver.playground.play import Playground

    examples = _of_run(Path(args.adapter or args.model)) or _shipped(args.model)
    return serve(Playground(load_solver(args), args.adapter or args.model, examples).serve(args.port), console)


def _shipped(model: str) -> dict[str, str]:
    """Questions for a shipped model, with their golds."""
    from tiny_math_solver.config.sections import EMBEDDED
    from tiny_math_solver.config.shipped import SHIPPED_MODELS
    from tiny_math_solver.problems.generated import SOURCES

    source = SHIPPED_MODELS.get(model, SHIPPED_MODELS[EMBEDDED]).problems
    examples = {EXAMPLE_QUESTION: EXAMPLE_GOLD} if source == EMBEDDED else {}
    problems = SOURCES[source].problems("test", EXAMPLES - len(examples))
    return examples | {problem.question: problem.answer for problem in problems}


def _of_run(folder: Path) -> dict[str, str]:
    """The first test questions of a run on other problems than the generated ones, with their golds."""
    from tiny_math_solver.config.sections import EMBEDDED
    from tiny_math_solver.runs.records import read_config, read_jsonl

    config = read_config(folder) or {}
    if config.get("problems", {}).get("source", EMBEDDED) == EMBEDDED:
        return {}
    return {row["question"]: row["gold"] for row in islice(read_jsonl(folder / "eval/before.jsonl"), EXAMPLES)}
