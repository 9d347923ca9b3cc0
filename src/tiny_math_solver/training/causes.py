"""Why a run gained little: causes that its records show, each with the measured value and the setting to change.

A guard (guards.py) speaks while a run goes on. A cause is looked for at its end, in all of it.

To add one: a function from `Ended` to a text or None, listed in CAUSES and in docs/nothing-learned.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tiny_math_solver.config.rewards import FORMAT_REWARD, RewardNames
from tiny_math_solver.evaluation.statistics import Paired
from tiny_math_solver.training.guards import HOT, RARE, History, against_equal_rewards

GOOD = 0.9  # accuracy that leaves little to be gained
FEW_TESTS = 200  # test problems


@dataclass(frozen=True)
class Ended:
    """A finished run: `before`, `after` and `paired` as in summary.json, `dev` the accuracies on dev by step.

    `same_words` is the share of dev problems that the last policy answers in the words of the first.
    """

    history: History
    before: dict[str, Any]
    after: dict[str, Any]
    paired: dict[str, Any]
    dev: Sequence[dict[str, float]]
    same_words: float

    @property
    def grpo(self) -> Any:
        return self.history.config.grpo_config

    @property
    def names(self) -> RewardNames:
        return self.history.names

    def mean(self, name: str) -> float:
        """The mean of a metric over the run; 0 if it was not measured."""
        return self.history.mean(name, self.history.rows) or 0.0

    def change(self, name: str | None) -> tuple[float, float]:
        return self.history.change(name) or (0.0, 0.0)


# -- Settings that cannot work ----------------------------------------------------------------------------------


def no_weight(run: Ended) -> str | None:
    weights = list(run.names.weights)
    return None if weights[run.names.measure] else f"right answers earn nothing: grpo.reward_weights {weights}"


def held(run: Ended) -> str | None:
    if (beta := run.grpo.beta) < 0.2:
        return None
    return f"grpo.beta {beta:g} holds the policy at the model before training: 0 to 0.05 is usual"


# -- Completions ------------------------------------------------------------------------------------------------


def cut_off(run: Ended) -> str | None:
    name = "completions/clipped_ratio"
    share = max(run.history.first(name) or 0.0, run.mean(name))
    if share < 0.1:
        return None
    limit = f"raise grpo.max_completion_length (now {run.history.config.max_completion_length})"
    return "; ".join(filter(None, [f"up to {share:.0%} of the completions were cut off: {limit}", _shrinking(run)]))


def shrunk(run: Ended) -> str | None:
    return None if cut_off(run) else _shrinking(run)


def _shrinking(run: Ended) -> str | None:
    first, last = run.change("completions/mean_length")
    if last >= 0.7 * first:
        return None
    return f"completions went from {first:.0f} to {last:.0f} tokens: the policy learned to answer without working"


def equal_rewards(run: Ended) -> str | None:
    share = run.mean("frac_reward_zero_std")
    if share < 0.7:
        return None
    advice = against_equal_rewards(run.history.config, run.mean(run.names.right))
    return f"{share:.0%} of the groups had equal rewards, which teach nothing: {advice}"


def too_hot(run: Ended) -> str | None:
    sampled = run.history.first(run.names.right) or 0.0
    greedy, temperature = run.before["accuracy"], run.grpo.temperature
    if temperature <= HOT or sampled >= 0.6 * greedy:
        return None
    at_first = f"at first {sampled:.1%} were right at grpo.temperature {temperature:g}"
    return f"{at_first}, {greedy:.1%} without sampling: lower it"


def rarely_right(run: Ended) -> str | None:
    if (share := run.mean(run.names.right)) >= RARE or run.mean("completions/clipped_ratio") > 0.5:
        return None
    return (
        f"{share:.1%} of the completions were right, hardly any to learn from: do the golds belong to the questions "
        "(problems.answer), and are the problems within the model's reach?"
    )


def format_alone(run: Ended) -> str | None:
    form, right = run.change(run.names.marked), run.change(run.names.right)
    if form[1] < form[0] + 0.15 * FORMAT_REWARD or right[1] > right[0] + 0.02 or no_weight(run) or fell_again(run):
        return None
    first, last = (share / FORMAT_REWARD for share in form)
    return (
        f"{run.history.place}: {first:.0%} → {last:.0%}, right: {right[0]:.1%} → {right[1]:.1%}: "
        f"the format alone was learned; lower its weight (grpo.reward_weights {run.names.with_others(0.1)})"
    )


# -- The policy -------------------------------------------------------------------------------------------------


def hardly_moved(run: Ended) -> str | None:
    if run.same_words < 0.8:
        return None
    return (
        f"the last policy answers {run.same_words:.0%} of dev in the same words as the first, so it has hardly moved: "
        f"raise grpo.learning_rate (now {run.grpo.learning_rate:g}) or grpo.max_steps (now {run.dev[-1]['step']:.0f})"
    )


def fell_again(run: Ended) -> str | None:
    best, last = max(run.dev, key=lambda point: point["accuracy"]), run.dev[-1]
    if last["high"] >= best["low"]:
        return None
    return (
        f"on dev {best['accuracy']:.1%} after step {best['step']:.0f}, then {last['accuracy']:.1%} at the end: lower "
        f"grpo.learning_rate (now {run.grpo.learning_rate:g})"
    )


def still_rising(run: Ended) -> str | None:
    first, last = run.dev[0], run.dev[-1]
    earlier = max((point["accuracy"] for point in run.dev[:-1]), default=1.0)
    if last["accuracy"] <= earlier or last["low"] <= first["accuracy"]:
        return None
    return (
        f"dev was still rising at the last step ({first['accuracy']:.1%} → {last['accuracy']:.1%}): raise "
        f"grpo.max_steps (now {last['step']:.0f})"
    )


# -- The problems -----------------------------------------------------------------------------------------------


def solved(run: Ended) -> str | None:
    if (accuracy := run.before["accuracy"]) < GOOD:
        return None
    return f"{accuracy:.1%} were right before training, which leaves little to learn: take harder problems"


def few_tests(run: Ended) -> str | None:
    n, paired = run.after["n"], run.paired
    if n >= FEW_TESTS or paired["fixed"] <= paired["broken"]:
        return None
    return (
        f"{n} test problems show large gains only (fixed {paired['fixed']}, broken {paired['broken']}): tiny-math eval "
        "with more of them, or raise problems.test"
    )


CAUSES: tuple[Callable[[Ended], str | None], ...] = (
    no_weight, held, solved, too_hot, fell_again, cut_off, equal_rewards, rarely_right, hardly_moved, format_alone,
    shrunk, still_rising, few_tests,
)  # fmt: skip


def causes(run: Ended) -> list[str]:
    """What kept a run from gaining (more), the likeliest first; nothing of one whose result is good."""
    if Paired(**run.paired).has_gained and run.after["accuracy"] >= GOOD:
        return []
    return [text for cause in CAUSES if (text := cause(run))]
