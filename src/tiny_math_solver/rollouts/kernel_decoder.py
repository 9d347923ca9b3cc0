"""Decoding on a CPU with kernels of our own: a step is a list of calls, recorded once and replayed."""

from typing import Any

import torch
from torch import Tensor

from tiny_math_solver.kernels import Kernels, Recording
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
        self.kernels: Kernels = weights.kernels
        layers, heads, dim = len(weights.layers), weights.kv_heads, weights.head_dim
        self.prompts = torch.zeros(layers, 2, slots, heads, _padded(weights, prompt_tokens), dim, dtype=weights.dtype)
        self.own = torch.zeros(layers, 2, slots, heads, _padded(weights, self.new_tokens), dim, dtype=weights.dtype)
        self.cache = torch.arange(slots)  # where each slot's own keys and values lie
        self.group = torch.zeros(slots, dtype=torch.long)  # and where those of its prompt do
        self.turns = weights.turns(len(self.rotations))
        self.recording = self._record()

    @staticmethod
    def numbers(weights: PolicyWeights, prompt_tokens: int, new_tokens: int) -> int:
        tokens = _padded(weights, prompt_tokens) + _padded(weights, new_tokens)
        return 2 * len(weights.layers) * weights.kv_heads * weights.head_dim * tokens

    def step(self, rows: int) -> None:
        self.recording.replay(rows)

    def _forget_steps(self) -> None:
        self.recording = self._record()

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
        self.kernels.keep_prompts(*key.shape[:2], key, value, self.admitted, keys, values, keys.shape[2])

    def _draw(self, logits: Tensor, first: int, last: int, source: Tensor | None = None) -> None:
        if not self.sampling.plain:
            return super()._draw(logits, first, last, source)
        self.kernels.draw(last - first, *self._drawing(logits.contiguous(), first, source))

    # -- Recording a step -----------------------------------------------------------------------------------------

    def _record(self) -> Recording:
        """Every call of a step, for any number of rows."""
        weights, kernels = self.weights, self.kernels
        hidden, eps = weights.embedding.shape[1], weights.eps
        scale = weights.head_dim**-0.5
        recording = Recording(self.slots, kernels.check)

        def buffer(columns: int) -> Tensor:
            return torch.zeros(self.slots, columns, dtype=weights.dtype)

        x, normed, mixed = buffer(hidden), buffer(hidden), buffer(weights.heads * weights.head_dim)
        qkv = buffer((weights.heads + 2 * weights.kv_heads) * weights.head_dim)
        gate_up, gated = buffer(weights.layers[0].gate_up.rows), buffer(weights.layers[0].gate_up.rows // 2)
        logits = buffer(weights.logits.columns)

        columns = self.tokens.shape[1]
        recording.add(kernels.embed, self.tokens, columns, self.made, weights.embedding, hidden, x)
        for layer, (prompt_keys, prompt_values), (own_keys, own_values) in zip(
            weights.layers, self.prompts, self.own, strict=True
        ):
            recording.add(kernels.norm, x, layer.attention_norm, eps, hidden, normed)
            self._record_product(recording, layer.query_key_value, normed, qkv)
            recording.add(
                kernels.attend, qkv, self.turns, layer.query_norm, layer.key_norm, eps, scale, self.group,
                self.prompt_length, self.cache, self.made, prompt_keys, prompt_values, prompt_keys.shape[2], own_keys,
                own_values, own_keys.shape[2], mixed,
            )  # fmt: skip
            self._record_product(recording, layer.attention_out, mixed, x, add=True)
            recording.add(kernels.norm, x, layer.mlp_norm, eps, hidden, normed)
            self._record_product(recording, layer.gate_up, normed, gate_up)
            recording.add(kernels.gate, gate_up, gated.shape[1], gated)
            self._record_product(recording, layer.down, gated, x, add=True)
        recording.add(kernels.norm, x, weights.final_norm, eps, hidden, normed)
        self._record_product(recording, weights.logits, normed, logits)
        if self.sampling.plain:
            recording.add(kernels.draw, *self._drawing(logits, 0, None))
        else:
            seen = logits[:, : weights.logits.rows]
            recording.add_function(lambda rows: Decoder._draw(self, seen[:rows], 0, rows))
        return recording

    def _record_product(self, recording: Recording, linear: Linear, x: Tensor, out: Tensor, add: bool = False) -> None:
        if linear.layout == "panels":
            added = out if add else None
            recording.add(self.kernels.linear, x, x.shape[1], linear.weight, linear.bias, added, out, out.shape[1])
            return

        def product(rows: int) -> None:
            made = linear(x[:rows])
            if add:
                out[:rows] += made
            else:
                out[:rows, : made.shape[1]] = made

        recording.add_function(product)

    def _drawing(self, logits: Tensor, first: int, source: Tensor | None) -> tuple[Any, ...]:
        """The arguments of a draw for the slots from `first` on, but for their number."""
        sampling = self.sampling
        uniform = None if sampling.greedy else self.uniform[first:]
        return (
            logits, source, logits.stride(0), self.weights.logits.rows,
            1 if sampling.greedy else 1 / sampling.temperature, uniform, self.eos, len(self.eos), self.new_tokens,
            self.tokens.shape[1], self.tokens[first:], self.logprobs[first:], self.made[first:], self.done[first:],
        )  # fmt: skip


def _padded(weights: PolicyWeights, tokens: int) -> int:
    """Whole blocks of the cache."""
    assert weights.kernels is not None
    block = weights.kernels.block
    return -(-tokens // block) * block
