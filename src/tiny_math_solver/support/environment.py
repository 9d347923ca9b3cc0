"""Environment variables that libraries read when they are loaded: checks, and what suits a busy machine or a notebook.

OpenMP and huggingface_hub meet nonsense in them with a traceback.
"""

import os
import re
import sys

import psutil

from tiny_math_solver.support import processes
from tiny_math_solver.support.errors import UserError

LOOK_SECONDS = 0.1  # at what others compute
BUSY, BUSY_SHARE = 0.5, 0.05  # processors, or this share of them: systems have something to do all the time
FEW_SPINS = "100"  # of a thread before it sleeps; by default hundreds of thousands


def check_library_variables() -> None:
    """Raise UserError if a library that is loaded later would not understand one of its variables."""
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        if not re.fullmatch(r"\s*\d*\s*", os.environ.get(name, "")):
            raise UserError(f"environment: {name}={os.environ[name]!r} is not a whole number of seconds; unset it")
    if not re.fullmatch(r"(\s*[1-9]\d*\s*(,|$))*", threads := os.environ.get("OMP_NUM_THREADS", "")):
        raise UserError(f"environment: OMP_NUM_THREADS={threads!r} is not a whole number of 1 or more; unset it")


def print_plainly_in_notebooks() -> None:
    """Have a command behind a notebook's `!` print lines alone: its terminal shows no bars, and cannot erase any."""
    if "JPY_PARENT_PID" in os.environ:  # Jupyter sets it for its kernels, on Colab and Kaggle too
        os.environ["TERM"] = "dumb"


def share_cores() -> None:
    """Give each of several processes its part of this machine's cores as threads, where torchrun has set one for all.

    Has no effect once OpenMP is loaded. A process that was given a number of its own keeps it, unless that is 1.
    """
    here = processes.on_this_machine()
    if here > 1 and "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1":
        os.environ["OMP_NUM_THREADS"] = str(max(1, _cores() // here))


def give_way_if_busy() -> None:
    """Make waiting threads of GNU OpenMP sleep early, if other programs need their processors.

    A thread that waits keeps its processor for a while, since going to sleep and waking up take longer than most waits.
    But if the one that it waits for has lost its own processor to another program, nothing goes on. On an idle machine
    such threads would be slower. Has no effect once OpenMP is loaded, or where the environment has its own settings.
    """
    if not sys.platform.startswith("linux") or {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & {*os.environ}:
        return
    loads = psutil.cpu_percent(LOOK_SECONDS, percpu=True)
    ours = os.sched_getaffinity(0)
    loads = [load / 100 for index, load in enumerate(loads) if index in ours]
    threads = int((os.environ.get("OMP_NUM_THREADS") or f"{_cores()}").split(",")[0])
    if threads > 1 and sum(loads) > len(loads) - threads + max(BUSY, BUSY_SHARE * len(loads)):
        os.environ["GOMP_SPINCOUNT"] = FEW_SPINS


def _cores() -> int:
    """The cores that this process may use, which is torch's number of threads by default."""
    ours = len(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else os.cpu_count() or 1
    return min(ours, psutil.cpu_count(logical=False) or ours)
