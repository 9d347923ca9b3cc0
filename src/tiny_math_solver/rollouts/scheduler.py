"""Continuous batching: which completion runs in which slot of the decoder, and when.

Running completions always have the first slots. The slot of a finished one goes to a waiting completion, or to the
last running one.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts.decoder import Decoder, prefill_tokens
from tiny_math_solver.rollouts.endings import Endings
from tiny_math_solver.rollouts.rollout import OnDone, Rollout
from tiny_math_solver.rollouts.sampling import Sampling, uniforms

REFILL_SHARE = 8  # waiting completions are admitted once this fraction of the slots is free
COMPACT_SHARE = 16  # finished ones make room once this fraction of the running ones has finished


@dataclass(slots=True)
class Request:
    """One completion to be made."""

    prompt: Prompt
    sample: int  # its number within the group
    index: int  # its place in the result
    rollout: Rollout | None = None
    checked: int = 0  # tokens in which no stop string was found
    stopped: bool = False  # at a stop string


def requests_of(prompts: Sequence[Prompt], samples: int) -> list[Request]:
    """`samples` requests per prompt, numbered within their group; ValueError if a group has two different prompts."""
    group_ids: dict[int, list[int]] = {}
    counts: Counter[tuple[int, int]] = Counter()
    requests: list[Request] = []
    for prompt in prompts:
        if group_ids.setdefault(prompt.group, prompt.ids) != prompt.ids:
            raise ValueError(f"group {prompt.group} has two different prompts")
        for _ in range(samples):
            drawn = prompt.group, prompt.first
            requests.append(Request(prompt, prompt.first + counts[drawn], len(requests)))
            counts[drawn] += 1
    return requests


class Scheduler:
    """Runs requests through a decoder until each has its rollout."""

    def __init__(
        self,
        decoder: Decoder,
        requests: list[Request],
        endings: Endings,
        sampling: Sampling,
        on_done: OnDone | None = None,
    ):
        self.decoder, self.endings, self.sampling, self.on_done = decoder, endings, sampling, on_done
        self.finished: list[Request] = []  # not yet reported to `on_done`
        self.slots = min(decoder.slots, len(requests))
        self.waiting = requests[::-1]  # taken from the end
        self.running: list[Request] = []  # by slot

    def run(self) -> None:
        steps = 0
        while self.running or self.waiting:
            if steps % self.decoder.sync_every == 0:
                self._retire()
                free = self.slots - len(self.running)
                if self.waiting and free * REFILL_SHARE >= self.slots:
                    self._admit(free)
            steps += 1
            if self.running:
                self.decoder.step(len(self.running))
            if steps % self.decoder.sync_every == 0:
                self._tell()  # while a GPU computes what it was given
        self._tell()

    def _tell(self) -> None:
        for request in self.finished:
            if self.on_done and request.rollout:
                self.on_done(request.index, request.rollout)
        self.finished.clear()

    def _admit(self, free: int) -> None:
        """Give waiting requests the free slots; each of their groups is prefilled once."""
        chosen = [self.waiting.pop() for _ in range(min(free, len(self.waiting)))]
        for part in _group_parts(chosen, max(1, prefill_tokens(self.decoder.weights) // len(chosen[0].prompt.ids))):
            requests = [request for group in part for request in group]
            uniform = None
            if not self.sampling.greedy:
                length, seed = self.sampling.max_new_tokens, self.sampling.seed
                rows = [uniforms(r.prompt.ids, r.sample, seed, length) for r in requests]
                uniform = torch.stack([torch.from_numpy(row) for row in rows])
            prompt_index = [i for i, group in enumerate(part) for _ in group]
            self.decoder.admit(len(self.running), [group[0].prompt.ids for group in part], prompt_index, uniform)
            self.running += requests

    def _retire(self) -> None:
        """Take the rollouts of finished requests and close the gaps they leave."""
        running, decoder = len(self.running), self.decoder
        if self.endings.texts:
            self._stop_at_texts()
        done = decoder.done[:running].nonzero()[:, 0].tolist()
        if not done or (len(done) < running and len(done) * COMPACT_SHARE < running):
            return
        lengths, tokens, logprobs = (x[done].tolist() for x in (decoder.generated, decoder.tokens, decoder.logprobs))
        for slot, length, ids, scores in zip(done, lengths, tokens, logprobs, strict=True):
            request = self.running[slot]
            finished = request.stopped or ids[length - 1] in self.endings.ids
            request.rollout = Rollout(request.prompt.ids, ids[:length], finished, scores[:length])
            self.finished.append(request)
        left, moves = _close_gaps(running, done)
        for target, source in moves:
            self.running[target] = self.running[source]
        if moves:
            decoder.move(*map(list, zip(*moves, strict=True)))
        del self.running[left:]

    def _stop_at_texts(self) -> None:
        """End the running completions that hold a stop string at the token that completes it."""
        running, decoder = len(self.running), self.decoder
        lengths, tokens = decoder.generated[:running].tolist(), decoder.tokens[:running].tolist()
        for slot, (request, length, ids) in enumerate(zip(self.running, lengths, tokens, strict=True)):
            if request.stopped or request.checked == length:
                continue
            end = self.endings.at_text(ids[:length], request.checked)
            request.checked = length
            if end is not None:
                request.stopped = True
                decoder.generated[slot], decoder.done[slot] = end, True


def _close_gaps(count: int, gone: list[int]) -> tuple[int, list[tuple[int, int]]]:
    """`(how many of 0 … count-1 are left, [(free slot, last slot that moves there), …])` without `gone` (ascending)."""
    left = count - len(gone)
    free = [slot for slot in gone if slot < left]
    return left, list(zip(free, sorted(set(range(left, count)) - set(gone)), strict=True))


def _group_parts(requests: list[Request], size: int) -> list[list[list[Request]]]:
    """The requests of each group together, at most `size` groups in a part."""
    groups: dict[int, list[Request]] = {}
    for request in requests:
        groups.setdefault(request.prompt.group, []).append(request)
    ordered = list(groups.values())
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]
