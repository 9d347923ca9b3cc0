"""Prompt ids → completions: one interface for training, evaluation, the merge proof and `solve`.

    generate(prompt_ids, samples, sampling) -> [Rollout]      P prompts × G samples, grouped by prompt

`reference.py` is plain transformers generation.
"""

from tiny_math_solver.rollouts.reference import ReferenceRollouts
from tiny_math_solver.rollouts.rollout import Rollout, Sampling

__all__ = ["ReferenceRollouts", "Rollout", "Sampling"]
