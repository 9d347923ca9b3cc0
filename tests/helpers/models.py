"""Small models with random weights, and adapters that change what they say."""

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

SIZES: dict[str, Any] = {
    "vocab_size": 1030, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "eos_token_id": 2,
    "pad_token_id": 0, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
WINDOW = 9  # shorter than any prompt of the tests, and no multiple of a block
SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA: dict[str, Any] = {
    **SIZES, "sliding_window": WINDOW, "query_pre_attn_scalar": 40, "layer_types": [SLIDING, FULL, SLIDING],
}  # fmt: skip
CONFIGS: dict[str, Callable[[], Any]] = {
    "qwen2": lambda: Qwen2Config(**SIZES, tie_word_embeddings=False),
    "qwen2-window": lambda: Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1, tie_word_embeddings=False
    ),
    "qwen3": lambda: Qwen3Config(**{**SIZES, "num_attention_heads": 6, "head_dim": 32}),
    "llama": lambda: LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama3-rope": lambda: LlamaConfig(
        **SIZES,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        },
    ),
    "smollm3": lambda: SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1]),
    "mistral": lambda: MistralConfig(**{**SIZES, "head_dim": 32}, sliding_window=WINDOW),
    "mistral-full": lambda: MistralConfig(**SIZES, sliding_window=None),
    "phi3": lambda: Phi3Config(
        **SIZES,
        sliding_window=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    ),
    "gemma2": lambda: Gemma2Config(**GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=4.0),
    "gemma3": lambda: Gemma3TextConfig(
        **{**GEMMA, "num_key_value_heads": 1, "head_dim": 32},
        tie_word_embeddings=False,
        rope_parameters={
            SLIDING: {"rope_type": "default", "rope_theta": 100.0},
            FULL: {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        },
    ),
}  # fmt: skip
FAMILIES = {name: make() for name, make in CONFIGS.items()}


def small(config: Any, seed: int = 0, layers: int | None = None) -> Any:
    config.update({name: size for name, size in SIZES.items() if "head" not in name})
    config.num_hidden_layers = layers or config.num_hidden_layers
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for weight in model.parameters():  # norms and biases as well: at their first values they would hide mistakes
        torch.nn.init.normal_(weight, mean=1.0 if weight.ndim == 1 else 0.0, std=0.15)
    return model.eval()


def adapted(model: Any, **settings: Any) -> Any:
    torch.manual_seed(3)
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", **settings))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model.eval()


def ids(rollouts: list[Any]) -> list[list[int]]:
    return [r.completion_ids for r in rollouts]
