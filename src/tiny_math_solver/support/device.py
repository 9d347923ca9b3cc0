"""The device that models run on, and the dtype that suits it."""

import torch

from tiny_math_solver.support.errors import UserError


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """The dtype of that name; `auto` is bfloat16 on a GPU that computes in it, else float32."""
    if dtype == "auto":
        return torch.bfloat16 if device == "cuda" and _has_bfloat16() else torch.float32
    named = getattr(torch, dtype, None)
    if named not in (torch.float32, torch.bfloat16, torch.float16):
        raise UserError(f"dtype {dtype!r}: use auto, float32, bfloat16 or float16")
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


def _has_bfloat16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)
