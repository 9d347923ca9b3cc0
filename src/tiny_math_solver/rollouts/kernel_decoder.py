"""Decoding on a CPU with kernels of our own: a step is a list of calls, recorded once and replayed."""

from typing import Any

import torch
from torch import Tensor

from tiny_math_solver.kernels import Kernels, Recording
from tiny_math_solver.policy.linear import Linear
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.rollouts.decoder import Decoder
from tiny_math_solver.rollouts.sampling import Sampling
from tiny_math_solver.rollouts.shared_prompts import SharedPromptDecoder


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
        weights, kernels = self.weights, self.kernels
        hidden, eps = self.embedding.shape[1], weights.eps
        scale = weights.head_dim**-0.5
        recording = Recording(self.slots, kernels.check)

        def buffer(columns: int) -> Tensor:
            return torch.zeros(self.slots, columns, dtype=weights.dtype)

        x, normed = buffer(hidden), buffer(hidden)
        attention_output = buffer(weights.heads * weights.head_dim)
        qkv = buffer((weights.heads + 2 * weights.kv_heads) * weights.head_dim)
        gate_up, gated = buffer(weights.layers[0].gate_up.rows), buffer(weights.layers[0].gate_up.rows // 2)
        logits = buffer(weights.logits.columns)

        columns = self.tokens.shape[1]
        recording.add(kernels.embed, self.tokens, columns, self.generated, self.embedding, hidden, x)
        for layer, (prompt_keys, prompt_values), (keys, values) in zip(
            weights.layers, self.prompt_cache, self.completion_cache, strict=True
        ):
            recording.add(kernels.rms_norm, x, layer.attention_norm, eps, hidden, normed)
            self._record_product(recording, layer.query_key_value, normed, qkv)
            recording.add(
                kernels.decode_attention, qkv, self.rope_table, *(layer.head_norms or (None, None)), eps, scale,
                self.prompt_place, self.prompt_length, self.completion_place, self.generated, prompt_keys,
                prompt_values, prompt_keys.shape[2], keys, values, keys.shape[2], attention_output,
            )  # fmt: skip
            self._record_product(recording, layer.attention_out, attention_output, x, add=True)
            recording.add(kernels.rms_norm, x, layer.mlp_norm, eps, hidden, normed)
            self._record_product(recording, layer.gate_up, normed, gate_up)
            recording.add(kernels.swiglu, gate_up, gated.shape[1], gated)
            self._record_product(recording, layer.down, gated, x, add=True)
        recording.add(kernels.rms_norm, x, weights.final_norm, eps, hidden, normed)
        self._record_product(recording, weights.logits, normed, logits)
        if self.sampling.plain:
            recording.add(kernels.draw, *self._draw_arguments(logits, 0, None))
        else:
            unpadded = logits[:, : weights.logits.rows]
            recording.add_function(lambda rows: Decoder._draw(self, unpadded[:rows], 0, rows))
        return recording

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
