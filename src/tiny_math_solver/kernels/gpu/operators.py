"""The operators in Triton as the update asks for them."""

from typing import Any

import torch
from torch import Tensor

from tiny_math_solver.kernels.gpu import attention, decode, rows
from tiny_math_solver.kernels.gpu.attention import LARGEST_HEAD, Tiles

LEAST_CAPABILITY = (8, 0)  # of the cards that Triton supports


class TritonOperators:
    """For a model with `heads` `(H, KV, D)` in `dtype` on `device`. Implements `Operators`."""

    rms_norm = staticmethod(rows.rms_norm)
    rms_norm_backward = staticmethod(rows.rms_norm_backward)
    gated = staticmethod(rows.gated)
    gated_backward = staticmethod(rows.gated_backward)
    target_logprobs = staticmethod(rows.target_logprobs)

    def __init__(self, heads: tuple[int, int, int], dtype: torch.dtype, device: torch.device):
        self.heads, self.dtype, self.device = heads, dtype, device

    def unsupported(self) -> str:
        """The reason why this card or this model cannot use them; empty if it can."""
        if self.heads[2] > LARGEST_HEAD:
            return f"no kernels for {self.heads[2]} elements per head"
        if self.device.type == "cuda" and torch.cuda.get_device_capability(self.device) < LEAST_CAPABILITY:
            return f"Triton does not support {torch.cuda.get_device_name(self.device)}"
        return ""

    def try_out(self) -> None:
        """Compile and run the operators that take most once; raises whatever is raised where Triton cannot be used."""
        queries, keys, dim = self.heads
        one = torch.zeros(1, dtype=torch.long)
        work = self.work((1, one, one + 1, torch.zeros(2, dtype=torch.long), one[:0], one[:0]))
        qkv = torch.zeros(1, (queries + 2 * keys) * dim, dtype=self.dtype, device=self.device)
        out, log_sum = qkv.new_empty(1, queries * dim), torch.empty(1, queries, device=self.device)
        self.attention(work, qkv, (0, 0.0), out, log_sum)
        self.attention_backward(work, qkv, (0, 0.0), out, log_sum, out, torch.empty_like(qkv))
        place, count = one.to(self.device), one.to(self.device) + 1
        cache, rope_table = qkv.new_zeros(2, 1, keys, 2, dim), torch.zeros(4, dim, device=self.device)
        places = decode.Places(place, count, place.clone(), count)
        decode.decode_attention(
            qkv, rope_table, None, 1.0, 1.0, (0, 0.0), places, cache, cache.clone(), out, self.heads
        )

    def work(self, layout: tuple[Any, ...]) -> Tiles:
        return attention.tiles(layout, attention.tile_shape(self.heads[2], self.dtype)[0], self.device)

    def rotary(self, qkv: Tensor, positions: Tensor, rope_table: Tensor, scale: float, backward: bool) -> None:
        rows.rotary(qkv, positions, rope_table, scale, backward, self.heads)

    def attention(self, work: Tiles, qkv: Tensor, manner: tuple[int, float], out: Tensor, log_sum: Tensor) -> None:
        attention.attention(work, qkv, manner, out, log_sum, self.heads)

    def attention_backward(
        self,
        work: Tiles,
        qkv: Tensor,
        manner: tuple[int, float],
        out: Tensor,
        log_sum: Tensor,
        out_grad: Tensor,
        qkv_grad: Tensor,
    ) -> None:
        attention.attention_backward(work, qkv, manner, out, log_sum, out_grad, qkv_grad, self.heads)
