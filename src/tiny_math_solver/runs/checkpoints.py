"""Checkpoints on disk: each is complete or does not exist, can be verified, and is read without unpickling anything.

checkpoint-N/              the run after optimizer step N
    adapter_model.safetensors, adapter_config.json and the tokenizer: plain PEFT; or model.safetensors and config.json
    best/                  the adapter, or the model, that was the best on dev by then
    trainer_state.json     step and log of transformers' Trainer
    state.*, process-0.*   everything else (state_files.py): numbers as JSON, tensors as safetensors
    SHA256SUMS             of all these files; `sha256sum -c SHA256SUMS` checks them by hand
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.files import sync, write_text

SUMS = "SHA256SUMS"
FORMAT = 3  # of state.json, where it is recorded: counts up when older checkpoints can no longer be read
REQUIRED = {"trainer_state.json", "state.json"}
POLICIES = ("adapter_model.safetensors", "model.safetensors")  # an adapter, or a whole model


def write_checkpoint(run: RunFolder, step: int, save: Callable[[Path], None]) -> None:
    """Have `save` write its files into a staging folder; once they are on the disk it becomes `checkpoint-<step>`."""
    with run.staging() as staged:
        save(staged)
        files = sorted(file for file in staged.rglob("*") if file.is_file())
        sums = [f"{_sha256(file)}  {file.relative_to(staged).as_posix()}\n" for file in files]
        write_text(staged / SUMS, "".join(sums))
        for file in (*files, staged / SUMS, *(folder for folder in staged.rglob("*") if folder.is_dir()), staged):
            sync(file)
        place = run.path / f"checkpoint-{step}"
        if place.exists():  # a damaged one
            shutil.rmtree(place)
        os.rename(staged, place)
        sync(run.path)


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """`(step, folder)` of a run's checkpoints, the newest first."""
    places = [path for path in folder.glob("checkpoint-*") if path.is_dir() and not path.is_symlink()]
    found = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in places)
    return sorted(((int(match[1]), folder / match[0]) for match in found if match), reverse=True)


def newest_intact(folder: Path, console: Console) -> Path | None:
    """The newest checkpoint of a run that is as it was written; damaged ones are reported and skipped."""
    for _, checkpoint in checkpoints(folder):
        if not (problem := damage(checkpoint)):
            return checkpoint
        console.say(f"{checkpoint} is damaged ({problem}): skipped")
    return None


def damage(checkpoint: Path) -> str:
    """The first damage found in a checkpoint's files, in words; empty if there is none."""
    try:
        *lines, end = (checkpoint / SUMS).read_text(encoding="utf-8").split("\n")
        if end:
            return f"{SUMS} is cut short"
        sums = _sums(lines)
        policy = POLICIES[1] if POLICIES[1] in sums else POLICIES[0]
        if missing := {*REQUIRED, policy, f"best/{policy}"} - set(sums):
            return f"{SUMS} does not list {min(missing)}"
        for name, digest in sums.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if _sha256(checkpoint / name) != digest:
                return f"{name} has changed since it was written"
    except (OSError, ValueError) as error:
        return f"{SUMS}: {error.strerror if isinstance(error, OSError) else 'not readable'}"
    return ""


def checkpoint_files(checkpoint: Path) -> list[str]:
    """Names of the files of an intact checkpoint, relative to its folder."""
    return list(_sums((checkpoint / SUMS).read_text(encoding="utf-8").splitlines()))


def checkpoint_step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def saved_processes(checkpoint: Path) -> int:
    """The number of processes that trained together when an intact checkpoint was written."""
    return sum(name.startswith("process-") and name.endswith(".json") for name in checkpoint_files(checkpoint))


def _sums(lines: list[str]) -> dict[str, str]:
    """`{file: hash}` of the lines of SHA256SUMS."""
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def rename_damaged(folder: Path, step: int) -> None:
    """Rename the checkpoints after `step`, where the run resumes, to `<name>.damaged`: others take their place."""
    for number, checkpoint in checkpoints(folder):
        if number > step:
            renamed = checkpoint.with_name(f"{checkpoint.name}.damaged")
            shutil.rmtree(renamed, ignore_errors=True)
            checkpoint.rename(renamed)


def delete_old(folder: Path, limit: int | None, best_step: int) -> None:
    """Delete all checkpoints but the `limit` newest and that of `best_step`; with limit None keep all."""
    for step, checkpoint in checkpoints(folder)[limit:] if limit else []:
        if step != best_step:
            shutil.rmtree(checkpoint, ignore_errors=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
