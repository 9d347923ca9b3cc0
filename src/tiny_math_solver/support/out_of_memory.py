"""Out of memory: recognising it, retrying the work in smaller parts, and saying which settings to lower."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from tiny_math_solver.support.device import empty_cache
from tiny_math_solver.support.errors import UserError

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """True if an error means that memory ran out, on a GPU or in the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextmanager
def oom_as_user_error(settings: str) -> Iterator[None]:
    """Turn an out-of-memory error into a UserError that names the `settings` to lower."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        remedy = (
            f"lower {settings}; if there is a checkpoint, --resume --allow KEY for what you lowered goes on from it"
        )
        raise UserError(f"out of memory: {remedy}") from error


def retry_on_oom(work: Callable[[], T], shrink: Callable[[], bool]) -> T:
    """The result of `work()`, repeated after each `shrink()` while memory runs out; raises once `shrink` is False."""
    while True:
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error) or not shrink():
                raise
        # outside the handler: the error's traceback keeps tensors alive
        gc.collect()
        empty_cache()
