"""The run folder: what a training run leaves on disk, each file whole or not there.

config.yaml       resolved configuration          metrics.jsonl    a line a step
environment.json  versions, hardware, command     rollouts.jsonl   completions with rewards and advantages
summary.json      before, after, paired verdict   events.jsonl     warnings, resumptions, what had to be worked around
report.html       all of it as a page             eval/*.jsonl     a line a problem and sample
checkpoint-N/     all that a run needs to go on (grpo/checkpoints.py)
adapter_model.safetensors, adapter_config.json and the tokenizer at the top: plain PEFT, the best on dev
"""

import contextlib
import errno
import fcntl
import json
import os
import platform
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from tiny_math_solver.support.environment import is_first
from tiny_math_solver.support.errors import UserError

RECORDS = ("metrics.jsonl", "rollouts.jsonl", "events.jsonl")  # that grow while a run goes on
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "tokenizers", "safetensors")


class RunFolder:
    """One training run's folder; every write goes through it.

    Of several processes that train together the first one alone writes; for the others every write does nothing.
    A write that fails raises UserError, and leaves what stood there before.
    """

    def __init__(self, path: Path):
        self.path = path
        self.writes = is_first()
        self._lock: int | None = None  # descriptor of the folder: the lock goes with the process and its children

    @property
    def holds_run(self) -> bool:
        return (self.path / "config.yaml").is_file()

    @property
    def finished(self) -> bool:
        return (self.path / "summary.json").is_file()

    def check(self) -> None:
        """Raise UserError where a run cannot go here: a folder of something else, or one that cannot be written."""
        if (occupied(self.path) and not self.holds_run) or (self.path.is_symlink() and not self.path.exists()):
            raise UserError(f"{self.path}: exists and is not a run folder; choose another grpo.output_dir")
        check_writable(self.path, "choose another grpo.output_dir")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder until the end. Raises UserError where one is at work in it."""
        try:
            if self.path.is_dir():
                self._take_lock()
            yield
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    @contextlib.contextmanager
    def left_as_found(self) -> Iterator[None]:
        """Take away the folders that come into being meanwhile, if nothing is put into them."""
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            yield
        finally:
            for folder in missing:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def create(self) -> None:
        """Make the folder; an earlier run there is moved aside to `<name>.1`, `.2`, …, never overwritten."""
        self.check()
        if not self.writes:
            return
        with self._writing(self.path):
            if self.holds_run and self._lock is None:
                raise self._in_use()  # it has come into being since we looked
            if self.holds_run:
                self.path.rename(_free_name(self.path.absolute()))
            self.path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        if self.holds_run:
            raise self._in_use()

    def rewind(self, sizes: dict[str, int], step: int) -> None:
        """Cut the records back to `sizes` in bytes, and drop whatever else was written after `step`, a verdict too."""
        if not self.writes:
            return
        with self._writing(self.path):
            for leftover in self.path.glob(".part-*"):
                shutil.rmtree(leftover)
            for record in self._records():
                if record.stat().st_size > sizes.get(record.name, 0):
                    os.truncate(record, sizes.get(record.name, 0))
            for verdict in ("summary.json", "report.html", "eval/after.jsonl", "eval/after-unseen.jsonl"):
                (self.path / verdict).unlink(missing_ok=True)
            for evaluation in self.path.glob("eval/dev-[0-9]*.jsonl"):
                if evaluation.stem > f"dev-{step:06d}":
                    evaluation.unlink()

    def record_sizes(self) -> dict[str, int]:
        """Bytes of every record, which are on the disk afterwards."""
        sizes = {}
        for record in self._records():
            sync(record)
            sizes[record.name] = record.stat().st_size
        return sizes

    def _records(self) -> list[Path]:
        return [path for name in RECORDS if (path := self.path / name).is_file()]

    def write_text(self, name: str, text: str) -> None:
        if self.writes:
            with self._writing(self.path / name):
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
        with self._writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json_lines(rows))
        return True

    def write_folder(self, save: Any) -> None:
        """Let `save(folder)` write files beside, then move each to its place at the top of the run folder."""
        if not self.writes:
            return
        with self.beside() as folder:
            save(folder)
            for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                sync(file)
                place = self.path / file.relative_to(folder)
                place.parent.mkdir(exist_ok=True)
                os.replace(file, place)

    @contextlib.contextmanager
    def beside(self) -> Iterator[Path]:
        """A folder within the run folder to write into, gone at the end."""
        folder = self.path / f".part-{os.getpid()}"
        with self._writing(self.path):
            try:
                folder.mkdir()  # not by tempfile, which would shut other users out of what becomes a checkpoint
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _take_lock(self) -> None:
        if not self.writes:
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise self._in_use() from None
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP):  # what network file systems say
                os.close(descriptor)
                raise
        if self._lock is not None:
            os.close(self._lock)
        self._lock = descriptor

    def _in_use(self) -> UserError:
        return UserError(f"{self.path}: another run is at work in this folder; choose another grpo.output_dir")

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            saved = "; what was saved before is whole: the same command goes on from there" if self.holds_run else ""
            raise UserError(f"{path}: cannot be written ({reason}){saved}") from error


def occupied(path: Path) -> bool:
    """Whether something stands at `path` already: a file, or a folder with more in it than hidden files."""
    return path.exists() and (not path.is_dir() or any(not file.name.startswith(".") for file in path.iterdir()))


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
    sync(beside)
    os.replace(beside, path)


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_environment(run: RunFolder, command: list[str], seed: int) -> None:
    """Record what a rerun would need to know."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    run.write_json(
        "environment.json",
        {
            "run_id": uuid.uuid4().hex[:8],
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
    if not path.is_file():
        return None
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: holds no configuration")
    return tree


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, none where it is not there; a last line still being written is left out.

    Raises UserError naming file and line where one is no JSON object.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.endswith("\n"):
                yield _json_object(line, f"{path}:{number}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file. Raises UserError where it cannot be read or is no JSON object."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return _json_object(text, str(path))


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{where}: damaged, not a JSON object")
    return value


def command_line() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def json_lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _free_name(path: Path) -> Path:
    number = 1
    while (free := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return free
