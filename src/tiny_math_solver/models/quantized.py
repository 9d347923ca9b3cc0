"""Quantised bases: the weights of the layers in 4 bits (bitsandbytes' NF4, arXiv 2305.14314) or in 8 (torchao).

The policy is that of the dequantised weights. Both libraries compute with these in a forward pass, so that rollouts,
update and transformers agree: bitsandbytes' int8 would quantise activations too.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from tiny_math_solver.support.errors import UserError

LIBRARIES = {"nf4": "bitsandbytes", "int8": "torchao"}


def quantization_config(kind: str, dtype: torch.dtype) -> Any:
    """What `from_pretrained` needs to know. Raises UserError if the library is not installed."""
    if find_spec(LIBRARIES[kind]) is None:
        raise UserError(
            f"model.quantization {kind} needs {LIBRARIES[kind]}: pip install 'tiny-math-solver[quantized]', or pip "
            f"install {LIBRARIES[kind]}"
        )
    if kind == "nf4":
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def settle(model: Any) -> Any:
    """The model with every pass computed by its dequantised weights: bitsandbytes has a coarser one for a CPU."""
    for module in model.modules():
        if _has_bits(module):
            module.support_avx512bf16_for_cpu = False
    return model


def is_quantized(linear: Any) -> bool:
    return _has_bits(linear) or _is_packed(getattr(linear, "weight", None))


def dense_weight(linear: Any) -> Tensor:
    """The weight `[out, in]` that a linear layer computes with."""
    weight = linear.weight
    if _has_bits(linear):
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state)
    return weight.dequantize() if _is_packed(weight) else weight


def stored_tensors(parameter: Tensor) -> list[Tensor]:
    """The tensors that hold a parameter."""
    if not _is_packed(parameter):
        return [parameter]
    names, _ = parameter.__tensor_flatten__()  # type: ignore[attr-defined]
    return [getattr(parameter, name) for name in names]


def dequantized(model: Any, dtype: torch.dtype) -> Any:
    """The model with plain linear layers in `dtype` in place of quantised ones; nothing tells that it had others."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if is_quantized(child):
                plain = nn.Linear(child.in_features, child.out_features, child.bias is not None, dtype=dtype)
                plain.weight.data = dense_weight(child).detach().to(dtype)
                if child.bias is not None:
                    plain.bias.data = child.bias.detach().to(dtype)
                setattr(parent, name, plain)
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.is_quantized, model.hf_quantizer = False, None
    model._weight_conversions = None  # saved by the rules of its class, not by those that packed weights were read by
    for name in ("is_loaded_in_4bit", "is_loaded_in_8bit", "quantization_method"):
        if hasattr(model, name):
            setattr(model, name, None if name == "quantization_method" else False)
    return model.to(dtype)


def _has_bits(module: Any) -> bool:
    return type(module).__name__ == "Linear4bit" and hasattr(getattr(module, "weight", None), "quant_state")


def _is_packed(parameter: Any) -> bool:
    return isinstance(parameter, Tensor) and hasattr(parameter, "__tensor_flatten__") and hasattr(parameter, "qdata")
