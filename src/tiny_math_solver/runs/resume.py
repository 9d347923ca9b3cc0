"""The start of a run: at its newest intact checkpoint, or from the beginning."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_math_solver.config.fields import known_fields
from tiny_math_solver.config.schema import Config
from tiny_math_solver.config.shares import BATCH_FIELDS, same_batch
from tiny_math_solver.runs.checkpoints import FORMAT, newest_intact, saved_processes
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import ABSENT, ENVIRONMENT, IGNORED, as_recorded, read_config, read_json
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError

FIXED = ("model", "problems", "prompt", "lora", "grpo.optim")  # cannot change within a run


@dataclass(frozen=True)
class ResumeOptions:
    """The command line's choices about how to start.

    `resume` None resumes if the configuration is the same, True insists on it, False starts over; `allow` names
    fields or sections that may differ. `force` starts a run that the preflight would refuse.
    """

    resume: bool | None = None
    allow: tuple[str, ...] = ()
    force: bool = False


@dataclass(frozen=True)
class Start:
    """The checkpoint to resume from; without one a run starts over, and an earlier one is moved aside.

    `batch` are fields of section `grpo` that keep the completions of a step for another number of processes.
    """

    checkpoint: Path | None = None
    finished: bool = False  # the run has ended, and its result is to be shown again
    batch: dict[str, int] = field(default_factory=dict)


def starting_point(run: RunFolder, config: Config, problems: str, options: ResumeOptions, console: Console) -> Start:
    """The point to start from; `problems` is the fingerprint of the plan for this start.

    Raises UserError if `options` ask to resume and there is no run, or one of another configuration.
    """
    _check_names(options.allow)
    if not run.holds_run:
        if options.resume:
            raise UserError(f"{run.path}: no run there to resume")
        return Start()
    if options.resume is False or (run.finished and not options.resume):
        return Start()
    new = as_recorded(config)
    changes = dict(differences(read_config(run.path) or {}, new))
    if changes and not options.resume:
        console.say(f"the run in {run.path} has another configuration ({listed(changes)}) and will be moved aside")
        return Start()
    _refuse(run.path, changes, options.allow)
    if run.finished and not changes:
        console.say(f"{run.path}: this run is finished")
        return Start(finished=True)
    is_by_hand = not set(changes).isdisjoint(BATCH_FIELDS)
    checkpoint = newest_intact(run.path, console)
    if checkpoint is None:
        batch = {} if is_by_hand else _batch(config, run.path, *_recorded_batch(run.path, config))
        console.say(f"no checkpoint in {run.path} yet: starting from the beginning{_kept(batch)}")
        return Start(batch=batch)
    state = read_json(checkpoint / "state.json")
    if state.get("format") != FORMAT:
        raise UserError(
            f"{checkpoint}: was written by another version of this package; resume with that one, or start over with "
            "--no-resume, which keeps this run under another name"
        )
    if state["problems"] != problems:
        raise UserError(
            f"{run.path}: the problems are not those it was trained on, or the adapter it started from is another; "
            "choose another grpo.output_dir"
        )
    then = saved_processes(checkpoint)
    _refuse_others_rows(checkpoint, then)
    batch = {} if is_by_hand else _batch(config, checkpoint, then, state["completions_per_step"])
    if batch:
        console.say(f"resuming with another number of processes{_kept(batch)}")
    return Start(checkpoint, batch=batch)


def _kept(batch: dict[str, int]) -> str:
    """What `batch` changes and why; empty if it changes nothing."""
    settings = ", ".join(f"grpo.{name} {value}" for name, value in batch.items())
    return f": {settings} keeps the completions of a step" if batch else ""


def _recorded_batch(folder: Path, config: Config) -> tuple[int, int]:
    """`(processes, completions per step)` that the run in `folder` was started with."""
    try:
        environment = read_json(folder / ENVIRONMENT)
        return environment["processes"], environment["completions_per_step"]
    except (UserError, OSError, KeyError):  # killed before it was written, or of an earlier version
        return processes.count(), config.completions_per_step


def recorded_date(run: RunFolder, config: Config, options: ResumeOptions) -> str | None:
    """The date in the prompts of the run that this start resumes; None where it does not, or where none was recorded.

    A configuration that sets a date of its own keeps it.
    """
    if not run.holds_run or options.resume is False or (run.finished and not options.resume):
        return None
    old = read_config(run.path) or {}
    date = (old.get("prompt") or {}).get("date")
    new = as_recorded(config)
    new["prompt"]["date"] = new["prompt"]["date"] or date
    return date if options.resume or not dict(differences(old, new)) else None


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`(dotted key, "old → new")` for every difference between two configurations that affects what is learned."""
    for key in {**old, **new}:
        default = _default(prefix, key)
        before, after = old.get(key, default), new.get(key, default)
        if isinstance(before, dict) and isinstance(after, dict) and not prefix:
            yield from differences(before, after, f"{key}.")
        elif before != after and f"{prefix}{key}" not in IGNORED:
            yield f"{prefix}{key}", f"{before} → {after}"


def _refuse_others_rows(checkpoint: Path, then: int) -> None:
    """Raise UserError where completions wait that only as many processes as `then` can learn from."""
    buffer = read_json(checkpoint / "process-0.json")["buffer"]
    if then != processes.count() and buffer["waiting"] and not buffer["of_all"]:
        raise UserError(
            f"{checkpoint}: was written amid a generation batch, with which another number of processes cannot go on "
            f"in TRL's micro-batches; resume with as many as before (torchrun --nproc_per_node {then})"
        )


def _batch(config: Config, place: Path, then: int, completions: int) -> dict[str, int]:
    """The fields with which a step keeps the `completions` of `then` processes.

    Raises UserError where this number of processes cannot go on as the earlier one would have.
    """
    if completions == config.completions_per_step:
        return {}
    batch = same_batch(config, completions)
    if batch is None:
        raise UserError(
            f"{place}: a step has {completions} completions, which {processes.count()} processes cannot share equally; "
            f"resume with as many as before (torchrun --nproc_per_node {then})"
        )
    return batch


def _default(prefix: str, key: str) -> Any:
    """The value of a field that is not recorded: a run of an earlier version knows fewer of them."""
    section = prefix.rstrip(".")
    if not prefix:
        return {}
    if section in ("grpo", "lora") or section not in Config.model_fields or key not in known_fields(section):
        return ABSENT
    return known_fields(section)[key][1]


def _check_names(allow: tuple[str, ...]) -> None:
    for key in allow:
        section, dot, name = key.partition(".")
        if section not in Config.model_fields or (dot and name not in known_fields(section)):
            raise UserError(f"--allow {key}: no such field or section; tiny-math fields lists them")


def _refuse(folder: Path, changes: dict[str, str], allow: tuple[str, ...]) -> None:
    sections = {key: key.partition(".")[0] for key in changes}
    if never := {key: changes[key] for key in changes if {key, sections[key]} & set(FIXED)}:
        raise UserError(
            f"{folder}: holds a run with {listed(never)}, which cannot change within a run; "
            "choose another grpo.output_dir"
        )
    if refused := {key: changes[key] for key in changes if not {key, sections[key]} & set(allow)}:
        allowing = " ".join(f"--allow {key}" for key in refused)
        raise UserError(
            f"{folder}: holds a run of another configuration ({listed(refused)}); "
            f"to resume it with these changes, add {allowing}"
        )


def listed(changes: dict[str, str]) -> str:
    """The `differences` of two configurations on one line."""
    return ", ".join(f"{key}: {change}" for key, change in changes.items())
