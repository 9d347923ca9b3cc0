"""Where a run begins: at its newest whole checkpoint, or anew."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tiny_math_solver.config.fields import known_fields
from tiny_math_solver.config.schema import Config
from tiny_math_solver.runs.checkpoints import newest_whole
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import read_config, read_json
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.redaction import without_secrets

OF_ANOTHER_RUN = ("model", "problems", "prompt", "lora", "grpo.optim")  # which cannot change within a run
HARMLESS = ("grpo.output_dir", "grpo.report_to", "grpo.run_name", "grpo.disable_tqdm")  # change nothing that is learned
ABSENT = "not set"


@dataclass(frozen=True)
class Asked:
    """What the command line says about how to start.

    `resume` None goes on where the configuration is the same, False never; `allow` names fields, or sections, that
    may differ. `force` starts a run that the preflight would not.
    """

    resume: bool | None = None
    allow: tuple[str, ...] = ()
    force: bool = False


@dataclass(frozen=True)
class Start:
    """The checkpoint to go on from; without one a run begins anew, and an earlier one is moved aside."""

    checkpoint: Path | None = None
    over: bool = False  # the run is finished, and is to be shown again


def starting_point(run: RunFolder, config: Config, problems: str, asked: Asked, console: Console) -> Start:
    """Where to begin; `problems` is the fingerprint of the problems as they are.

    Raises UserError where going on was asked for and there is no run, or one of another configuration.
    """
    _check_names(asked.allow)
    if not run.holds_run:
        if asked.resume:
            raise UserError(f"{run.path}: no run there to resume")
        return Start()
    if asked.resume is False or (run.finished and not asked.resume):
        return Start()
    new = yaml.safe_load(without_secrets(config.to_yaml()))  # as it is on record
    changes = dict(differences(read_config(run.path) or {}, new))
    if changes and not asked.resume:
        console.say(f"the run in {run.path} has another configuration ({_listed(changes)}) and is moved aside")
        return Start()
    _refuse(run.path, changes, asked.allow)
    if run.finished and not changes:
        console.say(f"{run.path}: this run is finished")
        return Start(over=True)
    checkpoint = newest_whole(run.path, console)
    if checkpoint is None:
        console.say(f"no checkpoint in {run.path} yet: from the beginning")
    elif read_json(checkpoint / "state.json")["problems"] != problems:
        raise UserError(f"{run.path}: the problems are not those it was trained on; choose another grpo.output_dir")
    return Start(checkpoint)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`(dotted key, "old → new")` wherever two configurations differ in what is learned."""
    for key in {**old, **new}:
        before, after = old.get(key, ABSENT), new.get(key, ABSENT)
        if isinstance(before, dict) and isinstance(after, dict) and not prefix:
            yield from differences(before, after, f"{key}.")
        elif before != after and f"{prefix}{key}" not in HARMLESS:
            yield f"{prefix}{key}", f"{before} → {after}"


def _check_names(allow: tuple[str, ...]) -> None:
    for key in allow:
        section, dot, name = key.partition(".")
        if section not in Config.model_fields or (dot and name not in known_fields(section)):
            raise UserError(f"--allow {key}: no such field or section; they are listed by tiny-math fields")


def _refuse(folder: Path, changes: dict[str, str], allow: tuple[str, ...]) -> None:
    sections = {key: key.partition(".")[0] for key in changes}
    if never := {key: changes[key] for key in changes if {key, sections[key]} & set(OF_ANOTHER_RUN)}:
        raise UserError(
            f"{folder}: is a run with {_listed(never)}; that takes a run of its own: another grpo.output_dir"
        )
    if refused := {key: changes[key] for key in changes if not {key, sections[key]} & set(allow)}:
        allowing = " ".join(f"--allow {key}" for key in refused)
        raise UserError(
            f"{folder}: is a run of another configuration: {_listed(refused)}; if that is meant: {allowing}"
        )


def _listed(changes: dict[str, str]) -> str:
    return ", ".join(f"{key}: {change}" for key, change in changes.items())
