"""What a rollout is, what makes one, and where one ends."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts.sampling import Sampling
from tiny_math_solver.support.batch_size import BatchSize


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


class Rollouts(Protocol):
    """Anything that turns prompts into completions of the policy as it is now."""

    model: Any
    tokenizer: Any
    batch_size: BatchSize  # completions decoded at once

    def generate(
        self, prompts: Sequence[Prompt], samples: int, sampling: Sampling, *, logprobs: bool = False
    ) -> list[Rollout]:
        """`samples` completions of every prompt, grouped by prompt in the order given."""
        ...

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[list[int]]:
        """One completion's token ids in pieces, as far as they are made one by one."""
        ...


def causal_lm(model: Any) -> Any:
    """The transformers model itself, whether or not PEFT is around it; adapters stay in its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def eos_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every id that ends a turn: where to stop belongs to the model, unlike how to sample."""
    own = causal_lm(model).generation_config.eos_token_id
    listed = own if isinstance(own, list) else [] if own is None else [own]
    return sorted({*listed, tokenizer.eos_token_id})
