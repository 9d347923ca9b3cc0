"""Projections of the merged copy, in the memory layout that their products want."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tiny_math_solver.kernels import Kernel, Kernels
from tiny_math_solver.models.quantized import dense_weight, is_quantized, stored_tensors


class UnsupportedModelError(Exception):
    """The engine cannot run this model; the message names what it does not support."""


class Linear:
    """`x Wᵀ + bias` for the weights `[out, in]` of one or several projections of the same input, stacked.

    Layouts of the weight: `dense`; for our own kernels `panels` (float32 on a CPU) and `pairs` (bfloat16 on a CPU that
    multiplies it); `onednn` (bfloat16 without those), which torch's `linear` would produce anew at every call.
    """

    def __init__(
        self,
        owner: Any,
        names: tuple[str, ...],
        kernels: Kernels | None,
        dtype: torch.dtype,
        device: torch.device,
        paired_rows: int = 0,
    ):
        self.owner, self.names = owner, names
        self.paired_rows = paired_rows  # the first so many rows are in the order of `PolicyWeights.paired`
        bases = [base_linear(module) for module in self.modules]
        rows, columns = sum(base.out_features for base in bases), bases[0].in_features
        bias = any(base.bias is not None for base in bases)
        self.rows, self.kernels, self.layout = rows, kernels, "dense"
        self.columns = rows  # of the result, padding included
        like: Any = {"dtype": dtype, "device": device}
        if kernels is not None and (dtype == torch.float32 or kernels.has_bfloat16):
            self.layout, panel = "panels" if dtype == torch.float32 else "pairs", kernels.panel
            self.columns = -(-rows // panel) * panel
            self.weight = torch.empty(self.columns // panel, columns, panel, **like)
        else:
            self.layout = "onednn" if _has_onednn(dtype, device) else "dense"
            self.weight = torch.empty(rows if self.layout == "dense" else 0, columns, **like)
        self.bias = torch.zeros(self.columns, **like) if bias or self.kernel else None
        # tensors with their versions, and scales, of the last `fill`
        self._filled_from: tuple[list[tuple[Tensor, int]], list[float]] = [], []
        self.checksums = torch.empty(0)  # of those tensors as they were

    @property
    def kernel(self) -> Kernel | None:
        """The product by a kernel of our own, in its layout: `(rows, x, in, weight, bias, add, out, columns)`."""
        if self.kernels is None or self.layout not in ("panels", "pairs"):
            return None
        return self.kernels.linear if self.layout == "panels" else self.kernels.linear_bfloat16

    @property
    def modules(self) -> list[Any]:
        """The model's projections, looked up at every use: an adapter may have been put around them."""
        return [getattr(self.owner, name) for name in self.names]

    def is_made_from_the_same(self) -> bool:
        """True if since the last `fill` no source was replaced, or written to in a way that autograd counts."""
        tensors, scales = self._sources()
        seen, seen_scales = self._filled_from
        return (
            len(tensors) == len(seen)
            and scales == seen_scales
            and all(
                t.data_ptr() == memory.data_ptr() and t._version == v
                for t, (memory, v) in zip(tensors, seen, strict=True)
            )
        )

    def checksums_now(self) -> Tensor:
        """Sums over the bits of the sources' rows."""
        return torch.cat([checksums(tensor) for tensor in self._sources()[0]])

    def _sources(self) -> tuple[list[Tensor], list[float]]:
        """The parameters of the base layers and of their active adapters, and the scales of the latter."""
        tensors: list[Tensor] = []
        scales: list[float] = []
        for module in self.modules:
            tensors += [part for weight in base_linear(module).parameters() for part in stored_tensors(weight)]
            for name in active_adapters(module):
                tensors += [module.lora_A[name].weight, module.lora_B[name].weight]
                scales.append(module.scaling[name])
        return tensors, scales

    def fill(self, weight: Tensor, bias: Tensor) -> None:
        """Copy a dense weight `[out, in]` and a bias `[out]`, which were made from the modules' present state."""
        # the memory is kept: after it was freed, other values could come to lie at the same address
        tensors, scales = self._sources()
        self._filled_from, self.checksums = ([(t.detach(), t._version) for t in tensors], scales), self.checksums_now()
        if self.bias is not None:
            self.bias[: self.rows].copy_(bias)
        if self.layout == "onednn":
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        elif self.layout == "dense":
            self.weight.copy_(weight)
        else:
            assert self.kernels is not None
            panels, columns, panel = self.weight.shape
            if missing := self.columns - self.rows:
                weight = nn.functional.pad(weight, (0, 0, 0, missing))
            if self.layout == "panels":
                self.weight.copy_(weight.view(panels, panel, columns).transpose(1, 2))
            else:
                self.kernels.pack_bfloat16(self.columns, weight.contiguous(), columns, self.weight)

    def dense(self) -> Tensor:
        """The weight `[columns, in]` of the panels."""
        return self.weight.transpose(1, 2).flatten(0, 1)

    def __call__(self, x: Tensor) -> Tensor:
        if self.kernel is None:
            return self.product(x)
        out = self.product(x.reshape(-1, x.shape[-1]).contiguous())
        return out.view(*x.shape[:-1], self.columns)[..., : self.rows]

    def add_product(self, x: Tensor, total: Tensor) -> None:
        """`total += x Wᵀ + bias`, in place, of a dense weight."""
        if self.bias is not None:
            total += self.bias
        total.addmm_(x, self.weight.T)

    def product(self, x: Tensor, add: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """`x Wᵀ + bias (+ add)`; by a kernel `[N, columns]`, padding included, for contiguous `x` `[N, in]`.

        A kernel writes to `out`, if there is one.
        """
        if self.kernel:
            out = x.new_empty(len(x), self.columns) if out is None else out
            self.kernel(len(x), x, x.shape[1], self.weight, self.bias, add, out, self.columns)
            return out
        if self.layout == "dense":
            if add is not None and self.bias is None:
                return torch.addmm(add, x, self.weight.T)
            product = nn.functional.linear(x, self.weight, self.bias)
            return product if add is None else product.add_(add)
        if add is None:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(x, add, self.weight, self.bias, "add")


def unchanged(linears: Sequence[Linear]) -> list[bool]:
    """Of each, whether nothing that its weights are made from has changed since the last `fill`.

    A GPU is waited for once.
    """
    same = [linear.is_made_from_the_same() for linear in linears]
    if not (asked := [linear for linear, is_same in zip(linears, same, strict=True) if is_same]):
        return same
    before = [linear.checksums for linear in asked]
    differs = torch.cat([linear.checksums_now() for linear in asked]) != torch.cat(before)
    changed = iter([bool(part.any()) for part in differs.cpu().split([len(sums) for sums in before])])
    return [is_same and not next(changed) for is_same in same]


def checksums(parameter: Tensor) -> Tensor:
    """A sum over the bits of each row: finds writes through `.data`, which autograd does not count, such as a merge."""
    rows = parameter.detach().contiguous().view(len(parameter), -1)
    for integer in (torch.int64, torch.int32, torch.int16):  # the widest are the fastest
        if rows.shape[1] * rows.itemsize % integer.itemsize == 0:
            return rows.view(integer).sum(1)
    return rows.double().sum(1).view(torch.int64)


def base_linear(module: Any) -> nn.Linear:
    """The linear layer of a projection, plain or quantised, with or without adapters around it."""
    base = getattr(module, "base_layer", module)
    if type(base) is not nn.Linear and not is_quantized(base):
        raise UnsupportedModelError(f"a projection that is {type(base).__name__}")
    if base is not module and not hasattr(module, "get_delta_weight"):
        raise UnsupportedModelError(f"an adapter that is {type(module).__name__}")
    return base


def merged_weight(module: Any) -> Tensor:
    """The base weight plus the updates of all active adapters, summed in float32."""
    base, active = dense_weight(base_linear(module)), active_adapters(module)
    if any(module.lora_variant.get(name) or module.lora_bias.get(name) for name in active):
        raise UnsupportedModelError("an adapter that is not a plain update of a weight")
    if not active:
        return base
    merged = module.get_delta_weight(active[0]).float()
    for name in active[1:]:
        merged += module.get_delta_weight(name)
    return merged.add_(base)


def active_adapters(module: Any) -> list[str]:
    """The names of the adapters that add to the base weight of a projection; none where they were merged into it."""
    if not hasattr(module, "get_delta_weight") or module.disable_adapters or module.merged:
        return []
    return [name for name in module.active_adapters if name in module.lora_A]


def _has_onednn(dtype: torch.dtype, device: torch.device) -> bool:
    """True if this torch has oneDNN's operators with packed weights, which are those that its compiler uses."""
    return (
        dtype == torch.bfloat16
        and device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
