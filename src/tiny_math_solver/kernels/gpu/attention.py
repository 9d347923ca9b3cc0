"""Causal attention over ragged tokens on a GPU, forward and backward, in Triton.

The tokens of each group lie side by side, its prompt and then its completions, so that with `row` and `key` counted
over all tokens a completion attends to the prompt and to those of its own that have `key <= row`, and the gradient of
a prompt's key comes from all rows behind it up to the end of the group. Nothing is copied for sharing the prompt, and
no sum is made by atomic additions: the same input gives the same bits.

Work is cut into tiles of tokens. `Tiles` holds, for each, the rows that it computes and those that it looks at.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Tokens of a tile, warps and stages by the size of an element and the largest head: what neither spills registers nor
# asks for more shared memory than the smallest cards of each generation have, 99 KB.
SHAPES = {
    (2, 64): (64, 4, 3), (2, 128): (64, 8, 2), (2, 256): (32, 8, 2),
    (4, 32): (64, 8, 2), (4, 64): (32, 8, 2), (4, 128): (32, 8, 1), (4, 256): (16, 4, 1),
}  # fmt: skip
LARGEST_HEAD = 256


@dataclass(frozen=True)
class Tiles:
    """The work of one attention; both tables are int32, the longest work first."""

    queries: Tensor  # [·, 6]: first and last query, and keys: of the prompt before them, then of their own
    keys: Tensor  # [·, 3]: first and last key, last query that attends to them
    layout: tuple[Any, ...]

    @cached_property
    def positions(self) -> Tensor:
        """The position of each token, int32 `[N]`; windows need them."""
        groups, group_start, group_length, group_rows, row_start, row_length = self.layout
        offsets = group_length.repeat_interleave(group_rows[: groups + 1].diff())
        starts, lengths = torch.cat([group_start, row_start]), torch.cat([group_length, row_length])
        shifts = starts - torch.cat([torch.zeros_like(group_start), offsets])
        order = starts.argsort(stable=True)  # an empty continuation starts where the next one does
        of_tokens = shifts[order].repeat_interleave(lengths[order])
        return (torch.arange(len(of_tokens)) - of_tokens).to(self.queries.device, torch.int32)


def tile_shape(dim: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """`(tokens of a tile, warps, stages)` for heads of size `dim`."""
    return next(shape for (size, largest), shape in SHAPES.items() if size == dtype.itemsize and dim <= largest)


def tiles(layout: tuple[Any, ...], size: int, device: torch.device) -> Tiles:
    """Cut the groups of `RaggedTokens.layout` into tiles of `size` tokens. All `last` are one behind the last."""
    groups, *held = layout
    group_start, group_length, group_rows, row_start, row_length = (part.tolist() for part in held)
    queries: list[tuple[int, ...]] = []
    keys: list[tuple[int, ...]] = []
    for group in range(groups):
        prompt, prompt_last = group_start[group], group_start[group] + group_length[group]
        rows = range(group_rows[group], group_rows[group + 1])
        end = max([prompt_last, *(row_start[row] + row_length[row] for row in rows)])
        segments = [(prompt, prompt_last, prompt, prompt, end)]
        segments += [(row_start[r], row_start[r] + row_length[r], prompt, prompt_last, 0) for r in rows]
        for first, last, before, before_last, seen_until in segments:
            queries += [(*part, before, before_last, first, part[1]) for part in _parts(first, last, size)]
            keys += [(*part, seen_until or last) for part in _parts(first, last, size)]
    queries.sort(key=lambda tile: tile[4] - tile[1] + tile[2] - tile[3])
    keys.sort(key=lambda tile: tile[0] - tile[2])
    return Tiles(
        torch.tensor(queries, dtype=torch.int32, device=device).view(-1, 6),
        torch.tensor(keys, dtype=torch.int32, device=device).view(-1, 3),
        layout,
    )


def _parts(first: int, last: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, last)) for start in range(first, last, size)]


def attention(
    work: Tiles, qkv: Tensor, manner: tuple[int, float], out: Tensor, log_sum: Tensor, heads: tuple[int, int, int]
) -> None:
    """`out` `[N, H · D]` = attention over the rotated `qkv`; `log_sum` `[N, H]` = log Σ e^score.

    `manner` is a `Manner`, `heads` is `(H, KV, D)`.
    """
    _forward[(len(work.queries), heads[0])](
        qkv, out, log_sum, work.queries, _positions(work, manner), **_settings(heads, manner, qkv.dtype)
    )


def attention_backward(
    work: Tiles,
    qkv: Tensor,
    manner: tuple[int, float],
    out: Tensor,
    log_sum: Tensor,
    out_grad: Tensor,
    qkv_grad: Tensor,
    heads: tuple[int, int, int],
) -> None:
    """`qkv_grad` = the gradient of the rotated `qkv`, from that of the attention's result."""
    along = torch.empty_like(log_sum)  # of each query, its result times the gradient of that
    settings, positions = _settings(heads, manner, qkv.dtype), _positions(work, manner)
    _backward_queries[(len(work.queries), heads[0])](
        qkv, out, log_sum, out_grad, along, qkv_grad, work.queries, positions, **settings
    )
    _backward_keys[(len(work.keys), heads[1])](
        qkv, log_sum, out_grad, along, qkv_grad, work.keys, positions, **settings
    )


def _positions(work: Tiles, manner: tuple[int, float]) -> Tensor:
    return work.positions if manner[0] else work.queries  # the latter is not read


def _settings(heads: tuple[int, int, int], manner: tuple[int, float], dtype: torch.dtype) -> dict[str, Any]:
    (queries, keys, dim), (tile, warps, stages) = heads, tile_shape(heads[2], dtype)
    sizes = {
        "WINDOW": manner[0],
        "CAP": manner[1],
        "HEADS": queries,
        "KV_HEADS": keys,
        "D": dim,
        "BLOCK_D": max(16, triton.next_power_of_2(dim)),
    }
    # float32 is multiplied as such, not in the tensor cores' own format
    return {**sizes, "BLOCK_M": tile, "BLOCK_N": tile, "PRECISION": "ieee", "num_warps": warps, "num_stages": stages}


@triton.jit
def _forward(
    qkv,
    out,
    log_sum,
    work,
    positions,
    WINDOW: tl.constexpr,
    CAP: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    work += tl.program_id(0) * 6
    head = tl.program_id(1)
    first, last = tl.load(work), tl.load(work + 1)
    row, dim = first + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    query = _tile(qkv, row, last, head, dim, HEADS + 2 * KV_HEADS, D)
    output = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    highest = tl.full((BLOCK_M,), -3.4e38, tl.float32)  # below every score but -inf, from which it can be subtracted
    total = tl.zeros((BLOCK_M,), tl.float32)
    kv_head = HEADS + head // (HEADS // KV_HEADS)
    for part in tl.static_range(2):  # the prompt, then the segment itself
        key_first, key_last = tl.load(work + 2 + 2 * part), tl.load(work + 3 + 2 * part)
        for start in range(_first_seen(positions, first, key_first, WINDOW), key_last, BLOCK_N):
            column = start + tl.arange(0, BLOCK_N)
            key = _tile(qkv, column, key_last, kv_head, dim, HEADS + 2 * KV_HEADS, D)
            value = _tile(qkv, column, key_last, kv_head + KV_HEADS, dim, HEADS + 2 * KV_HEADS, D)
            score = capped(tl.dot(query, tl.trans(key), input_precision=PRECISION), CAP)
            seen = (column[None, :] <= row[:, None]) & (column[None, :] < key_last)
            seen &= _in_window(positions, row, last, column, key_last, WINDOW)
            score = tl.where(seen, score, -float("inf"))
            higher = tl.maximum(highest, tl.max(score, 1))
            weight = tl.exp(score - higher[:, None])
            shrunk = tl.exp(highest - higher)
            total = total * shrunk + tl.sum(weight, 1)
            output = output * shrunk[:, None] + tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
            highest = higher
    place = row.to(tl.int64) * HEADS + head
    inside = (row[:, None] < last) & (dim[None, :] < D)
    tl.store(out + place[:, None] * D + dim[None, :], (output / total[:, None]).to(out.dtype.element_ty), inside)
    tl.store(log_sum + place, highest + tl.log(total), row < last)


@triton.jit
def _backward_queries(
    qkv,
    out,
    log_sum,
    out_grad,
    along,
    qkv_grad,
    work,
    positions,
    WINDOW: tl.constexpr,
    CAP: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    work += tl.program_id(0) * 6
    head = tl.program_id(1)
    first, last = tl.load(work), tl.load(work + 1)
    row, dim = first + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    query = _tile(qkv, row, last, head, dim, HEADS + 2 * KV_HEADS, D)
    incoming = _tile(out_grad, row, last, head, dim, HEADS, D)
    result = _tile(out, row, last, head, dim, HEADS, D)
    mean = tl.sum(incoming.to(tl.float32) * result.to(tl.float32), 1)
    place = row.to(tl.int64) * HEADS + head
    tl.store(along + place, mean, row < last)
    normaliser = tl.load(log_sum + place, row < last, 0.0)
    query_grad = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    kv_head = HEADS + head // (HEADS // KV_HEADS)
    for part in tl.static_range(2):  # likewise
        key_first, key_last = tl.load(work + 2 + 2 * part), tl.load(work + 3 + 2 * part)
        for start in range(_first_seen(positions, first, key_first, WINDOW), key_last, BLOCK_N):
            column = start + tl.arange(0, BLOCK_N)
            key = _tile(qkv, column, key_last, kv_head, dim, HEADS + 2 * KV_HEADS, D)
            value = _tile(qkv, column, key_last, kv_head + KV_HEADS, dim, HEADS + 2 * KV_HEADS, D)
            seen = (column[None, :] <= row[:, None]) & (column[None, :] < key_last)
            seen &= _in_window(positions, row, last, column, key_last, WINDOW)
            score = capped(tl.dot(query, tl.trans(key), input_precision=PRECISION), CAP)
            probability = tl.where(seen, tl.exp(score - normaliser[:, None]), 0.0)
            by_weight = tl.dot(incoming, tl.trans(value), input_precision=PRECISION)
            by_score = probability * (by_weight - mean[:, None]) * _cap_derivative(score, CAP)
            query_grad += tl.dot(by_score.to(key.dtype), key, input_precision=PRECISION)
    target = qkv_grad + (row.to(tl.int64) * (HEADS + 2 * KV_HEADS) + head)[:, None] * D + dim[None, :]
    tl.store(target, query_grad.to(qkv_grad.dtype.element_ty), (row[:, None] < last) & (dim[None, :] < D))


@triton.jit
def _backward_keys(
    qkv,
    log_sum,
    out_grad,
    along,
    qkv_grad,
    work,
    positions,
    WINDOW: tl.constexpr,
    CAP: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    work += tl.program_id(0) * 3
    kv_head = tl.program_id(1)
    first, last, end = tl.load(work), tl.load(work + 1), tl.load(work + 2)
    column, dim = first + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    key = _tile(qkv, column, last, HEADS + kv_head, dim, HEADS + 2 * KV_HEADS, D)
    value = _tile(qkv, column, last, HEADS + KV_HEADS + kv_head, dim, HEADS + 2 * KV_HEADS, D)
    key_grad = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    value_grad = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for head in range(kv_head * (HEADS // KV_HEADS), (kv_head + 1) * (HEADS // KV_HEADS)):
        for start in range(first, end, BLOCK_M):
            row = start + tl.arange(0, BLOCK_M)
            query = _tile(qkv, row, end, head, dim, HEADS + 2 * KV_HEADS, D)
            incoming = _tile(out_grad, row, end, head, dim, HEADS, D)
            place = row.to(tl.int64) * HEADS + head
            normaliser = tl.load(log_sum + place, row < end, 0.0)
            mean = tl.load(along + place, row < end, 0.0)
            seen = (column[None, :] <= row[:, None]) & (row[:, None] < end)
            seen &= _in_window(positions, row, end, column, last, WINDOW)
            score = capped(tl.dot(query, tl.trans(key), input_precision=PRECISION), CAP)
            probability = tl.where(seen, tl.exp(score - normaliser[:, None]), 0.0)
            value_grad += tl.dot(tl.trans(probability.to(incoming.dtype)), incoming, input_precision=PRECISION)
            by_weight = tl.dot(incoming, tl.trans(value), input_precision=PRECISION)
            by_score = probability * (by_weight - mean[:, None]) * _cap_derivative(score, CAP)
            key_grad += tl.dot(tl.trans(by_score.to(query.dtype)), query, input_precision=PRECISION)
    inside = (column[:, None] < last) & (dim[None, :] < D)
    place = (column.to(tl.int64) * (HEADS + 2 * KV_HEADS) + HEADS + kv_head)[:, None] * D + dim[None, :]
    tl.store(qkv_grad + place, key_grad.to(qkv_grad.dtype.element_ty), inside)
    tl.store(qkv_grad + place + KV_HEADS * D, value_grad.to(qkv_grad.dtype.element_ty), inside)


@triton.jit
def capped(score, CAP: tl.constexpr):
    """`CAP · tanh(score / CAP)`; the score itself where `CAP` is 0."""
    if CAP == 0:
        return score
    else:
        return CAP * (2 * tl.sigmoid(score * (2 / CAP)) - 1)


@triton.jit
def _cap_derivative(score, CAP: tl.constexpr):
    """The derivative of `capped`, by its result."""
    if CAP == 0:
        return 1.0
    else:
        return 1 - (score / CAP) * (score / CAP)


@triton.jit
def _first_seen(positions, row, key_first, WINDOW: tl.constexpr):
    """The first key from `key_first` on that lies in the window of `row`."""
    if WINDOW == 0:
        return key_first
    else:
        return key_first + tl.maximum(tl.load(positions + row) + 1 - WINDOW - tl.load(positions + key_first), 0)


@triton.jit
def _in_window(positions, row, row_last, column, column_last, WINDOW: tl.constexpr):
    """`[rows, columns]`: whether a row is not too far behind a column; true without a window."""
    if WINDOW == 0:
        return True
    else:
        position = tl.load(positions + row, row < row_last, 0)
        return position[:, None] < tl.load(positions + column, column < column_last, 0)[None, :] + WINDOW


@triton.jit
def _tile(tensor, row, last, head, dim, HEADS: tl.constexpr, D: tl.constexpr):
    """Rows of one head of a tensor `[N, HEADS, D]`, 0 from row `last` on."""
    place = (row.to(tl.int64) * HEADS + head)[:, None] * D + dim[None, :]
    return tl.load(tensor + place, (row[:, None] < last) & (dim[None, :] < D), 0.0)
