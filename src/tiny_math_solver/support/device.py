"""The device that models run on, and the dtype that suits it."""

import torch

from tiny_math_solver.support.errors import UserError


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """The dtype of that name; `auto` is bfloat16 on a GPU that supports it, else float32."""
    if dtype == "auto":
        return torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    named = getattr(torch, dtype, None)
    if named not in (torch.float32, torch.bfloat16, torch.float16):
        raise UserError(f"dtype {dtype!r}: use auto, float32, bfloat16 or float16")
    return named
