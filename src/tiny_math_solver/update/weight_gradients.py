"""From the gradient of a projection's result to those of its input and of its adapters.

The passes compute with the adapter merged into the weight, `W = W₀ + s · B A`, and results `y = x Wᵀ`. With `dY` the
gradient of `y`, that of `W` is `dYᵀ x`, and those of the adapter are `dB = s · dW Aᵀ` and `dA = s · Bᵀ dW`. Either `dW`
is summed over all passes and passed on to the adapter once a step, or both are summed at the adapter's rank, `s · dYᵀ
(x Aᵀ)` and `(s · dY B)ᵀ x`, which takes less arithmetic and memory where weights are large.

Shapes: `N` tokens; a projection has `in` inputs and `out` results, those of its modules stacked; `R` is the sum of its
adapters' ranks.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tiny_math_solver.models.quantized import dense_weight
from tiny_math_solver.policy.linear import Linear, active_adapters, base_linear
from tiny_math_solver.policy.weights import PolicyWeights


class ProjectionGradient(Protocol):
    """The backward pass of one projection; one optimizer step is `begin`, any number of passes, `finish`."""

    def begin(self) -> None:
        """Take over the weights as they are."""

    def backward(self, out_grad: Tensor, x: Tensor | None, x_grad: Tensor | None) -> None:
        """From the gradient of the result `[N, out]`: add to the adapters', write the input's to `x_grad` `[N, in]`.

        The former needs the input `x` `[N, in]`. Either is left out if it is None.
        """

    def finish(self) -> None:
        """Add the sums to the `grad` of the adapters' matrices."""

    @property
    def nbytes(self) -> int:
        """Bytes held all the time."""
        ...

    @property
    def step_bytes(self) -> int:
        """Bytes held from `begin` to `finish` beside those."""
        ...


class MergedGradient:
    """Sums up the gradient of a merged weight in panels, by kernels. Implements `ProjectionGradient`."""

    def __init__(self, linear: Linear, weights: PolicyWeights):
        assert weights.kernels is not None
        self.linear, self.weights, self.kernels = linear, weights, weights.kernels
        self.total = torch.zeros(linear.rows if adapters(linear) else 0, linear.weight.shape[1])
        self.transposed = torch.empty(0)  # the weight, in panels as well

    def begin(self) -> None:
        dense = self.linear.dense()
        self.transposed = dense.view(len(dense), -1, self.kernels.panel).transpose(0, 1).contiguous()
        self.total.zero_()

    def backward(self, out_grad: Tensor, x: Tensor | None, x_grad: Tensor | None) -> None:
        rows, columns = out_grad.shape
        if x is not None and len(self.total):
            self.kernels.add_weight_gradient(rows, out_grad, columns, x, x.shape[1], self.total)
        if x_grad is not None:
            size = x_grad.shape[1]
            self.kernels.linear(rows, out_grad, columns, self.transposed, x_grad.new_zeros(size), None, x_grad, size)

    def finish(self) -> None:
        self.transposed = torch.empty(0)  # made anew for each step: rollouts need the memory
        for part in adapters(self.linear):
            rows = self.total[part.rows]
            gradient = part.unpaired(rows, self.weights)
            _accumulate(part.b, part.scale * gradient @ part.a.detach().T)
            _accumulate(part.a, part.scale * part.b.detach().T @ gradient)

    @property
    def nbytes(self) -> int:
        return self.total.nbytes

    @property
    def step_bytes(self) -> int:
        return self.linear.weight.nbytes


class AdapterGradient:
    """Sums up the gradients of the adapters' matrices themselves, in torch. Implements `ProjectionGradient`.

    That of the input goes through the merged weight where that is dense. Else it goes through the model's own base
    weight and the adapters, `dY W₀ + (s · dY B) A`, so that no transposed copy is needed.
    """

    nbytes = step_bytes = 0  # no more than the adapters' own gradients

    def __init__(self, linear: Linear, weights: PolicyWeights):
        self.linear, self.weights = linear, weights
        self.adapters: list[Adapter] = []
        self.scaled_b: list[Tensor] = []  # s · B of each, in the order and the dtype of the merged rows
        self.b_totals: list[Tensor] = []  # float32
        self.a = self.a_total = torch.empty(0)  # [R, in], of all adapters

    def begin(self) -> None:
        dtype = self.weights.dtype
        self.adapters = adapters(self.linear)
        self.scaled_b, self.b_totals = [], []
        for part in self.adapters:
            b = part.b.detach()
            b = torch.cat([self.weights.paired(b[: part.paired_rows]), b[part.paired_rows :]])
            self.scaled_b.append((part.scale * b).to(dtype))
            self.b_totals.append(torch.zeros_like(b))
        if self.adapters:
            self.a = torch.cat([part.a.detach() for part in self.adapters]).to(dtype)
            self.a_total = torch.zeros(self.a.shape, device=self.a.device)

    def backward(self, out_grad: Tensor, x: Tensor | None, x_grad: Tensor | None) -> None:
        parts = [out_grad[:, part.rows] for part in self.adapters]
        if parts:
            inner_grad = torch.cat([part @ b for part, b in zip(parts, self.scaled_b, strict=True)], 1)  # of x Aᵀ
            if x is not None:
                inner = (x @ self.a.T).split([b.shape[1] for b in self.scaled_b], 1)
                for part, of_adapter, total in zip(parts, inner, self.b_totals, strict=True):
                    total += part.T @ of_adapter
                self.a_total += inner_grad.T @ x
        if x_grad is None:
            return
        if self.linear.layout == "dense":
            torch.mm(out_grad, self.linear.weight, out=x_grad)
            return
        paired, start = self.linear.paired_rows, 0
        if paired:
            out_grad = torch.cat([self.weights.unpaired(out_grad[:, :paired], 1), out_grad[:, paired:]], 1)
        for index, module in enumerate(self.linear.modules):
            base = dense_weight(base_linear(module)).detach()
            part = out_grad[:, start : (start := start + len(base))]
            torch.addmm(x_grad, part, base, beta=0 if index == 0 else 1, out=x_grad)
        if parts:
            x_grad.addmm_(inner_grad, self.a)

    def finish(self) -> None:
        if not self.adapters:
            return
        a_totals = self.a_total.split([b.shape[1] for b in self.scaled_b])
        for part, a_total, b_total in zip(self.adapters, a_totals, self.b_totals, strict=True):
            _accumulate(part.b, part.scale * part.unpaired(b_total, self.weights))
            _accumulate(part.a, a_total)
        self.scaled_b, self.b_totals, self.a = [], [], torch.empty(0)


class Adapter(NamedTuple):
    """An active adapter `s · B A` of one of a projection's modules."""

    a: Any  # parameters, [r, in] and [out, r]
    b: Any
    scale: float
    rows: slice  # of the module in the projection's result
    paired_rows: int  # the first so many of those are in the order of `PolicyWeights.paired`

    def unpaired(self, rows: Tensor, weights: PolicyWeights) -> Tensor:
        """`rows` `[out, …]` of the merged copy in the order of the module."""
        return torch.cat([weights.unpaired(rows[: self.paired_rows]), rows[self.paired_rows :]])


def adapters(linear: Linear) -> list[Adapter]:
    """The active adapters of a projection's modules, as they are now."""
    found: list[Adapter] = []
    start = 0
    for module in linear.modules:
        rows = slice(start, start := start + base_linear(module).out_features)
        paired = min(max(0, linear.paired_rows - rows.start), rows.stop - rows.start)
        for name in active_adapters(module):
            a, b = module.lora_A[name].weight, module.lora_B[name].weight
            found.append(Adapter(a, b, module.scaling[name], rows, paired))
    return found


def _accumulate(parameter: Any, gradient: Tensor) -> None:
    if parameter.requires_grad:
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
