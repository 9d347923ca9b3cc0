"""Environment variables: checks of what libraries read from them.

OpenMP and huggingface_hub read their variables when they are loaded, and meet nonsense with a traceback.
"""

import os
import re

from tiny_math_solver.support.errors import UserError


def check_library_variables() -> None:
    """Raise UserError if a library that is loaded later would not understand one of its variables."""
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        if not re.fullmatch(r"\s*\d*\s*", os.environ.get(name, "")):
            raise UserError(f"environment: {name}={os.environ[name]!r} is not a whole number of seconds; unset it")
    if not re.fullmatch(r"(\s*[1-9]\d*\s*(,|$))*", threads := os.environ.get("OMP_NUM_THREADS", "")):
        raise UserError(f"environment: OMP_NUM_THREADS={threads!r} is not a whole number of 1 or more; unset it")
