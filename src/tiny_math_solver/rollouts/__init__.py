"""Prompt ids → completions: one interface for training, evaluation, the merge proof and `solve`.

    generate(prompts, samples, sampling) -> [Rollout]      P prompts × G samples, grouped by prompt

`engine.py` decodes with its own merged copy of the policy (`weights.py`), a step at a time (`decoder.py`, and with
compiled kernels on a CPU `native.py`); `reference.py` is plain transformers
generation, for models the engine cannot run and as what it is checked against (`certificate.py`).
"""

from typing import Any

from tiny_math_solver.rollouts.engine import EngineRollouts
from tiny_math_solver.rollouts.policy_weights import UnsupportedModelError
from tiny_math_solver.rollouts.reference import ReferenceRollouts
from tiny_math_solver.rollouts.rollout import Rollout, Rollouts
from tiny_math_solver.rollouts.sampling import Sampling
from tiny_math_solver.support.batch_size import BatchSize
from tiny_math_solver.support.console import Console

__all__ = ["EngineRollouts", "ReferenceRollouts", "Rollout", "Rollouts", "Sampling", "make_rollouts"]


def make_rollouts(
    model: Any,
    tokenizer: Any,
    batch_size: int | BatchSize = 128,
    engine: bool = True,
    native: bool = True,
    sampling: Sampling | None = None,
    console: Console | None = None,
) -> Rollouts:
    """The engine where it can run this model and these settings, else transformers' generate; says so if not asked."""
    if not engine:
        return ReferenceRollouts(model, tokenizer, batch_size)
    try:
        if sampling and (sampling.repetition_penalty != 1 or sampling.extra):
            raise UnsupportedModelError("repetition_penalty and generation_kwargs")
        return EngineRollouts(model, tokenizer, batch_size, native)
    except UnsupportedModelError as reason:
        (console or Console()).say(
            f"rollouts by transformers' generate, many times slower: the engine does not support {reason}"
        )
        return ReferenceRollouts(model, tokenizer, batch_size)
