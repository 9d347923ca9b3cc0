"""`tiny-math watch`: serve the page of a run while it trains."""

import argparse
import contextlib
from pathlib import Path
from typing import Any

from tiny_math_solver.cli.arguments import add_port_argument
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.progress import loading

HELP = "serve a run's page while it trains, on this machine only"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder")
    add_port_argument(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    with loading():
        from tiny_math_solver.report.watch import Watch

    return serve(Watch(args.run_folder).serve(args.port), console)


def serve(server: Any, console: Console) -> int:
    """Serve until Ctrl-C."""
    with server:
        console.say(f"{server.url}  (Ctrl-C to stop)")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0
