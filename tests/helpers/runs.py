"""Training runs in this process, and the records they leave."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

from helpers.paths import QUICKSTART
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.runs.resume import ResumeOptions
from tiny_math_solver.support.console import CollectingConsole
from tiny_math_solver.train import Outcome, train

SHORT = [
    "--grpo.max_steps", "1", "--problems.train", "64", "--problems.test", "4", "--problems.dev", "4",
    "--evaluation.samples", "0", "--grpo.gradient_accumulation_steps", "1", "--grpo.per_device_train_batch_size", "16",
    "--update.tokens_per_pass", "512",  # the preflight tries a whole pass
]  # fmt: skip


def run(folder: Path, *overrides: str, config: Path = QUICKSTART, force: bool = False) -> SimpleNamespace:
    console = CollectingConsole()
    settings = load_config(config, [*overrides, "--grpo.output_dir", str(folder)])
    outcome: Outcome = train(settings, console, ResumeOptions(force=force))
    return SimpleNamespace(
        folder=folder, config=settings, lines=console.lines, outcome=outcome, summary=outcome.summary
    )


def without_duration(line: str) -> str:
    """A line without the estimate of how long the part takes, which depends on the machine."""
    return re.sub(r", (about [\d.]+ \w+|under a second)$", "", line)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
