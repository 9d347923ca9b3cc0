"""Environment variables: the rank of this process, and checks of what launchers and libraries read from them.

OpenMP and huggingface_hub read their variables when they are loaded, and meet nonsense with a traceback.
"""

import os
import re

from tiny_math_solver.support.errors import UserError


def world_size() -> int:
    """The number of processes that train together; 1 without a launcher."""
    return _whole("WORLD_SIZE", default=1, lowest=1)


def is_main_process() -> bool:
    """True in the process that prints and writes, the one of rank 0."""
    return _whole("RANK", default=0, lowest=0) == 0


def check_launcher_variables() -> None:
    """Raise UserError if a launcher's variables are not numbers or contradict each other."""
    processes = world_size()
    for name, lowest in (("RANK", 0), ("LOCAL_RANK", -1)):
        if _whole(name, default=0, lowest=lowest) >= processes:
            raise UserError(f"environment: {name}={os.environ[name]} of {processes} processes (WORLD_SIZE){_ADVICE}")


def check_library_variables() -> None:
    """Raise UserError if a library that is loaded later would not understand one of its variables."""
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        if not re.fullmatch(r"\s*\d*\s*", os.environ.get(name, "")):
            raise UserError(f"environment: {name}={os.environ[name]!r} is not a whole number of seconds; unset it")
    if not re.fullmatch(r"(\s*[1-9]\d*\s*(,|$))*", threads := os.environ.get("OMP_NUM_THREADS", "")):
        raise UserError(f"environment: OMP_NUM_THREADS={threads!r} is not a whole number of 1 or more; unset it")


_ADVICE = "; unset it, or start with accelerate launch"


def _whole(name: str, default: int, lowest: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    if number < lowest:
        raise UserError(f"environment: {name}={text!r} is not a whole number of {lowest} or more{_ADVICE}")
    return number
