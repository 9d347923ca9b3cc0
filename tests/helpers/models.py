"""Small models with random weights, and adapters that change what they say."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

FAMILIES = {
    "qwen2": Qwen2Config(tie_word_embeddings=False),
    "qwen3": Qwen3Config(head_dim=32),
    "llama": LlamaConfig(attention_bias=True, mlp_bias=True),
    "llama3-rope": LlamaConfig(
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        },
    ),
}  # fmt: skip


def small(config: Any, seed: int = 0) -> Any:
    config.update(
        {
            "vocab_size": 1030, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "eos_token_id": 2,
            "num_attention_heads": 6 if config.model_type == "qwen3" else 4, "num_key_value_heads": 2,
        }
    )  # fmt: skip
    if config.model_type != "qwen3":
        config.head_dim = 16
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
