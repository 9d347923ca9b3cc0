"""Decoding in torch alone, on any device, where there are no kernels of our own; on a CUDA GPU each step is a graph."""

import torch
from torch import Tensor
from torch.nn import functional

from tiny_math_solver.policy.architecture import cap_
from tiny_math_solver.policy.weights import Layer, PolicyWeights, rms_norm
from tiny_math_solver.rollouts.decoder import Decoder, length_bucket
from tiny_math_solver.rollouts.graphs import GPU_SYNC_EVERY, StepGraphs
from tiny_math_solver.rollouts.sampling import Sampling


class TorchDecoder(Decoder):
    """One cache `[layers, 2, slots, KV, T, D]` with the keys and values of each slot's prompt and completion.

    The shapes of a step depend on two numbers, both rounded up: rows, and tokens to attend to. With CUDA the step of
    each such pair is captured once as a CUDA graph and replayed.
    """

    def __init__(self, weights: PolicyWeights, sampling: Sampling, eos_ids: list[int], slots: int, prompt_tokens: int):
        super().__init__(weights, sampling, eos_ids, slots, prompt_tokens)
        self.capacity = length_bucket(prompt_tokens + self.new_tokens)
        shape = (len(weights.layers), 2, slots, weights.kv_heads, self.capacity, weights.head_dim)
        # masked places are read too, so they must not hold nan
        self.cache = torch.zeros(shape, dtype=weights.dtype, device=weights.device)
        self.rotary_factors = weights.rotary_factors(self.longest)
        self.slot_index = torch.arange(slots, device=weights.device)
        self.positions = torch.arange(self.capacity, device=weights.device)
        # a window that no row outgrows is none
        self.windows = [w if (w := layer.manner.window) < self.longest else 0 for layer in weights.layers]
        self.length_bound = [0] * slots  # tokens in each slot at most: the host does not wait for the exact number
        self.graphs = StepGraphs((self.generated, self.done, self.tokens, self.logprobs))
        if weights.device.type != "cpu":
            self.sync_every = GPU_SYNC_EVERY

    @staticmethod
    def elements_per_slot(weights: PolicyWeights, prompt_tokens: int, new_tokens: int) -> int:
        tokens = length_bucket(prompt_tokens + new_tokens)
        return 2 * len(weights.layers) * weights.kv_heads * weights.head_dim * tokens

    def admit(self, first: int, prompts: list[list[int]], prompt_index: list[int], uniform: Tensor | None) -> None:
        self.length_bound[first : first + len(prompt_index)] = [len(prompts[index]) for index in prompt_index]
        super().admit(first, prompts, prompt_index, uniform)

    def move(self, targets: list[int], sources: list[int]) -> None:
        super().move(targets, sources)
        for target, source in zip(targets, sources, strict=True):
            self.length_bound[target] = tokens = self.length_bound[source]
            self.cache[:, :, target, :, :tokens] = self.cache[:, :, source, :, :tokens]

    def _advance(self, rows: int) -> None:
        limit = self.prompt_tokens + self.new_tokens
        self.length_bound[:rows] = [min(tokens + 1, limit) for tokens in self.length_bound[:rows]]
        tokens = length_bucket(max(self.length_bound[:rows]))
        self.graphs.run(self._step, rows, self.slots, tokens)

    def _record_anew(self) -> None:
        self.graphs.clear()

    def _take_rotation(self) -> None:
        self.rotary_factors.copy_(self.weights.rotary_factors(self.longest))

    def _step(self, rows: int, tokens: int) -> None:
        """One token for each of `rows` slots, none of which holds more than `tokens` tokens."""
        weights, generated, slots = self.weights, self.generated[:rows], self.slot_index[:rows]
        position = self.prompt_length[:rows] + generated - 1  # of the last token drawn
        masks = {window: self._attention_mask(position, tokens, window) for window in set(self.windows)}
        factors = self.rotary_factors[:, position]
        x = weights.embed(self.tokens[:rows].gather(1, generated.unsqueeze(1) - 1)[:, 0], self.embedding)
        for layer, window, (keys, values) in zip(weights.layers, self.windows, self.cache, strict=True):
            query, key, value = self._project(layer, x, factors[layer.rotation])
            keys[slots, :, position], values[slots, :, position] = key, value
            past_keys, past_values = (part[:rows, :, :tokens].flatten(0, 1) for part in (keys, values))
            query = query.reshape(rows * weights.kv_heads, -1, weights.head_dim)  # [B·KV, H/KV, D]
            probabilities = self._scores(query, past_keys, masks[window], layer.manner.cap).softmax(-1, torch.float32)
            attention_output = torch.bmm(probabilities.to(query.dtype), past_values)
            x = self._after_attention(layer, x, attention_output.view(rows, -1))
        hidden = rms_norm(x, weights.final_norm, weights.eps)
        self._draw(self._logits(hidden), 0, rows)

    def _scores(self, query: Tensor, keys: Tensor, mask: Tensor, cap: float) -> Tensor:
        """Capped and masked scores `[…, queries, T]` of queries, scaled before, with keys `[…, T, D]`."""
        if cap:
            return cap_(torch.matmul(query, keys.transpose(-1, -2)), cap).add_(mask)
        return torch.baddbmm(mask, query, keys.transpose(1, 2))

    def _attention_mask(self, position: Tensor, tokens: int, window: int) -> Tensor:
        """`[B·KV, 1, T]`: -inf behind each row's position, and before its window if there is one; 0 elsewhere."""
        masked = self.positions[:tokens] > position.unsqueeze(1)
        if window:
            masked |= self.positions[:tokens] <= position.unsqueeze(1) - window
        mask = torch.zeros(masked.shape, dtype=self.weights.dtype, device=masked.device)
        return mask.masked_fill_(masked, -torch.inf).repeat_interleave(self.weights.kv_heads, 0).unsqueeze(1)

    def _prefill(self, prompts: list[list[int]], first: int, prompt_index: Tensor) -> Tensor:
        weights, longest = self.weights, max(map(len, prompts))
        # padding on the right, where causal attention does not look
        ids = torch.tensor([p + [0] * (longest - len(p)) for p in prompts], device=weights.device)
        x, factors = weights.embed(ids, self.embedding), self.rotary_factors[:, :longest]
        slots = slice(first, first + len(prompt_index))
        for layer, window, cache in zip(weights.layers, self.windows, self.cache, strict=True):
            query, key, value = (part.transpose(1, 2) for part in self._project(layer, x, factors[layer.rotation]))
            for part, held in zip((key, value), cache, strict=True):
                held[slots, :, :longest] = part[prompt_index]
            attention_output = self._prompt_attention(query, key, value, window, layer.manner.cap)
            x = self._after_attention(layer, x, attention_output.transpose(1, 2).flatten(2))
        last = x[torch.arange(len(prompts)), [len(prompt) - 1 for prompt in prompts]]
        return rms_norm(last, weights.final_norm, weights.eps)

    def _prompt_attention(self, query: Tensor, key: Tensor, value: Tensor, window: int, cap: float) -> Tensor:
        """Causal attention `[P, H, T, D]` of queries, scaled before, within a window if there is one."""
        longest = query.shape[2]
        if not cap and not 0 < window < longest:
            return functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=1.0, enable_gqa=True
            )
        mask = self._attention_mask(self.positions[:longest], longest, window)[:: self.weights.kv_heads, 0]
        if not cap:
            return functional.scaled_dot_product_attention(query, key, value, mask, scale=1.0, enable_gqa=True)
        grouped = query.unflatten(1, (self.weights.kv_heads, -1))  # [P, KV, H/KV, T, D]
        probabilities = self._scores(grouped, key.unsqueeze(2), mask, cap).softmax(-1, torch.float32)
        return torch.matmul(probabilities.to(query.dtype), value.unsqueeze(2)).flatten(1, 2)

    def _project(self, layer: Layer, x: Tensor, rotary_factors: Tensor) -> tuple[Tensor, ...]:
        """Queries `[…, H, D]`, scaled and rotated, keys `[…, KV, D]`, rotated, and values `[…, KV, D]`."""
        weights, heads, kv = self.weights, self.weights.heads, self.weights.kv_heads
        normed = rms_norm(x, layer.attention_norm, weights.eps)
        joint = layer.query_key_value(normed).unflatten(-1, (-1, weights.head_dim))
        if norms := layer.head_norms:
            for part, norm in zip((slice(heads), slice(heads, heads + kv)), norms, strict=True):
                joint[..., part, :] = rms_norm(joint[..., part, :], norm, weights.eps)
        query_key = joint.narrow(-2, 0, heads + kv)
        rotated = query_key.float()
        torch.view_as_complex(rotated.unflatten(-1, (-1, 2))).mul_(rotary_factors)
        if rotated.dtype != query_key.dtype:
            query_key.copy_(rotated)
        return joint.split((heads, kv, kv), -2)

    def _after_attention(self, layer: Layer, x: Tensor, attention_output: Tensor) -> Tensor:
        """The rest of a layer: output projection, MLP and both residual connections."""
        x = x + self._normed(layer.attention_out(attention_output), layer.attention_out_norm)
        gate, up = layer.gate_up(rms_norm(x, layer.mlp_norm, self.weights.eps)).chunk(2, -1)
        # activations are not vectorised for tensors with gaps
        gated = self.weights.architecture.gate.function(gate.contiguous()).mul_(up)
        return x + self._normed(layer.down(gated), layer.mlp_out_norm)

    def _normed(self, x: Tensor, norm: Tensor | None) -> Tensor:
        return x if norm is None else rms_norm(x, norm, self.weights.eps)
