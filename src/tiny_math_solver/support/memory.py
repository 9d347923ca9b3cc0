"""Memory of this process and of the machine: what it holds, what is free, and giving back what is unused."""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tiny_math_solver.support.device import free_gpu_memory

NO_LIMIT = 1 << 62  # bytes
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_HEAP_BLOCK = 1 << 25  # bytes: what glibc's own limit grows to


def resident() -> int:
    """Bytes of the machine's memory that this process holds, libraries included."""
    return psutil.Process().memory_info().rss


def peak_resident() -> int | None:
    """Bytes that this process held at most, since it began; None where the system does not tell."""
    with contextlib.suppress(OSError, LookupError):  # Linux; getrusage's figure would be that of the parent, if higher
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    return getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows


def give_back() -> None:
    """Return freed memory to the machine, which glibc's malloc keeps between the blocks that are still in use.

    Blocks of tens of megabytes are allocated among small ones that stay, so without this a process that alternates
    between rollouts and updates holds the peaks of both.
    """
    if trim := _glibc("malloc_trim"):
        trim(0)


@contextlib.contextmanager
def large_blocks_mapped() -> Iterator[None]:
    """Have glibc's malloc map every block of a megabyte and more on its own, and so return it as soon as it is freed.

    By itself it comes to take blocks of up to 32 MB from its heap, where those that a backward pass waits for lie
    between freed ones of other sizes: a pass was seen to hold 1.8 times what autograd keeps. Mapping costs time, a
    quarter of a decoding step's, so it is for passes that take much memory, and the heap's limits of before return.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        yield
        return
    mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_HEAP_BLOCK)  # it would fall back to 128 kB
    mallopt(M_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        mallopt(M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK)


@functools.cache
def _glibc(name: str) -> Callable[..., Any] | None:
    """glibc's function of that name; None where there is another C library."""
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, AttributeError):
        return getattr(ctypes.CDLL(None), name)
    return None


def available(device: str) -> int:
    """Bytes that can still be taken: of the GPU, else of the machine, the container or the process's limit."""
    free = free_gpu_memory(device)
    if free is not None:
        return free
    return min(psutil.virtual_memory().available, _container_free(), _address_space_free())


def _address_space_free() -> int:
    """Bytes that `ulimit -v` leaves; NO_LIMIT where there is none."""
    if not hasattr(psutil, "RLIMIT_AS"):  # not Linux
        return NO_LIMIT
    process = psutil.Process()
    limit, _ = process.rlimit(psutil.RLIMIT_AS)
    return NO_LIMIT if limit == psutil.RLIM_INFINITY else max(0, limit - process.memory_info().vms)


def _container_free() -> int:
    """Bytes that the control group leaves, file cache counted as free; NO_LIMIT where there is none."""
    for limit, used, stat in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
        *[tuple(f"/sys/fs/cgroup/memory/memory.{name}" for name in ("limit_in_bytes", "usage_in_bytes", "stat"))],
    ):
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in Path(stat).read_text(encoding="ascii").splitlines())
            taken = int(Path(used).read_text(encoding="ascii")) - int(counts.get("inactive_file", 0))
            return max(0, int(Path(limit).read_text(encoding="ascii")) - taken)  # "max" is no number: no limit
    return NO_LIMIT


def readable(size: float) -> str:
    """Bytes for people: 3.7 MB, 1.2 GB."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
