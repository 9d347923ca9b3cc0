"""Rollouts by our own decode loop: each prompt prefilled once a group, finished rows replaced.

This file is who runs where and when: a finished row's slot is taken by a waiting row, or by the last running one,
so that the running rows are always the first ones. What a step computes is in decoder.py and native.py.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts.decoder import Decoder, TorchDecoder, reach
from tiny_math_solver.rollouts.kernel_decoder import NativeDecoder
from tiny_math_solver.rollouts.policy_weights import PolicyWeights
from tiny_math_solver.rollouts.rollout import Rollout, eos_ids
from tiny_math_solver.rollouts.sampling import Sampling, uniforms
from tiny_math_solver.support.batch_size import BatchSize
from tiny_math_solver.support.out_of_memory import retry_on_oom

PREFILL_TOKENS = 16384  # of one prefill pass, padding included
CPU_CACHE_BYTES = 4 << 30  # keys and values of all slots
GPU_SHARE = 0.6  # the same, of what is free
REFILL_SHARE = 8  # waiting rows come in once this fraction of the slots is free
SHRINK_SHARE = 16  # and running rows close up once this fraction of them has finished


class EngineRollouts:
    """Decode with a merged copy of the policy, brought up to date before every call.

    One process, one device; at most `batch_size` completions are decoded at once, fewer where memory is short.
    `native` False leaves out the compiled kernels. Raises UnsupportedModelError for a model the engine cannot run.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int | BatchSize = 128, native: bool = True):
        self.model, self.tokenizer = model, tokenizer
        self.batch_size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
        self.weights = PolicyWeights(model, native)
        self.eos_ids = eos_ids(model, tokenizer)
        self._decoders: list[tuple[int, Decoder]] = []  # one for every kind of sampling met, and the slots wanted of it

    @property
    def kind(self) -> str:
        """What the steps are made of, for people."""
        if self.weights.device.type == "cuda":
            return "CUDA graphs"
        return f"torch alone: {self.weights.no_kernels}" if self.weights.no_kernels else "kernels for this processor"

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Prompt], samples: int, sampling: Sampling, *, logprobs: bool = True
    ) -> list[Rollout]:
        """`samples` completions of every prompt, grouped by prompt in the order given; log-probabilities are free."""
        self.weights.sync()
        if not prompts or not sampling.max_new_tokens:
            return [Rollout(prompt.ids, [], False, []) for prompt in prompts for _ in range(samples)]
        return retry_on_oom(lambda: self._generate(prompts, samples, sampling), self._halve_batch)

    def _generate(self, prompts: Sequence[Prompt], samples: int, sampling: Sampling) -> list[Rollout]:
        requests = _requests(prompts, samples)
        requests.sort(key=lambda r: -len(r.prompt.ids))  # prompts of like length are prefilled together
        decoder = self._decoder(len(requests), len(requests[0].prompt.ids), sampling)
        _Batch(decoder, requests, self.eos_ids, sampling).run()
        return [r.rollout for r in sorted(requests, key=lambda r: r.place)]  # type: ignore[misc]

    def cache_bytes(self, rows: int, prompt_tokens: int, sampling: Sampling) -> int:
        """Bytes of keys and values of `rows` completions with prompts of at most `prompt_tokens`."""
        one, slots = self._slot_bytes(reach(prompt_tokens), sampling), min(rows, self.batch_size.value)
        return one * max(1, min(slots, self._room() // one))

    @torch.inference_mode()
    def try_longest(self, rows: int, prompt_tokens: int, sampling: Sampling, steps: int = 4) -> None:
        """Begin `rows` completions of the longest kind, for its memory alone."""

        def attempt() -> None:
            decoder = self._decoder(rows, prompt_tokens, sampling)
            prompts = [[(row + token) % 97 for token in range(prompt_tokens)] for row in range(decoder.slots)]
            part = max(1, PREFILL_TOKENS // prompt_tokens)
            for first in range(0, decoder.slots, part):
                chosen = prompts[first : first + part]
                drawn = torch.full((len(chosen), sampling.max_new_tokens), 0.5)
                decoder.admit(first, chosen, list(range(len(chosen))), None if sampling.greedy else drawn)
            for _ in range(min(steps, sampling.max_new_tokens - 1)):
                decoder.step(decoder.slots)

        retry_on_oom(attempt, self._halve_batch)

    def _halve_batch(self) -> bool:
        widest = max((decoder.slots for _, decoder in self._decoders), default=None)
        if not self.batch_size.halve(at_most=widest):
            return False
        self._decoders.clear()
        return True

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[list[int]]:
        """One completion's token ids as they are made, the end token included."""
        decoder, read = self._begin(prompt_ids, sampling), 0
        while True:
            made, done = int(decoder.made[0]), bool(decoder.done[0])
            yield decoder.tokens[0, read:made].tolist()
            if done:
                return
            read = made
            with torch.inference_mode():
                decoder.step(1)

    @torch.inference_mode()
    def _begin(self, prompt_ids: list[int], sampling: Sampling) -> Decoder:
        self.weights.sync()
        decoder = self._decoder(1, len(prompt_ids), sampling)
        new = sampling.max_new_tokens
        drawn = None if sampling.greedy else torch.from_numpy(uniforms(prompt_ids, 0, sampling.seed, new))[None]
        decoder.admit(0, [prompt_ids], [0], drawn)
        return decoder

    def _decoder(self, rows: int, prompt_tokens: int, sampling: Sampling) -> Decoder:
        """The decoder of this kind of sampling, made anew where it is too small."""
        sampling, slots, prompt_tokens = (
            replace(sampling, seed=0),
            min(rows, self.batch_size.value),
            reach(prompt_tokens),
        )
        for place, (wanted, known) in enumerate(self._decoders):
            if known.sampling == sampling and known.eos.tolist() == self.eos_ids:
                if wanted >= slots and known.prompt_tokens >= prompt_tokens:
                    return known
                slots, prompt_tokens = max(slots, wanted), max(prompt_tokens, known.prompt_tokens)
                del self._decoders[place], known  # freed before the larger one is made
                break
        room = self._room() // self._slot_bytes(prompt_tokens, sampling)
        decoder = self._kind(self.weights, sampling, self.eos_ids, max(1, min(slots, room)), prompt_tokens)
        self._decoders.append((slots, decoder))
        return decoder

    @property
    def _kind(self) -> type[TorchDecoder | NativeDecoder]:
        return TorchDecoder if self.weights.kernels is None else NativeDecoder

    def _slot_bytes(self, prompt_tokens: int, sampling: Sampling) -> int:
        numbers = self._kind.numbers(self.weights, prompt_tokens, sampling.max_new_tokens)
        return numbers * self.weights.dtype.itemsize

    def _room(self) -> int:
        """What the keys and values of all slots may take."""
        device = self.weights.device
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            return int(GPU_SHARE * (free + unused))
        return CPU_CACHE_BYTES


@dataclass(slots=True)
class _Request:
    prompt: Prompt
    sample: int  # counts the completions of its group
    place: int  # in the order of the answer
    rollout: Rollout | None = None


def _requests(prompts: Sequence[Prompt], samples: int) -> list[_Request]:
    first: dict[int, list[int]] = {}  # prompt ids of each group
    counts: Counter[int] = Counter()
    requests: list[_Request] = []
    for prompt in prompts:
        if first.setdefault(prompt.group, prompt.ids) != prompt.ids:
            raise ValueError(f"group {prompt.group} has two different prompts")
        for _ in range(samples):
            requests.append(_Request(prompt, counts[prompt.group], len(requests)))
            counts[prompt.group] += 1
    return requests


class _Batch:
    """The rows under way: who holds each running slot, and who waits."""

    def __init__(self, decoder: Decoder, requests: list[_Request], eos_ids: list[int], sampling: Sampling):
        self.decoder, self.eos, self.sampling = decoder, set(eos_ids), sampling
        self.slots = min(decoder.slots, len(requests))
        self.waiting = requests[::-1]  # taken from the end
        self.held: list[_Request] = []  # of each running slot

    def run(self) -> None:
        steps = 0
        while self.held or self.waiting:
            if steps % self.decoder.look_every == 0:
                self._retire()
                free = self.slots - len(self.held)
                if self.waiting and free * REFILL_SHARE >= self.slots:
                    self._admit(free)
            steps += 1
            if self.held:
                self.decoder.step(len(self.held))

    def _admit(self, free: int) -> None:
        """Prefill waiting prompts, each once, and give every one of their samples a free slot."""
        chosen = [self.waiting.pop() for _ in range(min(free, len(self.waiting)))]
        for part in _by_group(chosen, max(1, PREFILL_TOKENS // len(chosen[0].prompt.ids))):
            rows = [request for group in part for request in group]
            drawn = None
            if not self.sampling.greedy:
                new, seed = self.sampling.max_new_tokens, self.sampling.seed
                drawn = torch.stack([torch.from_numpy(uniforms(r.prompt.ids, r.sample, seed, new)) for r in rows])
            index = [i for i, group in enumerate(part) for _ in group]
            self.decoder.admit(len(self.held), [group[0].prompt.ids for group in part], index, drawn)
            self.held += rows

    def _retire(self) -> None:
        """Take finished rows out and close up the rest."""
        running, state = len(self.held), self.decoder
        done = state.done[:running].nonzero()[:, 0].tolist()
        if not done or (len(done) < running and len(done) * SHRINK_SHARE < running):
            return
        made, tokens, logprobs = state.made[done].tolist(), state.tokens[done].tolist(), state.logprobs[done].tolist()
        for slot, count, ids, scores in zip(done, made, tokens, logprobs, strict=True):
            request = self.held[slot]
            request.rollout = Rollout(request.prompt.ids, ids[:count], ids[count - 1] in self.eos, scores[:count])
        left, moves = _close_up(running, done)
        for hole, mover in moves:
            self.held[hole] = self.held[mover]
            state.move(hole, mover)
        del self.held[left:]


def _close_up(count: int, gone: list[int]) -> tuple[int, list[tuple[int, int]]]:
    """`(how many of 0 … count-1 are left, [(hole, last one that moves there), …])` once `gone` (ascending) are out."""
    left = count - len(gone)
    holes = [i for i in gone if i < left]
    return left, list(zip(holes, sorted(set(range(left, count)) - set(gone)), strict=True))


def _by_group(requests: list[_Request], size: int) -> list[list[list[_Request]]]:
    """The requests of each group together, at most `size` groups a part."""
    groups: dict[int, list[_Request]] = {}
    for request in requests:
        groups.setdefault(request.prompt.group, []).append(request)
    ordered = list(groups.values())
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]
