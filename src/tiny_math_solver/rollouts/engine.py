"""Rollouts by our own decode loop: each prompt prefilled and read once a group, finished rows replaced.

Reading keys and values from memory is most of a decode step on a CPU and grows with the batch, so those of a
prompt are kept once and all samples of the group look at them in one product. Each row's own completion has a
cache of its own, in which all rows write their next key and value into the same column: `begin` says where a row
starts, and what lies before is masked. A finished row's slot is taken by a waiting row, or by the last running
one, so that the running rows are always the first ones; groups are closed up in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
        requests.sort(key=lambda r: -len(r.prompt))  # prompts of like length are prefilled together
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
    """The rows being decoded: slots `0 … running-1`, of the groups `0 … groups-1`, up to the present `column`.

    Tokens and what belongs to them are kept by column too; the token in `column` is drawn but not in the cache yet.
    """

    def __init__(self, engine: EngineRollouts, requests: list[_Request], sampling: Sampling):
        self.weights, self.sampling = (weights := engine.weights), sampling
        device, layers, heads, dim = weights.device, len(weights.layers), weights.kv_heads, weights.head_dim
        self.eos = torch.tensor(engine.eos_ids, device=device)
        self.waiting = requests[::-1]  # taken from the end
        self.held: list[_Request] = []  # of each running slot
        self.running = self.groups = self.steps = 0
        self.column = self.low = 1  # `low`: the first column of a running row; there is always one before it
        # on a GPU a look at `done` waits for all work queued so far
        self.look_every = 8 if device.type == "cuda" else 1
        longest, new = len(requests[0].prompt), sampling.max_new_tokens
        columns = 1 + new + self.look_every
        room = engine.memory_limit() // (2 * layers * heads * dim * (longest + columns + new))
        self.slots = slots = max(1, min(engine.batch_size, len(requests), room))
        self.columns = columns = columns + (new if len(requests) > slots else 0)
        shared, own = layers * slots * heads * dim * longest, layers * slots * heads * dim * columns
        memory = engine.memory(2 * (shared + own)).split([shared, shared, 2 * own])
        self.prompt_keys = memory[0].view(layers, slots, heads, dim, longest)
        self.prompt_values = memory[1].view(layers, slots, heads, longest, dim)
        self.own = memory[2].view(layers, 2, slots, heads, columns, dim)  # keys and values of the completions
        self.rotations = weights.rotations(longest + new + self.look_every)
        self.prompt_length = torch.zeros(slots, dtype=torch.long, device=device)  # of each group
        self.group = torch.zeros(slots, dtype=torch.long, device=device)  # of each row
        self.begin = torch.zeros(slots, dtype=torch.long, device=device)  # column of the first completion token
        self.done = torch.zeros(slots, dtype=torch.bool, device=device)
        self.tokens = torch.zeros(slots, columns, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(slots, columns, device=device)
        self.uniform = torch.zeros(slots, columns, device=device)

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
            self.column = 1
        elif self.column + new + self.look_every > self.columns:
            self._shift()
        for part in _by_prompt(chosen, max(1, PREFILL_TOKENS // longest)):
            rows = [request for group in part for request in group]
            first, last = self.running, self.running + len(rows)
            self.held += rows
            self.running = last
            index = torch.tensor([i for i, group in enumerate(part) for _ in group], device=self.begin.device)
            self.group[first:last] = self.groups + index
            self.begin[first:last] = self.column
            self.done[first:last] = False
            if not self.sampling.greedy:
                drawn = [torch.from_numpy(uniforms(r.prompt, r.sample, self.sampling.seed, new)) for r in rows]
                self.uniform[first:last, self.column : self.column + new] = torch.stack(drawn)
            hidden = self._prefill([group[0].prompt for group in part])
            self._choose(self.weights.logits(hidden)[index], first, last)
        self._arrange()

    def _choose(self, logits: Tensor, first: int, last: int) -> None:
        """Draw the token in the present column of slots `first … last-1`."""
        tokens, logprobs = draw(logits, self.uniform[first:last, self.column], self.sampling)
        self.tokens[first:last, self.column] = tokens
        self.logprobs[first:last, self.column] = logprobs
        ended = (tokens.unsqueeze(1) == self.eos).any(1)
        ended |= self.begin[first:last] <= self.column + 1 - self.sampling.max_new_tokens
        self.done[first:last] |= ended

    def _retire(self) -> None:
        """Take finished rows out and close up the rest."""
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
        self.running, moves = _close_up(self.running, done)
        used = slice(self.low, self.column)
        for hole, mover in moves:
            self.held[hole] = self.held[mover]
            self.own[:, :, hole, :, used] = self.own[:, :, mover, :, used]
            for state in (self.group, self.begin, self.done, self.tokens, self.logprobs, self.uniform):
                state[hole] = state[mover]
        del self.held[self.running :]
        alive = set(self.group[: self.running].tolist())
        self.groups, moves = _close_up(self.groups, sorted(set(range(self.groups)) - alive))
        for hole, mover in moves:
            self.prompt_keys[:, hole] = self.prompt_keys[:, mover]
            self.prompt_values[:, hole] = self.prompt_values[:, mover]
            self.prompt_length[hole] = self.prompt_length[mover]
            self.group[: self.running][self.group[: self.running] == mover] = hole
        self._arrange()

    def _arrange(self) -> None:
        """Work out anew, after rows came or went, where each looks: at its group's prompt, and from `begin` on."""
        if not self.running:
            return
        begin, group = self.begin[: self.running], self.group[: self.running]
        lengths, heads, device = self.prompt_length[: self.groups], self.weights.kv_heads, begin.device
        self.low, high = int(begin.min()), int(begin.max())
        self.own_bias = None
        if high > self.low:
            every = torch.arange(self.low - 1, self.columns, device=device)
            self.own_bias = self._bias((every < begin[:, None]) & (every >= self.low))
        columns, self.prompt_bias = int(lengths.max()), None
        if int(lengths.min()) < columns:
            self.prompt_bias = self._bias(torch.arange(columns, device=device) >= lengths[:, None])
        # a grid of groups × lanes holds the rows' queries while they look at the prompts
        order = group.argsort(stable=True)
        counts = torch.bincount(group, minlength=self.groups)
        lane = torch.empty_like(group)
        lane[order] = torch.arange(self.running, device=device) - (counts.cumsum(0) - counts)[group[order]]
        lanes = int(counts.max())
        head = torch.arange(heads, device=device)
        self.place = ((group[:, None] * heads + head) * lanes + lane[:, None]).flatten()  # [B·KV]
        self.grid = torch.zeros(
            self.groups * heads * lanes,
            self.weights.heads // heads * self.weights.head_dim,
            dtype=self.weights.dtype,
            device=device,
        )
        self.position = self.prompt_length[group] - begin  # plus the column: each row's position
        self.caches = [
            _Cache(
                self.prompt_keys[layer, : self.groups, :, :, :columns].flatten(0, 1),
                self.prompt_values[layer, : self.groups, :, :columns].flatten(0, 1),
                self.own[layer, :, : self.running],
                *self.own[layer, :, : self.running].flatten(1, 2),
            )
            for layer in range(len(self.weights.layers))
        ]

    def _bias(self, hidden: Tensor) -> Tensor:
        """`-inf` where `hidden` `[N, T]`, for every head: `[N·KV, 1, T]`."""
        bias = torch.zeros(hidden.shape, dtype=self.weights.dtype, device=hidden.device).masked_fill_(
            hidden, -torch.inf
        )
        return bias.repeat_interleave(self.weights.kv_heads, 0).unsqueeze(1)

    def _shift(self) -> None:
        """Move everything to the left, over columns that belonged to finished rows only."""
        away = self.low - 1
        used = self.column - away
        self.own[..., :used, :] = self.own[..., away : self.column, :].clone()
        for state in (self.tokens, self.logprobs, self.uniform):
            state[:, : self.columns - away] = state[:, away:].clone()
        self.begin -= away
        self.column = used

    # -- Forward passes -------------------------------------------------------------------------------------------

    def _prefill(self, prompts: list[list[int]]) -> Tensor:
        """Run the prompts as new groups and return their last hidden states `[P, C]`."""
        weights, longest, first = self.weights, max(map(len, prompts)), self.groups
        self.groups = last = first + len(prompts)
        device = self.begin.device
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        self.prompt_length[first:last] = lengths
        # the padding comes behind, where no token looks
        x = weights.embedding[torch.tensor([p + [0] * (longest - len(p)) for p in prompts], device=device)]
        for index, layer in enumerate(weights.layers):
            query, key, value = self._project(layer, x, self.rotations[:longest]).split(self._heads(), -2)
            self.prompt_keys[index, first:last, :, :, :longest] = key.permute(0, 2, 3, 1)
            self.prompt_values[index, first:last, :, :longest] = value.transpose(1, 2)
            mixed = functional.scaled_dot_product_attention(
                query.transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                is_causal=True,
                scale=1.0,
                enable_gqa=True,
            )
            x = self._finish(layer, x, mixed.transpose(1, 2).flatten(2))
        x = x[torch.arange(len(prompts), device=device), lengths - 1]
        return functional.rms_norm(x, x.shape[-1:], weights.final_norm, weights.eps)

    def _decode(self, tokens: Tensor) -> Tensor:
        """Run one token a row `[B]`, add it to the cache and return the hidden states `[B, C]`."""
        weights, rows, heads = self.weights, len(tokens), self.weights.heads
        rotations = self.rotations[self.position + self.column]  # [B, H+KV, D/2]
        x = weights.embedding[tokens]
        for layer, cache in zip(weights.layers, self.caches, strict=True):
            joint = self._project(layer, x, rotations)
            # keys and values, which follow the queries, into the present column
            cache.both.select(3, self.column).copy_(joint[:, heads:].unflatten(1, (2, -1)).transpose(0, 1))
            query = joint[:, :heads].reshape(rows * weights.kv_heads, -1)  # [B·KV, H/KV·D]
            x = self._finish(layer, x, self._attend(cache, query).view(rows, -1))
        return functional.rms_norm(x, x.shape[-1:], weights.final_norm, weights.eps)

    def _attend(self, cache: "_Cache", query: Tensor) -> Tensor:
        """Attention over prompt and completion so far. `S = H/KV` query heads share a key head: `[B·KV, S, D]`."""
        dim, dtype = self.weights.head_dim, query.dtype
        # the prompts: one product a group, for all its rows
        grid = self.grid.index_copy_(0, self.place, query)
        scores = _scores(grid.view(len(cache.prompt_keys), -1, dim), cache.prompt_keys, self.prompt_bias)
        shares = scores.softmax(-1)
        mixed = torch.bmm(shares.to(dtype), cache.prompt_values).view_as(grid)[self.place].view(len(query), -1, dim)
        # what the prompt counts for as a whole: log Σ exp(score), from its largest term and that one's share
        weight = (scores.amax(-1) - shares.amax(-1).log_()).view(len(grid), -1)[self.place]
        # the completion: its scores beside one for the prompt, in the column before the first
        first, count = self.low - 1, self.column + 2 - self.low
        bias = None if self.own_bias is None else self.own_bias[:, :, :count]
        keys = cache.keys.narrow(1, first, count).transpose(1, 2)
        scores = _scores(query.view(len(query), -1, dim), keys, bias)
        scores.select(2, 0).copy_(weight)
        shares = scores.softmax(-1).to(dtype)
        values = cache.values.narrow(1, self.low, count - 1)
        return torch.baddbmm(mixed * shares.narrow(2, 0, 1), shares.narrow(2, 1, count - 1), values)

    def _project(self, layer: Layer, x: Tensor, rotations: Tensor) -> Tensor:
        """Queries, scaled and rotated, keys, rotated, and values, below one another: `[…, H + 2·KV, D]`."""
        heads, kv, _ = self._heads()
        normed = functional.rms_norm(x, x.shape[-1:], layer.attention_norm, self.weights.eps)
        joint = layer.query_key_value(normed).unflatten(-1, (-1, self.weights.head_dim))
        if layer.query_norm is not None and layer.key_norm is not None:
            for part, norm in ((slice(heads), layer.query_norm), (slice(heads, heads + kv), layer.key_norm)):
                joint[..., part, :] = functional.rms_norm(joint[..., part, :], norm.shape, norm, self.weights.eps)
        turning = joint.narrow(-2, 0, heads + kv)
        exact = turning.float()
        torch.view_as_complex(exact.unflatten(-1, (-1, 2))).mul_(rotations)
        if exact.dtype != turning.dtype:
            turning.copy_(exact)
        return joint

    def _heads(self) -> tuple[int, int, int]:
        return self.weights.heads, self.weights.kv_heads, self.weights.kv_heads

    def _finish(self, layer: Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of a layer after attention."""
        x = x + layer.attention_out(mixed)
        normed = functional.rms_norm(x, x.shape[-1:], layer.mlp_norm, self.weights.eps)
        gate, up = layer.gate_up(normed).chunk(2, -1)
        return x + layer.down(functional.silu(gate).mul_(up))


class _Cache(NamedTuple):
    """One layer's keys and values of what is running, as the products take them."""

    prompt_keys: Tensor  # [P·KV, D, T]
    prompt_values: Tensor  # [P·KV, T, D]
    both: Tensor  # keys and values of the completions: [2, B, KV, columns, D]
    keys: Tensor  # the same memory: [B·KV, columns, D]
    values: Tensor


def _scores(query: Tensor, keys: Tensor, bias: Tensor | None) -> Tensor:
    """In float32: what the prompt counts for is a sum of many scores."""
    return (torch.bmm(query, keys) if bias is None else torch.baddbmm(bias, query, keys)).float()


def _close_up(count: int, gone: list[int]) -> tuple[int, list[tuple[int, int]]]:
    """`(how many of 0 … count-1 are left, [(hole, last one that moves there), …])` once `gone` (ascending) are out."""
    left = count - len(gone)
    holes = [i for i in gone if i < left]
    return left, list(zip(holes, sorted(set(range(left, count)) - set(gone)), strict=True))


def _by_prompt(requests: list[_Request], prompts: int) -> list[list[list[_Request]]]:
    """Requests grouped by prompt, at most `prompts` groups a part."""
    groups: dict[tuple[int, ...], list[_Request]] = {}
    for request in requests:
        groups.setdefault(tuple(request.prompt), []).append(request)
    ordered = list(groups.values())
    return [ordered[i : i + prompts] for i in range(0, len(ordered), prompts)]
