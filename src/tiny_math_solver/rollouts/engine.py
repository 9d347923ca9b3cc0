"""Rollouts by an inference engine of our own: each group prefilled once, finished completions replaced at once.

This file owns the copy of the weights, the decoders and their memory; scheduler.py says what runs when, and the
decoders compute.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts.decoder import Decoder, length_bucket
from tiny_math_solver.rollouts.kernel_decoder import KernelDecoder
from tiny_math_solver.rollouts.policy_weights import PolicyWeights
from tiny_math_solver.rollouts.rollout import Rollout, eos_ids
from tiny_math_solver.rollouts.sampling import Sampling, uniforms
from tiny_math_solver.rollouts.scheduler import PREFILL_TOKENS, Scheduler, requests_of
from tiny_math_solver.rollouts.torch_decoder import TorchDecoder
from tiny_math_solver.support.batch_size import BatchSize
from tiny_math_solver.support.device import free_gpu_memory
from tiny_math_solver.support.out_of_memory import retry_on_oom

CPU_CACHE_BYTES = 4 << 30  # keys and values of all slots
GPU_CACHE_SHARE = 0.6  # the same, of the memory that is free


class EngineRollouts:
    """Decode with a merged copy of the policy, which is brought up to date before every call.

    One process, one device; at most `batch_size` completions are decoded at once, fewer where memory is short.
    `native=False` leaves out the compiled kernels. Raises UnsupportedModelError for a model the engine cannot run.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int | BatchSize = 128, native: bool = True):
        self.model, self.tokenizer = model, tokenizer
        self.batch_size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
        self.weights = PolicyWeights(model, native)
        self.eos_ids = eos_ids(model, tokenizer)
        self._decoders: list[tuple[int, Decoder]] = []  # one per kind of sampling, with the slots that were asked for
        self._layout = self.weights.layout  # of the weights that the decoders were made for

    @property
    def backend(self) -> str:
        """A description of what computes the steps, for messages."""
        if self.weights.device.type == "cuda":
            return "CUDA graphs"
        if self.weights.device.type == "mps":
            return "torch on MPS"
        reason = self.weights.no_kernels_reason
        return f"torch alone: {reason}" if reason else "kernels for this processor"

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Prompt], samples: int, sampling: Sampling, *, logprobs: bool = True
    ) -> list[Rollout]:
        """`samples` completions of every prompt, in the order of the prompts; log-probabilities cost nothing extra."""
        self._sync()
        if not prompts or not sampling.max_new_tokens:
            return [Rollout(prompt.ids, [], False, []) for prompt in prompts for _ in range(samples)]
        return retry_on_oom(lambda: self._generate(prompts, samples, sampling), self._halve_batch)

    def _generate(self, prompts: Sequence[Prompt], samples: int, sampling: Sampling) -> list[Rollout]:
        requests = requests_of(prompts, samples)
        requests.sort(key=lambda r: -len(r.prompt.ids))  # prompts of similar length are prefilled together
        decoder = self._decoder(len(requests), len(requests[0].prompt.ids), sampling)
        Scheduler(decoder, requests, self.eos_ids, sampling).run()
        return [r.rollout for r in sorted(requests, key=lambda r: r.index)]  # type: ignore[misc]

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[list[int]]:
        """One completion's token ids as they are generated, the end token included."""
        decoder, read = self._begin(prompt_ids, sampling), 0
        # whoever generates between two pieces gets another decoder
        lent = self._decoders.pop(next(i for i, (_, known) in enumerate(self._decoders) if known is decoder))
        layout = self._layout
        try:
            while True:
                length, done = int(decoder.generated[0]), bool(decoder.done[0])
                yield decoder.tokens[0, read:length].tolist()
                if done:
                    return
                read = length
                if layout != self.weights.layout:
                    raise RuntimeError("the model got another form while a completion was under way")
                with torch.inference_mode():
                    decoder.step(1)
        finally:
            if layout == self._layout and not any(known.sampling == decoder.sampling for _, known in self._decoders):
                self._decoders.append(lent)

    @torch.inference_mode()
    def _begin(self, prompt_ids: list[int], sampling: Sampling) -> Decoder:
        self._sync()
        decoder, length = self._decoder(1, len(prompt_ids), sampling), sampling.max_new_tokens
        uniform = None if sampling.greedy else torch.from_numpy(uniforms(prompt_ids, 0, sampling.seed, length))[None]
        decoder.admit(0, [prompt_ids], [0], uniform)
        return decoder

    def _sync(self) -> None:
        self.weights.sync()
        if self._layout != self.weights.layout:
            self._layout = self.weights.layout
            self._decoders.clear()

    # -- Decoders and their memory --------------------------------------------------------------------------------

    def cache_bytes(self, rows: int, prompt_tokens: int, sampling: Sampling) -> int:
        """Bytes of keys and values of `rows` completions with prompts of at most `prompt_tokens` tokens."""
        one, slots = self._slot_bytes(length_bucket(prompt_tokens), sampling), min(rows, self.batch_size.value)
        return one * max(1, min(slots, self._cache_budget() // one))

    @torch.inference_mode()
    def try_longest(self, rows: int, prompt_tokens: int, sampling: Sampling, steps: int = 4) -> None:
        """Prefill `rows` prompts of the greatest length and take a few steps, to see whether memory suffices."""

        def attempt() -> None:
            decoder = self._decoder(rows, prompt_tokens, sampling)
            prompts = [[(row + token) % 97 for token in range(prompt_tokens)] for row in range(decoder.slots)]
            part = max(1, PREFILL_TOKENS // prompt_tokens)
            for first in range(0, decoder.slots, part):
                chosen = prompts[first : first + part]
                uniform = None if sampling.greedy else torch.full((len(chosen), sampling.max_new_tokens), 0.5)
                decoder.admit(first, chosen, list(range(len(chosen))), uniform)
            for _ in range(min(steps, sampling.max_new_tokens - 1)):
                decoder.step(decoder.slots)

        retry_on_oom(attempt, self._halve_batch)

    def _halve_batch(self) -> bool:
        widest = max((decoder.slots for _, decoder in self._decoders), default=None)
        if not self.batch_size.halve(at_most=widest):
            return False
        self._decoders.clear()
        return True

    def _decoder(self, rows: int, prompt_tokens: int, sampling: Sampling) -> Decoder:
        """The decoder for this kind of sampling; a larger one replaces it where it is too small."""
        sampling, slots = replace(sampling, seed=0), min(rows, self.batch_size.value)
        prompt_tokens = length_bucket(prompt_tokens)
        for index, (wanted, known) in enumerate(self._decoders):
            if known.sampling == sampling and known.eos.tolist() == self.eos_ids:
                if wanted >= slots and known.prompt_tokens >= prompt_tokens:
                    return known
                slots, prompt_tokens = max(slots, wanted), max(prompt_tokens, known.prompt_tokens)
                del self._decoders[index], known  # freed before the larger one is made
                break
        affordable = self._cache_budget() // self._slot_bytes(prompt_tokens, sampling)
        decoder = self._decoder_class(
            self.weights, sampling, self.eos_ids, max(1, min(slots, affordable)), prompt_tokens
        )
        self._decoders.append((slots, decoder))
        return decoder

    @property
    def _decoder_class(self) -> type[TorchDecoder | KernelDecoder]:
        return TorchDecoder if self.weights.kernels is None else KernelDecoder

    def _slot_bytes(self, prompt_tokens: int, sampling: Sampling) -> int:
        elements = self._decoder_class.elements_per_slot(self.weights, prompt_tokens, sampling.max_new_tokens)
        return elements * self.weights.dtype.itemsize

    def _cache_budget(self) -> int:
        """Bytes that the keys and values of all slots may take."""
        free = free_gpu_memory(self.weights.device.type)
        return CPU_CACHE_BYTES if free is None else int(GPU_CACHE_SHARE * free)
