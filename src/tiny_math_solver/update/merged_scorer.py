"""Log-probabilities of completions and their gradient, from the rollouts' own copy of the policy.

Three things make it fast. Each prompt goes through the model once for all samples of its group; their gradients meet
in its keys and values. Tokens lie side by side without padding. And the passes compute with the adapter merged into
the weights, which are the rollouts' copy (weight_gradients.py). What they compute with are the operators of that copy:
compiled kernels on a CPU, Triton on a GPU.

Shapes are those of policy/.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tiny_math_solver.policy.architecture import capped_with_derivative
from tiny_math_solver.policy.forward import Forward, LayerState, Workspace
from tiny_math_solver.policy.linear import Linear, active_adapters
from tiny_math_solver.policy.weights import Layer, PolicyWeights
from tiny_math_solver.update.passes import Batch
from tiny_math_solver.update.ragged import ScoredTokens, ragged
from tiny_math_solver.update.torch_scorer import FLOAT32_BYTES, logits_tokens, model_sizes
from tiny_math_solver.update.weight_gradients import AdapterGradient, MergedGradient, ProjectionGradient

LOGITS_TOKENS, GPU_LOGITS_TOKENS = 512, 2048  # tokens whose logits exist at once, at most
DROPOUTS = ("attention_dropout", "resid_pdrop", "embd_pdrop")
MERGED_BYTES = 1 << 28  # of merged weights; the gradients of larger ones are summed at the adapter's rank


def unsupported(weights: PolicyWeights, model: Any) -> str:
    """The reason why this model's update cannot use the merged copy; empty if it can."""
    if weights.operators is None:
        return weights.no_kernels_reason
    if any(getattr(weights.config, name, 0) for name in DROPOUTS):
        return "dropout outside the adapter is not supported"
    linears = [linear for layer in weights.layers for linear in layer.linears]
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    for module in (module for linear in linears for module in linear.modules):
        for name in active_adapters(module):
            if not isinstance(module.lora_dropout[name], nn.Identity):
                return "LoRA dropout is not supported"
            trained -= {id(module.lora_A[name].weight), id(module.lora_B[name].weight)}
    return "more than the adapter of the layers is trainable" if trained else ""


class MergedScorer:
    """Scores with the rollouts' merged weights. Implements `Scorer`; the gradient never goes through autograd."""

    by_group = True

    def __init__(self, weights: PolicyWeights, temperature: float):
        self.weights, self.temperature = weights, temperature
        self._make_gradients()
        self.rope_tables = torch.empty(0, 0)
        self.anchor = torch.zeros((), requires_grad=True)  # makes autograd call the backward pass

    def _make_gradients(self) -> None:
        weights = self.weights
        assert weights.operators is not None
        self.operators, self._layout = weights.operators, weights.layout
        self._workspaces: list[Workspace] = []  # of this step's passes that are over
        linears = [linear for layer in weights.layers for linear in layer.linears]
        is_small = sum(linear.weight.nbytes for linear in linears) <= MERGED_BYTES
        kind = MergedGradient if is_small and linears[0].layout == "panels" else AdapterGradient
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
        first = self.weights.layers[0]
        kept += (heads + kv_heads) * head_dim * size if first.head_norms else 0
        kept += sum(width * size for norm in (first.attention_out_norm, first.mlp_out_norm) if norm is not None)
        buffers = (3 * width + attention + qkv + 2 * gate) * size
        logits = self._logits_tokens * self.weights.logits.columns * size
        logits *= 2 if self.weights.architecture.logits_cap else 1  # and the derivative of the cap
        return tokens * (layers * kept + buffers) + logits

    @property
    def _logits_tokens(self) -> int:
        if self.weights.device.type != "cpu":
            return GPU_LOGITS_TOKENS
        return min(LOGITS_TOKENS, logits_tokens(self.weights.config.vocab_size))

    def begin(self) -> None:
        """Take over the policy as it is. Raises RuntimeError if the copy can no longer be used for its update."""
        self.weights.sync()
        if reason := unsupported(self.weights, self.weights.model):
            raise RuntimeError(f"the model was changed while it trains, and its update cannot go on: {reason}")
        if self._layout != self.weights.layout:
            self._make_gradients()
        self.rope_tables = torch.empty(0, 0)  # the model's rotary embedding may be another one
        self._workspaces.clear()  # of an attempt that was given up, or a trial
        for gradient in self.gradients.values():
            gradient.begin()

    def finish(self) -> None:
        """Add what the passes accumulated to the gradients of the adapter."""
        for gradient in self.gradients.values():
            gradient.finish()
        self._workspaces.clear()

    def logprobs(self, batch: Batch) -> Tensor:
        rows = ragged(batch)
        if self.rope_tables.shape[1] < rows.tokens.longest:
            longest = batch["prompt_ids"].shape[1] + batch["completion_ids"].shape[1]
            self.rope_tables = self.weights.rope_tables(2 * longest)  # room for longer rows
        rows = rows.to(self.weights.device)
        scored = _Score.apply(self.anchor, self, rows)
        return scored.new_zeros(batch["completion_ids"].shape).index_put(rows.scored, scored)

    def forward(self, rows: ScoredTokens) -> tuple[Tensor, "_Pass"]:
        """The log-probabilities of the scored tokens, and what the backward pass needs."""
        weights, layers = self.weights, []
        workspace = self._workspaces.pop() if self._workspaces else Workspace()
        forward = Forward(weights, rows.tokens, self.rope_tables, workspace)
        x = forward.run(lambda index, state: layers.append(state))
        hidden = forward.norm(x, weights.final_norm)[rows.sources]
        logprobs, hidden_grad = torch.empty(len(hidden), device=x.device), torch.empty_like(hidden)
        for start in range(0, len(hidden), self._logits_tokens):
            part = slice(start, start + self._logits_tokens)
            room = forward.buffer("logits", hidden[part], weights.logits.columns) if weights.logits.kernel else None
            logits = weights.logits.product(hidden[part], out=room)
            derivative = capped_with_derivative(logits, weights.architecture.logits_cap)
            self.operators.target_logprobs(
                logits, weights.logits.rows, self.temperature, rows.targets[part], logprobs[part]
            )
            if derivative is not None:
                logits *= derivative
            self.gradients[weights.logits].backward(logits, None, hidden_grad[part])
            del logits, derivative  # before the next ones are made
        return logprobs, _Pass(forward, layers, x, hidden_grad)

    def backward(self, rows: ScoredTokens, of_pass: "_Pass", logprobs_grad: Tensor) -> None:
        """Accumulate the gradients of the adapters, from that of the log-probabilities."""
        forward, x = of_pass.forward, of_pass.x
        hidden_grad = of_pass.hidden_grad.mul_(logprobs_grad[:, None])
        normed_grad = torch.zeros_like(x)
        if x.is_cuda:  # a prompt's last token predicts the first of each completion; index_add_ would sum in any order
            normed_grad.index_put_((rows.sources,), hidden_grad, accumulate=True)
        else:
            normed_grad.index_add_(0, rows.sources, hidden_grad)
        x_grad = torch.empty_like(x)  # of the residual stream, on its way down
        self._norm_backward(x, self.weights.final_norm, normed_grad, x_grad, add=False)
        for index, layer in reversed(list(enumerate(self.weights.layers))):
            self._layer_backward(forward, layer, of_pass.layers.pop(), x_grad, is_lowest=index == 0)
        forward.workspace.rewind()
        self._workspaces.append(forward.workspace)

    def _layer_backward(
        self, forward: Forward, layer: Layer, kept: LayerState, x_grad: Tensor, *, is_lowest: bool
    ) -> None:
        """From the gradient of a layer's result to that of its input, in `x_grad`, unless nothing below is trained."""
        operators = self.operators
        out_grad = self._before_norm(forward, kept.mlp_out, layer.mlp_out_norm, x_grad)
        gated_grad = self._linear_backward(forward, out_grad, layer.down, forward.gate(kept.gate_up))
        gate_up_grad = kept.gate_up  # is not needed any more
        activation = self.weights.architecture.gate.activation
        operators.gated_backward(kept.gate_up, activation, gated_grad, gate_up_grad)
        normed = forward.norm(kept.middle, layer.mlp_norm)
        normed_grad = self._linear_backward(forward, gate_up_grad, layer.gate_up, normed)
        self._norm_backward(kept.middle, layer.mlp_norm, normed_grad, x_grad, add=True)
        out_grad = self._before_norm(forward, kept.attention_out, layer.attention_out_norm, x_grad)
        attention_grad = self._linear_backward(forward, out_grad, layer.attention_out, kept.attention)
        qkv_grad = forward.buffer("qkv gradient", kept.qkv)
        operators.attention_backward(
            forward.work, kept.qkv, layer.manner, kept.attention, kept.log_sum, attention_grad, qkv_grad
        )
        forward.rotate(qkv_grad, layer, backward=True)
        if kept.before_norms and layer.head_norms:
            for x, norm, part in zip(kept.before_norms, layer.head_norms, forward.heads_of(qkv_grad), strict=True):
                grad = self._before_norm(forward, x, norm, part.contiguous().view(x.shape))
                part.copy_(grad.view(part.shape))
        normed = forward.norm(kept.x, layer.attention_norm)
        if is_lowest:
            self.gradients[layer.query_key_value].backward(qkv_grad, normed, None)
            return
        normed_grad = self._linear_backward(forward, qkv_grad, layer.query_key_value, normed)
        self._norm_backward(kept.x, layer.attention_norm, normed_grad, x_grad, add=True)

    def _linear_backward(self, forward: Forward, out_grad: Tensor, linear: Linear, x: Tensor) -> Tensor:
        """Accumulate the gradients of a projection's adapters, return that of its input `x`."""
        x_grad = forward.buffer(f"gradient of {x.shape[1]} inputs", x)
        self.gradients[linear].backward(out_grad, x, x_grad)
        return x_grad

    def _norm_backward(self, x: Tensor, weight: Tensor, out_grad: Tensor, x_grad: Tensor, add: bool) -> None:
        self.operators.rms_norm_backward(x, weight, self.weights.eps, out_grad, add, x_grad)

    def _before_norm(self, forward: Forward, x: Tensor | None, norm: Tensor | None, out_grad: Tensor) -> Tensor:
        """The gradient of a projection's result `x`, from that of its norm, if it has one."""
        if x is None or norm is None:
            return out_grad
        x_grad = forward.buffer("gradient before a norm", x)
        self._norm_backward(x, norm, out_grad, x_grad, add=False)
        return x_grad


class _Pass(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    forward: Forward
    layers: list[LayerState]
    x: Tensor  # [N, C], behind the last layer
    hidden_grad: Tensor  # of the scored hidden states, for an incoming gradient of 1 per scored token


class _Score(torch.autograd.Function):
    """Log-probabilities of a batch's scored tokens; its backward pass fills the scorer's `gradients`."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, scorer: MergedScorer, rows: ScoredTokens) -> Tensor:
        logprobs, ctx.of_pass = scorer.forward(rows)
        ctx.scorer, ctx.rows = scorer, rows
        return logprobs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.scorer.backward(ctx.rows, ctx.of_pass, gradients[0])
        return None, None, None
