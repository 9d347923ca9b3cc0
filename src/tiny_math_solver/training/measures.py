"""The quantities that a run must have measured: a guard that is blind must not pass for one that finds nothing wrong.

Expected is what the configuration always logs. A quantity that one step cannot have is excused, with the reason, by
whoever knows it: `StepMetrics.excused`.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from tiny_math_solver.config.rewards import DEFAULT, RIGHT, SHIPPED, reward_names
from tiny_math_solver.rollouts import EngineRollouts
from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.records import MetricsRow
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, StoppedError
from tiny_math_solver.update.policy_update import GAP, GAP_TO_TRANSFORMERS, LARGEST_GAP, LARGEST_TO_TRANSFORMERS

OF_A_BATCH = ("reward", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio")
ALWAYS = (*OF_A_BATCH, DEFAULT.right, str(DEFAULT.marked), "entropy")
CLIPPED = "clip_ratio/region_mean"
CLIPPING_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")  # for which TRL logs it
SCORES = ("accuracy", "strict_accuracy", "mean_tokens", "finished")  # of an evaluation
GAPS = (GAP, LARGEST_GAP)
GAPS_TO_TRANSFORMERS = (GAP_TO_TRANSFORMERS, LARGEST_TO_TRANSFORMERS)
EQUAL = 1e-5  # advantages that rounding alone makes of equal rewards
QUANTITIES = (
    *OF_A_BATCH, *(f"rewards/{name}/mean" for name in reward_names(SHIPPED)), RIGHT, "entropy", "loss", "grad_norm",
    "kl", CLIPPED, *GAPS, *GAPS_TO_TRANSFORMERS,
)  # fmt: skip


def expected_quantities(trainer: Any, *, with_batch: bool) -> set[str]:
    """What the trainer logs of a step in this configuration; `with_batch` if completions were made for it."""
    expected = {"loss", "grad_norm", "entropy"} | (_of_batch(trainer) if with_batch else set())
    if trainer.beta:
        expected.add("kl")
    if trainer.loss_type in CLIPPING_LOSSES:
        expected.add(CLIPPED)
    update = trainer.update
    if update is not None:
        # transformers' generate gives no log-probabilities, and vLLM's are not of our kernels
        if isinstance(trainer.rollouts, EngineRollouts) and trainer.rollout_func is not None:
            expected |= {*GAPS}
        if update.scorer is not update.torch_scorer:
            expected |= {*GAPS_TO_TRANSFORMERS}
    return expected


def _of_batch(trainer: Any) -> set[str]:
    """What is logged of a batch of completions; a reward of the user may apply to none of them."""
    grader = trainer.generation.grader
    paid = {f"rewards/{name}/mean" for name in grader.names.names if name not in grader.own}
    return {*OF_A_BATCH, *paid, grader.names.right}


def unmeasured(row: MetricsRow, expected: Collection[str]) -> list[str]:
    """A text for each expected quantity that the row lacks, and for each known one that is not a finite number."""
    return [
        f"{name} is {_said(row.get(name))}"
        for name in QUANTITIES
        if (name in expected and row.get(name) is None) or (row.get(name) is not None and not is_finite(row[name]))
    ]


def not_finite(values: Mapping[str, Iterable[float]]) -> list[str]:
    """A text for each known quantity among the lists of a step's values that is not finite somewhere."""
    return [
        f"{name} is {_said(next(value for value in values[name] if not is_finite(value)))}"
        for name in QUANTITIES
        if not all(map(is_finite, values.get(name, ())))
    ]


def share_without_gradient(advantages: Tensor, group: Tensor) -> float:
    """The share of the completions `[B]` in groups whose rewards are all the same."""
    differs = (advantages.abs() > EQUAL).float()
    differing = torch.zeros(int(group.max()) + 1, device=group.device).index_add(0, group, differs)
    return (differing[group] == 0).float().mean().item()


def require_scores(block: Mapping[str, Any], what: str, step: int, events: EventLog) -> None:
    """Raise StoppedError if an evaluation's summary lacks a score, or one is not a finite number."""
    texts = [f"{name} is {_said(block.get(name))}" for name in SCORES if not is_finite(block.get(name))]
    if not block.get("n"):
        texts = ["no problem was evaluated"]
    if texts:
        text = f"step {step}: evaluation on {what}: {', '.join(texts)}"
        events.add(step, "not measured", text)
        raise StoppedError(f"stopped by a guard: {text}; records are in {events.run.path}", EXIT_LEARNED_NOTHING)


def remedy(texts: Collection[str]) -> str:
    """The settings to change where quantities are not measured."""
    if any("missing" in text for text in texts):
        return "the guards cannot watch the run without it: see if trl is of another version than constraints.txt has"
    if any(text.startswith(("reward", "frac_reward", "advantage")) for text in texts):
        return "a reward has to be a finite number"
    return "lower grpo.learning_rate, or set model.dtype float32"


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _said(value: Any) -> str:
    return "missing" if value is None else str(value)
