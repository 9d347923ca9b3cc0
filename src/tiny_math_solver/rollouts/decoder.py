"""The base of all decoders: the state of the slots, how a completion gets into one, and the draw."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from tiny_math_solver.policy.architecture import cap_
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.rollouts.sampling import Sampling, draw

PREFILL_TOKENS = 16384  # of one prefill pass, padding included
CPU_PREFILL_BYTES = 1 << 26  # of what a layer of such a pass takes; more is slower there, and pads more


class Decoder(ABC):
    """Places for `slots` completions, of which the first ones are running; `tokens[i]` are those of slot `i`.

    Made for prompts of at most `prompt_tokens` and completions of at most `sampling.max_new_tokens` tokens, and
    reused: admitting a completion resets its slot.
    """

    sync_every = 1  # steps between looks at `done`: on a GPU each look waits for all work queued so far

    def __init__(self, weights: PolicyWeights, sampling: Sampling, eos_ids: list[int], slots: int, prompt_tokens: int):
        self.weights, self.sampling, self.slots, self.prompt_tokens = weights, sampling, slots, prompt_tokens
        self.new_tokens, device = sampling.max_new_tokens, weights.device
        self.eos = torch.tensor(eos_ids, device=device)
        self.longest = prompt_tokens + self.new_tokens + 1  # positions, one of them to spare
        self.prompt_length = torch.ones(slots, dtype=torch.long, device=device)
        self.generated = torch.ones(slots, dtype=torch.long, device=device)  # tokens drawn so far
        self.done = torch.ones(slots, dtype=torch.bool, device=device)  # true of an empty slot too
        columns = self.new_tokens + 1  # one to spare: a completion that is done may be stepped until the next sync
        self.tokens = torch.zeros(slots, columns, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(slots, columns, device=device)
        self.uniform = torch.zeros(slots, columns, device=device)
        self.synced = weights.version
        self._hold_embedding()

    @staticmethod
    @abstractmethod
    def elements_per_slot(weights: PolicyWeights, prompt_tokens: int, new_tokens: int) -> int:
        """Elements of the key-value cache that one slot takes at most."""

    def step(self, rows: int) -> None:
        """Draw one more token for each of the first `rows` slots."""
        if self.embedding.data_ptr() != self._embedding_address:
            raise RuntimeError("the model's embedding was freed while completions were under way")
        self._advance(rows)

    @abstractmethod
    def _advance(self, rows: int) -> None:
        """A step, by calls or graphs that hold addresses."""

    @abstractmethod
    def _record_anew(self) -> None:
        """Discard recorded steps: the model's embedding has moved."""

    @abstractmethod
    def _take_rotation(self) -> None:
        """Take over the model's rotary embedding, where the last one lay."""

    @abstractmethod
    def _prefill(self, prompts: list[list[int]], first: int, prompt_index: Tensor) -> Tensor:
        """Hidden states `[P, C]` of the prompts' last tokens; keys and values of all are cached.

        Slots `first …` continue the prompts `prompt_index`.
        """

    def admit(self, first: int, prompts: list[list[int]], prompt_index: list[int], uniform: Tensor | None) -> None:
        """Prefill `prompts` and draw the first tokens of the slots from `first` on.

        Slot `first + i` continues prompt `prompt_index[i]`; row `i` of `uniform` `[B, new_tokens]` decides its draws.
        """
        if self.weights.version != self.synced:
            self._follow()
        last, device = first + len(prompt_index), self.weights.device
        index = torch.tensor(prompt_index, device=device)
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        self.prompt_length[first:last] = lengths[index]
        self.generated[first:last] = 0
        self.done[first:last] = False
        if uniform is not None:
            self.uniform[first:last, : self.new_tokens] = uniform
        self._draw(self._logits(self._prefill(prompts, first, index)), first, last, index)

    def _follow(self) -> None:
        """Take over what is not read from the merged copy itself: the rotation, and where the embedding is."""
        self.synced = self.weights.version
        self._take_rotation()
        if self.weights.embedding.data_ptr() != self._embedding_address:
            self._hold_embedding()
            self._record_anew()

    def _hold_embedding(self) -> None:
        """Keep the memory of the model's embedding, which recorded steps read: the model may get another."""
        self.embedding = self.weights.embedding.detach()
        self._embedding_address = self.embedding.data_ptr()

    def move(self, targets: list[int], sources: list[int]) -> None:
        """Continue the completions of slots `sources` in slots `targets`, which are others."""
        to, of = (torch.tensor(slots, device=self.weights.device) for slots in (targets, sources))
        for state in (self.prompt_length, self.generated, self.done, self.tokens, self.logprobs, self.uniform):
            state[to] = state[of]

    def _logits(self, hidden: Tensor) -> Tensor:
        return cap_(self.weights.logits(hidden), self.weights.architecture.logits_cap)

    def _draw(self, logits: Tensor, first: int, last: int, logits_row: Tensor | None = None) -> None:
        """Draw the next token of slots `first … last-1`, from row `logits_row[i]`, or `i`, of logits `[·, V]`."""
        logits = logits if logits_row is None else logits[logits_row]
        generated, done = self.generated[first:last], self.done[first:last]
        column = generated.unsqueeze(1)
        tokens, logprobs = draw(logits, self.uniform[first:last].gather(1, column)[:, 0], self.sampling)
        self.tokens[first:last].scatter_(1, column, tokens.unsqueeze(1))
        self.logprobs[first:last].scatter_(1, column, logprobs.unsqueeze(1))
        generated += ~done
        done |= (tokens.unsqueeze(1) == self.eos).any(1) | (generated >= self.new_tokens)


def prefill_tokens(weights: PolicyWeights) -> int:
    """Tokens of one prefill pass at most, padding included."""
    if weights.device.type != "cpu":
        return PREFILL_TOKENS
    return min(PREFILL_TOKENS, max(1, CPU_PREFILL_BYTES // weights.prefill_bytes))


def length_bucket(tokens: int) -> int:
    """`tokens` rounded up, by a quarter at most beyond 256: 64, 128, 192, 256, 384, 512, 768, 1024, …"""
    block = 1 << max(6, (tokens - 1).bit_length() - 2)
    return -(-tokens // block) * block
