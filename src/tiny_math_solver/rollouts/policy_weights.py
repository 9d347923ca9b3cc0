"""The engine's copy of a policy: base plus adapter, merged afresh before every use.

The copy is always made from the model's own base weights, which are only read. Merging into the base and taking
the adapter out again, as is often done, rounds the base a little at every step.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from tiny_math_solver.kernels import LARGEST_PANEL, Kernels, load_kernels
from tiny_math_solver.rollouts.rollout import causal_lm

ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those whose angles depend on the position alone


class UnsupportedModelError(Exception):
    """The engine cannot run this model; the message says why."""


class Linear:
    """`x Wᵀ + bias` for the weights `[out, in]` of one or several projections of the same input, stacked.

    The weight is kept as its products want it: `dense`, or in `panels` for our own kernels (float32 on a CPU), or in
    oneDNN's layout (`onednn`, bfloat16 on a CPU), where `linear` would lay it out anew at every call.
    """

    def __init__(self, owner: Any, names: tuple[str, ...], weights: "PolicyWeights", rotary: int = 0):
        self.owner, self.names = owner, names
        self.rotary = rotary  # the first `rotary` have their rows in the order of pairs
        bases = [base_linear(module) for module in self.modules]
        rows, columns = sum(base.out_features for base in bases), bases[0].in_features
        bias = any(base.bias is not None for base in bases)
        self.rows, self.kernels, self.layout = rows, weights.kernels, "dense"
        self.columns = rows  # of the result, padding included
        like: Any = {"dtype": weights.dtype, "device": weights.device}
        if self.kernels is not None and weights.dtype == torch.float32:
            self.layout, panel = "panels", self.kernels.panel
            self.columns = -(-rows // panel) * panel
            self.weight = torch.zeros(self.columns // panel, columns, panel, **like)
        else:
            self.layout = "onednn" if _has_onednn(weights.dtype, weights.device) else "dense"
            self.weight = torch.empty(rows if self.layout == "dense" else 0, columns, **like)
        self.bias = torch.zeros(self.columns, **like) if bias or self.layout == "panels" else None
        self.filled_from: list[tuple[Tensor, int]] | None = None  # weights that are not adapted, and their versions

    @property
    def modules(self) -> list[Any]:
        """The projections, looked up anew: an adapter may have been put around them since."""
        return [getattr(self.owner, name) for name in self.names]

    def fill(self, weight: Tensor, bias: Tensor) -> None:
        """Take over a dense weight `[out, in]` and a bias `[out]`."""
        if self.bias is not None:
            self.bias[: self.rows].copy_(bias)
        if self.layout == "onednn":
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        elif self.layout == "panels":
            panels, columns, panel = self.weight.shape
            if missing := panels * panel - self.rows:
                weight = nn.functional.pad(weight, (0, 0, 0, missing))
            self.weight.copy_(weight.view(panels, panel, columns).transpose(1, 2))
        else:
            self.weight.copy_(weight)

    def dense(self) -> Tensor:
        """The weight `[columns, in]` that lies in panels."""
        return self.weight.transpose(1, 2).flatten(0, 1)

    def __call__(self, x: Tensor) -> Tensor:
        if self.layout == "onednn":
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        if self.layout == "dense":
            return nn.functional.linear(x, self.weight, self.bias)
        out = self.product(x.reshape(-1, x.shape[-1]).contiguous())
        return out.view(*x.shape[:-1], self.columns)[..., : self.rows]

    def product(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """From panels: `x Wᵀ + bias (+ add)` `[N, columns]`, padding included, for `x` `[N, in]` without gaps."""
        assert self.kernels is not None
        out = x.new_empty(len(x), self.columns)
        self.kernels.linear(len(x), x, x.shape[1], self.weight, self.bias, add, out, self.columns)
        return out


@dataclass
class Layer:
    attention_norm: Tensor
    query_key_value: Linear
    query_norm: Tensor | None  # Qwen3
    key_norm: Tensor | None
    attention_out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear

    @property
    def linears(self) -> tuple[Linear, ...]:
        return self.query_key_value, self.attention_out, self.gate_up, self.down


class PolicyWeights:
    """What a decoder of the Qwen2, Qwen3 or Llama family computes with; `version` counts how often it was made.

    Rotary pairs lie next to each other in the rows of query and key, so that a rotation is one complex product.
    Raises UnsupportedModelError for another architecture, and for adapters that are no plain update of a weight.
    """

    def __init__(self, model: Any, native: bool = True):
        self.model = model
        inner = causal_lm(model)
        refuse_unsupported(inner.config)
        self.config = config = inner.config
        self.body = inner.model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.eps = config.rms_norm_eps
        embedding = self.body.embed_tokens
        if not isinstance(embedding, nn.Embedding | ModulesToSaveWrapper):
            raise UnsupportedModelError(f"an embedding that is {type(embedding).__name__}")
        self.embedding: Tensor = embedding.weight
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        found = self._kernels() if native else "not asked for"
        self.kernels: Kernels | None = None if isinstance(found, str) else found
        self.no_kernels = found if isinstance(found, str) else ""  # why
        self.version = 0
        self.layers = [self._layer(layer) for layer in self.body.layers]
        self.final_norm: Tensor = self.body.norm.weight
        self.logits = Linear(inner, ("lm_head",), self)
        self.sync()

    def sync(self) -> None:
        """Make the copy anew from the policy as it is now; only what is frozen and without an adapter is kept."""
        self._borrow()
        with torch.no_grad():
            for layer, source in zip(self.layers, self.body.layers, strict=True):
                for linear in layer.linears:
                    self._fill(linear)
                if layer.query_norm is not None and layer.key_norm is not None:
                    layer.query_norm.copy_(self.paired(source.self_attn.q_norm.weight))
                    layer.key_norm.copy_(self.paired(source.self_attn.k_norm.weight))
            self._fill(self.logits)
        self.version += 1

    def _borrow(self) -> None:
        """Look up the parameters that are shared with the model: they may have been replaced by others."""
        self.embedding, self.final_norm = self.body.embed_tokens.weight, self.body.norm.weight
        for layer, source in zip(self.layers, self.body.layers, strict=True):
            layer.attention_norm = source.input_layernorm.weight
            layer.mlp_norm = source.post_attention_layernorm.weight
        if (self.embedding.dtype, self.embedding.device) != (self.dtype, self.device):
            raise RuntimeError(
                f"the model is in {self.embedding.dtype} on {self.embedding.device}; "
                f"its rollouts were made for {self.dtype} on {self.device}: make new ones"
            )

    def addresses(self) -> list[tuple[int, torch.dtype, torch.Size]]:
        """Where the parameters lie that are shared with the model; recorded steps and graphs point there."""
        norms = [norm for layer in self.layers for norm in (layer.attention_norm, layer.mlp_norm)]
        return [(shared.data_ptr(), shared.dtype, shared.shape) for shared in (self.embedding, *norms, self.final_norm)]

    @property
    def nbytes(self) -> int:
        """Of the copy, without what it shares with the model."""
        linears = [linear for layer in self.layers for linear in layer.linears]
        return sum(linear.weight.nbytes for linear in [*linears, self.logits])

    def rotations(self, length: int) -> Tensor:
        """Rotary factors of query and key heads as complex numbers `[length, H + KV, head_dim / 2]`.

        Those of the queries also carry the attention's scale `head_dim ** -0.5`.
        """
        positions = torch.arange(length, device=self.device)[None]
        with torch.no_grad():
            cos, sin = self.body.rotary_emb(torch.empty(0, device=self.device), positions)
        half = self.head_dim // 2
        turn = torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())[:, None]
        scale = torch.ones(self.heads + self.kv_heads, 1, device=self.device)
        scale[: self.heads] = self.head_dim**-0.5
        return turn * scale

    def turns(self, length: int) -> Tensor:
        """Cosine and sine of each pair `[length, head_dim]`, without the scale, as the kernels take them."""
        return torch.view_as_real(self.rotations(length)[:, -1].contiguous()).flatten(1)

    def _kernels(self) -> Kernels | str:
        """Our own kernels, or why there are none for this device and these shapes."""
        mlp, hidden = self.body.layers[0].mlp, self.config.hidden_size
        sizes = [self.heads * self.head_dim, self.kv_heads * self.head_dim, hidden, mlp.gate_proj.out_features]
        if self.device.type != "cpu":
            return f"kernels are for CPUs, not for {self.device.type}"
        if any(size % LARGEST_PANEL for size in sizes):
            return f"sizes of this model that are no multiples of {LARGEST_PANEL}"
        if any(norm.weight.dtype != self.dtype for norm in (self.body.norm, self.body.layers[0].input_layernorm)):
            return "norms of another dtype than the embedding"
        return load_kernels(self.heads, self.kv_heads, self.head_dim, self.dtype)

    def _layer(self, source: Any) -> Layer:
        attention, mlp = source.self_attn, source.mlp
        has_norms = hasattr(attention, "q_norm")
        return Layer(
            attention_norm=source.input_layernorm.weight,
            query_key_value=Linear(attention, ("q_proj", "k_proj", "v_proj"), self, rotary=2),
            query_norm=torch.empty_like(attention.q_norm.weight) if has_norms else None,
            key_norm=torch.empty_like(attention.k_norm.weight) if has_norms else None,
            attention_out=Linear(attention, ("o_proj",), self),
            mlp_norm=source.post_attention_layernorm.weight,
            gate_up=Linear(mlp, ("gate_proj", "up_proj"), self),
            down=Linear(mlp, ("down_proj",), self),
        )

    def _fill(self, target: Linear) -> None:
        """Write the present weights of a target's modules below one another."""
        modules = target.modules
        bases = [base_linear(module) for module in modules]
        frozen = not any(weight.requires_grad for base in bases for weight in base.parameters())
        if frozen and all(base is module for base, module in zip(bases, modules, strict=True)):
            # neither adapted nor trained: what has not moved and autograd has not seen change is as it was
            parameters = [weight for base in bases for weight in base.parameters()]
            if target.filled_from is not None and all(
                weight.data_ptr() == seen.data_ptr() and weight._version == version
                for weight, (seen, version) in zip(parameters, target.filled_from, strict=True)
            ):
                return
            # holding on to the memory: other values could come to lie at the address of memory that was freed
            target.filled_from = [(weight.detach(), weight._version) for weight in parameters]
        else:
            target.filled_from = None
        weights: list[Tensor] = [_merged(module).to(self.dtype) for module in modules]
        biases: list[Tensor] = [
            base.bias if base.bias is not None else base.weight.new_zeros(base.out_features) for base in bases
        ]
        for index in range(target.rotary):
            weights[index], biases[index] = self.paired(weights[index]), self.paired(biases[index])
        target.fill(torch.cat(weights) if len(weights) > 1 else weights[0], torch.cat(biases))

    def paired(self, rows: Tensor) -> Tensor:
        """Of each head's rows `0 … D-1`, row `i` and row `i + D/2` side by side."""
        return rows.unflatten(0, (-1, 2, self.head_dim // 2)).transpose(1, 2).reshape(rows.shape)

    def unpaired(self, rows: Tensor) -> Tensor:
        """The order that `paired` came from."""
        return rows.unflatten(0, (-1, self.head_dim // 2, 2)).transpose(1, 2).reshape(rows.shape)


def refuse_unsupported(config: Any) -> None:
    if config.model_type not in ("qwen2", "qwen3", "llama"):
        raise UnsupportedModelError(f"architecture {config.model_type}")
    if config.hidden_act != "silu":
        raise UnsupportedModelError(f"activation {config.hidden_act}")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise UnsupportedModelError("sliding-window attention")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in ROPE_TYPES:
        raise UnsupportedModelError(f"rope type {rope}")


def _has_onednn(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this torch has the operators, which are those its compiler uses."""
    return (
        dtype == torch.bfloat16
        and device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def base_linear(module: Any) -> nn.Linear:
    base = getattr(module, "base_layer", module)
    if type(base) is not nn.Linear:
        raise UnsupportedModelError(f"a projection that is {type(base).__name__}")
    if base is not module and not hasattr(module, "get_delta_weight"):
        raise UnsupportedModelError(f"an adapter that is {type(module).__name__}")
    return base


def _merged(module: Any) -> Tensor:
    """Base weight plus the update of every active adapter, summed in float32."""
    base = base_linear(module).weight
    if hasattr(module, "get_delta_weight") and not module.disable_adapters and not module.merged:
        active = [name for name in module.active_adapters if name in module.lora_A]
        if any(module.lora_variant.get(name) or module.lora_bias.get(name) for name in active):
            raise UnsupportedModelError("an adapter that is not a plain update of a weight")
        if active:
            return torch.stack([module.get_delta_weight(name).float() for name in active]).sum(0).add_(base)
    return base
