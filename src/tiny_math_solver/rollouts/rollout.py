"""The interface of rollouts: the record, and the protocol of what makes them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts.endings import Endings
from tiny_math_solver.rollouts.sampling import Sampling
from tiny_math_solver.support.batch_size import BatchSize
from tiny_math_solver.support.errors import UserError


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion as token ids.

    `completion_ids` includes what ended it; `finished` is False if the length limit stopped it instead. `logprobs` are
    natural-log probabilities under the policy, one per completion token, if they were asked for.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    finished: bool
    logprobs: list[float] | None = None


# called with each completion's place in the result and the completion, as it finishes; again after a retry
OnDone = Callable[[int, Rollout], Any]


class Rollouts(Protocol):
    """Anything that generates completions with the present policy."""

    model: Any
    tokenizer: Any
    batch_size: BatchSize  # completions decoded at once

    @property
    def endings(self) -> Endings: ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        sampling: Sampling,
        *,
        logprobs: bool = False,
        on_done: OnDone | None = None,
    ) -> list[Rollout]:
        """`samples` completions of every prompt, in the order of the prompts."""
        ...

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[list[int]]:
        """One completion's token ids in pieces, as they are generated."""
        ...


def refuse_unknown_ids(prompts: Sequence[Prompt], rows: int, tokenizer: Any) -> None:
    """Raise UserError if a prompt has a token beyond the `rows` of the embedding; kernels would read past its end."""
    largest = max((max(prompt.ids, default=0) for prompt in prompts), default=0)
    if largest >= rows:
        raise UserError(
            f"a prompt has the token {tokenizer.convert_ids_to_tokens(largest)!r} with id {largest}, but the model's "
            f"embedding has {rows} rows: the tokenizer has tokens that this model was not trained with"
        )
