"""Log-probabilities of completions and their gradient on a CPU, in float32, by compiled kernels.

Three things make it fast. Each prompt goes through the model once for all samples of its group; their gradients meet
in its keys and values. Tokens lie side by side without padding. And the passes compute with the adapter merged into
the weights (the rollouts' copy): the gradient of each merged weight is accumulated over all passes and passed on to
the adapter's two matrices once a step, `dB = s · dW Aᵀ` and `dA = s · Bᵀ dW`, which is exact for `W = W₀ + s · B A`.

Shapes: `N` tokens, `C` hidden size, `M` MLP size, `V` vocabulary; qkv is `[N, (H + 2 KV) · D]` for `H` heads of size
`D`, `KV` of them with keys and values.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tiny_math_solver.rollouts.linear import Linear, base_linear
from tiny_math_solver.rollouts.policy_weights import PolicyWeights
from tiny_math_solver.update.passes import Batch
from tiny_math_solver.update.torch_scorer import FLOAT32_BYTES, model_sizes

LOGITS_TOKENS = 512  # tokens whose logits exist at once
MAX_EXTRA_BYTES = 4 << 30  # for the gradients of the merged weights and their transposed copies


def unsupported(weights: PolicyWeights, model: Any) -> str:
    """The reason why this model's update cannot use the kernels; empty if it can."""
    if weights.kernels is None or weights.logits.layout != "panels":
        return "no kernels for this model"
    linears = [linear for layer in weights.layers for linear in layer.linears]
    if 2 * sum(linear.weight.nbytes for linear in linears) > MAX_EXTRA_BYTES:
        return "gradients of whole weights would take too much memory"
    if weights.layers[0].query_norm is not None:
        return "norms of queries and keys are not supported"
    if getattr(weights.config, "attention_dropout", 0):
        return "attention dropout is not supported"
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    for module in (module for linear in linears for module in linear.modules):
        for name in getattr(module, "active_adapters", ()):
            if name in module.lora_A:
                if not isinstance(module.lora_dropout[name], nn.Identity):
                    return "LoRA dropout is not supported"
                trained -= {id(module.lora_A[name].weight), id(module.lora_B[name].weight)}
    return "more than the adapter of the layers is trainable" if trained else ""


class KernelScorer:
    """Scores with the rollouts' merged weights. Implements `Scorer`; the gradient never goes through autograd."""

    by_group = True

    def __init__(self, weights: PolicyWeights, temperature: float):
        assert weights.kernels is not None
        self.weights, self.kernels, self.temperature = weights, weights.kernels, temperature
        self._make_buffers()
        self.rope_table = torch.empty(0)
        self.anchor = torch.zeros((), requires_grad=True)  # makes autograd call the backward pass

    def _make_buffers(self) -> None:
        self.weight_grads: dict[Linear, Tensor] = {  # of the merged weights, dense
            linear: torch.zeros(linear.rows, linear.weight.shape[1])
            for layer in self.weights.layers
            for linear in layer.linears
        }
        self.transposed: dict[Linear, Tensor] = {}  # in panels as well, for the backward pass
        self._layout = self.weights.layout

    @property
    def nbytes(self) -> int:
        """Bytes of the gradients of the merged weights."""
        return sum(gradient.nbytes for gradient in self.weight_grads.values())

    @property
    def step_bytes(self) -> int:
        """Bytes of the transposed weights."""
        return sum(linear.weight.nbytes for linear in (*self.weight_grads, self.weights.logits))

    def pass_bytes(self, tokens: int) -> int:
        width, gate, heads, head_dim, kv_heads = model_sizes(self.weights.config)
        per_token = (4 * width + (2 * heads + 2 * kv_heads) * head_dim + 3 * gate) * FLOAT32_BYTES
        logits = LOGITS_TOKENS * self.weights.config.vocab_size * FLOAT32_BYTES
        return tokens * self.weights.config.num_hidden_layers * per_token + logits

    def begin(self) -> None:
        """Take over the policy as it is. Raises RuntimeError if the kernels can no longer compute its update."""
        self.weights.sync()
        if reason := unsupported(self.weights, self.weights.model):
            raise RuntimeError(f"the model was changed while it trains, and its update cannot go on: {reason}")
        if self._layout != self.weights.layout:
            assert self.weights.kernels is not None
            self.kernels = self.weights.kernels
            self._make_buffers()
        self.rope_table = torch.empty(0)  # the model's rotary embedding may be another one
        for linear in (*self.weight_grads, self.weights.logits):
            panel = linear.weight.shape[2]
            dense = linear.dense()
            self.transposed[linear] = dense.view(len(dense), -1, panel).transpose(0, 1).contiguous()
        for gradient in self.weight_grads.values():
            gradient.zero_()

    def finish(self) -> None:
        """Add what the passes accumulated to the gradients of the adapter."""
        for linear, accumulated in self.weight_grads.items():
            sizes = [base_linear(module).out_features for module in linear.modules]
            for index, (module, rows) in enumerate(zip(linear.modules, accumulated.split(sizes), strict=True)):
                gradient = self.weights.unpaired(rows) if index < linear.rotary else rows
                for name in getattr(module, "active_adapters", ()):
                    if name in module.lora_A:
                        a, b, scale = module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]
                        _accumulate(b, scale * gradient @ a.detach().T)
                        _accumulate(a, scale * b.detach().T @ gradient)
        self.transposed.clear()  # made anew for each step: rollouts need the memory

    def logprobs(self, batch: Batch) -> Tensor:
        tokens = ragged(batch)
        if len(self.rope_table) <= int(tokens.positions.max()):
            longest = batch["prompt_ids"].shape[1] + batch["completion_ids"].shape[1]
            self.rope_table = self.weights.rope_table(2 * longest)  # room for longer rows
        scored = _Score.apply(self.anchor, self, tokens)
        return torch.zeros(batch["completion_ids"].shape).index_put(tokens.scored, scored)

    # -- Forward --------------------------------------------------------------------------------------------------

    def forward(self, tokens: "RaggedTokens") -> tuple[Tensor, list["_LayerInputs"], Tensor, Tensor]:
        """`(logprobs of the scored tokens, what the layers keep, last x [N, C], the scored hidden states' gradient)`.

        The gradient is that for an incoming gradient of 1 per scored token.
        """
        weights, kernels = self.weights, self.kernels
        x, saved = weights.embedding.detach()[tokens.ids], []
        for layer in weights.layers:
            normed = self._norm(x, layer.attention_norm)
            qkv = layer.query_key_value(normed)
            self._rotate(qkv, tokens, backward=False)
            attention = x.new_empty(len(x), weights.heads * weights.head_dim)
            log_sum = x.new_empty(len(x), weights.heads)
            kernels.attention(*tokens.layout, qkv, attention, log_sum)
            middle = layer.attention_out.product(attention, add=x)
            middle_normed = self._norm(middle, layer.mlp_norm)
            gate_up = layer.gate_up(middle_normed)
            gated = x.new_empty(len(x), gate_up.shape[1] // 2)
            kernels.swiglu(len(x), gate_up, gated.shape[1], gated)
            saved.append(_LayerInputs(x, normed, qkv, attention, log_sum, middle, middle_normed, gate_up, gated))
            x = layer.down.product(gated, add=middle)
        hidden = self._norm(x, weights.final_norm)[tokens.sources]
        logprobs, hidden_grad = hidden.new_empty(len(hidden)), torch.empty_like(hidden)
        for start in range(0, len(hidden), LOGITS_TOKENS):
            part = slice(start, start + LOGITS_TOKENS)
            logits = weights.logits.product(hidden[part])
            kernels.target_logprobs(
                len(logits), logits, logits.shape[1], weights.logits.rows,
                1 / self.temperature, tokens.targets[part], logprobs[part],
            )  # fmt: skip
            self._input_grad(logits, weights.logits, hidden_grad[part])
        return logprobs, saved, x, hidden_grad

    # -- Backward -------------------------------------------------------------------------------------------------

    def backward(self, tokens: "RaggedTokens", saved: list["_LayerInputs"], x: Tensor, hidden_grad: Tensor) -> None:
        """Accumulate the gradients of the merged weights, from those of the hidden states that were scored."""
        kernels, count = self.kernels, len(x)
        normed_grad = torch.zeros_like(x).index_add_(0, tokens.sources, hidden_grad)
        x_grad = torch.empty_like(x)  # of the residual stream, on its way down
        self._norm_backward(x, self.weights.final_norm, normed_grad, x_grad, add=False)
        for index, layer in reversed(list(enumerate(self.weights.layers))):
            kept = saved.pop()
            gated_grad = self._linear_backward(x_grad, layer.down, kept.gated)
            gate_up_grad = torch.empty_like(kept.gate_up)
            kernels.swiglu_backward(count, kept.gate_up, kept.gated.shape[1], gated_grad, gate_up_grad)
            normed_grad = self._linear_backward(gate_up_grad, layer.gate_up, kept.middle_normed)
            self._norm_backward(kept.middle, layer.mlp_norm, normed_grad, x_grad, add=True)
            attention_grad = self._linear_backward(x_grad, layer.attention_out, kept.attention)
            qkv_grad = torch.empty_like(kept.qkv)
            kernels.attention_backward(*tokens.layout, kept.qkv, kept.attention, kept.log_sum, attention_grad, qkv_grad)
            self._rotate(qkv_grad, tokens, backward=True)
            if index:
                normed_grad = self._linear_backward(qkv_grad, layer.query_key_value, kept.normed)
                self._norm_backward(kept.x, layer.attention_norm, normed_grad, x_grad, add=True)
            else:  # nothing below is trained
                self._weight_grad(qkv_grad, layer.query_key_value, kept.normed)

    def _linear_backward(self, out_grad: Tensor, linear: Linear, x: Tensor) -> Tensor:
        """Of `x Wᵀ` with gradient `out_grad`: accumulate that of `W`, return that of `x`."""
        self._weight_grad(out_grad, linear, x)
        return self._input_grad(out_grad, linear, torch.empty_like(x))

    def _weight_grad(self, out_grad: Tensor, linear: Linear, x: Tensor) -> None:
        self.kernels.add_weight_gradient(len(x), out_grad, out_grad.shape[1], x, x.shape[1], self.weight_grads[linear])

    def _input_grad(self, out_grad: Tensor, linear: Linear, out: Tensor) -> Tensor:
        rows, columns, no_bias = len(out_grad), out_grad.shape[1], out.new_zeros(out.shape[1])
        self.kernels.linear(rows, out_grad, columns, self.transposed[linear], no_bias, None, out, out.shape[1])
        return out

    # -- Kernels of one operation ---------------------------------------------------------------------------------

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        out = torch.empty_like(x)
        self.kernels.rms_norm(len(x), x, weight, self.weights.eps, x.shape[1], out)
        return out

    def _norm_backward(self, x: Tensor, weight: Tensor, out_grad: Tensor, x_grad: Tensor, add: bool) -> None:
        self.kernels.rms_norm_backward(len(x), x, weight, self.weights.eps, x.shape[1], out_grad, add, x_grad)

    def _rotate(self, qkv: Tensor, tokens: "RaggedTokens", backward: bool) -> None:
        scale = self.weights.head_dim**-0.5
        self.kernels.rotary(len(qkv), qkv, tokens.positions, self.rope_table, scale, backward)


class _LayerInputs(NamedTuple):
    """Tensors of a layer's forward pass that its backward pass needs."""

    x: Tensor  # [N, C]
    normed: Tensor
    qkv: Tensor  # rotated
    attention: Tensor  # [N, H · D]
    log_sum: Tensor  # [N, H]: log Σ e^score
    middle: Tensor  # between attention and MLP
    middle_normed: Tensor
    gate_up: Tensor  # [N, 2 M]
    gated: Tensor


class _Score(torch.autograd.Function):
    """Log-probabilities of a batch's scored tokens; its backward pass fills the scorer's `weight_grads`."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, scorer: KernelScorer, tokens: "RaggedTokens") -> Tensor:
        logprobs, *ctx.kept = scorer.forward(tokens)
        ctx.scorer, ctx.tokens = scorer, tokens
        return logprobs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        saved, x, hidden_grad = ctx.kept
        ctx.scorer.backward(ctx.tokens, saved, x, hidden_grad.mul_(gradients[0][:, None]))
        return None, None, None


@dataclass(frozen=True)
class RaggedTokens:
    """Rows without padding: of each group its prompt, then its completions without their last tokens."""

    ids: Tensor  # [N]
    positions: Tensor  # [N]
    sources: Tensor  # the token whose hidden state predicts each scored token
    targets: Tensor  # the scored tokens
    scored: tuple[Tensor, Tensor]  # their rows, and their columns in the completions
    layout: tuple[Any, ...]  # the groups as the attention takes them


def ragged(batch: Batch) -> RaggedTokens:
    """Lay the rows of a pass side by side; prompts come padded in front, completions behind."""
    split = batch["prompt_ids"].shape[1]
    prompt_sizes, sizes = (batch[f"{part}_mask"].sum(1).tolist() for part in ("prompt", "completion"))
    prompt_rows, completion_rows = batch["prompt_ids"].tolist(), batch["completion_ids"].tolist()
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(batch["group"].tolist()):
        groups.setdefault(group, []).append(row)
    flat: list[int] = []
    positions: list[int] = []
    sources: list[int] = []
    targets: list[int] = []
    scored: tuple[list[int], list[int]] = ([], [])
    group_start, group_length, group_rows, row_start, row_length = [], [], [0], [], []
    for members in groups.values():
        prompt = prompt_rows[members[0]][split - prompt_sizes[members[0]] :]
        group_start.append(len(flat))
        group_length.append(len(prompt))
        flat += prompt
        positions += range(len(prompt))
        last = len(flat) - 1
        for row in members:
            inputs = max(0, sizes[row] - 1)
            row_start.append(len(flat))
            row_length.append(inputs)
            if sizes[row]:
                sources += [last, *range(len(flat), len(flat) + inputs)]
            flat += completion_rows[row][:inputs]
            positions += range(len(prompt), len(prompt) + inputs)
            targets += completion_rows[row][: sizes[row]]
            scored[0].extend([row] * sizes[row])
            scored[1].extend(range(sizes[row]))
        group_rows.append(len(row_start))
    held = tuple(torch.tensor(x) for x in (group_start, group_length, group_rows, row_start, row_length))
    return RaggedTokens(
        ids=torch.tensor(flat, dtype=torch.long),
        positions=torch.tensor(positions, dtype=torch.long),
        sources=torch.tensor(sources, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        scored=(torch.tensor(scored[0], dtype=torch.long), torch.tensor(scored[1], dtype=torch.long)),
        layout=(len(groups), *held),
    )


def _accumulate(parameter: Any, gradient: Tensor) -> None:
    if parameter.requires_grad:
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
