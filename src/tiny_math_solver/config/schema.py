"""The configuration's sections, their fields and defaults.

`grpo` and `lora` hold fields of TRL's `GRPOConfig` and PEFT's `LoraConfig` under their own names; the other sections
are ours. `Config.grpo` and `Config.lora` are what was configured and what config.yaml records; the libraries' own
objects, with their defaults filled in, are `Config.grpo_config` and `Config.lora_config`.
"""

from __future__ import annotations

import warnings
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tiny_math_solver.config.yaml_file import dump
from tiny_math_solver.support import processes
from tiny_math_solver.support.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig
    from trl import GRPOConfig

MAX_UNREADABLE = 0.05  # of the rows of a source: more are no slips, but a layout that is not understood
EMBEDDED = "embedded"  # names the model that is shipped, and the problems that are generated
GSM8K_SYSTEM_PROMPT = (
    "Solve the problem step by step. Then write the final answer on the last line as #### <number>, "
    "with nothing after the number."
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class ModelSection(Section):
    name: str = Field(
        "Qwen/Qwen2.5-0.5B-Instruct",
        description="'embedded', a Hub name, or a folder; an adapter stands for its base and itself",
    )
    revision: str | None = Field(None, description="commit of the Hub model; null: the pinned one, or main")
    dtype: str = Field(
        "auto",
        description="float32, bfloat16, float16, or auto: bfloat16 on a GPU that has it, and on a CPU with AMX for "
        "weights stored so",
    )
    adapter: str | None = Field(None, description="LoRA adapter to start from: a folder or a Hub name")
    adapter_use: str = Field(
        "continue", description="continue: train that adapter; merge: train a new one on base and adapter merged"
    )


class ProblemsSection(Section):
    source: str = Field(
        "openai/gsm8k",
        description="'embedded', a Hub dataset (name, name:subset or name:subset:split, then @revision if need be), "
        "a folder like one, or a .jsonl, .json, .csv, .tsv or .parquet file",
    )
    subset: str | None = Field(None, description="subset of the Hub dataset; null: the only one, its default, or main")
    revision: str | None = Field(None, description="commit of the Hub dataset; null: the pinned one, or main")
    test_source: str | None = Field(
        None, description="where test problems come from, written as source; null: its test split, or carved from train"
    )
    question: str | None = Field(
        None, description="column of the questions, such as Body + Question or prompt[0].content; null: recognised"
    )
    answer: str | None = Field(
        None, description="column of the answers, such as reward_model.ground_truth; null: recognised"
    )
    test_question: str | None = Field(
        None, description="column in test_source; null: that of question if it is there, else recognised"
    )
    test_answer: str | None = Field(
        None, description="column in test_source; null: that of answer if it is there, else recognised"
    )
    max_unreadable: float = Field(
        MAX_UNREADABLE,
        ge=0,
        le=1,
        description="share of a source's rows that may be dropped since no gold answer can be read",
    )
    train: int | None = Field(None, ge=1, description="train problems to use; null: all (embedded: 2000)")
    dev: int = Field(200, ge=1, description="dev problems, carved from train by a hash of each question")
    test: int | None = Field(
        None,
        ge=1,
        description="test problems to use, or to carve from train if there are none; null: all (embedded: 500)",
    )
    sampling: str = Field(
        "uniform",
        description="uniform: each problem once an epoch; adaptive: those that were all right or all wrong lately are "
        "asked less often",
    )
    seed: int = Field(0, description="seed of the embedded generator, and of the choice if only some are used")


class PromptSection(Section):
    system: str = Field(GSM8K_SYSTEM_PROMPT, description="system prompt; empty: the default of the chat template")
    date: str | None = Field(
        None, description="for chat templates that put in today's, as 2026-01-31; null: the day on which the run starts"
    )
    max_tokens: int = Field(512, ge=1, description="longer train prompts are dropped and counted, never cut")


class EvaluationSection(Section):
    every: int = Field(50, ge=1, description="steps between greedy evaluations on dev")
    test_limit: int | None = Field(
        None, ge=1, description="test problems answered before and after, chosen by a hash of each question; null: all"
    )
    forecast_seconds: float = Field(
        20,
        ge=0,
        description="time for sampling train problems before the run, at most 2 % of the run; 0: no forecast",
    )
    samples: int = Field(8, ge=0, description="sampled completions per problem for pass@k and maj@k; 0: none")
    sampled_problems: int = Field(64, ge=1, description="problems used to measure pass@k and maj@k")


class RolloutsSection(Section):
    batch_size: int = Field(128, ge=1, description="completions decoded at once, fewer if memory runs out")
    engine: bool = Field(True, description="decode with the engine; false: transformers' generate, many times slower")
    native: bool = Field(True, description="on a CPU: kernels compiled for this processor; false: torch, slower")
    replace_dead: int = Field(
        0, ge=0, description="rounds per batch in which groups of equal rewards give way to further problems; 0: none"
    )
    fall_back: bool = Field(False, description="if the engine fails its check: true goes on with generate, false stops")


class UpdateSection(Section):
    own_passes: bool = Field(
        True, description="passes by length, without zero-gradient rows; false: TRL's micro-batches"
    )
    share: float = Field(
        1.0, gt=0, le=1, description="share of each group's completions to learn from: its best and its worst"
    )
    tokens_per_pass: int = Field(4096, ge=1, description="tokens of one forward and backward pass, padding included")


class GuardsSection(Section):
    stop: bool = Field(True, description="stop a run that cannot succeed; false: warn and go on")
    zero_reward_steps: int = Field(10, ge=1, description="steps without a single reward after which a new run stops")
    rescue: bool | None = Field(
        None,
        description="undo a collapse: go back to the state before it, change one setting and go on; null: where the "
        "format is rewarded",
    )
    rescues: int = Field(3, ge=1, le=100, description="rescues of one run; if it collapses again it stops")


class RecordsSection(Section):
    rollouts_mb: int = Field(
        512, ge=0, description="size at which rollouts.jsonl stops growing, in megabytes; 0 records nothing"
    )


# Every field that is not named here keeps the library's own default.
GRPO_DEFAULTS: dict[str, Any] = {
    "output_dir": "./checkpoint/qwen-0.5b-gsm8k-grpo",
    "num_generations": 4,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 16,
    "learning_rate": 5e-5,
    "temperature": 0.7,
    "max_completion_length": 512,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 50,
    "save_total_limit": 2,
    "seed": 42,
}
LORA_DEFAULTS: dict[str, Any] = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}


class Config(Section):
    model: ModelSection = Field(default_factory=ModelSection)
    problems: ProblemsSection = Field(default_factory=ProblemsSection)
    prompt: PromptSection = Field(default_factory=PromptSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    rollouts: RolloutsSection = Field(default_factory=RolloutsSection)
    update: UpdateSection = Field(default_factory=UpdateSection)
    guards: GuardsSection = Field(default_factory=GuardsSection)
    records: RecordsSection = Field(default_factory=RecordsSection)
    lora: dict[str, Any] = Field(default_factory=dict, description="fields of peft.LoraConfig")
    grpo: dict[str, Any] = Field(default_factory=dict, description="fields of trl.GRPOConfig")

    @property
    def output_dir(self) -> Path:
        return Path(self.grpo["output_dir"]).expanduser()

    @property
    def num_generations(self) -> int:
        """Completions sampled per problem; loading refuses none."""
        return self.grpo["num_generations"]

    @property
    def max_completion_length(self) -> int:
        """Longest completion, in tokens; loading refuses none."""
        return self.grpo["max_completion_length"]

    @property
    def template_variables(self) -> dict[str, Any]:
        """Variables of the chat template, by name."""
        return self.grpo.get("chat_template_kwargs") or {}

    @property
    def completions_per_step(self) -> int:
        """Completions per optimizer step, over all processes."""
        return self._per_micro_batch * self.grpo["gradient_accumulation_steps"]

    @property
    def generation_batch(self) -> int:
        """Completions sampled at once, over all processes; TRL may spread several optimizer steps over them."""
        micro_batches = self.grpo.get("steps_per_generation") or self.grpo["gradient_accumulation_steps"]
        return self.grpo.get("generation_batch_size") or self._per_micro_batch * micro_batches

    @property
    def _per_micro_batch(self) -> int:
        return self.grpo["per_device_train_batch_size"] * processes.count()

    @property
    def reward_weights(self) -> tuple[float, float]:
        """Weights of the correctness and the format reward; TRL's default is 1 each, and it refuses other numbers."""
        weights: list[float] = self.grpo.get("reward_weights") or []
        correctness, form, *_ = [*weights, 1.0, 1.0]
        return correctness, form

    @property
    def allowed_rescues(self) -> int:
        """Collapses that the run undoes by itself; 0 where it undoes none."""
        is_on = self.reward_weights[1] > 0 if self.guards.rescue is None else self.guards.rescue
        return self.guards.rescues if is_on else 0

    def to_yaml(self) -> str:
        return dump(self.model_dump(mode="json"))

    @cached_property
    def grpo_config(self) -> GRPOConfig:
        """TRL's GRPOConfig, fitted to the hardware where the configuration leaves that open.

        Built at first use, because it sets up the device. Raises UserError with what TRL refuses.
        """
        import torch
        from trl import GRPOConfig

        from tiny_math_solver.support.device import default_device, resolve_dtype

        chosen = dict(self.grpo)
        device = default_device()
        if chosen.setdefault("use_cpu", device == "cpu"):
            device = "cpu"
        if device != "cuda":
            chosen.setdefault("dataloader_pin_memory", False)
        if device != "cuda" or resolve_dtype(self.model.dtype, device) is not torch.bfloat16:
            chosen.setdefault("bf16", False)
        chosen.setdefault("disable_tqdm", True)
        try:
            built = GRPOConfig(**chosen)
        except (ValueError, ImportError) as error:
            raise UserError(f"grpo: {' '.join(str(error).split())}") from None
        if built.world_size != processes.count():
            raise UserError(
                f"environment: WORLD_SIZE={processes.count()}, but {built.world_size} of these processes can train "
                "here; unset it, or start with torchrun"
            )
        if built.n_gpu > 1:
            built._n_gpu = 1  # the Trainer would make a step of all of them, and of as many times the rows
        return built

    @cached_property
    def lora_config(self) -> LoraConfig:
        """PEFT's LoraConfig, built at first use; raises whatever PEFT raises. Its warnings are in `lora_notes`."""
        return self._build_lora()[0]

    def lora_notes(self) -> list[str]:
        """PEFT's warnings about section `lora`."""
        texts = [" ".join(text.split()) for text in self._build_lora()[1]]
        # one of them is about an option of save_pretrained that is not used here
        return [text for text in texts if "path_initial_model_for_weight_conversion" not in text]

    def _build_lora(self) -> tuple[LoraConfig, list[str]]:
        from peft import LoraConfig

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            built = LoraConfig(**{"revision": self.model.revision, **self.lora})
        return built, [str(warning.message) for warning in caught]

    def with_grpo(self, **changes: Any) -> Config:
        """A copy with other values in section `grpo`."""
        return self.with_sections(grpo={**self.grpo, **changes})

    def while_training(self, **changes: Any) -> Config:
        """A copy with other values in section `grpo` of a run under way: a new GRPOConfig would reset its device."""
        config, built = self.with_grpo(**changes), copy(self.grpo_config)
        for name, value in changes.items():
            setattr(built, name, value)
        config.__dict__["grpo_config"] = built
        return config

    def with_sections(self, **changes: Any) -> Config:
        """A copy with other sections."""
        return Config(**{**{name: getattr(self, name) for name in Config.model_fields}, **changes})
