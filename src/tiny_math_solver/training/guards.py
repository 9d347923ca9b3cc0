"""Guards: warnings while a run goes wrong without any error, each with the measured value and the setting to change.

Most guards compare the mean of the last WINDOW logged steps with a limit, or with the mean of the first ones. Each
warns once, and again only after the value was fine in between. Three of them stop the run: no reward at all in its
first steps, rollouts that do not come from the policy under training, and numbers that are missing or not finite. A
collapse (collapse.py) is undone, or stops the run if it lasts. A guard whose numbers are missing finds nothing: whether
they may be is for `not_measured` to say.

To add one: a function from `History` to `Finding | None`, listed in GUARDS.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from tiny_math_solver.config.rewards import FORMAT_REWARD, RewardNames
from tiny_math_solver.config.schema import Config
from tiny_math_solver.grading.graded import PLACES
from tiny_math_solver.grading.markers import How
from tiny_math_solver.runs.records import MetricsRow
from tiny_math_solver.training.collapse import Batch, Collapse, find_collapse
from tiny_math_solver.training.measures import ALWAYS, remedy, unmeasured
from tiny_math_solver.update.policy_update import GAP
from tiny_math_solver.update.policy_update import GAP_TO_TRANSFORMERS as TO_TRANSFORMERS

WINDOW = 5  # logged steps
COLD, HOT = 0.5, 1.2  # temperatures below and above which the samples of a problem hardly differ, and make little sense
RARE = 0.02  # share of correct completions below which most groups have none
SOLVED = 0.8  # share of correct completions from which low entropy and equal rewards are what success looks like
# The mean difference of a log-probability that rounding explains, with room; a stale adapter is far above.
GAPS = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class Finding:
    """`text` gives the measured value and the setting to change; after a `fatal` one it is no use to go on.

    `guards.stop false` goes on after those that are `optional`. A `collapse` can be undone (rescue.py).
    """

    name: str
    text: str
    fatal: bool = False
    optional: bool = True
    collapse: Collapse | None = None


class History:
    """The metrics of a run so far, as the guards see them: without the `undone` steps."""

    def __init__(self, rows: Sequence[MetricsRow], config: Config, dtype: torch.dtype, undone: Collection[int] = ()):
        self.rows, self.config, self.dtype, self.undone = rows, config, dtype, undone
        self.names = config.reward_names

    def mean(self, name: str | None, rows: Sequence[MetricsRow] | None = None) -> float | None:
        """The mean of a metric over `rows`, the last steps by default; None if none of them has it."""
        if name is None:
            return None
        values = [row[name] for row in (self.rows[-WINDOW:] if rows is None else rows) if row.get(name) is not None]
        return sum(values) / len(values) if values else None

    def first(self, name: str | None) -> float | None:
        return self.mean(name, self.rows[:WINDOW])

    def best(self, name: str) -> float | None:
        """The largest mean of WINDOW steps in a row."""
        means = (self.mean(name, self.rows[i : i + WINDOW]) for i in range(max(1, len(self.rows) - WINDOW + 1)))
        return max((mean for mean in means if mean is not None), default=None)

    def change(self, name: str | None) -> tuple[float, float] | None:
        """`(first, last)` mean of a metric; None if one of them is missing."""
        first, last = self.first(name), self.mean(name)
        return None if first is None or last is None else (first, last)

    @property
    def place(self) -> str:
        """Where answers should stand, in words."""
        return PLACES[How(self.names.place)]

    @property
    def correct(self) -> float | None:
        return self.mean(self.names.right)

    @property
    def is_solved(self) -> bool:
        return self.correct is not None and self.correct >= SOLVED

    @property
    def learned(self) -> bool:
        """True if more is correct than at first, beyond noise."""
        change = self.change(self.names.right)
        return change is not None and change[1] > change[0] + 0.02


# -- The guards -------------------------------------------------------------------------------------------------


def not_measured(row: MetricsRow, expected: Collection[str]) -> Finding | None:
    """The finding about numbers of the last row that are missing though `expected`, or not finite."""
    if not (texts := unmeasured(row, expected)):
        return None
    step = f"step {row['step']}: " if "step" in row else ""
    return Finding("not measured", f"{step}{', '.join(texts)}: {remedy(texts)}", fatal=True, optional=False)


def no_reward(history: History) -> Finding | None:
    limit = history.config.guards.zero_reward_steps
    steps, cut_off = history.rows[-1].get("step", len(history.rows)), history.mean("completions/clipped_ratio")
    steps -= len(history.undone)
    if steps < limit or any(row.get("reward") != 0 for row in history.rows):
        return None
    return Finding(
        "no reward",
        f"no completion of the first {steps} steps earned anything (cut off: {cut_off or 0:.0%}): read them, then see "
        "prompt.system, grpo.max_completion_length or an easier problems.source",
        fatal=True,
    )


def other_policy(history: History) -> Finding | None:
    config, limit, last = history.config, GAPS[history.dtype], history.rows[-1]
    # dropout is off in rollouts, and completions that are learned from again were sampled earlier
    on_policy = config.generation_batch == config.completions_per_step and config.grpo_config.num_iterations == 1
    compared = on_policy and not (config.lora_config and config.lora_config.lora_dropout)
    gap, to_transformers = last.get(GAP) if compared else None, last.get(TO_TRANSFORMERS)
    measured = []
    if gap is not None and not gap <= limit:
        measured.append(f"log-probabilities of rollouts and update differ by {gap:.1e} on average (limit {limit:g})")
    if to_transformers is not None and not to_transformers <= limit:
        limits = f"{to_transformers:.1e} on average (limit {limit:g})"
        measured.append(f"log-probabilities of update and transformers differ by {limits}")
    if not measured:
        return None
    return Finding(
        "rollouts of another policy",
        f"{'; '.join(measured)}: the rollouts do not come from the policy under training; --rollouts.engine false "
        "trains without the engine",
        fatal=True,
    )


def collapsed(history: History) -> Finding | None:
    config = history.config
    logged = int(config.grpo_config.logging_steps) * config.completions_per_step
    names = config.reward_names
    batch = Batch(max(logged, config.generation_batch), config.num_generations, names)
    if (collapse := find_collapse(history.rows, batch, max(history.undone, default=0))) is None:
        return None
    undo = "" if config.allowed_rescues else "; guards.rescue true undoes a collapse"
    return Finding(
        "collapse",
        f"{collapse.text}; the damage dates from step {collapse.clean + 1}: lower the weight of "
        f"{_what_else_is_paid(names)} (now grpo.reward_weights {list(names.weights)}) or grpo.learning_rate (now "
        f"{config.grpo_config.learning_rate:g}){undo}",
        collapse=collapse,
    )


def _what_else_is_paid(names: RewardNames) -> str:
    """The rewards for something else than right answers."""
    others = [names.names[place].removesuffix("_reward") for place in names.others]
    return f"the {' and the '.join(others)} reward{'s' * (len(others) > 1)}" if others else "what is paid"


def dead_groups(history: History) -> Finding | None:
    share, config = history.mean("frac_reward_zero_std"), history.config
    if share is None or share < 0.8:
        return None
    if history.is_solved:
        return (
            None
            if share < 0.9
            else Finding(
                "nothing left to learn",
                f"{share:.0%} of the groups have no gradient and {history.correct:.0%} of the completions are right: "
                "use harder problems, or stop here (grpo.max_steps)",
            )
        )
    advice = against_equal_rewards(config, history.correct or 0.0)
    return Finding(
        "dead groups", f"{share:.0%} of the groups have no gradient, all their rewards being equal: {advice}"
    )


def against_equal_rewards(config: Config, correct: float) -> str:
    """What would let the rewards of a group differ where a share of `correct` completions is right."""
    temperature = config.grpo_config.temperature
    if correct >= SOLVED:
        return "harder problems would teach more"
    if temperature < COLD:
        return f"raise grpo.temperature (now {temperature:g}, 0.7 to 1 is usual), at which samples hardly differ"
    if temperature > HOT and correct < RARE:
        return f"lower grpo.temperature (now {temperature:g}, 0.7 to 1 is usual), at which hardly a sample is right"
    more = f"more samples a problem (grpo.num_generations, now {config.num_generations})"
    if correct < RARE:
        return (
            f"hardly any answer is right ({correct:.1%}): see that the golds belong to the questions "
            f"(problems.answer), and take easier problems, a larger model or {more}"
        )
    return f"take {more}, or problems that are neither all too easy nor all too hard"


def truncation(history: History) -> Finding | None:
    share = history.mean("completions/clipped_ratio")
    if share is None or share < 0.1:
        return None
    return Finding(
        "truncation",
        f"{share:.0%} of the completions are cut off before their end: raise grpo.max_completion_length (now "
        f"{history.config.max_completion_length})",
    )


def entropy_collapse(history: History) -> Finding | None:
    if (change := history.change("entropy")) is None or change[1] >= 0.1 * change[0] or history.is_solved:
        return None
    right = "" if history.correct is None else f" with {history.correct:.0%} right"
    return Finding(
        "entropy collapse",
        f"entropy fell from {change[0]:.2g} to {change[1]:.2g} nats a token{right}: samples hardly differ any more; "
        f"raise grpo.temperature, lower grpo.learning_rate (now {history.config.grpo_config.learning_rate:g}), or set "
        "grpo.beta above 0",
    )


def length(history: History) -> Finding | None:
    if (change := history.change("completions/mean_length")) is None or history.learned:
        return None
    first, last = change
    numbers = f"completions went from {first:.0f} to {last:.0f} tokens while no more of them are right"
    if last < 0.5 * first:
        return Finding(
            "length collapse", f"{numbers}: the reasoning is lost; lower grpo.learning_rate, or set grpo.beta above 0"
        )
    if last > 3 * first:
        return Finding(
            "length blow-up",
            f"{numbers}: lower grpo.learning_rate, or try grpo.loss_type dr_grpo, which length cannot sway",
        )
    return None


def format_without_accuracy(history: History) -> Finding | None:
    form, right = history.change(history.names.marked), history.change(history.names.right)
    if form is None or right is None:
        return None
    if form[1] < form[0] + 0.15 * FORMAT_REWARD or right[1] > right[0] - max(0.02, 0.15 * right[0]):
        return None
    first, last = (share / FORMAT_REWARD for share in form)
    return Finding(
        "format without accuracy",
        f"{first:.0%} → {last:.0%} give their answer {history.place} while right ones "
        f"fell from {right[0]:.1%} to {right[1]:.1%}: the policy learns the format alone; lower its weight "
        f"(grpo.reward_weights {history.names.with_others(0.1)}) or grpo.learning_rate",
    )


def format_unseen(history: History) -> Finding | None:
    steps = 2 * WINDOW
    names, form = history.names, history.mean(history.names.marked, history.rows[-steps:])
    is_paid = names.form is not None and names.weights[names.form] != 0
    if form is None or not is_paid or len(history.rows) < steps or form >= 0.01 * FORMAT_REWARD:
        return None
    return Finding(
        "format unseen",
        f"{form / FORMAT_REWARD:.1%} of the completions of {steps} steps give their answer {history.place}: what is "
        "not sampled cannot be learned, and strict accuracy stays near 0; show an example answer in prompt.system, or "
        "raise grpo.num_generations",
    )


def reward_collapse(history: History) -> Finding | None:
    best, last = history.best("reward"), history.mean("reward")
    if best is None or last is None or best < 0.1 or last >= 0.5 * best:
        return None
    return Finding(
        "reward collapse",
        f"reward fell from {best:.2f} to {last:.2f}: lower grpo.learning_rate (now "
        f"{history.config.grpo_config.learning_rate:g}); the best adapter so far is kept",
    )


def kl(history: History) -> Finding | None:
    last = history.mean("kl")
    if last is None or last <= 1.0:
        return None
    return Finding(
        "KL blow-up",
        f"KL to the base is {last:.2g} nats a token: lower grpo.learning_rate, or raise grpo.beta (now "
        f"{history.config.grpo_config.beta:g})",
    )


def clipping(history: History) -> Finding | None:
    share = history.mean("clip_ratio/region_mean")
    if share is None or share < 0.3:
        return None
    return Finding(
        "clip ratio",
        f"{share:.0%} of the tokens are clipped: the policy moves too far between rollouts; lower grpo.learning_rate "
        f"or grpo.num_iterations (now {history.config.grpo_config.num_iterations})",
    )


GUARDS: tuple[Callable[[History], Finding | None], ...] = (
    no_reward, other_policy, collapsed, dead_groups, truncation, entropy_collapse, length, format_without_accuracy,
    format_unseen, reward_collapse, kl, clipping,
)  # fmt: skip
AT_ONCE = (no_reward, other_policy, collapsed)  # the others wait for a full window


def findings(
    rows: Sequence[MetricsRow],
    config: Config,
    dtype: torch.dtype,
    expected: Collection[str] = ALWAYS,
    undone: Collection[int] = (),
) -> list[Finding]:
    """Everything the guards find in the metrics of the steps logged so far; `expected` names what the last must have.

    If a number of the last step is missing or not finite, that is all that can be said.
    """
    if finding := not_measured(rows[-1], expected):
        return [finding]
    history = History(rows, config, dtype, undone)
    guards = GUARDS if len(rows) >= WINDOW else AT_ONCE
    return [finding for guard in guards if (finding := guard(history)) is not None]
