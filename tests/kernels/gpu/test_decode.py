"""A decode step in Triton against torch in float64: attention from the caches, and the draw."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.gpu_kernels import TOLERANCE, error

decode = pytest.importorskip("tiny_math_solver.kernels.gpu.decode")

FEW, MANY = 16, 1024  # rows, by which the kernels choose their blocks
ROWS, SLOTS, PROMPT, COMPLETION = 4, 6, 70, 90
LONG = [2, 2, 5, 0], [70, 70, 3, 33], [3, 0, 1, 5], [1, 65, 90, 7]  # prompts, their lengths, completions, their tokens


def places(device: torch.device) -> Any:
    spare = [[0, 0], [1, 1], [2, 4], [1, 1]]
    return decode.Places(*(torch.tensor([*held, *more], device=device) for held, more in zip(LONG, spare, strict=True)))


@pytest.fixture(params=[FEW, MANY], ids=["few rows", "many rows"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks that are chosen for so many rows, however many there are."""
    for name in ("key_tiles", "logits_blocks"):
        chosen = getattr(decode, name)
        monkeypatch.setattr(decode, name, lambda rows, *rest, chosen=chosen: chosen(request.param, *rest))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("heads", "has_norms", "manner"),
    [
        ((6, 2, 16), False, (0, 0.0)),
        ((14, 2, 64), True, (0, 0.0)),
        ((3, 3, 24), False, (67, 0.0)),
        ((6, 2, 16), False, (5, 1.5)),
    ],
)
def test_attention_from_the_caches(
    dtype: torch.dtype, heads: tuple[int, int, int], has_norms: bool, manner: tuple[int, float], device: torch.device
):
    """The samples of a prompt share its cache; the token's own key and value are added to the other, at one place."""
    queries, keys, dim = heads
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    qkv, table = random(ROWS, (queries + 2 * keys) * dim), random(PROMPT + COMPLETION, dim, dtype=torch.float32)
    prompts, completions = random(2, SLOTS, keys, PROMPT, dim), random(2, SLOTS, keys, COMPLETION, dim)
    norms = (random(dim), random(dim)) if has_norms else None
    at, before = places(device), completions.clone()
    out = torch.full((ROWS, queries * dim), torch.nan, dtype=dtype, device=device)
    decode.decode_attention(qkv, table, norms, 1e-6, dim**-0.5, manner, at, prompts, completions, out, heads)

    turns = torch.view_as_complex(table.double().view(len(table), -1, 2))
    for row, (prompt, length, place, count) in enumerate(zip(*LONG, strict=True)):

        def turned(x: Tensor, norm: Tensor | None, turn: Tensor = turns[length + count - 1]) -> Tensor:
            if norm is not None:
                x = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.double()
            return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(1)

        query, key, value = qkv[row].double().view(-1, dim).split((queries, keys, keys))
        query, key = turned(query, norms and norms[0]) * dim**-0.5, turned(key, norms and norms[1])
        assert error(completions[0, place, :, count - 1], key) < TOLERANCE[dtype]
        assert torch.equal(completions[1, place, :, count - 1].double(), value)
        all_keys, all_values = (
            torch.cat([prompts[i, prompt, :, :length], before[i, place, :, : count - 1], own[:, None]], 1).double()
            for i, own in enumerate((key, value))
        )
        all_keys, all_values = (x.repeat_interleave(queries // keys, 0) for x in (all_keys, all_values))
        scores, (window, cap) = torch.einsum("hd,htd->ht", query, all_keys), manner
        if cap:
            scores = cap * (scores / cap).tanh()
        if window:
            scores[:, :-window] = -torch.inf
        weights = scores.softmax(-1)
        assert error(out[row].view(-1, dim), torch.einsum("ht,htd->hd", weights, all_values)) < TOLERANCE[dtype]
    assert (completions != before).any(-1).sum() <= 2 * ROWS * keys


def test_prompts_are_cached_at_their_places(device: torch.device):
    heads = queries, keys, dim = 4, 2, 16
    qkv = torch.randn(100, (queries + 2 * keys) * dim, generator=torch.Generator().manual_seed(2)).to(device)
    starts, lengths, at = (torch.tensor(x, device=device) for x in ([0, 65, 66], [65, 1, 34], [3, 0, 2]))
    cache = torch.zeros(2, SLOTS, keys, PROMPT, dim, device=device)
    decode.cache_prompts(qkv, starts, lengths, at, cache, heads)
    expected = torch.zeros_like(cache)
    for start, length, place in zip(starts.tolist(), lengths.tolist(), at.tolist(), strict=True):
        rows = qkv[start : start + length].view(length, -1, dim)
        for index, first in ((0, queries), (1, queries + keys)):
            expected[index, place, :, :length] = rows[:, first : first + keys].transpose(0, 1)
    assert torch.equal(cache, expected)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.7, 0.0])
def test_the_draw(dtype: torch.dtype, temperature: float, device: torch.device):
    """It is the token that the number falls on; ends and the limit are seen, and slots that are done stay."""
    rows, vocabulary, columns, limit, generator = 40, 17_000, 12, 11, torch.Generator().manual_seed(3)
    logits = (3 * torch.randn(8, vocabulary + 4, generator=generator)).to(device, dtype)
    logits[:, vocabulary:] = 100  # padding
    logits[3, [17, 16_999]] = 20  # the first of two is the likeliest
    index = torch.randint(0, 8, (rows,), generator=generator).to(device)
    uniform = torch.rand(rows, columns, generator=generator).to(device)
    uniform[0], uniform[1] = 0, 0.999
    generated = torch.randint(0, limit, (rows,), generator=generator).to(device)
    done = torch.zeros(rows, dtype=torch.bool, device=device)
    done[5] = True
    tokens = torch.full((rows, columns), -1, device=device)
    logprobs, before = torch.zeros(rows, columns, device=device), generated.clone()
    eos = torch.tensor([17, 3], device=device)
    decode.draw(
        logits, index, vocabulary, temperature, uniform, eos, limit, tokens, logprobs, generated, done
    )  # fmt: skip

    now = before[:, None]
    running = torch.arange(rows, device=device) != 5
    found = tokens.gather(1, now)[:, 0]
    scaled = logits[index][:, :vocabulary].double() / (temperature or 1)
    chosen = found.clamp(min=0)[:, None]
    scores = scaled.log_softmax(-1).gather(1, chosen)[:, 0]
    assert torch.allclose(logprobs.gather(1, now)[:, 0][running], scores[running].float(), atol=1e-5)
    if temperature:  # the number lies in the token's part of the running sum, up to rounding
        ends = scaled.softmax(-1).cumsum(-1)
        end, number = ends.gather(1, chosen)[:, 0], uniform.gather(1, now)[:, 0]
        assert (number < end + 1e-6)[running].all()
        assert (number > end - scores.exp() - 1e-6)[running].all()
    else:
        assert torch.equal(found[running], scaled.argmax(-1)[running])
    assert found[5] == -1
    assert torch.equal(generated, before + running)
    ended = (found[:, None] == eos).any(1) | (before + 1 >= limit)
    assert torch.equal(done[running], ended[running])
    if temperature == 0:
        assert done[index == 3].all()  # 17 is an end


@pytest.mark.usefixtures("blocks")
def test_a_target_behind_the_last_weight_draws_a_possible_token(device: torch.device):
    """Rounding may leave a uniform number near 1 behind the sum; tokens of no weight must not be drawn."""
    logits = torch.full((2, 33_000), -torch.inf, device=device)
    logits[:, 17_000] = 1.0  # in a block between others
    uniform = torch.full((2, 1), 1.0, device=device)
    tokens, logprobs = torch.zeros(2, 1, dtype=torch.long, device=device), torch.ones(2, 1, device=device)
    generated, done = torch.zeros(2, dtype=torch.long, device=device), torch.zeros(2, dtype=torch.bool, device=device)
    eos = torch.tensor([1], device=device)
    decode.draw(logits, None, 33_000, 1.0, uniform, eos, 5, tokens, logprobs, generated, done)
    assert tokens.tolist() == [[17_000], [17_000]]
    assert logprobs.abs().max() < 1e-6
