"""The operators of a layer outside attention on a GPU, a program per row, in Triton: the twins of those in layers.cpp
and update.cpp, which explain them. All compute in float32.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

LOGITS_BLOCK = 4096  # of the vocabulary at once
GATE_BLOCK = 1024


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """`out` `[N, C]` = RMSNorm of `x` times `weight` `[C]`."""
    rows, columns = x.shape
    _rms_norm[(rows,)](x, weight, out, eps, columns, BLOCK=triton.next_power_of_2(columns))


def rms_norm_backward(x: Tensor, weight: Tensor, eps: float, out_grad: Tensor, add: bool, x_grad: Tensor) -> None:
    """`x_grad` `[N, C]` = (with `add` +=) the gradient of `x`, from that of its RMSNorm."""
    rows, columns = x.shape
    _rms_norm_backward[(rows,)](
        x, weight, out_grad, x_grad, eps, columns, ADD=add, BLOCK=triton.next_power_of_2(columns)
    )


def gated(gate_up: Tensor, act: tuple[float, float], out: Tensor) -> None:
    """`out` `[N, M]` = act(gate) · up, of `gate_up` `[N, 2 M]`; `act` is an `Activation`."""
    rows, size = out.shape
    _gated[(rows, triton.cdiv(size, GATE_BLOCK))](gate_up, out, size, *act, BLOCK=GATE_BLOCK)


def gated_backward(gate_up: Tensor, act: tuple[float, float], out_grad: Tensor, grad: Tensor) -> None:
    """`grad` `[N, 2 M]` = the gradient of `gate_up`, whose memory it may be, from that of act(gate) · up."""
    rows, size = out_grad.shape
    _gated_backward[(rows, triton.cdiv(size, GATE_BLOCK))](gate_up, out_grad, grad, size, *act, BLOCK=GATE_BLOCK)


def rotary(qkv: Tensor, positions: Tensor, rope_table: Tensor, scale: float, backward: bool, heads: Any) -> None:
    """Rotate queries and keys of `qkv` `[N, (H + 2 KV) · D]` in place; `heads` is `(H, KV, D)`."""
    queries, keys, dim = heads
    columns = (queries + keys) * dim
    _rotary[(len(qkv),)](
        qkv, positions, rope_table, scale, qkv.shape[1], queries * dim, columns,
        BACKWARD=backward, D=dim, BLOCK=triton.next_power_of_2(columns),
    )  # fmt: skip


def target_logprobs(logits: Tensor, vocabulary: int, temperature: float, targets: Tensor, logprobs: Tensor) -> None:
    """`logprobs` `[N]` of `targets` `[N]`; their gradient by the logits `[N, ≥ V]` replaces the logits."""
    _target_logprobs[(len(logits),)](
        logits, targets, logprobs, 1 / temperature, logits.stride(0), vocabulary, logits.shape[1], BLOCK=LOGITS_BLOCK
    )


@triton.jit
def _rms_norm(x, weight, out, eps, columns, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < columns
    values = tl.load(x + row * columns + column, inside, 0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values) / columns + eps)
    factor = tl.load(weight + column, inside, 0.0).to(tl.float32) * scale
    tl.store(out + row * columns + column, (values * factor).to(out.dtype.element_ty), inside)


@triton.jit
def _rms_norm_backward(x, weight, out_grad, x_grad, eps, columns, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, place = column < columns, row * columns + column
    values = tl.load(x + place, inside, 0.0).to(tl.float32)
    incoming = tl.load(out_grad + place, inside, 0.0).to(tl.float32) * tl.load(weight + column, inside, 0.0)
    scale = tl.rsqrt(tl.sum(values * values) / columns + eps)
    pull = scale * scale * scale * tl.sum(values * incoming) / columns
    grad = scale * incoming - pull * values
    if ADD:
        grad += tl.load(x_grad + place, inside, 0.0).to(tl.float32)
    tl.store(x_grad + place, grad.to(x_grad.dtype.element_ty), inside)


@triton.jit
def _gated(gate_up, out, size, linear, cubic, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, place = column < size, row * 2 * size + column
    gate = tl.load(gate_up + place, inside, 0.0).to(tl.float32)
    up = tl.load(gate_up + place + size, inside, 0.0).to(tl.float32)
    power = gate * (linear + cubic * gate * gate)
    tl.store(out + row * size + column, (gate * tl.sigmoid(power) * up).to(out.dtype.element_ty), inside)


@triton.jit
def _gated_backward(gate_up, out_grad, grad, size, linear, cubic, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, place = column < size, row * 2 * size + column
    gate = tl.load(gate_up + place, inside, 0.0).to(tl.float32)
    up = tl.load(gate_up + place + size, inside, 0.0).to(tl.float32)
    incoming = tl.load(out_grad + row * size + column, inside, 0.0).to(tl.float32)
    share = tl.sigmoid(gate * (linear + cubic * gate * gate))
    along = gate * (linear + 3 * cubic * gate * gate)  # the gate times the derivative of the sigmoid's argument
    gate_grad = incoming * up * share * (1 + along * (1 - share))
    tl.store(grad + place, gate_grad.to(grad.dtype.element_ty), inside)
    tl.store(grad + place + size, (incoming * gate * share).to(grad.dtype.element_ty), inside)


@triton.jit
def _rotary(
    qkv,
    positions,
    rope_table,
    scale,
    stride,
    query_columns,
    columns,
    BACKWARD: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, place = column < columns, qkv + row * stride + column
    x = tl.load(place, inside, 0.0).to(tl.float32) * tl.where(column < query_columns, scale, 1.0)
    angles = tl.load(rope_table + tl.load(positions + row) * D + column % D, inside, 0.0)
    # neighbours are a pair
    a, b = tl.split(tl.reshape(x, (BLOCK // 2, 2)))
    cosine, sine = tl.split(tl.reshape(angles, (BLOCK // 2, 2)))
    if BACKWARD:
        sine = -sine
    turned = tl.reshape(tl.join(a * cosine - b * sine, a * sine + b * cosine), (BLOCK,))
    tl.store(place, turned.to(qkv.dtype.element_ty), inside)


@triton.jit
def _target_logprobs(logits, targets, logprobs, sharpness, stride, vocabulary, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    chosen = tl.load(logits + target).to(tl.float32) * sharpness
    highest, total = -3.4e38, 0.0  # below every logit but -inf, from which it can be subtracted
    for start in range(0, vocabulary, BLOCK):
        column = start + tl.arange(0, BLOCK)
        values = tl.load(logits + column, column < vocabulary, -float("inf")).to(tl.float32) * sharpness
        higher = tl.maximum(highest, tl.max(values))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(values - higher))
        highest = higher
    normaliser = highest + tl.log(total)
    tl.store(logprobs + row, chosen - normaliser)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        values = tl.load(logits + column, column < vocabulary, -float("inf")).to(tl.float32) * sharpness
        grad = tl.where(column == target, 1.0, 0.0) - tl.exp(values - normaliser)  # 0 in the padding
        tl.store(logits + column, (grad * sharpness).to(logits.dtype.element_ty), column < columns)
