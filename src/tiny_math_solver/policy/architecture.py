"""What the engine knows of a model beside its weights: one description of every family, read from the model's config.

Families differ in data alone: where their modules are, and numbers that leave a computation as it is where a family
does without it (a window of 0 tokens, a cap of 0, a scale of 1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional

from tiny_math_solver.kernels import Activation, Manner
from tiny_math_solver.policy.linear import UnsupportedModelError

ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those whose angles depend on the position alone
FULL, SLIDING = "full_attention", "sliding_attention"  # transformers' types of layers
NO_ROPE = "none"
GELU = 2 * math.sqrt(2 / math.pi)  # gelu's tanh form is g · σ(GELU · (g + 0.044715 g³))


class Gate(NamedTuple):
    """The activation of a gate, for kernels and for torch."""

    activation: Activation
    function: Callable[[Tensor], Tensor]


GATES = {
    "silu": Gate(Activation(), functional.silu),
    "gelu_pytorch_tanh": Gate(Activation(GELU, 0.044715 * GELU), partial(functional.gelu, approximate="tanh")),
}


@dataclass(frozen=True)
class Names:
    """The modules of a layer; a norm with an empty name is not there."""

    query_key_value: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    attention_norm: str = "input_layernorm"
    attention_out_norm: str = ""  # of what attention adds to the residual stream
    mlp_norm: str = "post_attention_layernorm"
    mlp_out_norm: str = ""

    @cached_property
    def norms(self) -> dict[str, str]:
        """The names of the norms that are there, by field."""
        every = {norm: getattr(self, norm) for norm in (part.name for part in fields(self)) if norm.endswith("norm")}
        return {norm: name for norm, name in every.items() if name}


@dataclass(frozen=True)
class Family:
    """What transformers' code of a `model_type` does with its config; the strings are keys of that, empty for none."""

    names: Names = field(default_factory=Names)
    body: str = ""  # where its text part is, in a model that also sees or hears
    activation: str = "hidden_act"
    query_scalar: str = "head_dim"  # scores are divided by its root
    attention_cap: str = ""
    logits_cap: str = ""
    norm_offset: float = 0.0  # is added to the weights of norms
    scales_embedding: bool = False  # by √C
    has_windows: bool = False  # in layers of the type SLIDING
    is_sliding: bool = False  # in every layer
    has_rope_by_type: bool = False
    rope_layers: str = ""  # 0 for each layer without rotation


GEMMA3 = Family(
    Names(
        attention_out_norm="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        mlp_out_norm="post_feedforward_layernorm",
    ),
    activation="hidden_activation",
    query_scalar="query_pre_attn_scalar",
    logits_cap="final_logit_softcapping",
    norm_offset=1.0,
    scales_embedding=True,
    has_windows=True,
    has_rope_by_type=True,
)
FAMILIES = {
    "llama": Family(),
    "qwen2": Family(has_windows=True),
    "qwen3": Family(has_windows=True),
    "smollm3": Family(has_windows=True, rope_layers="no_rope_layers"),
    "mistral": Family(is_sliding=True),
    "phi3": Family(Names(query_key_value=("qkv_proj",), gate_up=("gate_up_proj",)), is_sliding=True),
    "gemma2": replace(GEMMA3, attention_cap="attn_logit_softcapping", has_rope_by_type=False),
    "gemma3_text": GEMMA3,
    "gemma3": replace(GEMMA3, body="language_model", logits_cap=""),
}


@dataclass(frozen=True)
class Architecture:
    """A model's sizes, numbers and modules. The tuples have an entry for each layer."""

    names: Names
    body: str  # the name of the text part; empty where it is all there is
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    mlp: int
    eps: float
    gate: Gate
    query_scale: float  # of the attention scores
    logits_cap: float  # by `cap_`; 0 for none
    embedding_scale: float
    norm_offset: float
    manners: tuple[Manner, ...]
    ropes: tuple[str, ...]  # the rotation: empty for the model's only one, a type of layers, or NO_ROPE

    @property
    def rotations(self) -> tuple[str, ...]:
        """Those in use, each once."""
        return tuple(dict.fromkeys(self.ropes))


def architecture(config: Any) -> Architecture:
    """The description of a transformers config. Raises UnsupportedModelError for what the engine does not compute."""
    if (family := FAMILIES.get(config.model_type)) is None:
        raise UnsupportedModelError(f"architecture {config.model_type}")
    cap_of_logits, config = logits_cap(config), config.get_text_config()
    if (activation := getattr(config, family.activation)) not in GATES:
        raise UnsupportedModelError(f"activation {activation}")
    if getattr(config, "use_bidirectional_attention", False):
        raise UnsupportedModelError("attention to later tokens")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Architecture(
        names=family.names,
        body=family.body,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        hidden=config.hidden_size,
        mlp=config.intermediate_size,
        eps=config.rms_norm_eps,
        gate=GATES[activation],
        query_scale=(_number(config, family.query_scalar) or head_dim) ** -0.5,
        logits_cap=cap_of_logits,
        embedding_scale=config.hidden_size**0.5 if family.scales_embedding else 1.0,
        norm_offset=family.norm_offset,
        manners=_manners(family, config),
        ropes=_ropes(family, config),
    )


def refuse_unsupported(config: Any) -> None:
    """Raise UnsupportedModelError for an architecture that the engine does not compute."""
    architecture(config)


def logits_cap(config: Any) -> float:
    """The cap of the logits, 0 for none."""
    return float(_number(config.get_text_config(), FAMILIES.get(config.model_type, Family()).logits_cap))


def cap_(values: Tensor, cap: float) -> Tensor:
    """`cap · tanh(values / cap)`, in place, rounded as by transformers; `values` themselves where `cap` is 0."""
    return values.div_(cap).tanh_().mul_(cap) if cap else values


def capped_with_derivative(logits: Tensor, cap: float) -> Tensor | None:
    """Caps logits in place and returns the derivative of that; None where there is no cap."""
    if not cap:
        return None
    return (cap_(logits, cap) / cap).square_().neg_().add_(1)


def _number(config: Any, key: str) -> Any:
    return (getattr(config, key, None) or 0) if key else 0


def _layer_types(config: Any) -> list[str]:
    types = list(getattr(config, "layer_types", None) or [FULL] * config.num_hidden_layers)
    if unknown := set(types) - {FULL, SLIDING}:
        raise UnsupportedModelError(f"layers of type {min(unknown)}")
    return types


def _manners(family: Family, config: Any) -> tuple[Manner, ...]:
    types = [SLIDING if family.is_sliding else FULL] * config.num_hidden_layers
    if family.has_windows:
        types = _layer_types(config)
    window, cap = _number(config, "sliding_window"), float(_number(config, family.attention_cap))
    return tuple(Manner(window if kind == SLIDING else 0, cap) for kind in types)


def _ropes(family: Family, config: Any) -> tuple[str, ...]:
    settings = getattr(config, "rope_parameters", None) or {}
    for of_type in settings.values() if family.has_rope_by_type else (settings,):
        if (kind := (of_type or {}).get("rope_type", "default")) not in ROPE_TYPES:
            raise UnsupportedModelError(f"rope type {kind}, whose angles do not depend on the position alone")
    if family.has_rope_by_type:
        return tuple(_layer_types(config))
    rotated = getattr(config, family.rope_layers) if family.rope_layers else [1] * config.num_hidden_layers
    return tuple("" if is_rotated else NO_ROPE for is_rotated in rotated[: config.num_hidden_layers])
