"""One layer over ragged tokens, forward, with the operators of the merged copy."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tiny_math_solver.policy.linear import Linear
from tiny_math_solver.policy.ragged import RaggedTokens
from tiny_math_solver.policy.weights import Layer, PolicyWeights


class LayerState(NamedTuple):
    """What a layer computes that its backward pass needs; norms and gates are computed again."""

    x: Tensor  # [N, C]
    before_norms: tuple[Tensor, Tensor] | None  # queries [N · H, D] and keys [N · KV, D], if they have norms
    qkv: Tensor  # rotated, queries scaled
    attention: Tensor  # [N, H · D]
    log_sum: Tensor  # [N, H]: log Σ e^score
    attention_out: Tensor | None  # [N, C], before its norm, if it has one
    middle: Tensor  # [N, C], between attention and MLP
    gate_up: Tensor  # [N, 2 M]
    mlp_out: Tensor | None  # [N, C], before its norm, if it has one


class Workspace:
    """Memory that passes use one after the other.

    On a CPU fresh memory comes from the system page by page, which would take a third of a forward pass.
    """

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}
        self.results: list[Tensor] = []  # flat
        self.used = 0  # of the results, in this pass

    def buffer(self, name: str, like: Tensor, columns: int) -> Tensor:
        """A tensor `[N, columns]` whose values last until the next use of the name."""
        held = self.buffers.get(name)
        if held is None or len(held) < len(like) * columns:
            held = self.buffers[name] = like.new_empty(len(like) * columns)
        return _shaped(held, like, columns)

    def result(self, like: Tensor, columns: int) -> Tensor:
        """A tensor `[N, columns]` whose values last until `rewind`."""
        if like.is_cuda:  # torch keeps a GPU's memory itself
            return like.new_empty(len(like), columns)
        if self.used == len(self.results):
            self.results.append(like.new_empty(0))
        if len(self.results[self.used]) < len(like) * columns:
            self.results[self.used] = like.new_empty(len(like) * columns)
        self.used += 1
        return _shaped(self.results[self.used - 1], like, columns)

    def rewind(self) -> None:
        """Begin another pass, whose results take the place of the last one's."""
        self.used = 0

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.buffers.values(), *self.results))


def _shaped(held: Tensor, like: Tensor, columns: int) -> Tensor:
    return held[: len(like) * columns].view(len(like), columns)


class Forward:
    """The layers of `weights`, which must have operators, over one batch of ragged tokens on its device.

    `rope_tables` `[rotations, ≥ positions, D]` hold cosine and sine of each rotary pair. States that are kept are in
    `workspace`, if there is one.
    """

    def __init__(
        self, weights: PolicyWeights, tokens: RaggedTokens, rope_tables: Tensor, workspace: Workspace | None = None
    ):
        assert weights.operators is not None
        self.weights, self.operators, self.tokens, self.rope_tables = weights, weights.operators, tokens, rope_tables
        self.workspace, self.is_kept = workspace or Workspace(), workspace is not None
        self.work: Any = self.operators.work(tokens.layout)

    def run(self, keep: Callable[[int, LayerState], Any]) -> Tensor:
        """The last layer's result `[N, C]`; `keep(index, state)` is called after each layer."""
        x = self.weights.embed(self.tokens.ids, self.weights.embedding.detach())
        for index, layer in enumerate(self.weights.layers):
            state, x = self.layer(layer, x)
            keep(index, state)
        return x

    def layer(self, layer: Layer, x: Tensor) -> tuple[LayerState, Tensor]:
        weights = self.weights
        qkv = self.product(layer.query_key_value, self.norm(x, layer.attention_norm))
        before_norms = self._norm_heads(qkv, layer.head_norms) if layer.head_norms else None
        self.rotate(qkv, layer, backward=False)
        attention = self._result(x, weights.heads * weights.head_dim)
        log_sum = torch.empty(len(x), weights.heads, device=x.device)
        self.operators.attention(self.work, qkv, layer.manner, attention, log_sum)
        attention_out, middle = self.added(layer.attention_out, attention, layer.attention_out_norm, x)
        gate_up = self.product(layer.gate_up, self.norm(middle, layer.mlp_norm))
        mlp_out, out = self.added(layer.down, self.gate(gate_up), layer.mlp_out_norm, middle)
        return LayerState(x, before_norms, qkv, attention, log_sum, attention_out, middle, gate_up, mlp_out), out

    def added(self, linear: Linear, x: Tensor, norm: Tensor | None, to: Tensor) -> tuple[Tensor | None, Tensor]:
        """A projection's result before its norm, if it has one, and `to` plus the result."""
        if norm is None:
            return None, self.product(linear, x, add=to)
        result, out = self.product(linear, x), self._result(to, to.shape[1])
        self.operators.rms_norm(result, norm, self.weights.eps, out)
        return result, out.add_(to)

    def product(self, linear: Linear, x: Tensor, add: Tensor | None = None) -> Tensor:
        return linear.product(x, add, self._result(x, linear.columns) if linear.kernel else None)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        out = self.buffer("normed", x)
        self.operators.rms_norm(x, weight, self.weights.eps, out)
        return out

    def gate(self, gate_up: Tensor) -> Tensor:
        out = self.buffer("gated", gate_up, gate_up.shape[1] // 2)
        self.operators.gated(gate_up, self.weights.architecture.gate.activation, out)
        return out

    def rotate(self, qkv: Tensor, layer: Layer, backward: bool) -> None:
        table, scale = self.rope_tables[layer.rotation], self.weights.architecture.query_scale
        self.operators.rotary(qkv, self.tokens.positions, table, scale, backward)

    def buffer(self, name: str, like: Tensor, columns: int | None = None) -> Tensor:
        """A tensor `[N, columns]`, by default shaped as `like`, whose values last until the next use of the name."""
        return self.workspace.buffer(name, like, like.shape[1] if columns is None else columns)

    def _result(self, like: Tensor, columns: int) -> Tensor:
        return self.workspace.result(like, columns) if self.is_kept else like.new_empty(len(like), columns)

    def heads_of(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Views of queries `[N, H, D]` and keys `[N, KV, D]`."""
        sizes = self.weights.heads, self.weights.kv_heads, self.weights.kv_heads
        queries, keys, _ = qkv.view(len(qkv), -1, self.weights.head_dim).split(sizes, 1)
        return queries, keys

    def _norm_heads(self, qkv: Tensor, norms: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Norm queries and keys in place; returns them as they were."""
        before = []
        for part, norm in zip(self.heads_of(qkv), norms, strict=True):
            held = self._result(qkv, part.shape[1] * part.shape[2]).view(part.shape).copy_(part)
            before.append(held.view(-1, part.shape[2]))
            part.copy_(self.norm(before[-1], norm).view(part.shape))
        return before[0], before[1]
