"""Weights → the blocks of a GGUF file, in the types that llama.cpp names.

The `gguf` library packs F16, Q8_0 and Q5_0 and reads every type; of the K types, whose blocks of 256 values have scales
that are quantised in turn, it packs none. Their layout is documented in llama.cpp's `ggml-common.h`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quants
from torch import Tensor

BLOCK = 256  # values that share the scales of a K type
SMALL_BLOCK = 32  # of the older types
VALUES_AT_ONCE = 2**22  # values that are packed at once, for the memory that the search takes
ROUNDS = 21  # scales that are tried for a part of a block

Blocks = np.ndarray[Any, np.dtype[np.uint8]]


def type_of(kind: str, name: str, shape: tuple[int, ...], layers: int, is_tied: bool) -> Type:
    """The type in which `kind` stores a tensor of GGUF's name: llama.cpp's own choice.

    Vectors stay in float32. The tensors that most depends on get more bits: in q4_k_m the output, and `attn_v` and
    `ffn_down` of half of the layers. Rows that do not divide into blocks take the type of small blocks above.
    """
    if len(shape) == 1 or kind == "f32":
        return Type.F32
    if kind == "f16":
        return Type.F16
    if kind == "q8_0":
        return Type.Q8_0 if shape[-1] % SMALL_BLOCK == 0 else Type.F16
    is_output = name == "output.weight" or (is_tied and name == "token_embd.weight")
    is_sensitive = ("attn_v." in name or "ffn_down." in name) and _gets_more_bits(_layer(name), layers)
    wanted = Type.Q6_K if is_output or is_sensitive else Type.Q4_K
    if shape[-1] % BLOCK == 0:
        return wanted
    if shape[-1] % SMALL_BLOCK:
        return Type.F16
    return {Type.Q6_K: Type.Q8_0, Type.Q4_K: Type.Q5_0}[wanted]


def packed(weight: Tensor, kind: Type) -> Any:
    """A weight `[rows, columns]` in a type, as the writer takes it: bytes `[rows, bytes of a row]`, or numbers."""
    pack = PACKERS.get(kind)
    if pack is None:
        return quants.quantize(weight.numpy(), kind)
    values = weight.reshape(-1, BLOCK)
    parts = [pack(part) for part in values.split(VALUES_AT_ONCE // BLOCK)]
    return np.concatenate(parts).reshape(weight.shape[0], -1)


def _gets_more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _layer(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else 0


# -- Q4_K: eight parts of 32 values, each `scale · q - minimum` with q from 0 to 15 -------------------------------


def _q4_k(blocks: Tensor) -> Blocks:
    """`[N, 256]` → `[N, 144]`: two halves, 12 bytes of 6-bit scales and minima, 128 bytes of 4-bit values."""
    parts = blocks.reshape(-1, 8, 32)
    scales, minima = _affine(parts, 15)
    d, scale_codes = _coded(scales, 63)
    d_min, min_codes = _coded(minima, 63)
    used, least = d * scale_codes, d_min * min_codes
    q = _divided(parts + least[..., None], used[..., None]).round().clamp(0, 15).to(torch.uint8)
    pairs = q.reshape(-1, 4, 2, 32)
    values = pairs[:, :, 0] | pairs[:, :, 1] << 4
    low_s, high_s = scale_codes.to(torch.uint8).split(4, dim=1)
    low_m, high_m = min_codes.to(torch.uint8).split(4, dim=1)
    codes = [low_s | high_s >> 4 << 6, low_m | high_m >> 4 << 6, (high_s & 15) | (high_m & 15) << 4]
    return _joined(_halves(d), _halves(d_min), *codes, values)


def _affine(parts: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """`(scales, minima)` `[…]`, neither below 0, so that `scale · q - minimum` comes close to `parts` `[…, n]`.

    For several scales around that of the range the codes are rounded, and the best line through them is found by least
    squares; large values weigh more.
    """
    weights = parts.square().mean(-1, keepdim=True).sqrt() + parts.abs()
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1)
    best_scale, best_low = (high - low) / most, low
    best_error = torch.full_like(low, torch.inf)
    total, of_x = weights.sum(-1), (weights * parts).sum(-1)
    for step in range(ROUNDS):
        inverse = _divided(torch.as_tensor(most - 1 + 0.1 * step), high - low)
        q = ((parts - low[..., None]) * inverse[..., None]).round().clamp(0, most)
        of_q, of_qq, of_qx = (weights * q).sum(-1), (weights * q * q).sum(-1), (weights * q * parts).sum(-1)
        determinant = total * of_qq - of_q * of_q
        scale = _divided(total * of_qx - of_x * of_q, determinant)
        offset = _divided(of_qq * of_x - of_q * of_qx, determinant)
        through_zero = offset > 0
        scale = torch.where(through_zero, _divided(of_qx, of_qq), scale)
        offset = offset.clamp(max=0)
        error = (weights * (scale[..., None] * q + offset[..., None] - parts).square()).sum(-1)
        better = (error < best_error) & (scale > 0)
        best_error = torch.where(better, error, best_error)
        best_scale, best_low = torch.where(better, scale, best_scale), torch.where(better, offset, best_low)
    return best_scale, -best_low


# -- Q6_K: sixteen parts of 16 values, each `scale · q` with q from -32 to 31 ------------------------------------


def _q6_k(blocks: Tensor) -> Blocks:
    """`[N, 256]` → `[N, 210]`: 128 bytes of low bits, 64 of high bits, 16 scales, one half."""
    parts = blocks.reshape(-1, 16, 16)
    scales = _symmetric(parts, 32)
    d, codes = _coded(scales, -128)
    used = (d * codes)[..., None]
    q = (_divided(parts, used).round().clamp(-32, 31) + 32).to(torch.uint8).reshape(-1, 2, 4, 32)
    low, high = q & 15, q >> 4
    low_bits = torch.stack([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], dim=2)
    high_bits = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return _joined(low_bits, high_bits, codes.to(torch.int8).view(torch.uint8), _halves(d))


def _symmetric(parts: Tensor, most: int) -> Tensor:
    """Scales `[…]` of either sign; `scale · q`, q from `-most` to `most - 1`, comes close to `parts` `[…, n]`."""
    weights = parts.square()
    largest = parts.gather(-1, parts.abs().argmax(-1, keepdim=True))[..., 0]
    best_scale, best_gain = torch.zeros_like(largest), torch.full_like(largest, -torch.inf)
    for step in range(-9, 10):
        inverse = _divided(torch.as_tensor(-(most + 0.1 * step)), largest)
        q = (parts * inverse[..., None]).round().clamp(-most, most - 1)
        of_qx, of_qq = (weights * q * parts).sum(-1), (weights * q * q).sum(-1)
        gain = _divided(of_qx.square(), of_qq)  # how much of the squares it explains
        better = gain > best_gain
        best_gain = torch.where(better, gain, best_gain)
        best_scale = torch.where(better, _divided(of_qx, of_qq), best_scale)
    return best_scale


PACKERS: dict[Type, Callable[[Tensor], Blocks]] = {Type.Q4_K: _q4_k, Type.Q6_K: _q6_k}


def _coded(scales: Tensor, extreme: int) -> tuple[Tensor, Tensor]:
    """`(d [N, 1], codes [N, parts])`: scales as whole multiples of one half-precision number, the largest `extreme`."""
    largest = scales.gather(-1, scales.abs().argmax(-1, keepdim=True))
    d = (largest / extreme).half().float()
    return d, _divided(scales, d).round().clamp(-128, 127)


def _divided(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b == 0, torch.zeros_like(b), a / torch.where(b == 0, torch.ones_like(b), b))


def _halves(d: Tensor) -> Tensor:
    return d.half().contiguous().view(torch.uint8)


def _joined(*parts: Tensor) -> Blocks:
    return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1).numpy()
