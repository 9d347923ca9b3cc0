"""What the decoders with kernels share: a group's samples read one cache of their prompt, and prompts are ragged."""

from abc import abstractmethod

import torch
from torch import Tensor

from tiny_math_solver.policy.forward import Forward, LayerState
from tiny_math_solver.policy.ragged import lay_out
from tiny_math_solver.policy.weights import PolicyWeights, rms_norm
from tiny_math_solver.rollouts.decoder import Decoder
from tiny_math_solver.rollouts.sampling import Sampling


class SharedPromptDecoder(Decoder):
    """Two caches `[layers, 2, slots, KV, T, D]`, of prompts and of completions.

    A slot's prompt has place `prompt_place[slot]` in the former, its completion `completion_place[slot]` in the latter;
    a moved completion leaves its cache where it is.
    """

    def __init__(self, weights: PolicyWeights, sampling: Sampling, eos_ids: list[int], slots: int, prompt_tokens: int):
        super().__init__(weights, sampling, eos_ids, slots, prompt_tokens)
        self.prompt_cache = self._cache(self.capacity(weights, prompt_tokens))
        self.completion_cache = self._cache(self.capacity(weights, self.new_tokens))
        self.prompt_place = torch.zeros(slots, dtype=torch.long, device=weights.device)
        self.completion_place = torch.arange(slots, device=weights.device)
        self.rope_tables = weights.rope_tables(self.longest)
        self._held = [0] * slots  # `prompt_place`, as the host knows it

    def _cache(self, tokens: int) -> Tensor:
        weights = self.weights
        shape = (len(weights.layers), 2, self.slots, weights.kv_heads, tokens, weights.head_dim)
        return torch.zeros(shape, dtype=weights.dtype, device=weights.device)

    @staticmethod
    def capacity(weights: PolicyWeights, tokens: int) -> int:
        """The places that a cache for `tokens` tokens has."""
        return tokens

    @classmethod
    def elements_per_slot(cls, weights: PolicyWeights, prompt_tokens: int, new_tokens: int) -> int:
        tokens = cls.capacity(weights, prompt_tokens) + cls.capacity(weights, new_tokens)
        return 2 * len(weights.layers) * weights.kv_heads * weights.head_dim * tokens

    @abstractmethod
    def _cache_prompts(self, layer: int, qkv: Tensor, starts: Tensor, lengths: Tensor, places: Tensor) -> None:
        """Store keys and values of prompts, given by their first rows in the rotated `qkv`, at `places` `[P]`."""

    def _prefill(self, prompts: list[list[int]], first: int, prompt_index: Tensor) -> Tensor:
        device, taken = self.weights.device, set(self._held[:first])
        free = [place for place in range(self.slots) if place not in taken][: len(prompts)]
        slots = range(first, first + len(prompt_index))
        for slot, index in zip(slots, prompt_index.tolist(), strict=True):
            self._held[slot] = free[index]
        places = torch.tensor(free, device=device)
        self.prompt_place[first : slots.stop] = places[prompt_index]
        tokens = lay_out([(prompt, []) for prompt in prompts])
        starts, lengths = tokens.prompt_starts.to(device), tokens.prompt_lengths.to(device)

        def keep(index: int, state: LayerState) -> None:
            self._cache_prompts(index, state.qkv, starts, lengths, places)

        x = Forward(self.weights, tokens.to(device), self.rope_tables).run(keep)[starts + lengths - 1]
        return rms_norm(x, self.weights.final_norm, self.weights.eps)

    def move(self, targets: list[int], sources: list[int]) -> None:
        super().move(targets, sources)
        for target, source in zip(targets, sources, strict=True):
            self._held[target] = self._held[source]
        to, of = (torch.tensor(slots, device=self.weights.device) for slots in (targets + sources, sources + targets))
        self.completion_place[to] = self.completion_place[of]
        self.prompt_place[to[: len(targets)]] = self.prompt_place[of[: len(targets)]]

    def _take_rotation(self) -> None:
        self.rope_tables.copy_(self.weights.rope_tables(self.longest))
