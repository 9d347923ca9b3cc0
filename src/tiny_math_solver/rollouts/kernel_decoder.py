"""Decoding on a CPU with kernels of our own: a step is a list of calls, recorded once and replayed."""

from ctypes import CDLL, c_float, c_long
from typing import Any

import torch
from torch import Tensor

from tiny_math_solver.kernels import at
from tiny_math_solver.rollouts.decoder import Decoder
from tiny_math_solver.rollouts.policy_weights import Linear, PolicyWeights
from tiny_math_solver.rollouts.sampling import Sampling


class NativeDecoder(Decoder):
    """Rows of a group share their prompt's cache, and a row that moves to another slot leaves its own where it is.

    Keys lie in blocks of several tokens, [D, tokens], so that a query meets all of a block at once; values token by
    token.
    """

    def __init__(self, weights: PolicyWeights, sampling: Sampling, eos_ids: list[int], slots: int, prompt_tokens: int):
        super().__init__(weights, sampling, eos_ids, slots, prompt_tokens)
        assert weights.kernels is not None
        self.kernels: CDLL = weights.kernels
        layers, heads, dim = len(weights.layers), weights.kv_heads, weights.head_dim
        self.prompts = torch.zeros(layers, 2, slots, heads, _padded(weights, prompt_tokens), dim, dtype=weights.dtype)
        self.own = torch.zeros(layers, 2, slots, heads, _padded(weights, self.new_tokens), dim, dtype=weights.dtype)
        self.cache = torch.arange(slots)  # where each slot's own keys and values lie
        self.group = torch.zeros(slots, dtype=torch.long)  # and where those of its prompt do
        self.turns = weights.turns(len(self.rotations))
        self.program = self._record()

    @staticmethod
    def numbers(weights: PolicyWeights, prompt_tokens: int, new_tokens: int) -> int:
        tokens = _padded(weights, prompt_tokens) + _padded(weights, new_tokens)
        return 2 * len(weights.layers) * weights.kv_heads * weights.head_dim * tokens

    def step(self, rows: int) -> None:
        count = c_long(rows)
        for call, *arguments in self.program:
            call(count, *arguments)

    def admit(self, first: int, prompts: list[list[int]], rows: list[int], uniform: Tensor | None) -> None:
        taken = set(self.group[:first].tolist())
        free = [group for group in range(self.slots) if group not in taken][: len(prompts)]
        self.admitted = torch.tensor(free)
        self.group[first : first + len(rows)] = self.admitted[torch.tensor(rows)]
        super().admit(first, prompts, rows, uniform)

    def move(self, hole: int, mover: int) -> None:
        super().move(hole, mover)
        self.group[hole] = self.group[mover]
        self.cache[[hole, mover]] = self.cache[[mover, hole]]

    def _keep(self, layer: int, first: int, rows: Tensor, key: Tensor, value: Tensor) -> None:
        key, value = key.contiguous(), value.contiguous()
        keys, values = self.prompts[layer]
        self.kernels.keep_prompts(
            c_long(key.shape[0]), c_long(key.shape[1]), at(key), at(value), at(self.admitted), at(keys), at(values),
            c_long(self.prompt_tokens),
        )  # fmt: skip

    def _draw(self, logits: Tensor, first: int, last: int, source: Tensor | None = None) -> None:
        if not self.sampling.plain:
            return super()._draw(logits, first, last, source)
        call, *arguments = self._drawing(logits, first, source)
        call(c_long(last - first), *arguments)

    # -- The program of a step ------------------------------------------------------------------------------------

    def _record(self) -> list[tuple[Any, ...]]:
        """Every call of a step with its arguments, but for the number of rows."""
        weights, kernels = self.weights, self.kernels
        hidden = weights.embedding.shape[1]
        sizes = (weights.heads + 2 * weights.kv_heads) * weights.head_dim, weights.layers[0].gate_up.rows

        self.buffers: list[Tensor] = []  # the calls know them by their address alone

        def buffer(columns: int) -> Tensor:
            self.buffers.append(torch.zeros(self.slots, columns, dtype=weights.dtype))
            return self.buffers[-1]

        x, normed, mixed = buffer(hidden), buffer(hidden), buffer(weights.heads * weights.head_dim)
        qkv, gate_up, gated = buffer(sizes[0]), buffer(sizes[1]), buffer(sizes[1] // 2)
        logits = buffer(weights.logits.columns)
        width, eps = c_long(hidden), c_float(weights.eps)

        def norm(weight: Tensor) -> tuple[Any, ...]:
            return kernels.norm, at(x), at(weight), eps, width, at(normed)

        program: list[tuple[Any, ...]] = [
            (kernels.embed, at(self.tokens), c_long(self.tokens.shape[1]), at(self.made), at(weights.embedding), width,
             at(x))
        ]  # fmt: skip
        for index, layer in enumerate(weights.layers):
            (prompt_keys, prompt_values), (own_keys, own_values) = self.prompts[index], self.own[index]
            program += [
                norm(layer.attention_norm),
                self._product(layer.query_key_value, normed, qkv),
                (
                    kernels.attend, at(qkv), at(self.turns), at(layer.query_norm), at(layer.key_norm), eps,
                    c_float(weights.head_dim**-0.5), at(self.group), at(self.prompt_length), at(self.cache),
                    at(self.made), at(prompt_keys), at(prompt_values), c_long(self.prompt_tokens), at(own_keys),
                    at(own_values), c_long(self.new_tokens), at(mixed),
                ),
                self._product(layer.attention_out, mixed, x, add=True),
                norm(layer.mlp_norm),
                self._product(layer.gate_up, normed, gate_up),
                (kernels.gate, at(gate_up), c_long(gated.shape[1]), at(gated)),
                self._product(layer.down, gated, x, add=True),
            ]  # fmt: skip
        program += [norm(weights.final_norm), self._product(weights.logits, normed, logits)]
        if self.sampling.plain:
            return [*program, self._drawing(logits, 0, None)]
        seen = logits[:, : weights.logits.rows]
        return [*program, (lambda rows: Decoder._draw(self, seen[: rows.value], 0, rows.value),)]

    def _product(self, linear: Linear, x: Tensor, out: Tensor, add: bool = False) -> tuple[Any, ...]:
        if linear.layout == "panels":
            added = at(out if add else None)
            return (
                self.kernels.linear, at(x), c_long(x.shape[1]), at(linear.weight), at(linear.bias), added, at(out),
                c_long(out.shape[1]),
            )  # fmt: skip

        def product(rows: c_long) -> None:
            made = linear(x[: rows.value])
            if add:
                out[: rows.value] += made
            else:
                out[: rows.value, : made.shape[1]] = made

        return (product,)

    def _drawing(self, logits: Tensor, first: int, source: Tensor | None) -> tuple[Any, ...]:
        sampling = self.sampling
        uniform = None if sampling.greedy else self.uniform[first:]
        return (
            self.kernels.draw, at(logits), at(source), c_long(logits.stride(0)), c_long(self.weights.logits.rows),
            c_float(1 if sampling.greedy else 1 / sampling.temperature), at(uniform), at(self.eos),
            c_long(len(self.eos)), c_long(self.new_tokens), c_long(self.tokens.shape[1]), at(self.tokens[first:]),
            at(self.logprobs[first:]), at(self.made[first:]), at(self.done[first:]),
        )  # fmt: skip


def _padded(weights: PolicyWeights, tokens: int) -> int:
    """Whole blocks of the cache."""
    assert weights.kernels is not None
    block = weights.kernels.block_tokens()
    return -(-tokens // block) * block
