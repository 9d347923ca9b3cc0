"""Rollouts by our own decode loop: each prompt prefilled once, finished rows replaced, no work on padding tokens.

All rows of the batch write their next key and value into the same column of the cache, so a step is a few dense
products whatever the rows' lengths; `start` says where each row's prompt begins, and what lies before is masked.
A finished row's slot is taken by a waiting row, whose prompt is written so that it ends at the present column,
or by the last running row, so that the running rows are always the first ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tiny_math_solver.rollouts.rollout import Rollout, eos_ids
from tiny_math_solver.rollouts.sampling import Sampling, draw, uniforms
from tiny_math_solver.rollouts.weights import Layer, PolicyWeights

PREFILL_TOKENS = 16384  # of one prefill pass, padding included
CPU_CACHE_BYTES = 4 << 30  # keys and values of all slots
GPU_SHARE = 0.6  # the same, of what is free
REFILL_SHARE = 8  # waiting rows come in once this fraction of the slots is free
SHRINK_SHARE = 16  # and running rows close up once this fraction of them has finished


class EngineRollouts:
    """Decode with a merged copy of the policy, brought up to date before every call.

    One process, one device; at most `batch_size` completions are decoded at once, fewer where memory is short.
    Raises UnsupportedModelError for a model that the engine cannot run.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 128):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.weights = PolicyWeights(model)
        self.eos_ids = eos_ids(model, tokenizer)
        self._memory = torch.empty(0, dtype=self.weights.dtype, device=self.weights.device)

    @torch.inference_mode()
    def generate(
        self, prompt_ids: Sequence[list[int]], samples: int, sampling: Sampling, *, logprobs: bool = True
    ) -> list[Rollout]:
        """`samples` completions of every prompt, grouped by prompt in the order given; log-probabilities are free."""
        self.weights.sync()
        if not prompt_ids or not sampling.max_new_tokens:
            return [Rollout(ids, [], False, []) for ids in prompt_ids for _ in range(samples)]
        requests = _requests(prompt_ids, samples)
        requests.sort(key=lambda r: -len(r.prompt))  # the longest first: every later prompt fits where it ended
        batch = _Batch(self, requests, sampling)
        while batch.step():
            pass
        return [r.rollout for r in sorted(requests, key=lambda r: r.place)]  # type: ignore[misc]

    def memory(self, size: int) -> Tensor:
        """`size` finite numbers to keep keys and values in, the same ones at every call.

        Masked columns are read too: whatever lies there must not be nan.
        """
        if self._memory.numel() < size:
            self._memory = self._memory.new_empty(0)  # freed before the larger one is made
            self._memory = self._memory.new_zeros(size)
        return self._memory[:size]

    def memory_limit(self) -> int:
        """How many numbers there is room for, the memory that is held already included."""
        if self.weights.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.weights.device)
            return int(GPU_SHARE * free) // self.weights.dtype.itemsize + self._memory.numel()
        return CPU_CACHE_BYTES // self.weights.dtype.itemsize


@dataclass(slots=True)
class _Request:
    prompt: list[int]
    sample: int  # counts the completions of equal prompts
    place: int  # in the order of the answer
    rollout: Rollout | None = None


def _requests(prompt_ids: Sequence[list[int]], samples: int) -> list[_Request]:
    asked: dict[tuple[int, ...], int] = {}
    requests: list[_Request] = []
    for prompt in prompt_ids:
        key = tuple(prompt)
        for _ in range(samples):
            asked[key] = sample = asked.get(key, -1) + 1
            requests.append(_Request(prompt, sample, len(requests)))
    return requests


class _Batch:
    """The rows being decoded: slots `0 … running-1`, and of the cache the columns `0 … column-1`.

    Tokens and what belongs to them are kept by column as well: a row's prompt stands in the columns from `start`,
    its completion in those from `begin`; the token in `column` is drawn but not in the cache yet.
    """

    def __init__(self, engine: EngineRollouts, requests: list[_Request], sampling: Sampling):
        self.weights, self.sampling = (weights := engine.weights), sampling
        device, layers, heads, dim = weights.device, len(weights.layers), weights.kv_heads, weights.head_dim
        self.eos = torch.tensor(engine.eos_ids, device=device)
        self.waiting = requests[::-1]  # taken from the end
        self.held: list[_Request] = []  # of each running slot
        self.running = self.column = self.steps = 0
        # on a GPU a look at `done` waits for all work queued so far
        self.look_every = 8 if device.type == "cuda" else 1
        longest, new = len(requests[0].prompt), sampling.max_new_tokens
        columns = longest + new + self.look_every
        room = engine.memory_limit() // (2 * layers * heads * dim * (columns + new))
        self.slots = slots = max(1, min(engine.batch_size, len(requests), room))
        self.columns = columns = columns + (new if len(requests) > slots else 0)
        half = layers * slots * heads * dim * columns
        memory = engine.memory(2 * half)
        self.keys = memory[:half].view(layers, slots, heads, dim, columns)
        self.values = memory[half:].view(layers, slots, heads, columns, dim)
        self.rotations = weights.rotations(longest + new + self.look_every)
        self.start = torch.zeros(slots, dtype=torch.long, device=device)
        self.begin = torch.zeros(slots, dtype=torch.long, device=device)
        self.done = torch.zeros(slots, dtype=torch.bool, device=device)
        self.tokens = torch.zeros(slots, self.columns, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(slots, self.columns, device=device)
        self.uniform = torch.zeros(slots, self.columns, device=device)
        self.low = 0  # the first column that belongs to a running row
        self.bias: Tensor | None = None  # -inf before `start`, from `low` on; None where no row starts later

    def step(self) -> bool:
        """Advance every running row by one token; False once nothing runs or waits."""
        if self.steps % self.look_every == 0:
            self._retire()
            if self.waiting and (self.slots - self.running) * REFILL_SHARE >= self.slots:
                self._admit(self.slots - self.running)
        self.steps += 1
        if not self.running:
            return bool(self.waiting)
        hidden = self._decode(self.tokens[: self.running, self.column])
        self.column += 1
        self._choose(self.weights.logits(hidden), 0, self.running)
        return True

    # -- Rows in and out ------------------------------------------------------------------------------------------

    def _admit(self, free: int) -> None:
        """Prefill waiting prompts, each once, and give every one of their samples a free slot."""
        chosen = [self.waiting.pop() for _ in range(min(free, len(self.waiting)))]
        longest, new = len(chosen[0].prompt), self.sampling.max_new_tokens
        if not self.running:
            self.column = longest
        elif self.column + new + self.look_every > self.columns:
            self._shift()
        for groups in _by_prompt(chosen, max(1, PREFILL_TOKENS // longest)):
            rows = [request for group in groups for request in group]
            first, last = self.running, self.running + len(rows)
            self.held += rows
            self.running = last
            self.start[first:last] = self.column - torch.tensor([len(r.prompt) for r in rows])
            self.begin[first:last] = self.column
            self.done[first:last] = False
            if not self.sampling.greedy:
                drawn = [torch.from_numpy(uniforms(r.prompt, r.sample, self.sampling.seed, new)) for r in rows]
                self.uniform[first:last, self.column : self.column + new] = torch.stack(drawn)
            group_of = torch.tensor([i for i, group in enumerate(groups) for _ in group], device=self.start.device)
            hidden = self._prefill([group[0].prompt for group in groups], group_of, first)
            self._choose(self.weights.logits(hidden)[group_of], first, last)
        self._mask()

    def _choose(self, logits: Tensor, first: int, last: int) -> None:
        """Draw the token in the present column of slots `first … last-1`."""
        tokens, logprobs = draw(logits, self.uniform[first:last, self.column], self.sampling)
        self.tokens[first:last, self.column] = tokens
        self.logprobs[first:last, self.column] = logprobs
        ended = (tokens.unsqueeze(1) == self.eos).any(1)
        ended |= self.begin[first:last] <= self.column + 1 - self.sampling.max_new_tokens
        self.done[first:last] |= ended

    def _retire(self) -> None:
        """Take finished rows out and move the last running rows into their slots."""
        done = self.done[: self.running].nonzero()[:, 0].tolist()
        if not done or (len(done) < self.running and len(done) * SHRINK_SHARE < self.running):
            return
        begin = self.begin[done].tolist()
        tokens, logprobs = self.tokens[done].tolist(), self.logprobs[done].tolist()
        eos = set(self.eos.tolist())
        for slot, first, ids, scores in zip(done, begin, tokens, logprobs, strict=True):
            limit = first + self.sampling.max_new_tokens
            last = next((i for i in range(first, limit) if ids[i] in eos), limit - 1)
            request, finished = self.held[slot], ids[last] in eos
            request.rollout = Rollout(request.prompt, ids[first : last + 1], finished, scores[first : last + 1])
        left = self.running - len(done)
        holes = [slot for slot in done if slot < left]
        movers = sorted(set(range(left, self.running)) - set(done))
        for hole, mover in zip(holes, movers, strict=True):
            self.held[hole] = self.held[mover]
            self.keys[:, hole, :, :, self.low : self.column] = self.keys[:, mover, :, :, self.low : self.column]
            self.values[:, hole, :, self.low : self.column] = self.values[:, mover, :, self.low : self.column]
        for state in (self.start, self.begin, self.done, self.tokens, self.logprobs, self.uniform):
            state[holes] = state[movers]
        del self.held[left:]
        self.running = left
        self._mask()

    def _mask(self) -> None:
        """Work out anew which columns the running rows may look at."""
        if not self.running:
            return
        start = self.start[: self.running]
        self.low, high = int(start.min()), int(start.max())
        self.bias = None
        if high > self.low:
            before = torch.arange(self.low, self.columns, device=start.device) < start[:, None]
            bias = torch.zeros(before.shape, dtype=self.weights.dtype, device=start.device)
            bias.masked_fill_(before, -torch.inf)
            self.bias = bias.repeat_interleave(self.weights.kv_heads, 0).unsqueeze(1)  # [B·KV, 1, columns]

    def _shift(self) -> None:
        """Move everything to the left, over columns that belonged to finished rows only."""
        low, column = self.low, self.column
        used = column - low
        self.keys[..., :used] = self.keys[..., low:column].clone()
        self.values[..., :used, :] = self.values[..., low:column, :].clone()
        for state in (self.tokens, self.logprobs, self.uniform):
            state[:, : self.columns - low] = state[:, low:].clone()
        self.start -= low
        self.begin -= low
        self.column = used

    # -- Forward passes -------------------------------------------------------------------------------------------

    def _prefill(self, prompts: list[list[int]], group_of: Tensor, first: int) -> Tensor:
        """Run the prompts, fill the cache of slots `first …` and return the last hidden states `[P, C]`."""
        weights, longest = self.weights, max(map(len, prompts))
        padded = [[0] * (longest - len(p)) + p for p in prompts]
        start = torch.tensor([longest - len(p) for p in prompts], device=self.start.device)
        columns = torch.arange(longest, device=start.device)
        # padding looks at itself: a row that may look at nothing would come out as nan
        mask = (columns <= columns[:, None]) & ((columns >= start[:, None, None]) | (columns == columns[:, None]))
        rotations = self.rotations[(columns - start[:, None]).clamp_(min=0)]  # [P, T, 1, D/2]
        x = weights.embedding[torch.tensor(padded, device=start.device)]
        last = slice(first, first + len(group_of)), slice(self.column - longest, self.column)
        for index, layer in enumerate(weights.layers):
            query, key, value = self._project(layer, x, rotations)
            self.keys[index, last[0], :, :, last[1]] = key.permute(0, 2, 3, 1)[group_of]
            self.values[index, last[0], :, last[1]] = value.transpose(1, 2)[group_of]
            mixed = functional.scaled_dot_product_attention(
                query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask[:, None], enable_gqa=True
            )
            x = self._finish(layer, x, mixed.transpose(1, 2).flatten(2))
        return functional.rms_norm(x[:, -1], x.shape[-1:], weights.final_norm, weights.eps)

    def _decode(self, tokens: Tensor) -> Tensor:
        """Run one token a row `[B]`, add it to the cache and return the hidden states `[B, C]`."""
        weights, rows, column, low = self.weights, len(tokens), self.column, self.low
        heads, shared, scale = weights.kv_heads, weights.heads // weights.kv_heads, weights.head_dim**-0.5
        bias = None if self.bias is None else self.bias[:, :, : column + 1 - low]
        rotations = self.rotations[column - self.start[:rows]]  # [B, 1, D/2]
        x = weights.embedding[tokens]
        for index, layer in enumerate(weights.layers):
            query, key, value = self._project(layer, x, rotations)
            self.keys[index, :rows, :, :, column] = key
            self.values[index, :rows, :, column] = value
            query = query.reshape(rows * heads, shared, -1)
            keys = self.keys[index, :rows, :, :, low : column + 1].flatten(0, 1)
            values = self.values[index, :rows, :, low : column + 1].flatten(0, 1)
            if bias is None:
                scores = torch.bmm(query, keys).mul_(scale)
            else:
                scores = torch.baddbmm(bias, query, keys, alpha=scale)
            mixed = torch.bmm(scores.softmax(-1), values)
            x = self._finish(layer, x, mixed.view(rows, -1))
        return functional.rms_norm(x, x.shape[-1:], weights.final_norm, weights.eps)

    def _project(self, layer: Layer, x: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query `[…, H, D]`, scaled and rotated, key `[…, KV, D]`, rotated, and value `[…, KV, D]`."""
        weights = self.weights
        heads, kv, dim = weights.heads, weights.kv_heads, weights.head_dim
        normed = functional.rms_norm(x, x.shape[-1:], layer.attention_norm, weights.eps)
        joint = layer.query_key_value(normed).unflatten(-1, (heads + 2 * kv, dim))
        turned, value = joint[..., : heads + kv, :], joint[..., heads + kv :, :]
        if layer.query_norm is not None and layer.key_norm is not None:
            query = functional.rms_norm(turned[..., :heads, :], (dim,), layer.query_norm, weights.eps)
            key = functional.rms_norm(turned[..., heads:, :], (dim,), layer.key_norm, weights.eps)
            turned = torch.cat((query, key), -2)
        pairs = torch.view_as_complex(turned.float().unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(pairs * rotations).flatten(-2).to(x.dtype)
        return turned[..., :heads, :], turned[..., heads:, :], value

    def _finish(self, layer: Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of a layer after attention."""
        x = x + layer.attention_out(mixed)
        normed = functional.rms_norm(x, x.shape[-1:], layer.mlp_norm, self.weights.eps)
        gate, up = layer.gate_up(normed).chunk(2, -1)
        return x + layer.down(functional.silu(gate).mul_(up))


def _by_prompt(requests: list[_Request], prompts: int) -> list[list[list[_Request]]]:
    """Requests grouped by prompt, at most `prompts` groups a part."""
    groups: dict[tuple[int, ...], list[_Request]] = {}
    for request in requests:
        groups.setdefault(tuple(request.prompt), []).append(request)
    ordered = list(groups.values())
    return [ordered[i : i + prompts] for i in range(0, len(ordered), prompts)]
