"""A random model of about a million parameters of every family, and how far the engine is from transformers on it.

Windows are shorter than the rows, scores and logits reach their caps, and every fourth layer of SmolLM3 is not rotated.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
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

from tiny_math_solver.models.load import load_tokenizer
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.prompts import Prompt, chat_messages, encode_prompt
from tiny_math_solver.rollouts import EngineRollouts
from tiny_math_solver.rollouts.engine_check import check_against_transformers
from tiny_math_solver.support.device import default_device
from tiny_math_solver.update.merged_scorer import MergedScorer, unsupported
from tiny_math_solver.update.passes import Batch
from tiny_math_solver.update.scorer import Scorer, whole_rows
from tiny_math_solver.update.torch_scorer import TorchScorer

SIZES: dict[str, Any] = {
    "vocab_size": 1024, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
WINDOW = 48  # tokens; prompts have 60 to 80
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}
SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA: dict[str, Any] = {**SIZES, "sliding_window": WINDOW, "query_pre_attn_scalar": 64}
MODELS: dict[str, Callable[[], Any]] = {
    "Qwen2": lambda: Qwen2Config(**SIZES, tie_word_embeddings=True),
    "Qwen3": lambda: Qwen3Config(**SIZES),
    "Llama 3.2": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "SmolLM2": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "SmolLM3": lambda: SmolLM3Config(**SIZES),
    "Mistral": lambda: MistralConfig(**SIZES, sliding_window=WINDOW),
    "Phi-3": lambda: Phi3Config(**SIZES, sliding_window=WINDOW),
    "Phi-4": lambda: Phi3Config(**SIZES, rope_parameters=PARTIAL),
    "Gemma 2": lambda: Gemma2Config(**GEMMA, attn_logit_softcapping=3.0, final_logit_softcapping=5.0),
    "Gemma 3": lambda: Gemma3TextConfig(**GEMMA, layer_types=[SLIDING, SLIDING, FULL, SLIDING]),
}
PROMPTS, SAMPLES, TOKENS = 4, 2, 32
STD = 0.12  # of all weights: large enough for attention to choose


def family_model(name: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MODELS[name](), dtype=torch.float32)
    for weight in model.parameters():  # norms too
        torch.nn.init.normal_(weight, mean=1.0 if weight.ndim == 1 else 0.0, std=STD)
    return model.to(default_device()).eval()


def gaps(name: str) -> dict[str, float]:
    """The largest differences from transformers: of a log-probability, and of the adapter's gradient.

    The former is between greedy rollouts and a forward pass, in nats; the latter between the update and autograd,
    relative to the largest gradient.
    """
    tokenizer, model = load_tokenizer("embedded"), _adapted(family_model(name))
    problems = embedded_problems("test", PROMPTS)
    prompts = [encode_prompt(tokenizer, chat_messages(problem.question)) for problem in problems]
    check = check_against_transformers(
        EngineRollouts(model, tokenizer), [Prompt(ids, group) for group, ids in enumerate(prompts)]
    )
    batch = _batch(prompts, model.device)
    expected, scorer = _by_autograd(model, batch), _scorer(model)
    scorer.begin()
    (scorer.logprobs(batch) * batch["advantages"]).sum().backward()
    scorer.finish()
    gradient = _gradient(model)
    return {
        "forward_gap": check.gap,
        "gradient_gap": ((gradient - expected).abs().max() / expected.abs().max()).item(),
    }


def _scorer(model: Any) -> Scorer:
    """That of a run with this model."""
    weights = PolicyWeights(model)
    if unsupported(weights, model):
        return TorchScorer(model.get_base_model(), 1.0, nullcontext, model.dtype)
    return MergedScorer(weights, 1.0)


def _adapted(model: Any) -> Any:
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    for parameter_name, weight in adapted.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(weight, std=0.02)
    return adapted.eval()


def _batch(prompts: list[list[int]], device: torch.device) -> Batch:
    """Random completions of the prompts."""
    longest, generator = max(map(len, prompts)), torch.Generator().manual_seed(0)
    rows = [ids for ids in prompts for _ in range(SAMPLES)]
    batch = {
        "prompt_ids": torch.tensor([[0] * (longest - len(ids)) + ids for ids in rows]),
        "prompt_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in rows]),
        "completion_ids": torch.randint(3, SIZES["vocab_size"], (len(rows), TOKENS), generator=generator),
        "completion_mask": torch.ones(len(rows), TOKENS, dtype=torch.long),
        "group": torch.arange(len(rows)) // SAMPLES,
        "advantages": torch.randn(len(rows), 1, generator=generator),
    }
    return {name: value.to(device) for name, value in batch.items()}


def _by_autograd(model: Any, batch: Batch) -> Tensor:
    """The gradient through transformers' own forward pass and all logits."""
    ids, mask, size = whole_rows(batch)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -size - 1 : -1]
    logprobs = logits.log_softmax(-1).gather(2, batch["completion_ids"][..., None])[..., 0]
    (logprobs * batch["advantages"]).sum().backward()
    return _gradient(model)


def _gradient(model: Any) -> Tensor:
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    model.zero_grad()
    return gradient
