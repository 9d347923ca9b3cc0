"""One configuration.

`grpo` and `lora` hold fields of TRL's `GRPOConfig` and PEFT's `LoraConfig` under their own names; the other sections
are ours (sections.py). `Config.grpo` and `Config.lora` are what was configured and what config.yaml records; the
libraries' own objects, with their defaults filled in, are `Config.grpo_config` and `Config.lora_config`.
"""

from __future__ import annotations

import warnings
from copy import copy
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tiny_math_solver.config.rewards import RewardNames, names_of
from tiny_math_solver.config.sections import (
    EvaluationSection,
    GuardsSection,
    ModelSection,
    ProblemsSection,
    PromptSection,
    RecordsSection,
    RewardsSection,
    RolloutsSection,
    Section,
    UpdateSection,
)
from tiny_math_solver.config.shipped import kind_of
from tiny_math_solver.config.yaml_file import dump
from tiny_math_solver.support import processes
from tiny_math_solver.support.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig
    from trl import GRPOConfig


class Config(Section):
    model: ModelSection = Field(default_factory=ModelSection)
    problems: ProblemsSection = Field(default_factory=ProblemsSection)
    prompt: PromptSection = Field(default_factory=PromptSection)
    rewards: RewardsSection = Field(default_factory=RewardsSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    rollouts: RolloutsSection = Field(default_factory=RolloutsSection)
    update: UpdateSection = Field(default_factory=UpdateSection)
    guards: GuardsSection = Field(default_factory=GuardsSection)
    records: RecordsSection = Field(default_factory=RecordsSection)
    lora: dict[str, Any] | None = Field(
        default_factory=dict, description="fields of peft.LoraConfig; null: no adapter, all weights are trained"
    )
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
    def answer_kind(self) -> str:
        """What the answers are, by name."""
        return kind_of(self.problems)

    @property
    def reward_names(self) -> RewardNames:
        """The rewards with their weights, 1 each by default; loading refuses what does not go together."""
        return names_of(self.rewards.model_dump(), self.grpo.get("reward_weights"))

    @property
    def allowed_rescues(self) -> int:
        """Collapses that the run undoes by itself; 0 where it undoes none."""
        names = self.reward_names
        is_paid_for_more = any(names.weights[place] > 0 for place in names.others)
        is_on = is_paid_for_more if self.guards.rescue is None else self.guards.rescue
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
            with processes.meeting():
                built = GRPOConfig(**chosen)
        except (ValueError, ImportError) as error:
            raise UserError(f"grpo: {' '.join(str(error).split())}") from None
        if built.world_size != processes.count():
            raise UserError(
                f"environment: WORLD_SIZE={processes.count()}, but {built.world_size} of these processes can train "
                "here; unset it, or start with torchrun"
            )
        processes.patience = timedelta(seconds=built.ddp_timeout)
        if built.n_gpu > 1:
            built._n_gpu = 1  # the Trainer would make a step of all of them, and of as many times the rows
        return built

    @property
    def trains_all(self) -> bool:
        """True if there is no adapter: all weights of the model are trained."""
        return self.lora is None

    @cached_property
    def lora_config(self) -> LoraConfig | None:
        """PEFT's LoraConfig, built at first use; None without an adapter. Its warnings are in `lora_notes`.

        Raises whatever PEFT raises.
        """
        return None if self.trains_all else self._build_lora()[0]

    def lora_notes(self) -> list[str]:
        """PEFT's warnings about section `lora`."""
        if self.trains_all:
            return []
        texts = [" ".join(text.split()) for text in self._build_lora()[1]]
        # one of them is about an option of save_pretrained that is not used here
        return [text for text in texts if "path_initial_model_for_weight_conversion" not in text]

    def _build_lora(self) -> tuple[LoraConfig, list[str]]:
        from peft import LoraConfig

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            built = LoraConfig(**{"revision": self.model.revision, **(self.lora or {})})
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
