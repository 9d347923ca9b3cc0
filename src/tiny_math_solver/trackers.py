"""Weights & Biases from the environment: a token is all it takes."""

import os
import sys
from importlib.util import find_spec

from tiny_math_solver.config import Config
from tiny_math_solver.errors import UserError

PACKAGES = ("wandb", "tensorboard", "trackio")


def choose_trackers(config: Config) -> None:
    """Where `grpo.report_to` is not set: W&B if its token is in the environment, else none. Checks what is chosen.

    `WANDB_TOKEN` stands for `WANDB_API_KEY`; `WANDB_MODE=offline` needs neither. Raises UserError with the one
    command to run where a tracker's package is missing.
    """
    if token := os.environ.get("WANDB_TOKEN"):
        os.environ.setdefault("WANDB_API_KEY", token)
    mode = os.environ.get("WANDB_MODE", "")
    asked_for = mode != "disabled" and bool(mode == "offline" or os.environ.get("WANDB_API_KEY"))
    reports = config.grpo.setdefault("report_to", ["wandb"] if asked_for else [])
    chosen = [reports] if isinstance(reports, str) else reports or []
    for tracker in chosen:
        if tracker in PACKAGES and find_spec(tracker) is None:
            raise UserError(f"{tracker} is not installed; run: {sys.executable} -m pip install {tracker}")
    if "wandb" in chosen:
        os.environ.setdefault("WANDB_PROJECT", "tiny-math-solver")
        config.grpo.setdefault("run_name", config.output_dir.name)
