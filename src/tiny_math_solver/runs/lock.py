"""The lock on a run folder: one process has it, and the system releases it when that ends, however that happens.

The lock is on the folder itself: no file of it is left behind, and it stays with the run when its folder is renamed.
Windows cannot open a folder. There the lock is on a hidden file beside it, `.<name>.lock`, which is deleted afterwards;
within the folder an open file would keep it from being renamed.
"""

import errno
import os
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout, lock_descriptor

from tiny_math_solver.support.files import IS_WINDOWS

NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # answers of file systems without locks


class FolderLock(Protocol):
    """A lock that is held until `release`."""

    def is_on(self, folder: Path) -> bool:
        """True if the lock is on the folder that has this path, not on one that was removed or renamed."""

    def release(self) -> None: ...


def take_lock(folder: Path) -> FolderLock | None:
    """The lock on a folder, or None if another process has it. Raises OSError if the folder cannot be locked."""
    return _lock_beside(folder) if IS_WINDOWS else _lock_itself(folder)


class _DescriptorLock:
    def __init__(self, descriptor: int):
        self.descriptor = descriptor  # open on the folder

    def is_on(self, folder: Path) -> bool:
        try:
            there, opened = folder.stat(), os.fstat(self.descriptor)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)

    def release(self) -> None:
        os.close(self.descriptor)


class _FileBesideLock:
    def __init__(self, lock: FileLock, folder: Path):
        self.lock, self.folder = lock, folder  # absolute

    def is_on(self, folder: Path) -> bool:
        return folder.absolute() == self.folder

    def release(self) -> None:
        self.lock.release()


def _lock_itself(folder: Path) -> FolderLock | None:
    """A file system without locks counts as one where nobody else has the lock."""
    lock = _DescriptorLock(os.open(folder, os.O_RDONLY))
    try:
        if lock_descriptor(lock.descriptor, blocking=False) and lock.is_on(folder):
            return lock
    except OSError as error:
        if error.errno in NO_LOCKS:
            return lock
        lock.release()
        raise
    lock.release()
    return None


def _lock_beside(folder: Path) -> FolderLock | None:
    folder = folder.absolute()
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return _FileBesideLock(lock, folder)
