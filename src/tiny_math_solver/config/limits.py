"""Limits of configuration values beyond their type: bounds, choices, and keys that are refused.

TRL, transformers and PEFT accept any number of the right type: a NaN learning rate silently trains nothing, and a
misspelt loss is noticed at the first update, after all the evaluations before it.
"""

import re
from datetime import date
from pathlib import Path, PureWindowsPath
from typing import Any

from tiny_math_solver.support.files import IS_WINDOWS

_AT_LEAST_0, _ABOVE_0, _AT_LEAST_1 = {"ge": 0}, {"gt": 0}, {"ge": 1}
_SHARE, _SEED, _TOKENS = {"gt": 0, "le": 1}, {"ge": 0, "lt": 2**32}, {"ge": 1, "le": 2**17}
BOUNDS: dict[str, dict[str, Any]] = {
    "grpo.learning_rate": _AT_LEAST_0,
    "grpo.warmup_steps": _AT_LEAST_0,
    "grpo.weight_decay": _AT_LEAST_0,
    "grpo.max_grad_norm": _AT_LEAST_0,
    "grpo.adam_beta1": {"ge": 0, "lt": 1},
    "grpo.adam_beta2": {"ge": 0, "lt": 1},
    "grpo.adam_epsilon": _ABOVE_0,
    "grpo.num_train_epochs": {"gt": 0, "le": 10**6},
    "grpo.max_steps": {"ge": -1, "le": 10**9},
    "grpo.per_device_train_batch_size": _AT_LEAST_1,
    "grpo.per_device_eval_batch_size": _AT_LEAST_1,
    "grpo.gradient_accumulation_steps": _AT_LEAST_1,
    "grpo.generation_batch_size": _AT_LEAST_1,
    "grpo.steps_per_generation": _AT_LEAST_1,
    "grpo.num_iterations": _AT_LEAST_1,
    "grpo.max_completion_length": _TOKENS,
    "grpo.temperature": {"le": 100},  # loading checks that it is above 0, and says why
    "grpo.top_p": _SHARE,
    "grpo.top_k": _AT_LEAST_0,
    "grpo.min_p": {"ge": 0, "le": 1},
    "grpo.repetition_penalty": _ABOVE_0,
    "grpo.beta": _AT_LEAST_0,
    "grpo.epsilon": _AT_LEAST_0,
    "grpo.epsilon_high": _AT_LEAST_0,
    "grpo.delta": _ABOVE_0,
    "grpo.top_entropy_quantile": {"ge": 0, "le": 1},
    "grpo.ref_model_mixup_alpha": {"ge": 0, "le": 1},
    "grpo.ref_model_sync_steps": _AT_LEAST_1,
    "grpo.seed": _SEED,
    "grpo.data_seed": _SEED,
    "grpo.logging_steps": _ABOVE_0,
    "grpo.save_steps": _ABOVE_0,
    "grpo.save_total_limit": _AT_LEAST_1,
    "grpo.dataloader_num_workers": _AT_LEAST_0,
    "grpo.neftune_noise_alpha": _AT_LEAST_0,
    "lora.r": {"ge": 1, "le": 2**14},
    "lora.lora_alpha": _AT_LEAST_1,
    "lora.lora_dropout": {"ge": 0, "lt": 1},
    "prompt.max_tokens": {"le": 2**17},
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "model.dtype": ("auto", "float32", "bfloat16", "float16"),
    "model.adapter_use": ("continue", "merge"),
    "model.quantization": ("nf4", "int8"),
    "problems.sampling": ("uniform", "adaptive"),
    "grpo.loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "grpo.importance_sampling_level": ("token", "sequence"),
    "grpo.scale_rewards": ("group", "batch", "none"),
    "grpo.multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "grpo.vllm_mode": ("colocate", "server"),
    "grpo.train_sampling_strategy": ("random", "sequential", "group_by_length", "batch_rebalance"),
    "grpo.log_level": ("debug", "info", "warning", "error", "critical", "passive"),
    "grpo.log_level_replica": ("debug", "info", "warning", "error", "critical", "passive"),
    "grpo.include_num_input_tokens_seen": ("all", "non_padding", "no"),
    "lora.task_type": ("CAUSAL_LM",),
    "lora.peft_type": ("LORA",),
}
# Keys that would leak a secret, be ignored, or break training, with the message; an empty value is fine.
REFUSED = {
    "grpo.hub_token": "tokens belong in the environment, not in a file: set HF_TOKEN there",
    "grpo.push_to_hub": "train first, then upload the adapter with `tiny-math push FOLDER OWNER/NAME`",
    "grpo.resume_from_checkpoint": "use --resume to continue a run",
    "grpo.model_init_kwargs": "section model says how the model is loaded",
    "grpo.log_completions": "rollouts.jsonl has every completion",
    "grpo.remove_unused_columns": "the rewards need the columns of the problems",
    "grpo.ignore_data_skip": "a resumed run would see different problems",
    "grpo.neftune_noise_alpha": "the update would see a different policy from the rollouts",
    "grpo.sync_ref_model": "with an adapter the policy before training is the reference",
    **dict.fromkeys(
        ("grpo.fsdp", "grpo.deepspeed", "grpo.parallelism_config"),
        "each process has the whole model: neither FSDP, DeepSpeed nor tensor parallelism is supported",
    ),
    "lora.inference_mode": "nothing would be trained",
}
CALL_ARGUMENTS = (  # of apply_chat_template, beside the template's variables
    "conversation", "messages", "add_generation_prompt", "continue_final_message", "tokenize", "padding", "truncation",
    "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "pinned_date",
    "sanitize_control_tokens",
)  # fmt: skip


def _check_name(value: Any) -> None:
    if value and (value in (".", "..") or re.search(r"[/\\\x00-\x1f]", value) or len(value) > 128):
        raise ValueError("a plain name is expected, without slashes, of at most 128 characters")


def _check_logging(value: Any) -> None:
    if getattr(value, "value", value) != "steps":
        raise ValueError("metrics are logged every grpo.logging_steps steps: only steps is supported")


def _check_adapter_start(value: Any) -> None:
    if value is False:
        raise ValueError("training would start from a random adapter, not from the base")


def _check_steps(value: Any) -> None:
    if value == 0:
        raise ValueError("nothing would be trained; -1 trains for grpo.num_train_epochs")


def _check_rate(value: Any) -> None:
    if value == 0:
        raise ValueError("nothing would be learned; for LoRA rates from 1e-5 to 1e-3 are usual")


def _check_weights(value: Any) -> None:
    if value is not None and not any(value):
        raise ValueError("nothing would be learned: no reward counts; null weighs each by 1")


def _check_variety(value: Any) -> None:
    if value == 1:  # top_k or min_p
        raise ValueError("nothing would be learned: all samples of a problem would be the same; drop it")


def _check_modules(value: Any) -> None:
    if value in ("", []):
        raise ValueError("nothing would be trained; all-linear is the usual choice")
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None


def _check_patterns(value: Any) -> None:
    for pattern, number in value.items() if isinstance(value, dict) else []:
        if not isinstance(number, int | float) or isinstance(number, bool) or number <= 0:
            raise ValueError(f"{pattern}: expected a number above 0")
        try:
            re.compile(str(pattern))
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None


def _check_set(value: Any) -> None:
    if value is not None and not value.strip():
        raise ValueError("must be set; null recognises the column")


def _check_date(value: Any) -> None:
    try:
        fits = value is None or date.fromisoformat(value).isoformat() == value
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("expected a date such as 2026-01-31")


def _check_template_variables(value: Any) -> None:
    for name, given in (value or {}).items():
        if name == "strftime_now":
            raise ValueError("strftime_now is a function of the template; prompt.date (or --date) sets the date")
        if name == "chat_template":
            raise ValueError("prompt.template sets the template; here are its variables")
        if name in CALL_ARGUMENTS and not (name == "add_generation_prompt" and given is True):
            raise ValueError(f"{name} is no variable of a template; a prompt ends where the model's turn begins")


def _check_path(value: Any) -> None:
    if value == "":
        raise ValueError("must be set")
    if isinstance(value, str) and (len(value) > 1000 or any(len(part) > 200 for part in Path(value).parts)):
        raise ValueError("the path is too long")


def _check_output(value: Any) -> None:
    _check_path(value)
    if IS_WINDOWS and isinstance(value, str):
        names = PureWindowsPath(value).parts[bool(PureWindowsPath(value).anchor) :]
        if refused := re.search('[<>:"|?*]', "".join(names)):
            raise ValueError(f"Windows allows no {refused[0]} in the name of a file or folder")


CHECKS = {
    "grpo.run_name": _check_name,
    "grpo.max_steps": _check_steps,
    "grpo.learning_rate": _check_rate,
    "grpo.reward_weights": _check_weights,
    "grpo.top_k": _check_variety,
    "grpo.min_p": _check_variety,
    "grpo.logging_strategy": _check_logging,
    "lora.init_lora_weights": _check_adapter_start,
    "lora.target_modules": _check_modules,
    "lora.rank_pattern": _check_patterns,
    "lora.alpha_pattern": _check_patterns,
    "grpo.chat_template_kwargs": _check_template_variables,
    "prompt.date": _check_date,
    "grpo.output_dir": _check_output,
    "model.name": _check_path,
    "model.adapter": _check_path,
    "problems.source": _check_path,
    "problems.test_source": _check_path,
    **dict.fromkeys(
        ("problems.question", "problems.answer", "problems.test_question", "problems.test_answer"), _check_set
    ),
}
