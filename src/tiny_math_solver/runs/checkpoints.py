"""Checkpoints on disk: each is whole or not there, says whether it still is, and is read without unpickling anything.

checkpoint-N/              the run after optimizer step N
    adapter_model.safetensors, adapter_config.json and the tokenizer: plain PEFT
    best/                  the adapter that was the best on dev by then
    trainer_state.json     step and log of transformers' Trainer
    state.*, process-0.*   everything else (state.py): numbers as JSON, tensors as safetensors
    SHA256SUMS             of all these files; `sha256sum -c SHA256SUMS` checks them by hand
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.files import sync

SUMS = "SHA256SUMS"
NEEDED = {"adapter_model.safetensors", "best/adapter_model.safetensors", "trainer_state.json", "state.json"}
TENSOR = "tensor:"  # stands in the JSON for one of the tensors beside it


def write_checkpoint(run: RunFolder, step: int, save: Callable[[Path], None]) -> None:
    """Have `save` write its files beside, and put them in place as `checkpoint-<step>` once they are on the disk."""
    with run.staging() as beside:
        save(beside)
        files = sorted(file for file in beside.rglob("*") if file.is_file())
        sums = [f"{_sha256(file)}  {file.relative_to(beside)}\n" for file in files]
        (beside / SUMS).write_text("".join(sums), encoding="utf-8")
        for file in (*files, beside / SUMS, *(folder for folder in beside.rglob("*") if folder.is_dir()), beside):
            sync(file)
        place = run.path / f"checkpoint-{step}"
        if place.exists():  # a damaged one
            shutil.rmtree(place)
        os.rename(beside, place)
        sync(run.path)


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """`(step, folder)` of the checkpoints of a run, the newest first."""
    places = [path for path in folder.glob("checkpoint-*") if path.is_dir() and not path.is_symlink()]
    found = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in places)
    return sorted(((int(match[1]), folder / match[0]) for match in found if match), reverse=True)


def newest_whole(folder: Path, console: Console) -> Path | None:
    """The newest checkpoint of a run that is as it was written; a damaged one is named and passed over."""
    for _, checkpoint in checkpoints(folder):
        if not (problem := damage(checkpoint)):
            return checkpoint
        console.say(f"{checkpoint} is damaged ({problem}): left out")
    return None


def damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint's files; empty if nothing is."""
    try:
        *lines, end = (checkpoint / SUMS).read_text(encoding="utf-8").split("\n")
        if end:
            return f"{SUMS} is cut short"
        sums = _sums(lines)
        if missing := NEEDED - set(sums):
            return f"{SUMS} does not list {min(missing)}"
        for name, digest in sums.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if _sha256(checkpoint / name) != digest:
                return f"{name} is not what was written"
    except (OSError, ValueError) as error:
        return f"{SUMS}: {error.strerror if isinstance(error, OSError) else 'not readable'}"
    return ""


def files_of(checkpoint: Path) -> list[str]:
    """The names of a whole checkpoint's files."""
    return list(_sums((checkpoint / SUMS).read_text(encoding="utf-8").splitlines()))


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _sums(lines: list[str]) -> dict[str, str]:
    """`{file: hash}` of the lines of SHA256SUMS."""
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def set_aside(folder: Path, step: int) -> None:
    """Rename checkpoints beyond `step`, from which a run goes on: they are damaged, and others take their place."""
    for number, checkpoint in checkpoints(folder):
        if number > step:
            aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)


def keep(folder: Path, last: int | None, best: int) -> None:
    """Delete all checkpoints but the `last` newest (None: all) and that of step `best`."""
    for step, checkpoint in checkpoints(folder)[last:] if last else []:
        if step != best:
            shutil.rmtree(checkpoint, ignore_errors=True)


# -- Trees of numbers and tensors -------------------------------------------------------------------------------


def save_tree(stem: Path, tree: Any) -> None:
    """Write dicts, lists, numbers, text and tensors as `<stem>.json` and `<stem>.safetensors`; tuples become lists.

    Raises UserError for anything else: what cannot be written down must not be lost silently.
    """
    tensors: dict[str, Tensor] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[name := str(len(tensors))] = value.detach().cpu().contiguous().clone()
            return f"{TENSOR}{name}"
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(part) for part in value]
        return value

    try:
        text = json.dumps(plain(tree))
    except TypeError as error:
        raise UserError(f"a checkpoint cannot hold this run's state ({error}): choose another grpo.optim") from None
    save_file(tensors, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(text, encoding="utf-8")


def load_tree(stem: Path) -> Any:
    """What `save_tree` wrote, its tensors on the CPU. Raises UserError where it cannot be read."""
    try:
        tensors = load_file(stem.with_suffix(".safetensors"))
        tree = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{stem}: cannot be read ({error})") from None

    def whole(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(TENSOR):
            return tensors[value.removeprefix(TENSOR)]
        if isinstance(value, dict):
            return {key: whole(part) for key, part in value.items()}
        return [whole(part) for part in value] if isinstance(value, list) else value

    return whole(tree)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
