"""Decoding on a CPU with kernels of our own: a step is a list of calls, recorded once and replayed."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tiny_math_solver.kernels import Kernels, Recording
from tiny_math_solver.policy.architecture import cap_
from tiny_math_solver.policy.linear import Linear
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.rollouts.decoder import Decoder
from tiny_math_solver.rollouts.sampling import Sampling
from tiny_math_solver.rollouts.shared_prompts import SharedPromptDecoder


class _Buffers(NamedTuple):
    """What the calls of a step hand on, a row for each slot."""

    x: Tensor  # the residual stream
    normed: Tensor
    result: Tensor  # before its norm
    qkv: Tensor
    attention: Tensor
    gate_up: Tensor
    gated: Tensor
    logits: Tensor


class KernelDecoder(SharedPromptDecoder):
    """Keys are stored in blocks `[D, block]` of several tokens, so that a query meets a whole block at once; values are
    stored token by token.
    """

    def __init__(self, weights: PolicyWeights, sampling: Sampling, eos_ids: list[int], slots: int, prompt_tokens: int):
        super().__init__(weights, sampling, eos_ids, slots, prompt_tokens)
        assert weights.kernels is not None
        self.kernels: Kernels = weights.kernels
        self.recording = self._record()

    @staticmethod
    def capacity(weights: PolicyWeights, tokens: int) -> int:
        assert weights.kernels is not None
        block = weights.kernels.block
        return -(-tokens // block) * block

    def _advance(self, rows: int) -> None:
        self.recording.replay(rows)

    def _record_anew(self) -> None:
        self.recording = self._record()

    def _cache_prompts(self, layer: int, qkv: Tensor, starts: Tensor, lengths: Tensor, places: Tensor) -> None:
        keys, values = self.prompt_cache[layer]
        self.kernels.cache_prompts(len(places), qkv, starts, lengths, places, keys, values, keys.shape[2])

    def _draw(self, logits: Tensor, first: int, last: int, logits_row: Tensor | None = None) -> None:
        if not self.sampling.plain:
            return super()._draw(logits, first, last, logits_row)
        self.kernels.draw(last - first, *self._draw_arguments(logits.contiguous(), first, logits_row))

    # -- Recording a step -----------------------------------------------------------------------------------------

    def _record(self) -> Recording:
        """Every call of a step, for any number of rows up to that of the slots."""
        weights, kernels, buffers = self.weights, self.kernels, self._buffers()
        x, normed, logits, described = buffers.x, buffers.normed, buffers.logits, weights.architecture
        recording = Recording(self.slots, kernels.check)
        recording.add(kernels.embed, self.tokens, self.tokens.shape[1], self.generated, self.embedding, x.shape[1], x)
        if (scale := weights.embedding_scale) != 1:
            recording.add_function(lambda rows: x[:rows].mul_(scale))
        for index in range(len(weights.layers)):
            self._record_layer(recording, index, buffers)
        recording.add(kernels.rms_norm, x, weights.final_norm, weights.eps, x.shape[1], normed)
        self._record_product(recording, weights.logits, normed, logits)
        if cap := described.logits_cap:
            recording.add_function(lambda rows: cap_(logits[:rows], cap))
        if self.sampling.plain:
            recording.add(kernels.draw, *self._draw_arguments(logits, 0, None))
        else:
            unpadded = logits[:, : weights.logits.rows]
            recording.add_function(lambda rows: Decoder._draw(self, unpadded[:rows], 0, rows))
        return recording

    def _buffers(self) -> _Buffers:
        weights = self.weights

        def buffer(columns: int) -> Tensor:
            return torch.zeros(self.slots, columns, dtype=weights.dtype)

        hidden, gate_up = self.embedding.shape[1], weights.layers[0].gate_up.rows
        return _Buffers(
            buffer(hidden), buffer(hidden), buffer(hidden),
            buffer((weights.heads + 2 * weights.kv_heads) * weights.head_dim),
            buffer(weights.heads * weights.head_dim), buffer(gate_up), buffer(gate_up // 2),
            buffer(weights.logits.columns),
        )  # fmt: skip

    def _record_layer(self, recording: Recording, index: int, buffers: _Buffers) -> None:
        weights, kernels, layer, x = self.weights, self.kernels, self.weights.layers[index], buffers.x
        (prompt_keys, prompt_values), (keys, values) = self.prompt_cache[index], self.completion_cache[index]
        described, normed, hidden, eps = weights.architecture, buffers.normed, x.shape[1], weights.eps

        def add_product(linear: Linear, inputs: Tensor, norm: Tensor | None) -> None:
            """Record `x +=` a projection's result, or its norm."""
            if norm is None:
                self._record_product(recording, linear, inputs, x, add=True)
                return
            self._record_product(recording, linear, inputs, buffers.result)
            recording.add(kernels.rms_norm, buffers.result, norm, eps, hidden, normed)
            recording.add_function(lambda rows: x[:rows].add_(normed[:rows]))

        recording.add(kernels.rms_norm, x, layer.attention_norm, eps, hidden, normed)
        self._record_product(recording, layer.query_key_value, normed, buffers.qkv)
        recording.add(
            kernels.decode_attention, buffers.qkv, self.rope_tables[layer.rotation],
            *(layer.head_norms or (None, None)), eps, described.query_scale, *layer.manner, self.prompt_place,
            self.prompt_length, self.completion_place, self.generated, prompt_keys, prompt_values,
            prompt_keys.shape[2], keys, values, keys.shape[2], buffers.attention,
        )  # fmt: skip
        add_product(layer.attention_out, buffers.attention, layer.attention_out_norm)
        recording.add(kernels.rms_norm, x, layer.mlp_norm, eps, hidden, normed)
        self._record_product(recording, layer.gate_up, normed, buffers.gate_up)
        recording.add(kernels.gated, buffers.gate_up, buffers.gated.shape[1], *described.gate.activation, buffers.gated)
        add_product(layer.down, buffers.gated, layer.mlp_out_norm)

    def _record_product(self, recording: Recording, linear: Linear, x: Tensor, out: Tensor, add: bool = False) -> None:
        if linear.kernel:
            added = out if add else None
            recording.add(linear.kernel, x, x.shape[1], linear.weight, linear.bias, added, out, out.shape[1])
            return

        def product(rows: int) -> None:
            result = linear(x[:rows])
            if add:
                out[:rows] += result
            else:
                out[:rows, : result.shape[1]] = result

        recording.add_function(product)

    def _draw_arguments(self, logits: Tensor, first: int, logits_row: Tensor | None) -> tuple[Any, ...]:
        """The arguments of a draw from contiguous logits for the slots from `first` on, after the number of rows."""
        sampling = self.sampling
        uniform = None if sampling.greedy else self.uniform[first:]
        return (
            logits, logits_row, logits.shape[1], self.weights.logits.rows,
            1 if sampling.greedy else 1 / sampling.temperature, uniform, self.eos, len(self.eos), self.new_tokens,
            self.tokens.shape[1], self.tokens[first:], self.logprobs[first:], self.generated[first:], self.done[first:],
        )  # fmt: skip
