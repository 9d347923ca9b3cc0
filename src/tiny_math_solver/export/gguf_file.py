"""A model and its tokenizer → one GGUF file, as llama.cpp reads it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import MODEL_ARCH, GGUFWriter, LlamaFileType
from torch import Tensor

from tiny_math_solver.export.quantize import packed, type_of
from tiny_math_solver.export.vocabulary import add_vocabulary
from tiny_math_solver.policy.architecture import NO_ROPE, Architecture, architecture
from tiny_math_solver.policy.linear import UnsupportedModelError
from tiny_math_solver.support.errors import UserError

FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
}


@dataclass(frozen=True)
class Target:
    """What llama.cpp computes under a name of its own, where it differs between families.

    `is_interleaved`: it rotates neighbours of a head's elements, transformers those half a head apart. `window_every`:
    each layer but every so manyth looks through a window; 0 where it has no windows. `rope_every`: every so manyth
    layer is not rotated; 0 for none.
    """

    arch: MODEL_ARCH
    is_interleaved: bool = False
    window_every: int = 0
    rope_every: int = 0


TARGETS = {
    "llama": Target(MODEL_ARCH.LLAMA, is_interleaved=True),
    "mistral": Target(MODEL_ARCH.LLAMA, is_interleaved=True),
    "smollm3": Target(MODEL_ARCH.SMOLLM3, is_interleaved=True, rope_every=4),
    "qwen2": Target(MODEL_ARCH.QWEN2),
    "qwen3": Target(MODEL_ARCH.QWEN3),
    "phi3": Target(MODEL_ARCH.PHI3),
    "gemma2": Target(MODEL_ARCH.GEMMA2, window_every=2),
    "gemma3_text": Target(MODEL_ARCH.GEMMA3, window_every=6),
}


@dataclass(frozen=True)
class Exported:
    """What is written beside the weights: a prompt as the model is asked, and the chat template that makes it."""

    name: str
    kind: str  # one of FILE_TYPES
    chat_template: str
    prompt: list[int]
    turn_end: int | None


def write_gguf(path: Path, model: Any, tokenizer: Any, exported: Exported) -> None:
    """Write a causal language model of transformers, in float32, to `path`.

    Raises UserError for a family, a setting of it or a tokenizer that llama.cpp computes otherwise, or not at all.
    """
    target, described = _target(model.config)
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[target.arch])
    _add_settings(writer, model, target, described)
    writer.add_name(exported.name)
    writer.add_file_type(FILE_TYPES[exported.kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    rows = model.get_input_embeddings().num_embeddings
    add_vocabulary(writer, tokenizer, rows, exported.prompt, exported.turn_end)
    writer.add_chat_template(exported.chat_template)
    is_tied, layers = bool(model.config.get_text_config().tie_word_embeddings), len(described.manners)
    for name, weight in _tensors(model, target, described):
        kind = type_of(exported.kind, name, tuple(weight.shape), layers, is_tied)
        writer.add_tensor(name, packed(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _target(config: Any) -> tuple[Target, Architecture]:
    target = TARGETS.get(config.model_type)
    try:
        described = architecture(config)
    except UnsupportedModelError as error:
        raise UserError(f"export to GGUF does not take {error}") from None
    if target is None:
        raise UserError(f"export to GGUF takes {', '.join(TARGETS)}, not {config.model_type}")
    longest = config.get_text_config().max_position_embeddings
    for layer, (manner, rope) in enumerate(zip(described.manners, described.ropes, strict=True), 1):
        has_window = 0 < manner.window < longest
        if target.window_every and has_window != bool(layer % target.window_every):
            raise UserError(
                f"llama.cpp has a window in other layers than this {config.model_type}, as in layer {layer}"
            )
        if (rope == NO_ROPE) != (target.rope_every > 0 and layer % target.rope_every == 0):
            raise UserError(f"llama.cpp rotates other layers than this {config.model_type}, as in layer {layer}")
    if abs(described.query_scale - described.head_dim**-0.5) > 1e-6:
        raise UserError("llama.cpp divides attention scores by the root of the head's size, and this model does not")
    return target, described


def _add_settings(writer: GGUFWriter, model: Any, target: Target, described: Architecture) -> None:
    config = model.config.get_text_config()
    windows = {manner.window for manner in described.manners if manner.window}
    longest = config.max_position_embeddings
    if windows and not target.window_every:  # as far as the model is the same without its window
        longest = min(longest, *windows)
    writer.add_context_length(longest)
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(described.hidden)
    writer.add_block_count(len(described.manners))
    writer.add_feed_forward_length(described.mlp)
    writer.add_head_count(described.heads)
    writer.add_head_count_kv(described.kv_heads)
    writer.add_key_length(described.head_dim)
    writer.add_value_length(described.head_dim)
    writer.add_layer_norm_rms_eps(described.eps)
    if target.window_every and windows:
        writer.add_sliding_window(min(windows))
    if cap := described.manners[0].cap:
        writer.add_attn_logit_softcapping(cap)
    if described.logits_cap:
        writer.add_final_logit_softcapping(described.logits_cap)
    _add_rotation(writer, model, target, described.head_dim)


def _add_rotation(writer: GGUFWriter, model: Any, target: Target, head_dim: int) -> None:
    """How many elements of a head are rotated, and how fast; layers with a window may have a base of their own."""
    config = model.config.get_text_config()
    settings = config.rope_parameters
    if "full_attention" in settings:
        writer.add_rope_freq_base_swa(settings["sliding_attention"]["rope_theta"])
        settings = settings["full_attention"]
    writer.add_rope_dimension_count(int(head_dim * settings.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(settings["rope_theta"])
    kind = settings.get("rope_type", "default")
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(settings["factor"])
    elif kind == "llama3" and target.arch is MODEL_ARCH.LLAMA:
        slowed = model.model.rotary_emb.inv_freq.float()
        plain = settings["rope_theta"] ** (-torch.arange(len(slowed)) / len(slowed))
        writer.add_tensor("rope_freqs.weight", (plain / slowed).numpy())
    elif kind != "default":
        raise UserError(f"export to GGUF does not take rope type {kind} of {config.model_type}")


def _tensors(model: Any, target: Target, described: Architecture) -> Iterator[tuple[str, Tensor]]:
    """The weights by GGUF's names, as llama.cpp computes with them."""
    names = gguf.get_tensor_name_map(target.arch, len(described.manners))
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.get_text_config().tie_word_embeddings:
            continue
        if (known := names.get_name(name, try_suffixes=(".weight", ".bias"))) is None:
            raise UserError(f"export to GGUF: llama.cpp has no place for the weight {name}")
        weight = weight.detach().float()
        if name.endswith("norm.weight"):
            weight = weight + described.norm_offset
        for part, heads in (("q_proj", described.heads), ("k_proj", described.kv_heads)):
            if target.is_interleaved and f".{part}." in name:
                weight = _interleaved(weight, heads)
        yield known, weight.contiguous()


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows `[heads · D, …]` with the two halves of each head alternating."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
