"""Decoding on a CPU with kernels of our own: a step is a list of calls, recorded once and replayed."""

from typing import Any

import torch
from torch import Tensor

from tiny_math_solver.kernels import Kernels, Recording
from tiny_math_solver.rollouts.decoder import Decoder
from tiny_math_solver.rollouts.linear import Linear
from tiny_math_solver.rollouts.policy_weights import PolicyWeights
from tiny_math_solver.rollouts.sampling import Sampling


class KernelDecoder(Decoder):
    """Completions of a group share the cache of their prompt; a moved completion leaves its own cache where it is.

    Each cache is `[layers, 2, slots, KV, T, D]`. Keys are stored in blocks `[D, block]` of several tokens, so that a
    query meets a whole block at once; values are stored token by token.
    """

    def __init__(self, weights: PolicyWeights, sampling: Sampling, eos_ids: list[int], slots: int, prompt_tokens: int):
        super().__init__(weights, sampling, eos_ids, slots, prompt_tokens)
        assert weights.kernels is not None
        self.kernels: Kernels = weights.kernels
        layers, heads, dim, dtype = len(weights.layers), weights.kv_heads, weights.head_dim, weights.dtype
        prompt, completion = (_whole_blocks(weights, tokens) for tokens in (prompt_tokens, self.new_tokens))
        self.prompt_cache = torch.zeros(layers, 2, slots, heads, prompt, dim, dtype=dtype)
        self.completion_cache = torch.zeros(layers, 2, slots, heads, completion, dim, dtype=dtype)
        self.prompt_place = torch.zeros(slots, dtype=torch.long)  # of each slot's prompt in its cache
        self.completion_place = torch.arange(slots)  # of each slot's completion in its cache
        self.rope_table = weights.rope_table(len(self.rotary_factors))
        self.recording = self._record()

    @staticmethod
    def elements_per_slot(weights: PolicyWeights, prompt_tokens: int, new_tokens: int) -> int:
        tokens = _whole_blocks(weights, prompt_tokens) + _whole_blocks(weights, new_tokens)
        return 2 * len(weights.layers) * weights.kv_heads * weights.head_dim * tokens

    def _advance(self, rows: int) -> None:
        self.recording.replay(rows)

    def admit(self, first: int, prompts: list[list[int]], prompt_index: list[int], uniform: Tensor | None) -> None:
        taken = set(self.prompt_place[:first].tolist())
        free = [place for place in range(self.slots) if place not in taken][: len(prompts)]
        self.admitted = torch.tensor(free)  # places of the prompts that are being prefilled
        self.prompt_place[first : first + len(prompt_index)] = self.admitted[torch.tensor(prompt_index)]
        super().admit(first, prompts, prompt_index, uniform)

    def move(self, target: int, source: int) -> None:
        super().move(target, source)
        self.prompt_place[target] = self.prompt_place[source]
        self.completion_place[[target, source]] = self.completion_place[[source, target]]

    def _follow(self) -> None:
        self.rope_table.copy_(self.weights.rope_table(len(self.rope_table)))
        super()._follow()

    def _record_anew(self) -> None:
        self.recording = self._record()

    def _cache_prompts(self, layer: int, first: int, prompt_index: Tensor, key: Tensor, value: Tensor) -> None:
        key, value = key.contiguous(), value.contiguous()
        keys, values = self.prompt_cache[layer]
        self.kernels.cache_prompts(*key.shape[:2], key, value, self.admitted, keys, values, keys.shape[2])

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
                kernels.decode_attention, qkv, self.rope_table, layer.query_norm, layer.key_norm, eps, scale,
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
        if linear.layout == "panels":
            added = out if add else None
            recording.add(self.kernels.linear, x, x.shape[1], linear.weight, linear.bias, added, out, out.shape[1])
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


def _whole_blocks(weights: PolicyWeights, tokens: int) -> int:
    """`tokens` rounded up to whole blocks of the cache."""
    assert weights.kernels is not None
    block = weights.kernels.block
    return -(-tokens // block) * block
