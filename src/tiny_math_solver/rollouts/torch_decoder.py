"""Decoding in torch, on any device; on a CUDA GPU each step is a graph."""

import torch
from torch import Tensor
from torch.nn import functional

from tiny_math_solver.rollouts.decoder import Decoder, length_bucket
from tiny_math_solver.rollouts.policy_weights import PolicyWeights
from tiny_math_solver.rollouts.sampling import Sampling

GRAPH_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # batch sizes of CUDA graphs
GPU_SYNC_EVERY = 8


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
        self.slot_index = torch.arange(slots, device=weights.device)
        self.positions = torch.arange(self.capacity, device=weights.device)
        self.length_bound = [0] * slots  # tokens in each slot at most: the host does not wait for the exact number
        self.graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        if weights.device.type != "cpu":
            self.sync_every = GPU_SYNC_EVERY

    @staticmethod
    def elements_per_slot(weights: PolicyWeights, prompt_tokens: int, new_tokens: int) -> int:
        tokens = length_bucket(prompt_tokens + new_tokens)
        return 2 * len(weights.layers) * weights.kv_heads * weights.head_dim * tokens

    def admit(self, first: int, prompts: list[list[int]], prompt_index: list[int], uniform: Tensor | None) -> None:
        self.length_bound[first : first + len(prompt_index)] = [len(prompts[index]) for index in prompt_index]
        super().admit(first, prompts, prompt_index, uniform)

    def move(self, target: int, source: int) -> None:
        super().move(target, source)
        self.length_bound[target] = tokens = self.length_bound[source]
        self.cache[:, :, target, :, :tokens] = self.cache[:, :, source, :, :tokens]

    def _advance(self, rows: int) -> None:
        limit = self.prompt_tokens + self.new_tokens
        self.length_bound[:rows] = [min(tokens + 1, limit) for tokens in self.length_bound[:rows]]
        tokens = length_bucket(max(self.length_bound[:rows]))
        if self.weights.device.type == "cuda":
            self._replay(min(next((size for size in GRAPH_ROWS if size >= rows), rows), self.slots), tokens)
        else:
            self._step(rows, tokens)

    def _record_anew(self) -> None:
        self.graphs.clear()

    def _replay(self, rows: int, tokens: int) -> None:
        graph = self.graphs.get((rows, tokens))
        if graph is None:
            graph = self.graphs[rows, tokens] = self._capture(rows, tokens)
        graph.replay()

    def _capture(self, rows: int, tokens: int) -> torch.cuda.CUDAGraph:
        state = (self.generated, self.done, self.tokens, self.logprobs)
        before = [part.clone() for part in state]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what libraries set up at their first call cannot be captured
            self._step(rows, tokens)
        torch.cuda.current_stream().wait_stream(stream)
        for part, value in zip(state, before, strict=True):
            part.copy_(value)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.graphs.values())).pool() if self.graphs else None
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self._step(rows, tokens)
        return graph

    def _step(self, rows: int, tokens: int) -> None:
        """One token for each of `rows` slots, none of which holds more than `tokens` tokens."""
        weights, generated, slots = self.weights, self.generated[:rows], self.slot_index[:rows]
        position = self.prompt_length[:rows] + generated - 1  # of the last token drawn
        mask = self._attention_mask(position, tokens)
        rotary_factors = self.rotary_factors[position]
        x = self.embedding[self.tokens[:rows].gather(1, generated.unsqueeze(1) - 1)[:, 0]]
        for layer, (keys, values) in zip(weights.layers, self.cache, strict=True):
            query, key, value = self._project(layer, x, rotary_factors)
            keys[slots, :, position], values[slots, :, position] = key, value
            past_keys, past_values = (part[:rows, :, :tokens].flatten(0, 1) for part in (keys, values))
            query = query.reshape(rows * weights.kv_heads, -1, weights.head_dim)  # [B·KV, H/KV, D]
            probabilities = torch.baddbmm(mask, query, past_keys.transpose(1, 2)).softmax(-1, torch.float32)
            attention_output = torch.bmm(probabilities.to(query.dtype), past_values)
            x = self._after_attention(layer, x, attention_output.view(rows, -1))
        hidden = functional.rms_norm(x, x.shape[-1:], weights.final_norm, weights.eps)
        self._draw(weights.logits(hidden), 0, rows)

    def _attention_mask(self, position: Tensor, tokens: int) -> Tensor:
        """`[B·KV, 1, T]`: -inf behind each row's position, 0 up to it."""
        masked = self.positions[:tokens] > position.unsqueeze(1)
        mask = torch.zeros(masked.shape, dtype=self.weights.dtype, device=masked.device)
        return mask.masked_fill_(masked, -torch.inf).repeat_interleave(self.weights.kv_heads, 0).unsqueeze(1)

    def _cache_prompts(self, layer: int, first: int, prompt_index: Tensor, key: Tensor, value: Tensor) -> None:
        for cache, part in zip(self.cache[layer], (key, value), strict=True):
            cache[first : first + len(prompt_index), :, : part.shape[1]] = part.transpose(1, 2)[prompt_index]
