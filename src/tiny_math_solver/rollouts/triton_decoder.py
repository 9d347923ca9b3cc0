"""Decoding on a GPU with kernels in Triton; each step is a CUDA graph."""

from typing import Any

import torch
from torch import Tensor

from tiny_math_solver.kernels.gpu import decode
from tiny_math_solver.policy.linear import Linear
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.rollouts.graphs import GPU_SYNC_EVERY, StepGraphs
from tiny_math_solver.rollouts.sampling import Sampling
from tiny_math_solver.rollouts.shared_prompts import SharedPromptDecoder


class TritonDecoder(SharedPromptDecoder):
    """No shape of a step depends on the lengths of the completions, so there is one graph for each number of rows."""

    sync_every = GPU_SYNC_EVERY

    def __init__(self, weights: PolicyWeights, sampling: Sampling, eos_ids: list[int], slots: int, prompt_tokens: int):
        super().__init__(weights, sampling, eos_ids, slots, prompt_tokens)
        self.heads = (weights.heads, weights.kv_heads, weights.head_dim)
        self.places = decode.Places(self.prompt_place, self.prompt_length, self.completion_place, self.generated)
        self.graphs = StepGraphs((self.generated, self.done, self.tokens, self.logprobs))

    def _advance(self, rows: int) -> None:
        self.graphs.run(self._step, rows, self.slots)

    def _record_anew(self) -> None:
        self.graphs.clear()

    def _step(self, rows: int) -> None:
        weights, operators = self.weights, self.weights.operators
        assert operators is not None
        eps, described = weights.eps, weights.architecture
        like: Any = {"dtype": weights.dtype, "device": weights.device}
        x = torch.empty(rows, self.embedding.shape[1], **like)
        normed = torch.empty_like(x)
        attention = torch.empty(rows, weights.heads * weights.head_dim, **like)
        gated = torch.empty(rows, weights.layers[0].gate_up.rows // 2, **like)
        decode.embed(self.tokens, self.generated, self.embedding, x)
        if weights.embedding_scale != 1:
            x *= weights.embedding_scale
        for layer, prompts, completions in zip(weights.layers, self.prompt_cache, self.completion_cache, strict=True):
            operators.rms_norm(x, layer.attention_norm, eps, normed)
            qkv = layer.query_key_value.product(normed)
            decode.decode_attention(
                qkv, self.rope_tables[layer.rotation], layer.head_norms, eps, described.query_scale, layer.manner,
                self.places, prompts, completions, attention, self.heads,
            )  # fmt: skip
            self._add_product(layer.attention_out, attention, layer.attention_out_norm, x)
            operators.rms_norm(x, layer.mlp_norm, eps, normed)
            operators.gated(layer.gate_up.product(normed), described.gate.activation, gated)
            self._add_product(layer.down, gated, layer.mlp_out_norm, x)
        operators.rms_norm(x, weights.final_norm, eps, normed)
        self._draw(self._logits(normed), 0, rows)

    def _add_product(self, linear: Linear, inputs: Tensor, norm: Tensor | None, x: Tensor) -> None:
        """`x +=` a projection's result, or its norm."""
        if norm is None:
            linear.add_product(inputs, x)
            return
        result = linear.product(inputs)
        operators, normed = self.weights.operators, torch.empty_like(x)
        assert operators is not None
        operators.rms_norm(result, norm, self.weights.eps, normed)
        x += normed

    def _cache_prompts(self, layer: int, qkv: Tensor, starts: Tensor, lengths: Tensor, places: Tensor) -> None:
        decode.cache_prompts(qkv, starts, lengths, places, self.prompt_cache[layer], self.heads)

    def _draw(self, logits: Tensor, first: int, last: int, logits_row: Tensor | None = None) -> None:
        if not self.sampling.plain:
            return super()._draw(logits, first, last, logits_row)
        slots = slice(first, last)
        decode.draw(
            logits, logits_row, self.weights.logits.rows, self.sampling.temperature, self.uniform[slots], self.eos,
            self.new_tokens, self.tokens[slots], self.logprobs[slots], self.generated[slots], self.done[slots],
        )  # fmt: skip
