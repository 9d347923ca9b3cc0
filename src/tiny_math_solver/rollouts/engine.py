"""Rollouts by an inference engine of our own: each group prefilled once, finished completions replaced at once.

This file owns the copy of the weights, the decoders and their memory; scheduler.py says what runs when, and the
decoders compute.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from tiny_math_solver.models.ends import eos_ids
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts.decoder import Decoder, length_bucket, prefill_tokens
from tiny_math_solver.rollouts.endings import Endings
from tiny_math_solver.rollouts.kernel_decoder import KernelDecoder
from tiny_math_solver.rollouts.rollout import OnDone, Rollout, refuse_unknown_ids
from tiny_math_solver.rollouts.sampling import Sampling, uniforms
from tiny_math_solver.rollouts.scheduler import Scheduler, requests_of
from tiny_math_solver.rollouts.speed import DecodeSpeed, measured
from tiny_math_solver.rollouts.torch_decoder import TorchDecoder
from tiny_math_solver.support.batch_size import BatchSize
from tiny_math_solver.support.device import free_gpu_memory, synchronize
from tiny_math_solver.support.memory import give_back
from tiny_math_solver.support.out_of_memory import retry_on_oom

CPU_CACHE_BYTES = 4 << 30  # keys and values of all slots
CPU_TRIED_PROMPTS = 4
DRAW_COPIES = 3  # of the logits, at most
SMALL_CACHE_BYTES = 1 << 28  # on a CPU a larger one is there only while it is used, and alone
GPU_CACHE_SHARE = 0.6  # the same, of the memory that is free


class EngineRollouts:
    """Decode with a merged copy of the policy, which is brought up to date before every call.

    One process, one device; at most `batch_size` completions are decoded at once, fewer where memory is short.
    `native=False` leaves out the compiled kernels. Raises UnsupportedModelError for a model the engine cannot run.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        batch_size: int | BatchSize = 128,
        native: bool = True,
        stop_strings: Sequence[str] = (),
    ):
        self.model, self.tokenizer = model, tokenizer
        self.batch_size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
        self.weights = PolicyWeights(model, native)
        self.eos_ids = eos_ids(model, tokenizer)
        self.stop_strings = tuple(stop_strings)
        self._decoders: list[tuple[int, Decoder]] = []  # one per kind of sampling, with the slots that were asked for
        self._layout = self.weights.layout  # of the weights that the decoders were made for

    @property
    def backend(self) -> str:
        """A description of what computes the steps, for messages."""
        if self.weights.device.type == "mps":
            return "torch on MPS"
        reason, is_cuda = self.weights.no_kernels_reason, self.weights.device.type == "cuda"
        if reason:
            return f"torch alone{' in CUDA graphs' if is_cuda else ''}: {reason}"
        return "Triton in CUDA graphs" if is_cuda else "kernels for this processor"

    @property
    def endings(self) -> Endings:
        return Endings(self.tokenizer, self.eos_ids, self.stop_strings)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        sampling: Sampling,
        *,
        logprobs: bool = True,
        on_done: OnDone | None = None,
    ) -> list[Rollout]:
        """`samples` completions of every prompt, in the order of the prompts; log-probabilities cost nothing extra."""
        refuse_unknown_ids(prompts, len(self.weights.embedding), self.tokenizer)
        self._sync()
        if not prompts or not sampling.max_new_tokens:
            empty = [Rollout(prompt.ids, [], False, []) for prompt in prompts for _ in range(samples)]
            if on_done:
                for index, rollout in enumerate(empty):
                    on_done(index, rollout)
            return empty
        return retry_on_oom(lambda: self._generate(prompts, samples, sampling, on_done), self._halve_batch)

    def _generate(
        self, prompts: Sequence[Prompt], samples: int, sampling: Sampling, on_done: OnDone | None
    ) -> list[Rollout]:
        requests = requests_of(prompts, samples)
        requests.sort(key=lambda r: -len(r.prompt.ids))  # prompts of similar length are prefilled together
        decoder = self._decoder(len(requests), len(requests[0].prompt.ids), sampling)
        Scheduler(decoder, requests, self.endings, sampling, on_done).run()
        return [r.rollout for r in sorted(requests, key=lambda r: r.index)]  # type: ignore[misc]

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[list[int]]:
        """One completion's token ids as they are generated, the end token included."""
        decoder, read, endings = self._begin(prompt_ids, sampling), 0, self.endings
        # whoever generates between two pieces gets another decoder
        lent = self._decoders.pop(next(i for i, (_, known) in enumerate(self._decoders) if known is decoder))
        layout = self._layout
        try:
            while True:
                length, done = int(decoder.generated[0]), bool(decoder.done[0])
                ids = decoder.tokens[0, :length].tolist()
                end = endings.at_text(ids, read)
                yield ids[read:end]
                if done or end is not None:
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
        refuse_unknown_ids([Prompt(prompt_ids, 0)], len(self.weights.embedding), self.tokenizer)
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

    def step_bytes(self, rows: int, prompt_tokens: int) -> int:
        """Bytes that a prefill of such prompts, or a step of `rows` rows with its draw, takes beside the cache."""
        weights = self.weights
        prefill = min(rows * prompt_tokens, prefill_tokens(weights)) * weights.prefill_bytes
        draw = rows * weights.logits.rows * (weights.dtype.itemsize + DRAW_COPIES * 4)  # in float32
        return max(prefill, draw)

    @torch.inference_mode()
    def try_longest(self, rows: int, prompt_tokens: int, sampling: Sampling) -> DecodeSpeed:
        """Prefill prompts of the greatest length and take a few steps of `rows` rows, to see whether memory suffices.

        On a CPU, where it does not run out but the process is killed, the rows share a few prompts, to save time.
        """
        is_cpu = self.weights.device.type == "cpu"

        def attempt() -> DecodeSpeed:
            decoder = self._decoder(rows, prompt_tokens, sampling)
            part = decoder.slots if is_cpu else max(1, prefill_tokens(self.weights) // prompt_tokens)
            for first in range(0, decoder.slots, part):
                index = list(range(min(part, decoder.slots - first)))
                distinct = min(len(index), CPU_TRIED_PROMPTS) if is_cpu else len(index)
                prompts = [[(first + row + token) % 97 for token in range(prompt_tokens)] for row in range(distinct)]
                uniform = None if sampling.greedy else torch.full((len(index), sampling.max_new_tokens), 0.5)
                decoder.admit(first, prompts, [row % distinct for row in index], uniform)

            def step(rows: int) -> None:
                decoder.step(rows)
                synchronize(self.weights.device.type)

            return measured(step, decoder.slots, self.batch_size.value)

        return retry_on_oom(attempt, self._halve_batch)

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
        one = self._slot_bytes(prompt_tokens, sampling)
        affordable = max(1, min(slots, self._cache_budget() // one))
        self.free_caches(room_for=affordable * one)
        decoder = self._decoder_class(self.weights, sampling, self.eos_ids, affordable, prompt_tokens)
        self._decoders.append((slots, decoder))
        return decoder

    def free_caches(self, room_for: int = 0) -> None:
        """On a CPU, free keys and values that are large, or would be with `room_for` bytes more.

        The next call makes them anew. On a GPU the recorded graphs, which go with them, would take longer.
        """
        if self.weights.device.type != "cpu":
            return
        held = [
            decoder.slots * self._slot_bytes(decoder.prompt_tokens, decoder.sampling) for _, decoder in self._decoders
        ]
        if sum(held) + room_for > SMALL_CACHE_BYTES:
            self._decoders.clear()
            give_back()

    @property
    def _decoder_class(self) -> type[Decoder]:
        if self.weights.operators is None:
            return TorchDecoder
        if self.weights.kernels is not None:
            return KernelDecoder
        from tiny_math_solver.rollouts.triton_decoder import TritonDecoder  # Triton is there, since the operators are

        return TritonDecoder

    def _slot_bytes(self, prompt_tokens: int, sampling: Sampling) -> int:
        elements = self._decoder_class.elements_per_slot(self.weights, prompt_tokens, sampling.max_new_tokens)
        return elements * self.weights.dtype.itemsize

    def _cache_budget(self) -> int:
        """Bytes that the keys and values of all slots may take."""
        free = free_gpu_memory(self.weights.device.type)
        return CPU_CACHE_BYTES if free is None else int(GPU_CACHE_SHARE * free)
