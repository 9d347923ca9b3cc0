"""The base of both decoders: the state of the slots, prefill, draws, and what a layer does around its attention."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from tiny_math_solver.rollouts.policy_weights import Layer, PolicyWeights
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
        self.rotary_factors = weights.rotary_factors(prompt_tokens + self.new_tokens + 1)
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
    def _cache_prompts(self, layer: int, first: int, prompt_index: Tensor, key: Tensor, value: Tensor) -> None:
        """Store keys and values `[P, T, KV, D]` for slots `first …`, which continue prompts `prompt_index`."""

    def admit(self, first: int, prompts: list[list[int]], prompt_index: list[int], uniform: Tensor | None) -> None:
        """Prefill `prompts` and draw the first tokens of the slots from `first` on.

        Slot `first + i` continues prompt `prompt_index[i]`; row `i` of `uniform` `[B, new_tokens]` decides its draws.
        """
        if self.weights.version != self.synced:
            self._follow()
        last, device = first + len(prompt_index), self.weights.device
        longest = max(map(len, prompts))
        index = torch.tensor(prompt_index, device=device)
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        self.prompt_length[first:last] = lengths[index]
        self.generated[first:last] = 0
        self.done[first:last] = False
        if uniform is not None:
            self.uniform[first:last, : self.new_tokens] = uniform
        # padding on the right, where causal attention does not look
        ids = torch.tensor([p + [0] * (longest - len(p)) for p in prompts], device=device)
        hidden = self._prefill(ids, first, index)[torch.arange(len(prompts), device=device), lengths - 1]
        self._draw(self.weights.logits(hidden), first, last, index)

    def _follow(self) -> None:
        """Take over what is not read from the merged copy itself: rotary factors, and where the embedding is."""
        self.synced = self.weights.version
        self.rotary_factors.copy_(self.weights.rotary_factors(len(self.rotary_factors)))
        if self.weights.embedding.data_ptr() != self._embedding_address:
            self._hold_embedding()
            self._record_anew()

    def _hold_embedding(self) -> None:
        """Keep the memory of the model's embedding, which recorded steps read: the model may get another."""
        self.embedding = self.weights.embedding.detach()
        self._embedding_address = self.embedding.data_ptr()

    def move(self, target: int, source: int) -> None:
        """Continue the completion of slot `source` in slot `target`."""
        for state in (self.prompt_length, self.generated, self.done, self.tokens, self.logprobs, self.uniform):
            state[target] = state[source]

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

    # -- Layers ---------------------------------------------------------------------------------------------------

    def _prefill(self, ids: Tensor, first: int, prompt_index: Tensor) -> Tensor:
        """Hidden states `[P, T, C]` of prompts `[P, T]`; their keys and values go to the cache."""
        weights = self.weights
        x = self.embedding[ids]
        for index, layer in enumerate(weights.layers):
            query, key, value = self._project(layer, x, self.rotary_factors[: ids.shape[1]])
            self._cache_prompts(index, first, prompt_index, key, value)
            attention_output = functional.scaled_dot_product_attention(
                query.transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                is_causal=True,
                scale=1.0,
                enable_gqa=True,
            )
            x = self._after_attention(layer, x, attention_output.transpose(1, 2).flatten(2))
        return functional.rms_norm(x, x.shape[-1:], weights.final_norm, weights.eps)

    def _project(self, layer: Layer, x: Tensor, rotary_factors: Tensor) -> tuple[Tensor, ...]:
        """Queries `[…, H, D]`, scaled and rotated, keys `[…, KV, D]`, rotated, and values `[…, KV, D]`."""
        weights, heads, kv = self.weights, self.weights.heads, self.weights.kv_heads
        normed = functional.rms_norm(x, x.shape[-1:], layer.attention_norm, weights.eps)
        joint = layer.query_key_value(normed).unflatten(-1, (-1, weights.head_dim))
        if layer.query_norm is not None and layer.key_norm is not None:
            for part, norm in ((slice(heads), layer.query_norm), (slice(heads, heads + kv), layer.key_norm)):
                joint[..., part, :] = functional.rms_norm(joint[..., part, :], norm.shape, norm, weights.eps)
        query_key = joint.narrow(-2, 0, heads + kv)
        rotated = query_key.float()
        torch.view_as_complex(rotated.unflatten(-1, (-1, 2))).mul_(rotary_factors)
        if rotated.dtype != query_key.dtype:
            query_key.copy_(rotated)
        return joint.split((heads, kv, kv), -2)

    def _after_attention(self, layer: Layer, x: Tensor, attention_output: Tensor) -> Tensor:
        """The rest of a layer: output projection, MLP and both residual connections."""
        x = x + layer.attention_out(attention_output)
        normed = functional.rms_norm(x, x.shape[-1:], layer.mlp_norm, self.weights.eps)
        gate, up = layer.gate_up(normed).chunk(2, -1)
        # silu is not vectorised for tensors with gaps
        return x + layer.down(functional.silu(gate.contiguous()).mul_(up))


def prefill_tokens(weights: PolicyWeights) -> int:
    """Tokens of one prefill pass at most, padding included."""
    if weights.device.type != "cpu":
        return PREFILL_TOKENS
    return min(PREFILL_TOKENS, max(1, CPU_PREFILL_BYTES // weights.prefill_bytes))


def length_bucket(tokens: int) -> int:
    """`tokens` rounded up, by a quarter at most beyond 256: 64, 128, 192, 256, 384, 512, 768, 1024, …"""
    block = 1 << max(6, (tokens - 1).bit_length() - 2)
    return -(-tokens // block) * block
