"""What decodes a batch of rows a token at a time: its state, the prefill, and the way that needs nothing but torch.

    Decoder         slots and what is drawn in them; prompts are run through the model in one pass
    TorchDecoder    on any device; on a GPU each step is a CUDA graph
    NativeDecoder   on a CPU with a compiler (native.py)

Shapes: `B` rows, `P` prompts, `T` tokens, `C` hidden size, `H` heads of `D` numbers, `KV` of them with keys and values.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from tiny_math_solver.rollouts.policy_weights import Layer, PolicyWeights
from tiny_math_solver.rollouts.sampling import Sampling, draw

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # sizes of a graph's batch


class Decoder(ABC):
    """`slots` places for completions of which the first ones are running; slot `i`'s tokens stand in `tokens[i]`.

    Made for prompts of at most `prompt_tokens` and completions of at most `sampling.max_new_tokens` tokens, and used
    again and again: nothing is left over from earlier rows.
    """

    look_every = 1  # steps between looks at `done`: on a GPU each one waits for all work queued so far

    def __init__(self, weights: PolicyWeights, sampling: Sampling, eos_ids: list[int], slots: int, prompt_tokens: int):
        self.weights, self.sampling, self.slots, self.prompt_tokens = weights, sampling, slots, prompt_tokens
        self.new_tokens, device = sampling.max_new_tokens, weights.device
        self.eos = torch.tensor(eos_ids, device=device)
        self.rotations = weights.rotations(prompt_tokens + self.new_tokens + 1)
        self.prompt_length = torch.ones(slots, dtype=torch.long, device=device)
        self.made = torch.ones(slots, dtype=torch.long, device=device)  # tokens drawn so far
        self.done = torch.ones(slots, dtype=torch.bool, device=device)  # nobody is there yet
        columns = self.new_tokens + 1  # a row that is done may be drawn for until somebody looks
        self.tokens = torch.zeros(slots, columns, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(slots, columns, device=device)
        self.uniform = torch.zeros(slots, columns, device=device)
        self.recorded_with = weights.addresses()

    @staticmethod
    @abstractmethod
    def numbers(weights: PolicyWeights, prompt_tokens: int, new_tokens: int) -> int:
        """How many numbers of the cache one slot takes at most."""

    @abstractmethod
    def step(self, rows: int) -> None:
        """Draw one more token for each of the first `rows` slots."""

    @abstractmethod
    def _forget_steps(self) -> None:
        """Record steps anew: the model's parameters have moved."""

    @abstractmethod
    def _keep(self, layer: int, first: int, rows: Tensor, key: Tensor, value: Tensor) -> None:
        """Put keys and values of prompts `[P, T, KV, D]` where slots `first …`, of prompts `rows`, find them."""

    def admit(self, first: int, prompts: list[list[int]], rows: list[int], uniform: Tensor | None) -> None:
        """Fill the slots from `first` on: one for each of `rows`, which says which prompt it continues.

        Their first tokens are drawn. `uniform` `[B, new_tokens]` decides all their draws.
        """
        if (addresses := self.weights.addresses()) != self.recorded_with:
            self.recorded_with = addresses
            self._forget_steps()
        last, device = first + len(rows), self.weights.device
        longest = max(map(len, prompts))
        index = torch.tensor(rows, device=device)
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        self.prompt_length[first:last] = lengths[index]
        self.made[first:last] = 0
        self.done[first:last] = False
        if uniform is not None:
            self.uniform[first:last, : self.new_tokens] = uniform
        # the padding comes behind, where no token looks
        ids = torch.tensor([p + [0] * (longest - len(p)) for p in prompts], device=device)
        hidden = self._prefill(ids, first, index)[torch.arange(len(prompts), device=device), lengths - 1]
        self._draw(self.weights.logits(hidden), first, last, index)

    def move(self, hole: int, mover: int) -> None:
        """Slot `mover` goes on in slot `hole`."""
        for state in (self.prompt_length, self.made, self.done, self.tokens, self.logprobs, self.uniform):
            state[hole] = state[mover]

    def _draw(self, logits: Tensor, first: int, last: int, source: Tensor | None = None) -> None:
        """The next token of slots `first … last-1`, from the logits `[·, V]` in row `source[i]`, or i."""
        logits = logits if source is None else logits[source]
        made, done = self.made[first:last], self.done[first:last]
        place = made.unsqueeze(1)
        tokens, logprobs = draw(logits, self.uniform[first:last].gather(1, place)[:, 0], self.sampling)
        self.tokens[first:last].scatter_(1, place, tokens.unsqueeze(1))
        self.logprobs[first:last].scatter_(1, place, logprobs.unsqueeze(1))
        made += ~done
        done |= (tokens.unsqueeze(1) == self.eos).any(1) | (made >= self.new_tokens)

    # -- Layers ---------------------------------------------------------------------------------------------------

    def _prefill(self, ids: Tensor, first: int, rows: Tensor) -> Tensor:
        """Hidden states `[P, T, C]` of prompts `[P, T]`, whose keys and values are kept."""
        weights = self.weights
        x = weights.embedding[ids]
        for index, layer in enumerate(weights.layers):
            query, key, value = self._project(layer, x, self.rotations[: ids.shape[1]])
            self._keep(index, first, rows, key, value)
            mixed = functional.scaled_dot_product_attention(
                query.transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                is_causal=True,
                scale=1.0,
                enable_gqa=True,
            )
            x = self._finish(layer, x, mixed.transpose(1, 2).flatten(2))
        return functional.rms_norm(x, x.shape[-1:], weights.final_norm, weights.eps)

    def _project(self, layer: Layer, x: Tensor, rotations: Tensor) -> tuple[Tensor, ...]:
        """Queries `[…, H, D]`, scaled and rotated, keys `[…, KV, D]`, rotated, and values."""
        weights, heads, kv = self.weights, self.weights.heads, self.weights.kv_heads
        normed = functional.rms_norm(x, x.shape[-1:], layer.attention_norm, weights.eps)
        joint = layer.query_key_value(normed).unflatten(-1, (-1, weights.head_dim))
        if layer.query_norm is not None and layer.key_norm is not None:
            for part, norm in ((slice(heads), layer.query_norm), (slice(heads, heads + kv), layer.key_norm)):
                joint[..., part, :] = functional.rms_norm(joint[..., part, :], norm.shape, norm, weights.eps)
        turning = joint.narrow(-2, 0, heads + kv)
        exact = turning.float()
        torch.view_as_complex(exact.unflatten(-1, (-1, 2))).mul_(rotations)
        if exact.dtype != turning.dtype:
            turning.copy_(exact)
        return joint.split((heads, kv, kv), -2)

    def _finish(self, layer: Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of a layer after attention."""
        x = x + layer.attention_out(mixed)
        normed = functional.rms_norm(x, x.shape[-1:], layer.mlp_norm, self.weights.eps)
        gate, up = layer.gate_up(normed).chunk(2, -1)
        # silu reads numbers one by one where they do not lie side by side
        return x + layer.down(functional.silu(gate.contiguous()).mul_(up))


class TorchDecoder(Decoder):
    """Every slot has its prompt's and its own keys and values in one cache, `[layers, 2, slots, KV, T, D]`.

    A step's shapes depend on two numbers alone, rounded up: rows, and tokens to look back at. On a GPU the step of
    each such pair is captured once as a CUDA graph and replayed from then on.
    """

    def __init__(self, weights: PolicyWeights, sampling: Sampling, eos_ids: list[int], slots: int, prompt_tokens: int):
        super().__init__(weights, sampling, eos_ids, slots, prompt_tokens)
        self.capacity = reach(prompt_tokens + self.new_tokens)
        shape = (len(weights.layers), 2, slots, weights.kv_heads, self.capacity, weights.head_dim)
        # masked places are read too: whatever lies there must not be nan
        self.cache = torch.zeros(shape, dtype=weights.dtype, device=weights.device)
        self.row = torch.arange(slots, device=weights.device)
        self.column = torch.arange(self.capacity, device=weights.device)
        self.reached = [0] * slots  # tokens that a slot has, or more
        self.graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        if weights.device.type == "cuda":
            self.look_every = 8

    @staticmethod
    def numbers(weights: PolicyWeights, prompt_tokens: int, new_tokens: int) -> int:
        return 2 * len(weights.layers) * weights.kv_heads * weights.head_dim * reach(prompt_tokens + new_tokens)

    def admit(self, first: int, prompts: list[list[int]], rows: list[int], uniform: Tensor | None) -> None:
        self.reached[first : first + len(rows)] = [len(prompts[row]) for row in rows]
        super().admit(first, prompts, rows, uniform)

    def move(self, hole: int, mover: int) -> None:
        super().move(hole, mover)
        self.reached[hole] = tokens = self.reached[mover]
        self.cache[:, :, hole, :, :tokens] = self.cache[:, :, mover, :, :tokens]

    def step(self, rows: int) -> None:
        limit = self.prompt_tokens + self.new_tokens
        self.reached[:rows] = [min(tokens + 1, limit) for tokens in self.reached[:rows]]
        tokens = reach(max(self.reached[:rows]))
        if self.weights.device.type == "cuda":
            self._replay(min(next((size for size in ROWS if size >= rows), rows), self.slots), tokens)
        else:
            self._step(rows, tokens)

    def _forget_steps(self) -> None:
        self.graphs.clear()

    def _replay(self, rows: int, tokens: int) -> None:
        graph = self.graphs.get((rows, tokens))
        if graph is None:
            kept = [state.clone() for state in (self.made, self.done, self.tokens, self.logprobs)]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # what libraries set up at their first call cannot be captured
                self._step(rows, tokens)
            torch.cuda.current_stream().wait_stream(stream)
            for state, value in zip((self.made, self.done, self.tokens, self.logprobs), kept, strict=True):
                state.copy_(value)
            graph = torch.cuda.CUDAGraph()
            pool = next(iter(self.graphs.values())).pool() if self.graphs else None
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self._step(rows, tokens)
            self.graphs[rows, tokens] = graph
        graph.replay()

    def _step(self, rows: int, tokens: int) -> None:
        """One token for each of `rows` slots, none of which has more than `tokens` tokens."""
        weights, made, row = self.weights, self.made[:rows], self.row[:rows]
        position = self.prompt_length[:rows] + made - 1  # of the last token drawn
        hidden = self.column[:tokens] > position.unsqueeze(1)
        bias = torch.zeros(hidden.shape, dtype=weights.dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
        bias = bias.repeat_interleave(weights.kv_heads, 0).unsqueeze(1)  # [B·KV, 1, T]
        rotations = self.rotations[position]
        x = weights.embedding[self.tokens[:rows].gather(1, made.unsqueeze(1) - 1)[:, 0]]
        for layer, (keys, values) in zip(weights.layers, self.cache, strict=True):
            query, key, value = self._project(layer, x, rotations)
            keys[row, :, position], values[row, :, position] = key, value
            past_keys, past_values = (part[:rows, :, :tokens].flatten(0, 1) for part in (keys, values))
            query = query.reshape(rows * weights.kv_heads, -1, weights.head_dim)  # [B·KV, H/KV, D]
            shares = torch.baddbmm(bias, query, past_keys.transpose(1, 2)).softmax(-1, torch.float32)
            mixed = torch.bmm(shares.to(query.dtype), past_values)
            x = self._finish(layer, x, mixed.view(rows, -1))
        hidden = functional.rms_norm(x, x.shape[-1:], weights.final_norm, weights.eps)
        self._draw(weights.logits(hidden), 0, rows)

    def _keep(self, layer: int, first: int, rows: Tensor, key: Tensor, value: Tensor) -> None:
        for kept, made in zip(self.cache[layer], (key, value), strict=True):
            kept[first : first + len(rows), :, : made.shape[1]] = made.transpose(1, 2)[rows]


def reach(tokens: int) -> int:
    """`tokens` rounded up, by a quarter at most beyond 256: 64, 128, 192, 256, 384, 512, 768, 1024, …"""
    block = 1 << max(6, (tokens - 1).bit_length() - 2)
    return -(-tokens // block) * block
