"""`tiny-math fetch`: fill the Hub cache, so that a machine without network can train."""

import argparse
from pathlib import Path
from typing import Any

from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import NotHereError, UserError
from tiny_math_solver.support.progress import loading

HELP = "download a config's model and dataset into the Hub cache without loading them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Takes the same --section.key overrides as train."
    parser.add_argument("config", type=Path, help="YAML file, such as configs/gsm8k-qwen2.5-0.5b.yaml")


def run(args: argparse.Namespace, console: Console) -> int:
    with loading():
        from tiny_math_solver.config.loading import load_config
        from tiny_math_solver.hub.snapshots import FETCH_ADVICE

        config = load_config(args.config, args.overrides, console)
    try:
        return _fetch(config, console)
    except NotHereError as error:  # which advises this command
        raise UserError(str(error).replace(FETCH_ADVICE, "")) from error


def _fetch(config: Any, console: Console) -> int:
    from tiny_math_solver.hub.snapshots import snapshot
    from tiny_math_solver.models.load import resolve
    from tiny_math_solver.models.starting_adapter import starting_adapter
    from tiny_math_solver.problems.splits import hub_datasets

    model, adapter = starting_adapter(config.model)
    problems = config.problems
    folder, commit = resolve(model.name, model.revision)
    console.say(
        f"model {model.name}: {f'commit {commit} is in the cache' if commit else f'nothing to download ({folder})'}"
    )
    if adapter:
        console.say(f"adapter {adapter.name}: {adapter.folder}")
    datasets = hub_datasets(problems)
    for dataset in datasets:
        commit = snapshot("dataset", dataset.name, dataset.revision).name
        console.say(f"dataset {dataset.name}: commit {commit} is in the cache")
    if not datasets:
        console.say(f"dataset {problems.source}: nothing to download")
    return 0
