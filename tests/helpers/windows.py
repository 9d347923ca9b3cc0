"""`tiny-math` as on Windows, as far as Linux can stand in for it: `python -X warn_default_encoding windows.py FILE`.

FILE is JSON, a list of command lines. Prints, as JSON, the exit code, stdout and stderr of each. The package, and no
library, finds the modules, functions and signals of POSIX missing. Folders cannot be opened; what is open or mapped
cannot be deleted, renamed or replaced; links cannot be made; text files without an encoding are an error; stdout is
cp1252. `watch` and `play` are asked for their page, then interrupted.
"""

import _thread
import builtins
import errno
import io
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
import traceback
import types
import urllib.request
import warnings
from collections.abc import Callable
from typing import Any

PACKAGE = "tiny_math_solver"
MISSING_MODULES = {
    "crypt", "curses", "fcntl", "grp", "nis", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty",
}  # fmt: skip
MISSING_NAMES = {
    "os": """
        chown chroot confstr ctermid fchdir fchmod fchown fork forkpty getegid geteuid getgid getgroups getloadavg
        getpgid getpgrp getpriority getresuid getsid getuid initgroups killpg lchown lockf major minor mkfifo mknod nice
        openpty pathconf posix_fadvise posix_fallocate posix_spawn pread pwrite readv register_at_fork sched_getaffinity
        sched_setaffinity sched_yield sendfile setegid seteuid setgid setpgid setpriority setsid setuid statvfs sync
        sysconf tcgetpgrp ttyname uname wait wait3 wait4 waitid writev O_CLOEXEC O_DIRECTORY O_DSYNC O_NOATIME O_NOCTTY
        O_NOFOLLOW O_NONBLOCK O_SYNC O_TMPFILE WNOHANG SEEK_DATA memfd_create
    """,
    "signal": """
        SIGHUP SIGKILL SIGQUIT SIGALRM SIGUSR1 SIGUSR2 SIGCHLD SIGPIPE SIGSTOP SIGCONT SIGTSTP SIGTTIN SIGTTOU SIGWINCH
        SIGIO SIGBUS SIGSYS SIGTRAP alarm setitimer getitimer pause pthread_kill pthread_sigmask sigpending sigtimedwait
        sigwait sigwaitinfo siginterrupt ITIMER_REAL
    """,
    "select": "poll epoll kqueue",
    "socket": "AF_UNIX SO_REUSEPORT",
    "time": "tzset clock_gettime_ns pthread_getcpuclockid",
}


class AsOnWindows(types.ModuleType):
    """A standard module without what Windows lacks, and with `changes`."""

    def __init__(self, real: Any, **changes: Any):
        super().__init__(real.__name__)
        self.__dict__.update(_real=real, _missing=MISSING_NAMES.get(real.__name__, "").split(), **changes)

    def __getattr__(self, name: str) -> Any:
        if name in self._missing:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on Windows")
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)


def open_descriptor(path: Any, flags: int, *rest: Any, **options: Any) -> int:
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return os.open(path, flags, *rest, **options)


def fsync(descriptor: int) -> None:
    import fcntl

    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    os.fsync(descriptor)


def hide_posix() -> None:
    import ctypes

    def load(name: Any, *rest: Any, **options: Any) -> Any:
        if name is None:
            raise TypeError("LoadLibrary() argument 1 must be str, not None")
        return ctypes.CDLL(name, *rest, **options)

    changed: dict[str, Any] = {
        "os": AsOnWindows(os, name="nt", open=open_descriptor, fsync=fsync),
        "sys": AsOnWindows(sys, platform="win32"),
        "ctypes": AsOnWindows(ctypes, CDLL=load),
        **{name: AsOnWindows(__import__(name)) for name in ("signal", "select", "socket", "time")},
    }
    real = builtins.__import__

    def without(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if str((globals or {}).get("__name__", "")).startswith(PACKAGE) and not level:
            if name.partition(".")[0] in MISSING_MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in changed:
                return changed[name]
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = without
    multiprocessing.set_start_method("spawn")


def in_use(path: Any) -> str:
    """A file at or below `path` that this process has open or mapped; empty if there is none."""
    place = os.path.realpath(path)
    held = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue
    with open("/proc/self/maps", encoding="utf-8") as maps:
        held += [line.split(maxsplit=5)[5].strip() for line in maps if len(line.split(maxsplit=5)) == 6]
    return next((f for f in held if (f == place or f.startswith(f"{place}/")) and os.path.isfile(f)), "")


def lock_open_files() -> None:
    """Refuse to delete, rename or replace what is open, as Windows does; libraries' scratch files are their own."""

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*paths: Any, **options: Any) -> Any:
            names = [path for path in paths if isinstance(path, (str, os.PathLike))]
            for path in names:
                if os.path.abspath(path).startswith(os.getcwd() + os.sep) and (held := in_use(path)):
                    print(f"in use: {held}\n{''.join(traceback.format_stack(limit=8))}", file=sys.__stderr__)
                    raise PermissionError(errno.EACCES, f"used by another process: {held}", str(path))
            return real(*paths, **options)

        return call

    for name in ("rename", "replace", "unlink", "remove", "rmdir"):
        setattr(os, name, guarded(getattr(os, name)))
    shutil._use_fd_functions = False  # type: ignore[attr-defined]  # Windows deletes by path

    def symlink(*paths: Any, **options: Any) -> None:
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    os.symlink = symlink


def hide_proc() -> None:
    real = pathlib.Path.open

    def open_file(path: pathlib.Path, *rest: Any, **options: Any) -> Any:
        if str(path).startswith(("/proc", "/sys", "/dev/shm")):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return real(path, *rest, **options)

    setattr(pathlib.Path, "open", open_file)  # noqa: B010  mypy knows its overloads


def visit(stdout: io.BytesIO, pages: list[str]) -> None:
    """Read the page that `watch` or `play` serves, then interrupt it as Ctrl-C does."""
    for _ in range(600):
        time.sleep(0.1)
        if b"http://" in stdout.getvalue():
            url = stdout.getvalue().decode("cp1252").partition("http://")[2].split()[0]
            with urllib.request.urlopen(f"http://{url}") as answer:
                pages.append(answer.read().decode())
            break
    _thread.interrupt_main()


def run(arguments: list[str]) -> dict[str, Any]:
    from tiny_math_solver.cli import main

    out, err, pages = io.BytesIO(), io.BytesIO(), list[str]()
    sys.stdout, sys.stderr = (io.TextIOWrapper(stream, "cp1252", newline="\n") for stream in (out, err))
    visitor = threading.Thread(target=visit, args=(out, pages))
    if arguments[0] in ("watch", "play"):
        visitor.start()
    code: Any = -1
    try:
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    if visitor.ident:
        visitor.join()
    sys.stdout.flush()
    sys.stderr.flush()
    texts = [stream.getvalue().decode("cp1252") for stream in (out, err)]
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    return {"code": code, "out": texts[0], "err": texts[1], "pages": pages}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=EncodingWarning)  # of the libraries
    warnings.filterwarnings("error", category=EncodingWarning, module=PACKAGE)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    hide_posix()
    hide_proc()
    lock_open_files()
    print(json.dumps([run(arguments) for arguments in json.loads(pathlib.Path(sys.argv[1]).read_text("utf-8"))]))
