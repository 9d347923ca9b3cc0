"""The ceilings of the machine: matrix products in each dtype, and reading from memory."""

import platform
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from tiny_math_solver.kernels import load_kernels
from tiny_math_solver.support.device import default_device

REPEATS = 7
SIZE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the products
READ_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}  # far more than any cache


def seconds(work: Callable[[], Any], device: str, repeats: int = REPEATS) -> float:
    """Median wall-clock seconds of `work`, after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return median(times)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def ceilings() -> dict[str, float]:
    """`{"float32_flops", "bfloat16_flops", "read_bytes"}`, each a second; the better one where two ways are known."""
    device = default_device()
    size, found = SIZE[device], {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        taken = seconds(lambda a=a, b=b: a @ b, device)  # type: ignore[misc]
        found[f"{str(dtype).removeprefix('torch.')}_flops"] = 2 * size**3 / taken
    if device == "cpu":
        found["float32_flops"] = max(found["float32_flops"], _own_product_flops(size))
    data = torch.ones(READ_BYTES[device] // 4, device=device)
    found["read_bytes"] = READ_BYTES[device] / seconds(data.sum, device)
    return found


def _own_product_flops(size: int) -> float:
    """The same of our own kernel, which on some processors passes torch's libraries."""
    found = load_kernels(2, 1, 64, torch.float32)
    if isinstance(found, str):
        return 0.0
    a, b, out, bias = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size), torch.zeros(size)
    return 2 * size**3 / seconds(lambda: found.linear(size, a, size, b, bias, None, out, size), "cpu")


def describe() -> dict[str, Any]:
    """The machine of a measurement: processor, threads, versions."""
    from importlib.metadata import version

    from tiny_math_solver.runs.environment import LIBRARIES, processor

    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }
