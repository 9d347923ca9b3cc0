"""The device that models run on, and the dtype that suits it."""

import os
import platform
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import torch

from tiny_math_solver.support import processes
from tiny_math_solver.support.errors import UserError

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
MPS_ERRORS = (RuntimeError, TypeError)  # NotImplementedError is a RuntimeError
# as in torch's "… not currently implemented for the MPS device", "… arguments from the 'MPS' backend", "Cannot convert
# a MPS Tensor to float64 dtype as the MPS framework doesn't support float64", "BFloat16 is not supported on MPS"
MPS_WORDS = re.compile(
    r"\bMPS'? (device|backend|framework|tensor)\b|\bMPS does ?n[o']t support|supported (on|by|for|in) (the )?MPS\b|"
    r"\bMPSNDArray|^\[?MPS\]?:",
    re.IGNORECASE,
)


def default_device() -> str:
    """cuda, else mps for a single process, else cpu; ACCELERATE_USE_CPU is obeyed, as by transformers' Trainer."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "y", "t"):
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and processes.count() == 1 else "cpu"


def unused_gpu() -> str:
    """Why torch does not use the NVIDIA GPU that is here, and what to do; empty if it does or there is none."""
    try:
        driver = NVIDIA_DRIVER.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return f"an NVIDIA GPU is here, but this torch ({torch.__version__}) has no CUDA: install one that has"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "an NVIDIA GPU is here, but CUDA_VISIBLE_DEVICES hides it"
    found = re.search(r"\d{3}\.[\d.]+", driver)
    return (
        f"an NVIDIA GPU is here, but torch with CUDA {torch.version.cuda} cannot use it: its driver "
        f"({found[0] if found else 'unknown'}) may be too old; update it, or install a torch for an older CUDA"
    )


def device_name(device: str) -> str | None:
    """The name of a GPU; None for the CPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"MPS ({platform.machine()})" if device == "mps" else None


def peak_gpu_memory() -> int | None:
    """Bytes of the GPU that this process held at most; None where it computes elsewhere."""
    return torch.cuda.max_memory_allocated() if default_device() == "cuda" else None


def free_gpu_memory(device: str) -> int | None:
    """Bytes of a GPU that can still be taken; None for the CPU. On MPS they are those of the machine."""
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if device == "mps":
        allocated = torch.mps.current_allocated_memory()
        cached = torch.mps.driver_allocated_memory() - allocated
        limit = torch.mps.recommended_max_memory() - allocated
        return max(0, min(limit, psutil.virtual_memory().available + cached))
    return None


def synchronize(device: str) -> None:
    """Wait for all work that a GPU has been given."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def empty_cache() -> None:
    """Give back the memory that torch keeps for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_refused_by_mps(error: BaseException) -> bool:
    """True if an error means that MPS lacks an operator, a type or a size, which the CPU has."""
    return isinstance(error, MPS_ERRORS) and bool(MPS_WORDS.search(str(error)))


def forked_rng(device: torch.device) -> AbstractContextManager[Any]:
    """Restore the random states of the CPU and of `device` after the block."""
    devices = [] if device.type == "cpu" else [device]
    return torch.random.fork_rng(devices, device_type=device.type if devices else "cuda")


def resolve_dtype(dtype: str, device: str, stored: torch.dtype = torch.float32) -> torch.dtype:
    """The dtype of that name.

    `auto` is bfloat16 on a GPU and, for weights `stored` so, on a CPU that compute in it; else float32.
    """
    if dtype == "auto":
        is_fast = (device == "cuda" and _has_bfloat16()) or (
            device == "cpu" and stored == torch.bfloat16 and _multiplies_bfloat16()
        )
        return torch.bfloat16 if is_fast else torch.float32
    named = getattr(torch, dtype, None)
    if named not in (torch.float32, torch.bfloat16, torch.float16):
        raise UserError(f"dtype {dtype!r}: use auto, float32, bfloat16 or float16")
    if device == "mps" and named is torch.bfloat16 and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise UserError("dtype bfloat16: on MPS it needs macOS 14; use float32 or float16")
    return named


def dtype_note(dtype: str, device: str) -> str:
    """A sentence about a dtype that this GPU does not have; empty if there is nothing to say.

    GPUs before Ampere (compute capability below 8) emulate bfloat16. float16 is no substitute: activations of Qwen2.5
    exceed its range.
    """
    if device != "cuda" or dtype not in ("auto", "bfloat16") or _has_bfloat16():
        return ""
    if dtype == "auto":
        return "this GPU has no bfloat16: the model is in float32, which takes twice the memory"
    return "this GPU only emulates bfloat16, many times slower: dtype float32 is faster here"


def _multiplies_bfloat16() -> bool:
    """True if this CPU has instructions for products in bfloat16."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def _has_bfloat16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)
