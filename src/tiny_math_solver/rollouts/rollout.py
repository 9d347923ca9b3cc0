"""What a rollout is and how it is sampled."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Sampling:
    """Every setting that shapes a completion; nothing is taken from a model's `generation_config.json`.

    `temperature` 0 is greedy. `extra` holds further transformers generation settings by their own names.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    min_p: float | None = None
    repetition_penalty: float = 1.0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion as token ids.

    `completion_ids` keeps the end-of-sequence token that stopped it; `finished` is False where the length limit
    did. `logprobs` are natural-log probabilities under the policy, one a completion token, where asked for.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    finished: bool
    logprobs: list[float] | None = None
