"""The rewards under the names that TRL scripts import: `from reward_func import correctness_reward`."""

from tiny_math_solver.grading.rewards import correctness_reward, format_reward

__all__ = ["correctness_reward", "format_reward"]
