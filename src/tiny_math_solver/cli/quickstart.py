"""`tiny-math quickstart`: train the shipped model with the shipped configuration, without downloads."""

import argparse
from pathlib import Path

from tiny_math_solver.cli import train
from tiny_math_solver.support.console import Console

HELP = "train the shipped model in half a minute, and prove what it gained"
CONFIG = Path("configs/quickstart.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.config.shipped import shipped_config

    args.config = shipped_config(CONFIG)
    return train.run(args, console)
