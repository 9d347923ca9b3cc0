"""A decode step on a GPU outside its matrix products, in Triton: one token for each running completion.

Slots and places are those of decode.cpp: a slot's completion has the cache place `completion_place[slot]` to itself,
and its prompt the place `prompt_place[slot]`, which the samples of a group share. `generated[slot]` counts the tokens
drawn so far. The caches of keys and values are `[slots, KV, T, D]`, token by token. No length is known to the host, so
a step is the same list of launches for every batch, and can be recorded.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tiny_math_solver.kernels.gpu.attention import capped

# Few rows leave most of a card idle and are bound by their own latency: larger pieces and more warps are faster there.
# (On an H200, a layer of the 0.5B: 5.5 µs at 16 rows and 32.6 at 1,024; with the settings of the other, 6.9 and 40.)
FEW_ROWS = 64
KEY_BYTES, KEY_BYTES_OF_FEW, KEY_STAGES = 1 << 13, 1 << 14, 3  # of a tile of keys; tiles in flight
PROMPT_TILE = 64  # tokens cached at once
LOGITS_PART = 128  # of the vocabulary
LEAST_ROWS = 16  # of a tile in a matrix product


@dataclass(frozen=True)
class Places:
    """Where each slot's prompt and completion lie, and how long they are; all int64 `[slots]`."""

    prompt: Tensor
    prompt_length: Tensor
    completion: Tensor
    generated: Tensor


def embed(tokens: Tensor, generated: Tensor, embedding: Tensor, x: Tensor) -> None:
    """`x` `[B, C]` = the embedding of each slot's last token; `tokens` is `[slots, columns]`."""
    rows, columns = x.shape
    _embed[(rows,)](tokens, generated, embedding, x, tokens.shape[1], columns, BLOCK=triton.next_power_of_2(columns))


def decode_attention(
    qkv: Tensor,
    rope_table: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    scale: float,
    manner: tuple[int, float],
    places: Places,
    prompt_cache: Tensor,
    completion_cache: Tensor,
    out: Tensor,
    heads: tuple[int, int, int],
) -> None:
    """`out` `[B, H · D]` = attention of each slot's last token over its prompt and completion.

    `qkv` `[B, (H + 2 KV) · D]` is not rotated yet; `scale` is that of the queries, `norms` are those of queries and
    keys, `manner` is a `Manner`. The caches `[2, slots, KV, T, D]` are those of a layer; the token's own key and value
    are added to that of the completions.
    """
    queries, keys, dim = heads
    query_norm, key_norm = norms or (qkv, qkv)
    _decode_attention[(len(out), keys)](
        qkv, rope_table, query_norm, key_norm, eps, scale, places.prompt, places.prompt_length, places.completion,
        places.generated, prompt_cache[0], prompt_cache[1], completion_cache[0], completion_cache[1], out,
        prompt_cache.shape[3], completion_cache.shape[3], manner[0],
        CAP=manner[1], HAS_NORMS=norms is not None, QUERIES=queries // keys, KV_HEADS=keys, D=dim,
        ROWS=max(LEAST_ROWS, triton.next_power_of_2(queries // keys)), BLOCK_D=max(16, triton.next_power_of_2(dim)),
        **key_tiles(len(out), dim, qkv.dtype),
    )  # fmt: skip


def key_tiles(rows: int, dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Tokens of a tile of keys, warps and stages of `_decode_attention`."""
    of_token = max(16, triton.next_power_of_2(dim)) * dtype.itemsize
    tokens = (KEY_BYTES_OF_FEW if rows <= FEW_ROWS else KEY_BYTES) // of_token
    return {
        "BLOCK_N": max(LEAST_ROWS, tokens), "num_warps": 4 if rows <= FEW_ROWS else 2,
        "num_stages": KEY_STAGES if tokens >= LEAST_ROWS else 1,
    }  # fmt: skip


def logits_blocks(rows: int) -> dict[str, int]:
    """Logits that `_draw` looks at at once, and its warps."""
    return {"BLOCK": 16384, "num_warps": 16} if rows <= FEW_ROWS else {"BLOCK": 8192, "num_warps": 8}


def cache_prompts(
    qkv: Tensor, starts: Tensor, lengths: Tensor, places: Tensor, cache: Tensor, heads: tuple[int, int, int]
) -> None:
    """Store the keys and values of prompts, given by their first rows in the rotated `qkv` and their lengths.

    `cache` `[2, slots, KV, T, D]` is that of a layer, `places` `[P]` those of the prompts in it.
    """
    queries, keys, dim = heads
    _cache_prompts[(len(starts), keys)](
        qkv, starts, lengths, places, cache[0], cache[1], cache.shape[3],
        HEADS=queries, KV_HEADS=keys, D=dim, BLOCK_D=triton.next_power_of_2(dim), BLOCK_N=PROMPT_TILE,
    )  # fmt: skip


def draw(
    logits: Tensor,
    logits_row: Tensor | None,
    vocabulary: int,
    temperature: float,
    uniform: Tensor,
    eos: Tensor,
    limit: int,
    tokens: Tensor,
    logprobs: Tensor,
    generated: Tensor,
    done: Tensor,
) -> None:
    """Draw the next token of each slot whose state is given, from row `logits_row[i]`, or `i`, of `logits` `[·, ≥ V]`.

    It is the one where the running sum of probabilities passes the slot's uniform number; at temperature 0 the first of
    the likeliest. `uniform`, `tokens` and `logprobs` are `[B, columns]`. Slots that are done stay as they are.
    """
    _draw[(len(tokens),)](
        logits, generated if logits_row is None else logits_row, uniform, eos, tokens, logprobs, generated, done,
        1 / (temperature or 1), logits.stride(0), vocabulary, tokens.shape[1], len(eos), limit,
        GREEDY=temperature == 0, BY_INDEX=logits_row is not None, PART=LOGITS_PART,
        **logits_blocks(len(tokens)),
    )  # fmt: skip


@triton.jit
def _embed(tokens, generated, embedding, x, tokens_columns, columns, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    token = tl.load(tokens + row * tokens_columns + tl.load(generated + row) - 1)
    tl.store(
        x + row * columns + column, tl.load(embedding + token * columns + column, column < columns), column < columns
    )


@triton.jit
def _decode_attention(
    qkv,
    rope_table,
    query_norm,
    key_norm,
    eps,
    scale,
    prompt_place,
    prompt_length,
    completion_place,
    generated,
    prompt_keys,
    prompt_values,
    completion_keys,
    completion_values,
    out,
    prompt_capacity,
    completion_capacity,
    window,
    CAP: tl.constexpr,
    HAS_NORMS: tl.constexpr,
    QUERIES: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    prompt, count = tl.load(prompt_length + row), tl.load(generated + row)
    angles = rope_table + (prompt + count - 1) * D
    dim, sample = tl.arange(0, BLOCK_D), tl.arange(0, ROWS)
    qkv += row * (QUERIES + 2) * KV_HEADS * D
    is_query = (sample[:, None] < QUERIES) & (dim[None, :] < D)
    place = (head * QUERIES + sample)[:, None] * D + dim[None, :]
    query = _rotated(qkv, place, is_query, dim[None, :], query_norm, angles, eps, HAS_NORMS, D, ROWS, BLOCK_D)
    query = (query * scale).to(qkv.dtype.element_ty)
    own = ((QUERIES * KV_HEADS) + head) * D + dim[None, :]
    key = _rotated(qkv, own, dim[None, :] < D, dim[None, :], key_norm, angles, eps, HAS_NORMS, D, 1, BLOCK_D)
    key = key.to(qkv.dtype.element_ty)  # [1, D]
    value = tl.load(qkv + own + KV_HEADS * D, dim[None, :] < D, 0.0)
    at = (tl.load(completion_place + row) * KV_HEADS + head) * completion_capacity
    tl.store(completion_keys + (at + count - 1) * D + dim[None, :], key, dim[None, :] < D)
    tl.store(completion_values + (at + count - 1) * D + dim[None, :], value, dim[None, :] < D)

    # its own key and value are here; those before it come from the caches
    highest = capped(tl.sum(query.to(tl.float32) * key.to(tl.float32), 1), CAP)
    total = tl.full((ROWS,), 1.0, tl.float32)
    output = tl.zeros((ROWS, BLOCK_D), tl.float32) + value.to(tl.float32)
    of_prompt = (tl.load(prompt_place + row) * KV_HEADS + head) * prompt_capacity
    of_completion = at - prompt  # of a token counted from the start of the prompt
    first = tl.where(window > 0, tl.maximum(prompt + count - window, 0), 0)
    for start in range(first, prompt + count - 1, BLOCK_N):
        token = start + tl.arange(0, BLOCK_N)
        inside, is_prompt = token < prompt + count - 1, token < prompt
        source = tl.where(is_prompt, of_prompt + token, of_completion + token)[:, None] * D + dim[None, :]
        is_prompt, is_inside = is_prompt[:, None], inside[:, None] & (dim[None, :] < D)
        key_block = tl.load(tl.where(is_prompt, prompt_keys + source, completion_keys + source), is_inside, 0.0)
        score = capped(tl.dot(query, tl.trans(key_block), input_precision="ieee"), CAP)
        score = tl.where(inside[None, :], score, -float("inf"))
        higher = tl.maximum(highest, tl.max(score, 1))
        weight = tl.exp(score - higher[:, None])
        shrunk = tl.exp(highest - higher)
        total = total * shrunk + tl.sum(weight, 1)
        value_block = tl.load(tl.where(is_prompt, prompt_values + source, completion_values + source), is_inside, 0.0)
        output = output * shrunk[:, None] + tl.dot(weight.to(value.dtype), value_block, input_precision="ieee")
        highest = higher
    target = out + row * QUERIES * KV_HEADS * D + place
    tl.store(target, (output / total[:, None]).to(out.dtype.element_ty), is_query)


@triton.jit
def _rotated(
    qkv, place, inside, dim, norm, angles, eps, HAS_NORMS: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Heads `[ROWS, D]` rotated by pairs of neighbours, in float32, after their norm if they have one."""
    x = tl.load(qkv + place, inside, 0.0).to(tl.float32)
    if HAS_NORMS:
        x *= tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None] * tl.load(norm + dim, dim < D, 0.0)
    a, b = tl.split(tl.reshape(x, (ROWS, BLOCK_D // 2, 2)))
    cosine, sine = tl.split(tl.reshape(tl.load(angles + dim, dim < D, 0.0), (1, BLOCK_D // 2, 2)))
    return tl.reshape(tl.join(a * cosine - b * sine, a * sine + b * cosine), (ROWS, BLOCK_D))


@triton.jit
def _cache_prompts(
    qkv,
    starts,
    lengths,
    places,
    keys,
    values,
    capacity,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    prompt, head = tl.program_id(0), tl.program_id(1)
    start, length, dim = tl.load(starts + prompt), tl.load(lengths + prompt), tl.arange(0, BLOCK_D)
    at = (tl.load(places + prompt) * KV_HEADS + head) * capacity
    for first in range(0, length, BLOCK_N):
        token = first + tl.arange(0, BLOCK_N)
        inside = (token[:, None] < length) & (dim[None, :] < D)
        source = ((start + token) * (HEADS + 2 * KV_HEADS) + HEADS + head)[:, None] * D + dim[None, :]
        target = (at + token)[:, None] * D + dim[None, :]
        tl.store(keys + target, tl.load(qkv + source, inside), inside)
        tl.store(values + target, tl.load(qkv + source + KV_HEADS * D, inside), inside)


@triton.jit
def _draw(
    logits,
    logits_row,
    uniform,
    eos,
    tokens,
    logprobs,
    generated,
    done,
    sharpness,
    stride,
    vocabulary,
    columns,
    eos_count,
    limit,
    GREEDY: tl.constexpr,
    BY_INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
    PART: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    if tl.load(done + row) == 0:
        source = row
        if BY_INDEX:
            source = tl.load(logits_row + row)
        logits += source * stride
        column = tl.arange(0, BLOCK)
        highest, total = -3.4e38, 0.0  # below every logit but -inf, from which it can be subtracted
        for start in range(0, vocabulary, BLOCK):
            values = _logits(logits, start + column, vocabulary, sharpness)
            higher = tl.maximum(highest, tl.max(values))
            total = total * tl.exp(highest - higher) + tl.sum(tl.exp(values - higher))
            highest = higher
        count = tl.load(generated + row)
        place = row * columns + count
        # the block that the token is in, and the sum of the weights before it
        block, before, running = -1, 0.0, 0.0
        if GREEDY:
            for start in range(0, vocabulary, BLOCK):
                values = _logits(logits, start + column, vocabulary, sharpness)
                block = tl.where((block < 0) & (tl.max(values) == highest), start, block)
            block = tl.maximum(block, 0)
            values = _logits(logits, block + column, vocabulary, sharpness)
            token = block + tl.min(tl.where(values == highest, column, BLOCK))
        else:
            target = tl.load(uniform + place) * total
            passed = target < 0  # not yet
            for start in range(0, vocabulary, BLOCK):
                weight = tl.sum(tl.exp(_logits(logits, start + column, vocabulary, sharpness) - highest))
                # rounding may leave the target behind the sum of all: the last block with any weight is meant then
                is_here = ~passed & ((weight > 0) | (block < 0))
                block, before = tl.where(is_here, start, block), tl.where(is_here, running, before)
                running += weight
                passed = passed | (running > target)
            # likewise the part of the block, and then the token: a sum of few numbers is exact enough
            part = tl.arange(0, BLOCK // PART)
            weights = tl.exp(_logits(logits, block + column, vocabulary, sharpness) - highest)
            part_weights = tl.sum(tl.reshape(weights, (BLOCK // PART, PART)), 1)
            passes = (before + tl.cumsum(part_weights, 0) > target) & (part_weights > 0)
            here = tl.minimum(tl.min(tl.where(passes, part, BLOCK)), tl.max(tl.where(part_weights > 0, part, 0)))
            before += tl.sum(tl.where(part < here, part_weights, 0.0))
            first = block + here * PART
            column = tl.arange(0, PART)
            weights = tl.exp(_logits(logits, first + column, vocabulary, sharpness) - highest)
            passes = (before + tl.cumsum(weights, 0) > target) & (weights > 0)
            last = tl.max(tl.where(weights > 0, column, 0))
            token = first + tl.minimum(tl.min(tl.where(passes, column, BLOCK)), last)
        token = tl.minimum(token, vocabulary - 1)  # even if no logit is a number
        logit = tl.load(logits + token).to(tl.float32) * sharpness
        tl.store(tokens + place, token.to(tl.int64))
        tl.store(logprobs + place, logit - highest - tl.log(total))
        ended = count + 1 >= limit
        for end in range(0, eos_count):
            ended = ended | (tl.load(eos + end) == token)
        tl.store(generated + row, count + 1)
        tl.store(done + row, ended)


@triton.jit
def _logits(logits, column, vocabulary, sharpness):
    return tl.load(logits + column, column < vocabulary, -float("inf")).to(tl.float32) * sharpness
