"""`tiny-math seeds`: train a configuration with several seeds, and give one verdict over them."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tiny_math_solver.cli.arguments import positive, seed
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, EXIT_SEED_FAILED, UserError
from tiny_math_solver.support.progress import loading

HELP = "train with several seeds and give one verdict over them"
MOST_SEEDS = 1000  # more is a seed that was meant as one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.allow_abbrev = False  # --seed 3 is not --seeds 3
    parser.epilog = "Takes the same --section.key overrides as train. The runs go to <grpo.output_dir>-seeds."
    parser.add_argument("config", type=Path, help="YAML file, such as configs/quickstart.yaml")
    parser.add_argument(
        "--seeds",
        type=seed_choice,
        default=5,
        metavar="N",
        help="how many, from grpo.seed on, or which: 1,7,42 (default 5)",
    )
    parser.add_argument("--quiet", action="store_true", help="print one line for each seed, and the verdict")
    parser.add_argument(
        "--no-resume", action="store_true", help="start over (default: keep what is finished, resume what is not)"
    )
    parser.add_argument(
        "--force", action="store_true", help="start runs even if they may not fit in memory or learn nothing"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    if processes.is_launched() or processes.count() > 1:
        raise UserError("seeds starts each run itself: start it without torchrun or accelerate launch")
    with loading():
        from tiny_math_solver.config.loading import load_config
        from tiny_math_solver.evaluation.over_seeds import seeds_lines
        from tiny_math_solver.seeds.runs import gpus
        from tiny_math_solver.seeds.train_seeds import TrainSeeds

        config = load_config(args.config, args.overrides, console)
    seeds = _chosen(args.seeds, config)
    cards = [] if config.grpo.get("use_cpu") else gpus()
    if len(cards) > 1:
        console.say(f"one run on each of {len(cards)} GPUs at a time")
    options = ["--force"] * args.force
    training = TrainSeeds(
        load=lambda: load_config(args.config, args.overrides),
        arguments=[str(args.config), *options, *args.overrides],
        seeds=seeds,
        console=Console(),  # the runs go on where nobody reads their lines any more
        gpus=cards,
        on_terminal=len(cards) < 2 and not args.quiet and sys.stdout is not None and sys.stdout.isatty(),
        fresh=args.no_resume,
    )
    record = training.run()
    console.say("\n".join(["", *seeds_lines(record)]))
    folder = training.folder.path
    console.say(f"runs: {folder}\nreport: {folder / 'report.html'}")
    if record["failed"]:
        console.note(f"{len(record['failed'])} of {len(seeds)} seeds failed; the same command tries them again")
        return EXIT_SEED_FAILED
    return 0 if any(row["earned"] for row in record["runs"]) else EXIT_LEARNED_NOTHING


def seed_choice(text: str) -> int | list[int]:
    """The number of seeds, or, from a list with commas, the seeds."""
    if "," not in text:
        number = positive(text)
        if number > MOST_SEEDS:
            raise argparse.ArgumentTypeError(f"{text}: at most {MOST_SEEDS} seeds; seed {text} alone is {text},")
        return number
    chosen = [seed(part.strip()) for part in text.split(",") if part.strip()]
    if not chosen or len(set(chosen)) < len(chosen):
        raise argparse.ArgumentTypeError(f"{text!r}: name each seed once")
    return chosen


def _chosen(wanted: int | list[int], config: Any) -> list[int]:
    """The seeds to train with; of a number, those from the configuration's own on."""
    if isinstance(wanted, list):
        return wanted
    first = config.grpo["seed"]
    if first + wanted > 2**32:
        raise UserError(f"--seeds {wanted}: from grpo.seed {first} on they go beyond 4294967295")
    return list(range(first, first + wanted))
