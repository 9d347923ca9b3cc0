"""Trackers and their environment variables, which win over our defaults.

Whether a tracker is used is decided by, in this order: its off switch in the environment, `grpo.report_to`, and for
Weights & Biases its token. Names are decided by the configuration, then the environment, then our defaults.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from tiny_math_solver.config.schema import Config
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import ENVIRONMENT, read_json
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError

PACKAGES = ("wandb", "tensorboard", "trackio")
WANDB_MODES = ("", "online", "offline", "disabled", "shared", "dryrun", "run")
WANDB_OFFLINE = ("offline", "dryrun")  # modes that need no token
TRUE = ("1", "true", "yes", "on", "y", "t")
OFF_SWITCHES: dict[str, dict[str, tuple[str, ...]]] = {  # of each tracker: variables, and the values that switch it off
    "wandb": {"WANDB_MODE": ("disabled",), "WANDB_DISABLED": TRUE},
    "mlflow": {"DISABLE_MLFLOW_INTEGRATION": TRUE},
    "comet_ml": {"COMET_MODE": ("disabled",)},
    "swanlab": {"SWANLAB_MODE": ("disabled",)},
}
WANDB_PROJECT = "tiny-math-solver"


def choose_trackers(config: Config, console: Console) -> None:
    """Set `grpo.report_to` where it is open, to W&B if its token is in the environment, and check what is chosen.

    A tracker that is switched off is left out, and `console` told. `WANDB_TOKEN` stands for `WANDB_API_KEY`;
    `WANDB_MODE=offline` needs neither. Raises UserError for a tracker that does not exist, and with the one command to
    run where its package is missing.
    """
    if not os.environ.get("WANDB_API_KEY") and (token := os.environ.get("WANDB_TOKEN")):
        os.environ["WANDB_API_KEY"] = token
    mode = os.environ.get("WANDB_MODE", "")
    asked_for = bool(mode in WANDB_OFFLINE or os.environ.get("WANDB_API_KEY"))
    reports = config.grpo.setdefault("report_to", ["wandb"] if asked_for else [])
    chosen = [reports] if isinstance(reports, str) else reports or []
    if off := {tracker: switch for tracker in chosen if (switch := _off_switch(tracker))}:
        chosen = [tracker for tracker in chosen if tracker not in off]
        config.grpo["report_to"] = chosen
        if processes.is_main():
            console.note("; ".join(f"{tracker} is off ({switch})" for tracker, switch in off.items()))
    if _off_switch("wandb"):
        os.environ["WANDB_MODE"] = "disabled"  # for report_to `all`: the wandb package does not read WANDB_DISABLED
    for tracker in chosen:
        if tracker in PACKAGES and find_spec(tracker) is None:
            raise UserError(f"{tracker} is not installed; run: {sys.executable} -m pip install {tracker}")
        if tracker not in (*PACKAGES, "none", "all"):
            _check_foreign(tracker)
    if "wandb" in chosen and mode not in WANDB_MODES:
        raise UserError(f"environment: WANDB_MODE={mode!r}: choose {' or '.join(WANDB_MODES[1:4])}, or unset it")


@contextmanager
def wandb_defaults(run: RunFolder, *, resumed: bool) -> Iterator[None]:
    """Give W&B a project, a name and an id inside the block, each unless the environment does.

    The name is the folder's. The id is that of environment.json, so that a resumed run goes on there as one run; it is
    left out where the environment wants a run that exists already, one that does not, or a copy of another.
    """
    resume = os.environ.get("WANDB_RESUME", "")
    name = run.path.resolve().name
    defaults = {"WANDB_PROJECT": WANDB_PROJECT, "WANDB_NAME": name}
    is_elsewhere = os.environ.get("WANDB_RESUME_FROM") or os.environ.get("WANDB_FORK_FROM")
    if not is_elsewhere and resume not in ("must", "never"):
        if resumed or not os.environ.get("WANDB_RUN_ID"):
            defaults["WANDB_RESUME"] = "allow"
        defaults["WANDB_RUN_ID"] = read_json(run.path / ENVIRONMENT).get("run_id", name) if run.writes else ""
    before = {variable: os.environ.get(variable) for variable in defaults}
    os.environ.update({variable: value for variable, value in defaults.items() if not before[variable]})
    try:
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value


def _off_switch(tracker: str) -> str:
    """The variable, with its value, that switches a tracker off; empty if none does."""
    for variable, values in OFF_SWITCHES.get(tracker, {}).items():
        value = os.environ.get(variable, "")
        if value.strip().lower() in values:
            return f"{variable}={value}"
    return ""


def _check_foreign(tracker: str) -> None:
    """A tracker that transformers knows and this package has nothing to do with."""
    from transformers.integrations import integration_utils

    if tracker not in integration_utils.INTEGRATION_TO_CALLBACK:
        raise UserError(f"grpo.report_to: no tracker {tracker!r}; choose none, {', '.join(PACKAGES)}")
    if tracker not in integration_utils.get_available_reporting_integrations():
        raise UserError(f"grpo.report_to: {tracker} is not installed; install its package, or choose another")
