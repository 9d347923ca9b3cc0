"""The run folder: what a training run leaves on disk, each file whole or not there.

config.yaml       resolved configuration          metrics.jsonl    a line a step
environment.json  versions, hardware, command     rollouts.jsonl   completions with rewards and advantages
summary.json      before, after, paired verdict   eval/*.jsonl     a line a problem and sample
report.html       all of it as a page
adapter_model.safetensors, adapter_config.json and the tokenizer at the top: plain PEFT
"""

import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from tiny_math_solver.errors import UserError
from tiny_math_solver.processes import is_first

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "tokenizers", "safetensors")


class RunFolder:
    """One training run's folder; every write goes through it.

    Of several processes that train together the first one alone writes; for the others every write does nothing.
    """

    def __init__(self, path: Path):
        self.path = path
        self.writes = is_first()

    def check(self) -> None:
        """Raise UserError where a run cannot go here: a folder of something else, or one that cannot be written."""
        if occupied(self.path) and not (self.path / "config.yaml").is_file():
            raise UserError(f"{self.path}: exists and is not a run folder; choose another grpo.output_dir")
        check_writable(self.path, "choose another grpo.output_dir")

    def create(self) -> None:
        """Make the folder; an earlier run there is moved aside to `<name>.1`, `.2`, …, never overwritten."""
        self.check()
        if not self.writes:
            return
        try:
            if (self.path / "config.yaml").is_file():
                self.path.rename(_free_name(self.path))
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from None

    def write_text(self, name: str, text: str) -> None:
        if self.writes:
            write_whole(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def write_jsonl(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        self.write_text(name, json_lines(rows))

    def append_jsonl(self, name: str, rows: Iterable[dict[str, Any]], limit: int | None = None) -> bool:
        """Add rows; False, and nothing added, where the file has come to `limit` bytes."""
        path = self.path / name
        if not self.writes:
            return True
        if limit is not None and (path.stat().st_size if path.exists() else 0) >= limit:
            return False
        with path.open("a", encoding="utf-8") as file:
            file.write(json_lines(rows))
        return True

    def write_folder(self, save: Any) -> None:
        """Let `save(folder)` write files beside, then move each to its place at the top of the run folder."""
        if not self.writes:
            return
        with tempfile.TemporaryDirectory(dir=self.path, prefix=".part-") as beside:
            save(Path(beside))
            for file in sorted(Path(beside).iterdir()):
                os.replace(file, self.path / file.name)


def occupied(path: Path) -> bool:
    """Whether something stands at `path` already: a file, or a folder that is not empty."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def check_writable(folder: Path, advice: str) -> None:
    """Raise UserError where nothing could be written into `folder`, which need not be there yet."""
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryDirectory(dir=there):
            pass  # permissions alone do not tell: root, read-only mounts
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); {advice}") from None


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def write_environment(run: RunFolder, command: list[str], seed: int) -> None:
    """Record what a rerun would need to know."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    run.write_json(
        "environment.json",
        {
            "command": command,
            "seed": seed,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "gpu": device,
            "torch_threads": torch.get_num_threads(),
            "versions": {name: metadata.version(name) for name in LIBRARIES},
        },
    )


def read_config(folder: Path) -> dict[str, Any] | None:
    """The resolved configuration of the run that `folder` holds, or None where it holds none."""
    import yaml

    path = folder / "config.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


def command_line() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def json_lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _free_name(path: Path) -> Path:
    number = 1
    while (free := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return free
