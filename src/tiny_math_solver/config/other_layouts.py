"""Keys of other programs' configurations (TRL, open-r1, axolotl, LLaMA-Factory, verl), and what does the same.

Most of those layouts are flat; here every setting stands in a section.
"""

from collections.abc import Sequence

from tiny_math_solver.config.fields import known_fields
from tiny_math_solver.config.schema import Config

RENAMED = {  # to a field that does the same, with a remark where the values differ
    "model_name_or_path": "model.name",
    "model_name": "model.name",
    "base_model": "model.name",
    "model_revision": "model.revision",
    "torch_dtype": "model.dtype",
    "dtype": "model.dtype",
    "dataset_name": "problems.source",
    "dataset_path": "problems.source",
    "dataset": "problems.source",
    "datasets": "problems.source",
    "train_files": "problems.source",
    "val_files": "problems.test_source",
    "val_set_size": "problems.dev (a number of problems)",
    "dataset_config": "problems.subset",
    "dataset_config_name": "problems.subset",
    "dataset_revision": "problems.revision",
    "dataset_prompt_column": "problems.question",
    "system_prompt": "prompt.system",
    "max_prompt_length": "prompt.max_tokens (longer train prompts are dropped, never cut)",
    "max_seq_length": "grpo.max_completion_length (prompt.max_tokens limits the prompt)",
    "sequence_len": "grpo.max_completion_length (prompt.max_tokens limits the prompt)",
    "cutoff_len": "grpo.max_completion_length (prompt.max_tokens limits the prompt)",
    "max_new_tokens": "grpo.max_completion_length",
    "max_response_length": "grpo.max_completion_length",
    "max_tokens": "grpo.max_completion_length",
    "max_completion_tokens": "grpo.max_completion_length",
    "warmup_ratio": "grpo.warmup_steps (a number below 1 is a ratio)",
    "evaluation_strategy": "evaluation.every (in steps)",
    "eval_strategy": "evaluation.every (in steps)",
    "eval_steps": "evaluation.every",
    "no_cuda": "grpo.use_cpu",
    "group_by_length": "grpo.train_sampling_strategy (group_by_length)",
    "use_liger_loss": "grpo.use_liger_kernel",
    "epsilon_low": "grpo.epsilon",
    "kl_coef": "grpo.beta",
    "clip_range": "grpo.epsilon",
    "num_samples": "grpo.num_generations",
    "group_size": "grpo.num_generations",
    "batch_size": "grpo.per_device_train_batch_size",
    "micro_batch_size": "grpo.per_device_train_batch_size",
    "lr": "grpo.learning_rate",
    "lr_scheduler": "grpo.lr_scheduler_type",
    "optimizer": "grpo.optim",
    "epochs": "grpo.num_train_epochs",
    "num_epochs": "grpo.num_train_epochs",
    "total_epochs": "grpo.num_train_epochs",
    "lora_r": "lora.r",
    "lora_rank": "lora.r",
    "rank": "lora.r",
    "lora_target": "lora.target_modules",
    "lora_target_linear": "lora.target_modules (all-linear)",
    "lora_dropout": "lora.lora_dropout",
    "lora_target_modules": "lora.target_modules",
    "lora_modules_to_save": "lora.modules_to_save",
    "lora_task_type": "lora.task_type",
    "vllm_guided_decoding_regex": "grpo.vllm_structured_outputs_regex",
    "vllm_max_model_len": "grpo.vllm_max_model_length",
    "wandb_run_name": "grpo.run_name",
    "wandb_name": "grpo.run_name",
}
LEFT_OUT = {  # there is no such setting, and why none is needed
    "attn_implementation": "the engine and transformers choose the attention",
    "flash_attention": "the engine and transformers choose the attention",
    "use_vllm": "the engine makes the rollouts",
    "vllm_device": "grpo.vllm_mode says where vLLM runs",
    "vllm_dtype": "vLLM takes the model's",
    "rl": "every run is GRPO",
    "stage": "every run is GRPO",
    "finetuning_type": "an adapter is always trained",
    "trust_remote_code": "code that comes with a model is never run",
    "use_peft": "an adapter is always trained",
    "load_in_4bit": "models are not quantised",
    "load_in_8bit": "models are not quantised",
    "dataset_train_split": "the train split is used",
    "dataset_test_split": "the test split is used",
    "reward_funcs": "the rewards are correctness and format; grpo.reward_weights scales them",
    "overwrite_output_dir": "an earlier run in grpo.output_dir is moved aside",
    "logging_dir": "a run's records are in grpo.output_dir",
    "save_safetensors": "nothing else is written",
    "wandb_project": "set WANDB_PROJECT in the environment",
    "chat_template": "use prompt.template",
}
SECTIONS = {  # whole sections of other programs, and those of ours that have their settings
    "peft": "lora",
    "peft_config": "lora",
    "lora_config": "lora",
    "training": "grpo",
    "training_args": "grpo",
    "trainer": "grpo",
    "trl": "grpo",
    "algorithm": "grpo",
    "actor_rollout_ref": "model, lora and grpo",
    "data": "problems and prompt",
    "dataset": "problems",
    "datasets": "problems",
    "generation": "grpo",
}


def counterpart(key: str) -> str:
    """A few words on what does the same as an unknown `key`; empty if nothing is known of it."""
    if found := _field(key):
        field, _, remark = found.partition(" ")
        return f"{field} does the same {remark}".rstrip()
    return f"leave it out: {LEFT_OUT[key]}" if key in LEFT_OUT else ""


def flat_layout(keys: Sequence[str]) -> str:
    """All unknown top-level `keys` of a file with the place of each; empty if none of them is known from elsewhere."""
    places = {key: _field(key) for key in keys}
    left_out = {key: LEFT_OUT[key] for key in keys if key in LEFT_OUT}
    if not any(places.values()) and not left_out:
        return ""
    moved = [f"{key} → {place}" for key, place in places.items() if place and key not in left_out]
    parts = [f"settings stand in sections ({', '.join(Config.model_fields)}), as in grpo: {{learning_rate: 1e-6}}"]
    parts += [f"write {', '.join(moved)}"] * bool(moved)
    parts += [f"leave out {', '.join(f'{key} ({why})' for key, why in left_out.items())}"] * bool(left_out)
    unknown = [key for key in keys if not places[key] and key not in left_out]
    parts += [f"unknown: {', '.join(unknown)}"] * bool(unknown)
    return "; ".join(parts)


def _field(key: str) -> str:
    """The field that does the same as `key`, or has this name in some section; empty if there is none.

    Of our own sections only names of several words count: a `name` or `source` elsewhere is that of something else.
    """
    section, _, name = RENAMED.get(key, "").partition(" ")[0].partition(".")
    if name in (known_fields(section) if section else {}):
        return RENAMED[key]
    sections = Config.model_fields if "_" in key else ("lora", "grpo")
    return next((f"{section}.{key}" for section in sections if key in known_fields(section)), "")
