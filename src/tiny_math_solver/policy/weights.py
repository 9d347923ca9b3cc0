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

from tiny_math_solver.kernels import (
    LARGEST_PANEL,
    CompiledOperators,
    Kernels,
    Operators,
    load_gpu_operators,
    load_kernels,
)
from tiny_math_solver.models.ends import causal_lm
from tiny_math_solver.policy.linear import Linear, UnsupportedModelError, base_linear, merged_weight, unchanged

ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those whose angles depend on the position alone


@dataclass
class Layer:
    """One transformer layer: merged projections and copied norms."""

    attention_norm: Tensor
    query_key_value: Linear
    head_norms: tuple[Tensor, Tensor] | None  # of queries and of keys: Qwen3
    attention_out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear

    @property
    def linears(self) -> tuple[Linear, ...]:
        return self.query_key_value, self.attention_out, self.gate_up, self.down


class PolicyWeights:
    """Weights of a model of the Qwen2, Qwen3 or Llama family, as decoders use them; `version` counts the merges.

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
                layer.attention_norm.copy_(source.input_layernorm.weight)
                layer.mlp_norm.copy_(source.post_attention_layernorm.weight)
                if norms := layer.head_norms:
                    norms[0].copy_(self.paired(source.self_attn.q_norm.weight))
                    norms[1].copy_(self.paired(source.self_attn.k_norm.weight))
            self.final_norm.copy_(self.body.norm.weight)
            linears = [*(linear for layer in self.layers for linear in layer.linears), self.logits]
            for linear, is_current in zip(linears, unchanged(linears), strict=True):
                if not is_current:
                    self._fill(linear)
        self.version += 1

    def _make_buffers(self) -> None:
        """Make the buffers that `sync` fills, for the model in its present form."""
        inner = causal_lm(self.model)
        refuse_unsupported(inner.config)
        self.config = config = inner.config
        self.body = inner.model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.eps = config.rms_norm_eps
        embedding = self.body.embed_tokens
        if not isinstance(embedding, nn.Embedding | ModulesToSaveWrapper):
            raise UnsupportedModelError(f"an embedding that is {type(embedding).__name__}")
        self.dtype, self.device = embedding.weight.dtype, embedding.weight.device
        found = self._load_operators() if self.native else "not asked for"
        self.operators: Operators | None = None if isinstance(found, str) else found
        self.no_kernels_reason = found if isinstance(found, str) else ""
        self.kernels: Kernels | None = found.kernels if isinstance(found, CompiledOperators) else None
        self.layers = [self._layer(layer) for layer in self.body.layers]
        self.final_norm = torch.empty_like(self.body.norm.weight)
        self.logits = self._linear(inner, "lm_head")
        if self.logits.rows > len(embedding.weight):
            raise UnsupportedModelError("an output layer that draws tokens without an embedding")
        self._made_for = self._form()
        self.layout += 1

    def _form(self) -> list[Any]:
        """All that the buffers depend on: sizes, the modules that are read, and the kind of their parameters.

        Raises RuntimeError if a parameter has no memory.
        """
        inner = causal_lm(self.model)
        config, body = inner.config, inner.model
        parts = [inner, body, body.embed_tokens, body.norm]
        projections = [inner.lm_head]
        for layer in body.layers:
            attention, mlp = layer.self_attn, layer.mlp
            norms = [getattr(attention, name) for name in ("q_norm", "k_norm") if hasattr(attention, name)]
            parts += [attention, mlp, layer.input_layernorm, layer.post_attention_layernorm, *norms]
            projections += [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
            projections += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        parameters = [part.weight for part in parts if part not in (inner, body) and hasattr(part, "weight")]
        parameters += [weight for module in projections for weight in base_linear(module).parameters()]
        sizes = [config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps]
        return [*sizes, *parts, *map(_kind, parameters)]

    @property
    def nbytes(self) -> int:
        """Bytes of the copy, without what it shares with the model."""
        linears = [linear for layer in self.layers for linear in layer.linears]
        return sum(linear.weight.nbytes for linear in [*linears, self.logits])

    @property
    def prefill_bytes(self) -> int:
        """Bytes that a layer of a prefill pass takes a token."""
        layer = self.layers[0]
        qkv, gate_up, hidden = layer.query_key_value.rows, layer.gate_up.rows, self.config.hidden_size
        if self.operators is None:
            return (4 * hidden + 2 * qkv + 2 * gate_up) * self.dtype.itemsize + qkv * 4  # rotated in float32
        return (5 * hidden + qkv + gate_up + gate_up // 2) * self.dtype.itemsize + self.heads * 4

    def rotary_factors(self, length: int) -> Tensor:
        """Complex rotary factors `[length, H + KV, D/2]` of query and key heads.

        Those of the queries include the attention's scale `D ** -0.5`.
        """
        scale = torch.ones(self.heads + self.kv_heads, 1, device=self.device)
        scale[: self.heads] = self.head_dim**-0.5
        return self._turns(length)[:, None] * scale

    def _turns(self, length: int) -> Tensor:
        """The rotation of each pair, complex `[length, D/2]`."""
        positions = torch.arange(length, device=self.device)[None]
        with torch.no_grad():
            cos, sin = self.body.rotary_emb(torch.empty(0, device=self.device), positions)
        half = self.head_dim // 2
        return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())

    def rope_table(self, length: int) -> Tensor:
        """Cosine and sine of each rotary pair `[length, D]`, without the scale, for the kernels."""
        return torch.view_as_real(self._turns(length)).flatten(1)

    def paired(self, rows: Tensor) -> Tensor:
        """Rows `0 … D-1` of each head with row `i` and row `i + D/2` side by side."""
        return rows.unflatten(0, (-1, 2, self.head_dim // 2)).transpose(1, 2).reshape(rows.shape)

    def unpaired(self, rows: Tensor, dim: int = 0) -> Tensor:
        """The inverse of `paired`, of rows that lie along `dim`."""
        return rows.unflatten(dim, (-1, self.head_dim // 2, 2)).transpose(dim + 1, dim + 2).reshape(rows.shape)

    def _load_operators(self) -> Operators | str:
        """Kernels of our own for this model, or the reason why there are none."""
        if any(norm.weight.dtype != self.dtype for norm in (self.body.norm, self.body.layers[0].input_layernorm)):
            return "norms of another dtype than the embedding"
        if self.device.type == "cuda":
            return self._load_gpu_operators()
        mlp, hidden = self.body.layers[0].mlp, self.config.hidden_size
        sizes = [self.heads * self.head_dim, self.kv_heads * self.head_dim, hidden, mlp.gate_proj.out_features]
        if self.device.type != "cpu":
            return f"no kernels for {self.device.type}"
        if any(size % LARGEST_PANEL for size in sizes):
            return f"sizes of this model that are no multiples of {LARGEST_PANEL}"
        kernels = load_kernels(self.heads, self.kv_heads, self.head_dim, self.dtype)
        return kernels if isinstance(kernels, str) else CompiledOperators(kernels)

    def _load_gpu_operators(self) -> Operators | str:
        return load_gpu_operators((self.heads, self.kv_heads, self.head_dim), self.dtype, self.device)

    def _layer(self, source: Any) -> Layer:
        attention, mlp = source.self_attn, source.mlp
        return Layer(
            attention_norm=torch.empty_like(source.input_layernorm.weight),
            query_key_value=self._linear(attention, "q_proj", "k_proj", "v_proj", rotary=2),
            head_norms=(torch.empty_like(attention.q_norm.weight), torch.empty_like(attention.k_norm.weight))
            if hasattr(attention, "q_norm")
            else None,
            attention_out=self._linear(attention, "o_proj"),
            mlp_norm=torch.empty_like(source.post_attention_layernorm.weight),
            gate_up=self._linear(mlp, "gate_proj", "up_proj"),
            down=self._linear(mlp, "down_proj"),
        )

    def _linear(self, owner: Any, *names: str, rotary: int = 0) -> Linear:
        return Linear(owner, names, self.kernels, self.dtype, self.device, rotary)

    def _fill(self, linear: Linear) -> None:
        """Copy the merged weights of a projection's modules, stacked."""
        modules = linear.modules
        bases = [base_linear(module) for module in modules]
        weights: list[Tensor] = [merged_weight(module).to(self.dtype) for module in modules]
        biases: list[Tensor] = [
            base.bias if base.bias is not None else base.weight.new_zeros(base.out_features) for base in bases
        ]
        for index in range(linear.rotary):
            weights[index], biases[index] = self.paired(weights[index]), self.paired(biases[index])
        linear.fill(torch.cat(weights) if len(weights) > 1 else weights[0], torch.cat(biases))


def _kind(parameter: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    if parameter.is_meta or parameter.untyped_storage().nbytes() < parameter.nbytes:
        raise RuntimeError("the model's weights are not in memory: they were freed, or are sharded over processes")
    return parameter.shape, parameter.dtype, parameter.device


def refuse_unsupported(config: Any) -> None:
    """Raise UnsupportedModelError for an architecture that the engine does not compute."""
    if config.model_type not in ("qwen2", "qwen3", "llama"):
        raise UnsupportedModelError(f"architecture {config.model_type}")
    if config.hidden_act != "silu":
        raise UnsupportedModelError(f"activation {config.hidden_act}")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise UnsupportedModelError("sliding-window attention")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in ROPE_TYPES:
        raise UnsupportedModelError(f"rope type {rope}")
