"""Prompts → completions: one interface for training, evaluation, the merge proof and the playground.

    generate(prompts, samples, sampling) -> [Rollout]      P prompts × G samples, grouped by prompt

    engine.py            decodes with the merged copy of the policy (policy/): memory, decoders, streams
    scheduler.py         which completion runs in which slot, and when
    decoder.py           the state of the slots, and the draw; torch_decoder.py computes on any device
    shared_prompts.py    the same with kernels, which let samples share their prompt's cache: kernel_decoder.py (CPU)
                         and triton_decoder.py (GPU)
    graphs.py            recorded steps on a GPU
    speed.py             the time of a step, measured
    endings.py           tokens and texts that end a completion
    padding.py           padded rows, which the models of reference.py get
    reference.py         transformers' generate, for models the engine cannot run and as what it is checked against
    engine_check.py      the comparison of the two, before and in the first steps

Shapes, here and in update/ and kernels/:

    P problems, G samples per problem, B = P·G completions, T tokens, V vocabulary
    C hidden size, H heads, KV heads with keys and values of their own, D elements per head
"""

from collections.abc import Sequence
from typing import Any

from tiny_math_solver.policy.linear import UnsupportedModelError
from tiny_math_solver.rollouts.engine import EngineRollouts
from tiny_math_solver.rollouts.padding import check_padding
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
    stop_strings: Sequence[str] = (),
) -> Rollouts:
    """The engine if it supports this model and sampling, otherwise transformers' generate, with a message.

    `console` is also told that there are no kernels for the engine on this CPU.
    """
    if not engine:
        return _generate(model, tokenizer, batch_size, stop_strings)
    try:
        if sampling and (sampling.repetition_penalty != 1 or sampling.extra):
            raise UnsupportedModelError("repetition_penalty and generation_kwargs")
        rollouts = EngineRollouts(model, tokenizer, batch_size, native, stop_strings)
    except UnsupportedModelError as unsupported:
        (console or Console()).say(
            f"rollouts by transformers' generate, many times slower: the engine does not support {unsupported}"
        )
        return _generate(model, tokenizer, batch_size, stop_strings)
    has_kernels = rollouts.weights.device.type in ("cpu", "cuda")
    if console and native and has_kernels and (reason := rollouts.weights.no_kernels_reason):
        console.say(f"torch computes alone, slower than with the compiled kernels: {reason}")
    return rollouts


def _generate(
    model: Any, tokenizer: Any, batch_size: int | BatchSize, stop_strings: Sequence[str]
) -> ReferenceRollouts:
    check_padding(model)
    return ReferenceRollouts(model, tokenizer, batch_size, stop_strings)
