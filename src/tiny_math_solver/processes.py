"""Which of the processes that train together this one is, by what `accelerate launch` says."""

import os


def world_size() -> int:
    """How many processes train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return os.environ.get("RANK", "0") == "0"
