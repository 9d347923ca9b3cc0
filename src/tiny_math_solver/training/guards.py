"""Guards: warnings while a run goes wrong without any error, each with the measured value and the setting to change.

Most guards compare the mean of the last WINDOW logged steps with a limit, or with the mean of the first ones. Each
warns once, and again only after the value was fine in between. Two of them stop the run: no reward at all in its
first steps, and rollouts that do not come from the policy under training.

To add one: a function from `History` to `Finding | None`, listed in GUARDS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tiny_math_solver.config.schema import Config
from tiny_math_solver.grading.rewards import FORMAT_REWARD
from tiny_math_solver.runs.records import MetricsRow

WINDOW = 5  # logged steps
SOLVED = 0.8  # share of correct completions from which low entropy and equal rewards are what success looks like
# The mean difference of a log-probability that rounding explains, with room; a stale adapter is far above.
GAPS = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
GAP_TO_TRANSFORMERS = 1e-3  # the largest difference, in float32


@dataclass(frozen=True)
class Finding:
    """`text` gives the measured value and the setting to change; after a `fatal` one it is no use to go on."""

    name: str
    text: str
    fatal: bool = False


class History:
    """The metrics of a run so far, as the guards see them."""

    def __init__(self, rows: Sequence[MetricsRow], config: Config, dtype: torch.dtype):
        self.rows, self.config, self.dtype = rows, config, dtype

    def mean(self, name: str, rows: Sequence[MetricsRow] | None = None) -> float:
        """The mean of a metric over `rows`, the last steps by default; 0 if it was never logged."""
        values = [row[name] for row in (self.rows[-WINDOW:] if rows is None else rows) if row.get(name) is not None]
        return sum(values) / len(values) if values else 0.0

    def first(self, name: str) -> float:
        return self.mean(name, self.rows[:WINDOW])

    def best(self, name: str) -> float:
        """The largest mean of WINDOW steps in a row."""
        return max(self.mean(name, self.rows[i : i + WINDOW]) for i in range(max(1, len(self.rows) - WINDOW + 1)))

    @property
    def correct(self) -> float:
        return self.mean("rewards/correctness_reward/mean")

    @property
    def learned(self) -> bool:
        """True if more is correct than at first, beyond noise."""
        return self.correct > self.first("rewards/correctness_reward/mean") + 0.02


# -- The guards -------------------------------------------------------------------------------------------------


def no_reward(history: History) -> Finding | None:
    limit = history.config.guards.zero_reward_steps
    steps = history.rows[-1].get("step", len(history.rows))
    if steps < limit or any(row["reward"] for row in history.rows):
        return None
    return Finding(
        "no reward",
        f"no completion of the first {steps} steps earned anything (cut off: "
        f"{history.mean('completions/clipped_ratio'):.0%}): read them, then see prompt.system, "
        "grpo.max_completion_length or an easier problems.source",
        fatal=True,
    )


def other_policy(history: History) -> Finding | None:
    config, limit = history.config, GAPS[history.dtype]
    # dropout is off in rollouts, and completions that are learned from again were sampled earlier
    on_policy = config.generation_batch == config.completions_per_step and config.grpo_config.num_iterations == 1
    compared = on_policy and not config.lora_config.lora_dropout
    gap = history.rows[-1].get("sampling/sampling_logp_difference/mean") or 0.0 if compared else 0.0
    to_transformers = history.rows[-1].get("sampling/transformers_logp_difference/max") or 0.0
    if gap <= limit and to_transformers <= GAP_TO_TRANSFORMERS:
        return None
    return Finding(
        "rollouts of another policy",
        f"log-probabilities of rollouts and update differ by {gap:.1e} on average (limit {limit:g}), from "
        f"transformers' by up to {to_transformers:.1e} (limit {GAP_TO_TRANSFORMERS:g}): the rollouts do not come from "
        "the policy under training; --rollouts.engine false trains without the engine",
        fatal=True,
    )


def dead_groups(history: History) -> Finding | None:
    share = history.mean("frac_reward_zero_std")
    if share >= 0.9 and history.correct >= SOLVED:
        return Finding(
            "nothing left to learn",
            f"{share:.0%} of the groups have no gradient and {history.correct:.0%} of the completions are right: "
            "use harder problems, or stop here (grpo.max_steps)",
        )
    if share >= 0.8 and history.correct < SOLVED:
        return Finding(
            "dead groups",
            f"{share:.0%} of the groups have no gradient, all their rewards being equal: raise the samples per problem "
            f"(grpo.num_generations, now {history.config.num_generations}), a higher grpo.temperature (now "
            f"{history.config.grpo_config.temperature:g}), or problems that are neither all too easy nor all too hard",
        )
    return None


def truncation(history: History) -> Finding | None:
    share = history.mean("completions/clipped_ratio")
    if share < 0.1:
        return None
    return Finding(
        "truncation",
        f"{share:.0%} of the completions are cut off before their end: raise grpo.max_completion_length (now "
        f"{history.config.max_completion_length})",
    )


def entropy_collapse(history: History) -> Finding | None:
    first, last = history.first("entropy"), history.mean("entropy")
    if last >= 0.1 * first or history.correct >= SOLVED:
        return None
    return Finding(
        "entropy collapse",
        f"entropy fell from {first:.2g} to {last:.2g} nats a token with {history.correct:.0%} right: samples hardly "
        f"differ any more; raise grpo.temperature, lower grpo.learning_rate (now "
        f"{history.config.grpo_config.learning_rate:g}), or set grpo.beta above 0",
    )


def length(history: History) -> Finding | None:
    first, last = history.first("completions/mean_length"), history.mean("completions/mean_length")
    numbers = f"completions went from {first:.0f} to {last:.0f} tokens while no more of them are right"
    if last < 0.5 * first and not history.learned:
        return Finding(
            "length collapse", f"{numbers}: the reasoning is lost; lower grpo.learning_rate, or set grpo.beta above 0"
        )
    if last > 3 * first and not history.learned:
        return Finding(
            "length blow-up",
            f"{numbers}: lower grpo.learning_rate, or try grpo.loss_type dr_grpo, which length cannot sway",
        )
    return None


def format_without_accuracy(history: History) -> Finding | None:
    form, right = "rewards/format_reward/mean", "rewards/correctness_reward/mean"
    before, after = history.first(right), history.correct
    if history.mean(form) < history.first(form) + 0.15 * FORMAT_REWARD or after > before - max(0.02, 0.15 * before):
        return None
    return Finding(
        "format without accuracy",
        f"{history.first(form) / FORMAT_REWARD:.0%} → {history.mean(form) / FORMAT_REWARD:.0%} give their answer "
        f"after #### while right ones fell from {before:.1%} to {after:.1%}: the policy learns the format alone; "
        "lower its weight (grpo.reward_weights [1.0, 0.1]) or grpo.learning_rate",
    )


def reward_collapse(history: History) -> Finding | None:
    best, last = history.best("reward"), history.mean("reward")
    if best < 0.1 or last >= 0.5 * best:
        return None
    return Finding(
        "reward collapse",
        f"reward fell from {best:.2f} to {last:.2f}: lower grpo.learning_rate (now "
        f"{history.config.grpo_config.learning_rate:g}); the best adapter so far is kept",
    )


def kl(history: History) -> Finding | None:
    last = history.mean("kl")
    if last <= 1.0:
        return None
    return Finding(
        "KL blow-up",
        f"KL to the base is {last:.2g} nats a token: lower grpo.learning_rate, or raise grpo.beta (now "
        f"{history.config.grpo_config.beta:g})",
    )


def clipping(history: History) -> Finding | None:
    share = history.mean("clip_ratio/region_mean")
    if share < 0.3:
        return None
    return Finding(
        "clip ratio",
        f"{share:.0%} of the tokens are clipped: the policy moves too far between rollouts; lower grpo.learning_rate "
        f"or grpo.num_iterations (now {history.config.grpo_config.num_iterations})",
    )


GUARDS: tuple[Callable[[History], Finding | None], ...] = (
    no_reward, other_policy, dead_groups, truncation, entropy_collapse, length, format_without_accuracy,
    reward_collapse, kl, clipping,
)  # fmt: skip
AT_ONCE = (no_reward, other_policy)  # the others wait for a full window


def findings(rows: Sequence[MetricsRow], config: Config, dtype: torch.dtype) -> list[Finding]:
    """Everything the guards find in the metrics of the steps logged so far."""
    history = History(rows, config, dtype)
    guards = GUARDS if len(rows) >= WINDOW else AT_ONCE
    return [finding for guard in guards if (finding := guard(history)) is not None]
