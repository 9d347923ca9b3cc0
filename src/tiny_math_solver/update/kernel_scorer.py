"""Log-probabilities of completions and their gradient on a CPU, by compiled kernels.

Three things make it fast. Each prompt goes through the model once for all samples of its group; their gradients meet
in its keys and values. Tokens lie side by side without padding. And the passes compute with the adapter merged into
the weights, which are the rollouts' copy (weight_gradients.py).

Shapes: `N` tokens, `C` hidden size, `M` MLP size, `V` vocabulary; qkv is `[N, (H + 2 KV) · D]` for `H` heads of size
`D`, `KV` of them with keys and values.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tiny_math_solver.rollouts.linear import Linear, active_adapters
from tiny_math_solver.rollouts.policy_weights import PolicyWeights
from tiny_math_solver.update.passes import Batch
from tiny_math_solver.update.ragged import RaggedTokens, ragged
from tiny_math_solver.update.torch_scorer import FLOAT32_BYTES, logits_tokens, model_sizes
from tiny_math_solver.update.weight_gradients import AdapterGradient, MergedGradient, ProjectionGradient

LOGITS_TOKENS = 512  # tokens whose logits exist at once, at most
MERGED_BYTES = 1 << 28  # of merged weights; the gradients of larger ones are summed at the adapter's rank


def unsupported(weights: PolicyWeights, model: Any) -> str:
    """The reason why this model's update cannot use the kernels; empty if it can."""
    if weights.kernels is None:
        return weights.no_kernels_reason
    if weights.layers[0].query_norm is not None:
        return "norms of queries and keys are not supported"
    if getattr(weights.config, "attention_dropout", 0):
        return "attention dropout is not supported"
    linears = [linear for layer in weights.layers for linear in layer.linears]
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    for module in (module for linear in linears for module in linear.modules):
        for name in active_adapters(module):
            if not isinstance(module.lora_dropout[name], nn.Identity):
                return "LoRA dropout is not supported"
            trained -= {id(module.lora_A[name].weight), id(module.lora_B[name].weight)}
    return "more than the adapter of the layers is trainable" if trained else ""


class KernelScorer:
    """Scores with the rollouts' merged weights. Implements `Scorer`; the gradient never goes through autograd."""

    by_group = True

    def __init__(self, weights: PolicyWeights, temperature: float):
        self.weights, self.temperature = weights, temperature
        self._make_gradients()
        self.rope_table = torch.empty(0)
        self.anchor = torch.zeros((), requires_grad=True)  # makes autograd call the backward pass

    def _make_gradients(self) -> None:
        weights = self.weights
        assert weights.kernels is not None
        self.kernels, self._layout = weights.kernels, weights.layout
        self._buffers: dict[str, Tensor] = {}  # that all layers and passes of a step compute with, by name
        linears = [linear for layer in weights.layers for linear in layer.linears]
        is_small = sum(linear.weight.nbytes for linear in linears) <= MERGED_BYTES
        kind = MergedGradient if is_small and weights.dtype == torch.float32 else AdapterGradient
        self.gradients: dict[Linear, ProjectionGradient] = {
            linear: kind(linear, weights) for linear in (*linears, weights.logits)
        }

    @property
    def nbytes(self) -> int:
        """Bytes of the gradients of the merged weights."""
        return sum(gradient.nbytes for gradient in self.gradients.values())

    @property
    def step_bytes(self) -> int:
        """Bytes of the transposed weights."""
        return sum(gradient.step_bytes for gradient in self.gradients.values())

    def pass_bytes(self, tokens: int) -> int:
        width, gate, heads, head_dim, kv_heads = model_sizes(self.weights.config)
        layers, size = self.weights.config.num_hidden_layers, self.weights.dtype.itemsize
        attention, qkv = heads * head_dim, (heads + 2 * kv_heads) * head_dim
        kept = (2 * width + attention + qkv + 2 * gate) * size + heads * FLOAT32_BYTES
        buffers = (3 * width + attention + qkv + 2 * gate) * size
        return tokens * (layers * kept + buffers) + self._logits_tokens * self.weights.logits.columns * size

    @property
    def _logits_tokens(self) -> int:
        return min(LOGITS_TOKENS, logits_tokens(self.weights.config.vocab_size))

    def begin(self) -> None:
        """Take over the policy as it is. Raises RuntimeError if the kernels can no longer compute its update."""
        self.weights.sync()
        if reason := unsupported(self.weights, self.weights.model):
            raise RuntimeError(f"the model was changed while it trains, and its update cannot go on: {reason}")
        if self._layout != self.weights.layout:
            self._make_gradients()
        self.rope_table = torch.empty(0)  # the model's rotary embedding may be another one
        for gradient in self.gradients.values():
            gradient.begin()

    def finish(self) -> None:
        """Add what the passes accumulated to the gradients of the adapter."""
        for gradient in self.gradients.values():
            gradient.finish()
        self._buffers.clear()

    def logprobs(self, batch: Batch) -> Tensor:
        tokens = ragged(batch)
        if len(self.rope_table) <= int(tokens.positions.max()):
            longest = batch["prompt_ids"].shape[1] + batch["completion_ids"].shape[1]
            self.rope_table = self.weights.rope_table(2 * longest)  # room for longer rows
        scored = _Score.apply(self.anchor, self, tokens)
        return torch.zeros(batch["completion_ids"].shape).index_put(tokens.scored, scored)

    # -- Forward --------------------------------------------------------------------------------------------------

    def forward(self, tokens: RaggedTokens) -> tuple[Tensor, list["_Kept"], Tensor, Tensor]:
        """`(logprobs of the scored tokens, what the layers keep, last x [N, C], the scored hidden states' gradient)`.

        The gradient is that for an incoming gradient of 1 per scored token.
        """
        weights, kernels = self.weights, self.kernels
        x, saved = weights.embedding.detach()[tokens.ids], []
        for layer in weights.layers:
            qkv = layer.query_key_value.product(self._norm(x, layer.attention_norm))
            self._rotate(qkv, tokens, backward=False)
            attention = x.new_empty(len(x), weights.heads * weights.head_dim)
            log_sum = torch.empty(len(x), weights.heads)
            kernels.attention(*tokens.layout, qkv, attention, log_sum)
            middle = layer.attention_out.product(attention, add=x)
            gate_up = layer.gate_up.product(self._norm(middle, layer.mlp_norm))
            saved.append(_Kept(x, qkv, attention, log_sum, middle, gate_up))
            x = layer.down.product(self._gate(gate_up), add=middle)
        hidden = self._norm(x, weights.final_norm)[tokens.sources]
        logprobs, hidden_grad = torch.empty(len(hidden)), torch.empty_like(hidden)
        for start in range(0, len(hidden), self._logits_tokens):
            part = slice(start, start + self._logits_tokens)
            logits = weights.logits.product(hidden[part])
            kernels.target_logprobs(
                len(logits), logits, logits.shape[1], weights.logits.rows,
                1 / self.temperature, tokens.targets[part], logprobs[part],
            )  # fmt: skip
            self.gradients[weights.logits].backward(logits, None, hidden_grad[part])
        return logprobs, saved, x, hidden_grad

    # -- Backward -------------------------------------------------------------------------------------------------

    def backward(self, tokens: RaggedTokens, saved: list["_Kept"], x: Tensor, hidden_grad: Tensor) -> None:
        """Accumulate the gradients of the merged weights, from those of the hidden states that were scored."""
        kernels, count = self.kernels, len(x)
        normed_grad = torch.zeros_like(x).index_add_(0, tokens.sources, hidden_grad)
        x_grad = torch.empty_like(x)  # of the residual stream, on its way down
        self._norm_backward(x, self.weights.final_norm, normed_grad, x_grad, add=False)
        for index, layer in reversed(list(enumerate(self.weights.layers))):
            kept = saved.pop()
            gated_grad = self._linear_backward(x_grad, layer.down, self._gate(kept.gate_up))
            gate_up_grad = kept.gate_up  # is not needed any more
            kernels.swiglu_backward(count, kept.gate_up, gated_grad.shape[1], gated_grad, gate_up_grad)
            normed_grad = self._linear_backward(gate_up_grad, layer.gate_up, self._norm(kept.middle, layer.mlp_norm))
            self._norm_backward(kept.middle, layer.mlp_norm, normed_grad, x_grad, add=True)
            attention_grad = self._linear_backward(x_grad, layer.attention_out, kept.attention)
            qkv_grad = self._buffer("qkv gradient", kept.qkv)
            kernels.attention_backward(*tokens.layout, kept.qkv, kept.attention, kept.log_sum, attention_grad, qkv_grad)
            self._rotate(qkv_grad, tokens, backward=True)
            normed = self._norm(kept.x, layer.attention_norm)
            if index:
                normed_grad = self._linear_backward(qkv_grad, layer.query_key_value, normed)
                self._norm_backward(kept.x, layer.attention_norm, normed_grad, x_grad, add=True)
            else:  # nothing below is trained
                self.gradients[layer.query_key_value].backward(qkv_grad, normed, None)

    def _linear_backward(self, out_grad: Tensor, linear: Linear, x: Tensor) -> Tensor:
        """Accumulate the gradients of a projection's adapters, return that of its input `x`."""
        x_grad = self._buffer(f"gradient of {x.shape[1]} inputs", x)
        self.gradients[linear].backward(out_grad, x, x_grad)
        return x_grad

    # -- Kernels of one operation ---------------------------------------------------------------------------------

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        out = self._buffer("normed", x)
        self.kernels.rms_norm(len(x), x, weight, self.weights.eps, x.shape[1], out)
        return out

    def _gate(self, gate_up: Tensor) -> Tensor:
        size = gate_up.shape[1] // 2
        out = self._buffer("gated", gate_up, size)
        self.kernels.swiglu(len(gate_up), gate_up, size, out)
        return out

    def _norm_backward(self, x: Tensor, weight: Tensor, out_grad: Tensor, x_grad: Tensor, add: bool) -> None:
        self.kernels.rms_norm_backward(len(x), x, weight, self.weights.eps, x.shape[1], out_grad, add, x_grad)

    def _rotate(self, qkv: Tensor, tokens: RaggedTokens, backward: bool) -> None:
        scale = self.weights.head_dim**-0.5
        self.kernels.rotary(len(qkv), qkv, tokens.positions, self.rope_table, scale, backward)

    def _buffer(self, name: str, like: Tensor, columns: int | None = None) -> Tensor:
        """A tensor `[N, columns]`, by default shaped as `like`, whose values last until the next use of the name."""
        columns = like.shape[1] if columns is None else columns
        size, held = len(like) * columns, self._buffers.get(name)
        if held is None or len(held) < size:
            held = self._buffers[name] = like.new_empty(size)
        return held[:size].view(len(like), columns)


class _Kept(NamedTuple):
    """What a layer keeps for its backward pass; norms and gates are computed again."""

    x: Tensor  # [N, C]
    qkv: Tensor  # rotated
    attention: Tensor  # [N, H · D]
    log_sum: Tensor  # [N, H]: log Σ e^score
    middle: Tensor  # between attention and MLP
    gate_up: Tensor  # [N, 2 M]


class _Score(torch.autograd.Function):
    """Log-probabilities of a batch's scored tokens; its backward pass fills the scorer's `gradients`."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, scorer: KernelScorer, tokens: RaggedTokens) -> Tensor:
        logprobs, *ctx.kept = scorer.forward(tokens)
        ctx.scorer, ctx.tokens = scorer, tokens
        return logprobs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        saved, x, hidden_grad = ctx.kept
        ctx.scorer.backward(ctx.tokens, saved, x, hidden_grad.mul_(gradients[0][:, None]))
        return None, None, None
