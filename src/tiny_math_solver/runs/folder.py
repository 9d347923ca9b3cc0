"""The run folder: everything a training run leaves on disk, each file written whole or not at all.

config.yaml       resolved configuration          metrics.jsonl    one line per step
environment.json  versions, hardware, command     rollouts.jsonl   completions with rewards and advantages
summary.json      before, after, paired verdict   events.jsonl     warnings, resumptions, fallbacks
report.html       all of it as a page             eval/*.jsonl     one line per problem and sample
checkpoint-N/     everything needed to resume (checkpoints.py)
adapter_model.safetensors, adapter_config.json and the tokenizer at the top: plain PEFT, the best on dev

While a run is at work it holds the folder's lock (lock.py).
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tiny_math_solver.runs.lock import FolderLock, take_lock
from tiny_math_solver.runs.records import CONFIG, GROWING, SUMMARY
from tiny_math_solver.support import processes
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.files import check_writable, free_name, json_lines, occupied, sync, write_whole


class RunFolder:
    """One training run's folder; every write goes through it.

    Of several processes that train together only the first writes; for the others every write does nothing.
    A write that fails raises UserError and leaves the earlier file as it was.
    """

    mark, kind = CONFIG, "a run folder"  # the file by which such a folder is known, and its name in messages

    def __init__(self, path: Path):
        self.path = path
        self.writes = processes.is_main()
        self._lock: FolderLock | None = None

    @property
    def holds_run(self) -> bool:
        return (self.path / self.mark).is_file()

    @property
    def finished(self) -> bool:
        return (self.path / SUMMARY).is_file()

    def check(self) -> None:
        """Raise UserError if a run cannot go here: the folder holds something else, or cannot be written."""
        if (occupied(self.path) and not self.holds_run) or (self.path.is_symlink() and not self.path.exists()):
            raise UserError(f"{self.path}: exists and is not {self.kind}; choose another grpo.output_dir")
        check_writable(self.path, "choose another grpo.output_dir")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder inside the block. Raises UserError if one is at work in it.

        A folder that does not exist is locked as soon as `create` has made it.
        """
        try:
            processes.on_main(self._take_lock_if_there)
            yield
        finally:
            self._release_lock()

    @contextlib.contextmanager
    def left_as_found(self) -> Iterator[None]:
        """Remove the folders that come into being inside the block and are still empty, and not locked, at its end."""
        missing = [folder for folder in (self.path, *self.path.parents) if self.writes and not folder.exists()]
        try:
            yield
        finally:
            for folder in missing:
                with contextlib.suppress(OSError):
                    if (lock := take_lock(folder)) is not None:
                        try:
                            folder.rmdir()
                        finally:
                            lock.release()

    def create(self) -> Path | None:
        """Make the folder; an earlier run there is moved aside, never overwritten.

        Returns where it is now: `<name>.1`, `.2`, …
        """
        self.check()
        aside = None
        if not self.writes:
            return aside
        if self.holds_run and self._lock is None:
            raise self._in_use()  # it has appeared since `locked` looked
        with self._writing(self.path):
            if self.holds_run:
                aside = free_name(self.path)
                self.path.rename(aside)
                self._release_lock()  # which went with the earlier run
            self.path.mkdir(parents=True, exist_ok=True)
        if self._lock is not None and not self._lock.is_on(self.path):
            self._release_lock()  # the folder was removed and made anew since
        if self._lock is None:
            self._take_lock()
        if self.holds_run:
            raise self._in_use()
        return aside

    def rewind(self, sizes: dict[str, int], step: int) -> None:
        """Cut the records back to `sizes` in bytes, and drop everything else written after `step`."""
        if not self.writes:
            return
        with self._writing(self.path):
            for leftover in self.path.glob(".part-*"):
                shutil.rmtree(leftover)
            for record in self._growing():
                if record.stat().st_size > sizes.get(record.name, 0):
                    os.truncate(record, sizes.get(record.name, 0))
            for verdict in (self.path / SUMMARY, self.path / "report.html", *self.path.glob("eval/after*.jsonl")):
                verdict.unlink(missing_ok=True)
            for evaluation in self.path.glob("eval/dev-[0-9]*.jsonl"):
                if evaluation.stem > f"dev-{step:06d}":
                    evaluation.unlink()

    def record_sizes(self) -> dict[str, int]:
        """Size in bytes of every growing record, after flushing it to the disk."""
        sizes = {}
        for record in self._growing():
            sync(record)
            sizes[record.name] = record.stat().st_size
        return sizes

    def write_text(self, name: str, text: str) -> None:
        if self.writes:
            with self._writing(self.path / name):
                write_whole(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def write_jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        self.write_text(name, json_lines(rows))

    def append_jsonl(self, name: str, rows: Iterable[Mapping[str, Any]], limit: int | None = None) -> bool:
        """Append rows; if the file has reached `limit` bytes, append nothing and return False."""
        path = self.path / name
        if not self.writes:
            return True
        if limit is not None and (path.stat().st_size if path.exists() else 0) >= limit:
            return False
        with self._writing(path), path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json_lines(rows))
        return True

    def write_folder(self, save: Callable[[Path], Any]) -> None:
        """Have `save(folder)` write files into a staging folder, then move each to the top of the run folder."""
        if not self.writes:
            return
        with self.staging() as folder:
            save(folder)
            for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                sync(file)
                place = self.path / file.relative_to(folder)
                place.parent.mkdir(exist_ok=True)
                os.replace(file, place)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder within the run folder to write into; what has not been moved out by the end is deleted."""
        folder = self.path / f".part-{os.getpid()}"
        with self._writing(self.path):
            try:
                folder.mkdir()  # not by tempfile, which would shut other users out of what becomes a checkpoint
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _growing(self) -> list[Path]:
        return [path for name in GROWING if (path := self.path / name).is_file()]

    def _take_lock_if_there(self) -> None:
        if self.path.is_dir():
            self._take_lock()

    def _take_lock(self) -> None:
        if not self.writes:
            return
        with self._writing(self.path):
            self._lock = take_lock(self.path)
        if self._lock is None:
            raise self._in_use()

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _in_use(self) -> UserError:
        return UserError(f"{self.path}: another run is at work in this folder; choose another grpo.output_dir")

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Turn an error of a write to `path` into a UserError."""
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            has_checkpoint = any(self.path.glob("checkpoint-*"))
            saved = "; what was saved earlier is intact: the same command resumes from it" if has_checkpoint else ""
            raise UserError(f"{path}: cannot be written ({reason}){saved}") from error
