"""The engine's copy of a policy: base plus adapter, merged afresh before every use.

The copy is always made from the model's own base weights, which are only read. Merging into the base and
unmerging again, as is often done, would change the base a little at every step by rounding.

Recorded steps and CUDA graphs hold addresses, so the buffers of the copy stay where they are as long as the model keeps
its form. After any other change they are made anew, and `layout` counts that.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.nn import functional

from tiny_math_solver.kernels import (
    LARGEST_PANEL,
    CompiledOperators,
    Kernels,
    Manner,
    Operators,
    load_gpu_operators,
    load_kernels,
)
from tiny_math_solver.models.ends import causal_lm
from tiny_math_solver.models.quantized import stored_tensors
from tiny_math_solver.policy.architecture import NO_ROPE, Architecture, architecture
from tiny_math_solver.policy.linear import Linear, UnsupportedModelError, base_linear, merged_weight, unchanged

HEAD_NORMS = ("q_norm", "k_norm")  # transformers' names in every family that has them


@dataclass
class Layer:
    """One transformer layer: merged projections and copied norms."""

    attention_norm: Tensor
    query_key_value: Linear
    head_norms: tuple[Tensor, Tensor] | None  # of queries and of keys
    attention_out: Linear
    attention_out_norm: Tensor | None  # of what attention adds to the residual stream
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    mlp_out_norm: Tensor | None
    manner: Manner  # of attention
    rotation: int  # the number of its table

    @property
    def linears(self) -> tuple[Linear, ...]:
        return self.query_key_value, self.attention_out, self.gate_up, self.down


class PolicyWeights:
    """Weights of a model of one of the families in architecture.py, as decoders use them; `version` counts the merges.

    Everything is a copy but the embedding, which is shared with the model. Rotary pairs are neighbours in the rows of
    query and key, so that a rotation is one complex product. Raises UnsupportedModelError for another architecture, and
    for adapters that are no plain update of a weight.
    """

    def __init__(self, model: Any, native: bool = True):
        self.model, self.native = model, native
        self.version = self.layout = 0
        self.sync()

    def sync(self) -> None:
        """Copy the policy in its present state; projections of which nothing has changed are skipped."""
        if self.layout == 0 or self._form() != self._made_for:
            with torch.inference_mode(False), torch.no_grad():
                self._make_buffers()
        self.embedding: Tensor = self.body.embed_tokens.weight
        with torch.no_grad():
            for layer, source in zip(self.layers, self.body.layers, strict=True):
                self._copy_norms(layer, source)
            self._copy_norm(self.final_norm, self.body.norm.weight)
            linears = [*(linear for layer in self.layers for linear in layer.linears), self.logits]
            for linear, is_current in zip(linears, unchanged(linears), strict=True):
                if not is_current:
                    self._fill(linear)
        self.version += 1

    def _make_buffers(self) -> None:
        """Make the buffers that `sync` fills, for the model in its present form."""
        inner = causal_lm(self.model)
        self.architecture: Architecture = architecture(inner.config)
        self.config, self.body = inner.config.get_text_config(), text_part(inner, self.architecture)
        self.heads, self.kv_heads = self.architecture.heads, self.architecture.kv_heads
        self.head_dim, self.eps = self.architecture.head_dim, self.architecture.eps
        embedding = self.body.embed_tokens
        if not isinstance(embedding, nn.Embedding | ModulesToSaveWrapper):
            raise UnsupportedModelError(f"an embedding that is {type(embedding).__name__}")
        self.dtype, self.device = embedding.weight.dtype, embedding.weight.device
        self.embedding_scale = torch.tensor(self.architecture.embedding_scale, dtype=self.dtype).item()
        found = self._load_operators() if self.native else "not asked for"
        self.operators: Operators | None = None if isinstance(found, str) else found
        self.no_kernels_reason = found if isinstance(found, str) else ""
        self.kernels: Kernels | None = found.kernels if isinstance(found, CompiledOperators) else None
        # 1 + w is too near to 1 for what bfloat16 can tell apart
        self.norm_dtype = torch.float32 if self.kernels or self.architecture.norm_offset else self.dtype
        self.rotary_rows = self._rotary_rows()
        pairs = torch.arange(self.rotary_rows, device=self.device).view(2, -1).T.flatten()
        rest = torch.arange(self.rotary_rows, self.head_dim, device=self.device)
        self.pair_order = torch.cat([pairs, rest])
        self.layers = [self._layer(index, layer) for index, layer in enumerate(self.body.layers)]
        self.final_norm = self._norm(self.body.norm)
        self.logits = self._linear(inner, "lm_head")
        if self.logits.rows > len(embedding.weight):
            raise UnsupportedModelError("an output layer that draws tokens without an embedding")
        self._made_for = self._form()
        self.layout += 1

    def _form(self) -> list[Any]:
        """All that the buffers depend on: the architecture, the modules that are read, the kind of their parameters.

        Raises RuntimeError if a parameter has no memory.
        """
        inner = causal_lm(self.model)
        described = architecture(inner.config)
        body = text_part(inner, described)
        names = described.names
        parts = [inner, body, body.embed_tokens, body.norm]
        projections = [inner.lm_head]
        for layer in body.layers:
            attention, mlp = layer.self_attn, layer.mlp
            head_norms = [getattr(attention, name) for name in HEAD_NORMS if hasattr(attention, name)]
            parts += [attention, mlp, *(getattr(layer, name) for name in names.norms.values()), *head_norms]
            projections += [getattr(attention, name) for name in (*names.query_key_value, "o_proj")]
            projections += [getattr(mlp, name) for name in (*names.gate_up, "down_proj")]
        parameters = [part.weight for part in parts if part not in (inner, body) and hasattr(part, "weight")]
        parameters += [weight for module in projections for weight in base_linear(module).parameters()]
        stored = [part for parameter in parameters for part in stored_tensors(parameter)]
        return [described, *parts, *map(_kind, stored)]

    @property
    def nbytes(self) -> int:
        """Bytes of the copy, without what it shares with the model."""
        linears = [linear for layer in self.layers for linear in layer.linears]
        return sum(linear.weight.nbytes for linear in [*linears, self.logits])

    @property
    def prefill_bytes(self) -> int:
        """Bytes that a layer of a prefill pass takes a token."""
        layer = self.layers[0]
        qkv, gate_up, hidden = layer.query_key_value.rows, layer.gate_up.rows, self.architecture.hidden
        if self.operators is None:
            return (4 * hidden + 2 * qkv + 2 * gate_up) * self.dtype.itemsize + qkv * 4  # rotated in float32
        return (5 * hidden + qkv + gate_up + gate_up // 2) * self.dtype.itemsize + self.heads * 4

    def rotary_factors(self, length: int) -> Tensor:
        """Complex rotary factors `[rotations, length, H + KV, D/2]` of query and key heads.

        Those of the queries include the scale of the attention scores.
        """
        scale = torch.ones(self.heads + self.kv_heads, 1, device=self.device)
        scale[: self.heads] = self.architecture.query_scale
        return self._turns(length)[:, :, None] * scale

    def _turns(self, length: int) -> Tensor:
        """The turn of each pair, complex `[rotations, length, D/2]`; pairs that are not rotated have 1."""
        turns = torch.ones(len(self.architecture.rotations), length, self.head_dim // 2, dtype=torch.complex64)
        turns = turns.to(self.device)
        for name, turn in zip(self.architecture.rotations, turns, strict=True):
            if name != NO_ROPE:
                cos, sin = (part[0, :, : part.shape[2] // 2].float() for part in self._rotary(name, length))
                turn[:, : cos.shape[1]] = torch.complex(cos, sin)
        return turns

    def _rotary(self, name: str, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine `[1, length, rotated elements]` of a rotation, by the model's own module."""
        positions = torch.arange(length, device=self.device)[None]
        with torch.no_grad():
            return self.body.rotary_emb(torch.empty(0, device=self.device), positions, *([name] if name else []))

    def _rotary_rows(self) -> int:
        """Elements of a head that are rotated: the first ones, of which each half has one of every pair."""
        return next(
            (self._rotary(name, 1)[0].shape[2] for name in self.architecture.rotations if name != NO_ROPE),
            self.head_dim,
        )

    def rope_tables(self, length: int) -> Tensor:
        """Cosine and sine of each rotary pair `[rotations, length, D]`, without the scale, for the kernels."""
        return torch.view_as_real(self._turns(length)).flatten(2)

    def paired(self, rows: Tensor) -> Tensor:
        """Rows `0 … D-1` of each head with both rows of a rotary pair side by side."""
        return rows.unflatten(0, (-1, self.head_dim))[:, self.pair_order].flatten(0, 1)

    def unpaired(self, rows: Tensor, dim: int = 0) -> Tensor:
        """The inverse of `paired`, of rows that lie along `dim`."""
        heads = rows.unflatten(dim, (-1, self.head_dim))
        return heads.index_select(dim + 1, self.pair_order.argsort()).flatten(dim, dim + 1)

    def embed(self, ids: Tensor, embedding: Tensor) -> Tensor:
        """The hidden states `[…, C]` that the first layer gets for token ids."""
        x = embedding[ids]
        return x if self.embedding_scale == 1 else x.mul_(self.embedding_scale)

    def _load_operators(self) -> Operators | str:
        """Kernels of our own for this model, or the reason why there are none."""
        if any(norm.weight.dtype != self.dtype for norm in (self.body.norm, self.body.layers[0].input_layernorm)):
            return "norms of another dtype than the embedding"
        if self.device.type == "cuda":
            return self._load_gpu_operators()
        described = self.architecture
        sizes = [self.heads * self.head_dim, self.kv_heads * self.head_dim, described.hidden, described.mlp]
        if self.device.type != "cpu":
            return f"no kernels for {self.device.type}"
        if any(size % LARGEST_PANEL for size in sizes):
            return f"sizes of this model that are no multiples of {LARGEST_PANEL}"
        kernels = load_kernels(self.heads, self.kv_heads, self.head_dim, self.dtype)
        return kernels if isinstance(kernels, str) else CompiledOperators(kernels)

    def _load_gpu_operators(self) -> Operators | str:
        return load_gpu_operators((self.heads, self.kv_heads, self.head_dim), self.dtype, self.device)

    def _layer(self, index: int, source: Any) -> Layer:
        attention, mlp, names = source.self_attn, source.mlp, self.architecture.names
        norms: dict[str, Any] = dict.fromkeys(("attention_out_norm", "mlp_out_norm"))
        norms |= {norm: self._norm(getattr(source, name)) for norm, name in names.norms.items()}
        has_head_norms = hasattr(attention, HEAD_NORMS[0])
        return Layer(
            query_key_value=self._linear(attention, *names.query_key_value, paired=self.heads + self.kv_heads),
            head_norms=(self._norm(attention.q_norm), self._norm(attention.k_norm)) if has_head_norms else None,
            attention_out=self._linear(attention, "o_proj"),
            gate_up=self._linear(mlp, *names.gate_up),
            down=self._linear(mlp, "down_proj"),
            manner=self.architecture.manners[index],
            rotation=self.architecture.rotations.index(self.architecture.ropes[index]),
            **norms,
        )

    def _norm(self, source: Any) -> Tensor:
        return torch.empty_like(source.weight, dtype=self.norm_dtype)

    def _copy_norms(self, layer: Layer, source: Any) -> None:
        for norm, name in self.architecture.names.norms.items():
            self._copy_norm(getattr(layer, norm), getattr(source, name).weight)
        for held, name in zip(layer.head_norms or (), HEAD_NORMS, strict=False):
            self._copy_norm(held, self.paired(getattr(source.self_attn, name).weight))

    def _copy_norm(self, norm: Tensor, weight: Tensor) -> None:
        norm.copy_(weight)
        if self.architecture.norm_offset:
            norm += self.architecture.norm_offset

    def _linear(self, owner: Any, *names: str, paired: int = 0) -> Linear:
        return Linear(owner, names, self.kernels, self.dtype, self.device, paired * self.head_dim)

    def _fill(self, linear: Linear) -> None:
        """Copy the merged weights of a projection's modules, stacked."""
        modules = linear.modules
        bases = [base_linear(module) for module in modules]
        weights: list[Tensor] = [merged_weight(module).to(self.dtype) for module in modules]
        biases: list[Tensor] = [
            base.bias if base.bias is not None else weight.new_zeros(len(weight))
            for base, weight in zip(bases, weights, strict=True)
        ]
        weight, bias = torch.cat(weights) if len(weights) > 1 else weights[0], torch.cat(biases)
        if count := linear.paired_rows:
            weight, bias = (torch.cat([self.paired(part[:count]), part[count:]]) for part in (weight, bias))
        linear.fill(weight, bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of the last dimension by torch, rounded once; `weight` may be in float32."""
    if weight.dtype == x.dtype:
        return functional.rms_norm(x, weight.shape, weight, eps)
    return functional.rms_norm(x.float(), weight.shape, weight, eps).to(x.dtype)


def text_part(inner: Any, described: Architecture) -> Any:
    """The modules between ids and hidden states of a transformers causal language model."""
    return getattr(inner.model, described.body) if described.body else inner.model


def _kind(parameter: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    if parameter.is_meta or parameter.untyped_storage().nbytes() < parameter.nbytes:
        raise RuntimeError("the model's weights are not in memory: they were freed, or are sharded over processes")
    return parameter.shape, parameter.dtype, parameter.device
