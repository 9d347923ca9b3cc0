"""Weights & Biases from the environment: a token is all it takes."""

import os
import sys
from importlib.util import find_spec

from tiny_math_solver.config.schema import Config
from tiny_math_solver.support.errors import UserError

PACKAGES = ("wandb", "tensorboard", "trackio")
WANDB_MODES = ("", "online", "offline", "disabled", "shared", "dryrun", "run")


def choose_trackers(config: Config) -> None:
    """Set `grpo.report_to` where it is open, to W&B if its token is in the environment, and check what is chosen.

    `WANDB_TOKEN` stands for `WANDB_API_KEY`; `WANDB_MODE=offline` needs neither. Raises UserError for a tracker that
    does not exist, and with the one command to run where its package is missing.
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
        if tracker not in (*PACKAGES, "none", "all"):
            _check_foreign(tracker)
    if "wandb" in chosen:
        if mode not in WANDB_MODES:
            raise UserError(f"environment: WANDB_MODE={mode!r}: choose {' or '.join(WANDB_MODES[1:4])}, or unset it")
        os.environ.setdefault("WANDB_PROJECT", "tiny-math-solver")
        config.grpo.setdefault("run_name", config.output_dir.name)


def same_wandb_run(run_id: str) -> None:
    """Have Weights & Biases know a run by `run_id`, so that it goes on there after an interruption, as one run."""
    os.environ["WANDB_RUN_ID"] = run_id
    os.environ.setdefault("WANDB_RESUME", "allow")


def _check_foreign(tracker: str) -> None:
    """A tracker that transformers knows and this package has nothing to do with."""
    from transformers.integrations import integration_utils

    if tracker not in integration_utils.INTEGRATION_TO_CALLBACK:
        raise UserError(f"grpo.report_to: no tracker {tracker!r}; choose none, {', '.join(PACKAGES)}")
    if tracker not in integration_utils.get_available_reporting_integrations():
        raise UserError(f"grpo.report_to: {tracker} is not installed; install its package, or choose another")
