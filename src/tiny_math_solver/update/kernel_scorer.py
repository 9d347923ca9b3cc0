"""Log-probabilities of completions and their gradient on a CPU, in float32, by our own kernels.

Three things make it quick. Each prompt goes through the model once for all its samples; their gradients meet in its
keys and values. Tokens lie side by side without padding. And the passes use the adapter merged into the weights
(those of the rollouts): the gradient of each merged weight is gathered over all passes, and passed on to the
adapter's two matrices once a step, `dB = s · dW Aᵀ` and `dA = s · Bᵀ dW`, which is exact for `W = W₀ + s · B A`.

Shapes: `N` tokens, `C` hidden size, `M` size of the gate, `V` vocabulary; qkv is `[N, (H + 2 KV) · D]`.
"""

from ctypes import c_bool, c_float, c_long
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tiny_math_solver.kernels import at
from tiny_math_solver.rollouts.policy_weights import Linear, PolicyWeights, base_linear

HEAD_TOKENS = 512  # tokens whose logits are there at once
EXTRA_BYTES = 4 << 30  # the most that the weights' gradients and their transposed copies may take


class NativeUpdate:
    """One optimizer step at a time: `begin`, any number of `logprobs` with their backward passes, `finish`."""

    def __init__(self, weights: PolicyWeights):
        assert weights.kernels is not None
        self.weights, self.kernels = weights, weights.kernels
        self.gradients: dict[Linear, Tensor] = {  # of the merged weights, dense
            linear: torch.zeros(linear.rows, base_linear(linear.modules[0]).in_features)
            for layer in weights.layers
            for linear in layer.linears
        }
        self.transposed: dict[Linear, Tensor] = {}  # in panels too, for the way back
        self.turns = torch.empty(0)
        self.anchor = torch.zeros((), requires_grad=True)  # has autograd call the backward pass

    @property
    def nbytes(self) -> int:
        """Of the gradients; the transposed weights take about as much again."""
        return sum(gradient.nbytes for gradient in self.gradients.values())

    def begin(self) -> None:
        """Take over the policy as it is now."""
        self.weights.sync()
        for linear in (*self.gradients, self.weights.logits):
            panel = linear.weight.shape[2]
            dense = linear.dense()
            self.transposed[linear] = dense.view(len(dense), -1, panel).transpose(0, 1).contiguous()
        for gradient in self.gradients.values():
            gradient.zero_()

    def finish(self) -> None:
        """Add what was gathered to the gradients of the adapter."""
        for linear, gathered in self.gradients.items():
            sizes = [base_linear(module).out_features for module in linear.modules]
            for index, (module, rows) in enumerate(zip(linear.modules, gathered.split(sizes), strict=True)):
                slope = self.weights.unpaired(rows) if index < linear.rotary else rows
                for name in getattr(module, "active_adapters", ()):
                    if name in module.lora_A:
                        down, up, scale = module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]
                        _accumulate(up, scale * slope @ down.detach().T)
                        _accumulate(down, scale * up.detach().T @ slope)

    def logprobs(self, ids: Tensor, mask: Tensor, completion: int, temperature: float) -> Tensor:
        """Log-probabilities `[B, completion]` of the last `completion` tokens of rows of ids `[B, T]`; 0 at padding.

        The gradient goes to `gradients`, never through autograd.
        """
        batch = _ragged(ids, mask, completion)
        if len(self.turns) <= int(batch.positions.max()):
            self.turns = self.weights.turns(2 * ids.shape[1])
        scored = _Score.apply(self.anchor, self, batch, temperature)
        return ids.new_zeros(mask.shape[0], completion, dtype=torch.float32).index_put(batch.scored, scored)

    # -- Forward --------------------------------------------------------------------------------------------------

    def forward(self, batch: "_Ragged", temperature: float) -> tuple[Tensor, list["_Saved"], Tensor, Tensor]:
        """`(log-probabilities of the scored tokens, what the layers keep, last x [N, C], their slope)`."""
        weights, kernels = self.weights, self.kernels
        x, saved = weights.embedding.detach()[batch.ids], []
        for layer in weights.layers:
            normed = self._norm(x, layer.attention_norm)
            qkv = layer.query_key_value(normed)
            self._turn(qkv, batch, back=False)
            mixed, log_sum = x.new_empty(len(x), weights.heads * weights.head_dim), x.new_empty(len(x), weights.heads)
            kernels.attention(*batch.layout, at(qkv), at(mixed), at(log_sum))
            middle = layer.attention_out.product(mixed, add=x)
            middle_normed = self._norm(middle, layer.mlp_norm)
            gate_up = layer.gate_up(middle_normed)
            gated = x.new_empty(len(x), gate_up.shape[1] // 2)
            kernels.gate(c_long(len(x)), at(gate_up), c_long(gated.shape[1]), at(gated))
            saved.append(_Saved(x, normed, qkv, mixed, log_sum, middle, middle_normed, gate_up, gated))
            x = layer.down.product(gated, add=middle)
        hidden = self._norm(x, weights.final_norm)[batch.sources]
        scores, slopes = hidden.new_empty(len(hidden)), torch.empty_like(hidden)
        for start in range(0, len(hidden), HEAD_TOKENS):
            here = slice(start, start + HEAD_TOKENS)
            logits = weights.logits.product(hidden[here])
            kernels.choose(
                c_long(len(logits)), at(logits), c_long(logits.shape[1]), c_long(weights.logits.rows),
                c_float(1 / temperature), at(batch.targets[here]), at(scores[here]),
            )  # fmt: skip
            self._back(logits, weights.logits, slopes[here])
        return scores, saved, x, slopes

    # -- Backward -------------------------------------------------------------------------------------------------

    def backward(self, batch: "_Ragged", saved: list["_Saved"], x: Tensor, slopes: Tensor) -> None:
        """Gather the gradients of the merged weights, from those of the hidden states that were scored."""
        kernels, count = self.kernels, c_long(len(x))
        before = torch.zeros_like(x).index_add_(0, batch.sources, slopes)
        slope = torch.empty_like(x)  # of the residual stream, on its way down
        self._norm_back(x, self.weights.final_norm, before, slope, add=False)
        for index, layer in reversed(list(enumerate(self.weights.layers))):
            kept = saved.pop()
            gated_slope = self._gather(slope, layer.down, kept.gated)
            gate_up_slope = torch.empty_like(kept.gate_up)
            kernels.gate_backward(
                count, at(kept.gate_up), c_long(kept.gated.shape[1]), at(gated_slope), at(gate_up_slope)
            )
            normed_slope = self._gather(gate_up_slope, layer.gate_up, kept.middle_normed)
            self._norm_back(kept.middle, layer.mlp_norm, normed_slope, slope, add=True)
            mixed_slope = self._gather(slope, layer.attention_out, kept.mixed)
            qkv_slope = torch.empty_like(kept.qkv)
            kernels.attention_backward(
                *batch.layout, at(kept.qkv), at(kept.mixed), at(kept.log_sum), at(mixed_slope), at(qkv_slope)
            )
            self._turn(qkv_slope, batch, back=True)
            if index:
                normed_slope = self._gather(qkv_slope, layer.query_key_value, kept.normed)
                self._norm_back(kept.x, layer.attention_norm, normed_slope, slope, add=True)
            else:  # nothing below is trained
                self._gather_only(qkv_slope, layer.query_key_value, kept.normed)

    def _gather(self, slope: Tensor, linear: Linear, x: Tensor) -> Tensor:
        """Of `x Wᵀ` with gradient `slope`: that of `W` is gathered, that of `x` returned."""
        self._gather_only(slope, linear, x)
        return self._back(slope, linear, torch.empty_like(x))

    def _gather_only(self, slope: Tensor, linear: Linear, x: Tensor) -> None:
        rows, columns = (c_long(part.shape[1]) for part in (slope, x))
        self.kernels.add_product(c_long(len(x)), at(slope), rows, at(x), columns, at(self.gradients[linear]))

    # -- Kernels --------------------------------------------------------------------------------------------------

    def _back(self, slope: Tensor, linear: Linear, out: Tensor) -> Tensor:
        no_bias = out.new_zeros(out.shape[1])
        self.kernels.linear(
            c_long(len(slope)), at(slope), c_long(slope.shape[1]), at(self.transposed[linear]), at(no_bias), None,
            at(out), c_long(out.shape[1]),
        )  # fmt: skip
        return out

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        out = torch.empty_like(x)
        self.kernels.norm(c_long(len(x)), at(x), at(weight), c_float(self.weights.eps), c_long(x.shape[1]), at(out))
        return out

    def _norm_back(self, x: Tensor, weight: Tensor, before: Tensor, slope: Tensor, add: bool) -> None:
        self.kernels.norm_backward(
            c_long(len(x)), at(x), at(weight), c_float(self.weights.eps), c_long(x.shape[1]), at(before), c_bool(add),
            at(slope),
        )  # fmt: skip

    def _turn(self, qkv: Tensor, batch: "_Ragged", back: bool) -> None:
        scale = c_float(self.weights.head_dim**-0.5)
        self.kernels.turn(c_long(len(qkv)), at(qkv), at(batch.positions), at(self.turns), scale, c_bool(back))


class _Saved(NamedTuple):
    """What a layer's backward pass needs of its forward pass."""

    x: Tensor  # [N, C]
    normed: Tensor
    qkv: Tensor  # turned
    mixed: Tensor  # [N, H · D]
    log_sum: Tensor  # [N, H]: log Σ e^score
    middle: Tensor
    middle_normed: Tensor
    gate_up: Tensor  # [N, 2 M]
    gated: Tensor


class _Score(torch.autograd.Function):
    """Log-probabilities of a batch's scored tokens; going back fills the update's `gradients`."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, update: NativeUpdate, batch: "_Ragged", temperature: float) -> Tensor:
        scores, *ctx.rest = update.forward(batch, temperature)
        ctx.update, ctx.batch = update, batch
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        saved, x, slopes = ctx.rest
        ctx.update.backward(ctx.batch, saved, x, slopes.mul_(gradients[0][:, None]))
        return None, None, None, None


@dataclass(frozen=True)
class _Ragged:
    """Rows without padding: of each group its prompt, then its completions without their last tokens."""

    ids: Tensor  # [N]
    positions: Tensor  # [N]
    sources: Tensor  # whose hidden state says each scored token
    targets: Tensor  # and which token that is
    scored: tuple[Tensor, Tensor]  # its row and its column in the completions
    layout: tuple[Any, ...]  # the groups as the attention takes them
    held: tuple[Tensor, ...]  # the memory of `layout`


def _ragged(ids: Tensor, mask: Tensor, completion: int) -> _Ragged:
    """Of rows of ids `[B, T]`, prompts padded in front and completions behind."""
    prompt_sizes = mask[:, :-completion].sum(1).tolist()
    sizes = mask[:, -completion:].sum(1).tolist()
    groups: dict[tuple[int, ...], list[int]] = {}
    rows = ids.tolist()
    split = ids.shape[1] - completion
    for row, size in enumerate(prompt_sizes):
        groups.setdefault(tuple(rows[row][split - size : split]), []).append(row)
    flat: list[int] = []
    positions: list[int] = []
    sources: list[int] = []
    targets: list[int] = []
    scored: tuple[list[int], list[int]] = ([], [])
    group_start, group_length, group_rows, row_start, row_length = [], [], [0], [], []
    for prompt, members in groups.items():
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
            flat += rows[row][split : split + inputs]
            positions += range(len(prompt), len(prompt) + inputs)
            targets += rows[row][split : split + sizes[row]]
            scored[0].extend([row] * sizes[row])
            scored[1].extend(range(sizes[row]))
        group_rows.append(len(row_start))
    held = tuple(torch.tensor(x) for x in (group_start, group_length, group_rows, row_start, row_length))
    return _Ragged(
        ids=torch.tensor(flat, dtype=torch.long),
        positions=torch.tensor(positions, dtype=torch.long),
        sources=torch.tensor(sources, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        scored=(torch.tensor(scored[0], dtype=torch.long), torch.tensor(scored[1], dtype=torch.long)),
        layout=(c_long(len(groups)), *map(at, held)),
        held=held,
    )


def why_not(weights: PolicyWeights, model: Any) -> str:
    """Why the update of this model cannot be native; empty if it can."""
    if weights.kernels is None or weights.logits.layout != "panels":
        return "no kernels for this model"
    linears = [linear for layer in weights.layers for linear in layer.linears]
    if 2 * sum(linear.weight.nbytes for linear in linears) > EXTRA_BYTES:
        return "gradients of whole weights would take too much memory"
    if weights.layers[0].query_norm is not None:
        return "norms of queries and keys"
    if getattr(weights.config, "attention_dropout", 0):
        return "attention dropout"
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    for module in (module for linear in linears for module in linear.modules):
        for name in getattr(module, "active_adapters", ()):
            if name in module.lora_A:
                if not isinstance(module.lora_dropout[name], nn.Identity):
                    return "LoRA dropout"
                trained -= {id(module.lora_A[name].weight), id(module.lora_B[name].weight)}
    return "more than the adapter of the layers is trained" if trained else ""


def _accumulate(parameter: Any, gradient: Tensor) -> None:
    if parameter.requires_grad:
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
