"""The rewards that come with the package, each a function of one completion."""

from collections.abc import Callable

from tiny_math_solver.config.rewards import CORRECTNESS_REWARD, FORMAT_REWARD
from tiny_math_solver.grading.equations import equations
from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.tags import is_tagged
from tiny_math_solver.rewards.completion import Completion

STEPS_REWARD, FEWEST_STEPS = 0.5, 1
SOFT_SHARE = 0.2  # of the longest completion, at the end of which length begins to cost

Reward = Callable[[Completion], float]


def correctness(completion: Completion) -> float:
    """1.0 for a right answer."""
    return CORRECTNESS_REWARD if completion.graded.correct else 0.0


def format_(completion: Completion) -> float:
    """0.5 for an answer after `####`, right or wrong."""
    return FORMAT_REWARD if completion.graded.how is How.HASHES else 0.0


def boxed(completion: Completion) -> float:
    r"""0.5 for an answer in `\boxed{}`, right or wrong."""
    return FORMAT_REWARD if completion.graded.how is How.BOXED else 0.0


def tag(completion: Completion) -> float:
    """0.5 for `<think>…</think> <answer>…</answer>` and nothing else, with an answer that can be read."""
    graded = completion.graded
    return FORMAT_REWARD if graded.how is How.TAG and is_tagged(graded.text) else 0.0


def steps(completion: Completion) -> float:
    """0.5 times the share of the written equations (`9*7=63`) that hold; 0 without any.

    It pays for one right equation as for ten, so that writing more of them earns nothing.
    """
    found = [holds for _, holds in equations(completion.graded.text)]
    return STEPS_REWARD * sum(found) / len(found) if len(found) >= FEWEST_STEPS else 0.0


def length(limit: int) -> Reward:
    """The soft punishment of overlong completions of DAPO (arXiv 2503.14476, eq. 13), for a limit of `limit` tokens.

    0 up to 80 % of the limit, then falling in a line to -1 at the limit.
    """
    free = round((1 - SOFT_SHARE) * limit)

    def reward(completion: Completion) -> float:
        return -min(1.0, max(0, len(completion.ids) - free) / max(1, limit - free))

    return reward


def shipped(name: str, limit: int) -> Reward:
    """The reward called `name` in a configuration whose completions have at most `limit` tokens."""
    known = {"correctness": correctness, "format": format_, "boxed": boxed, "tag": tag, "steps": steps}
    return length(limit) if name == "length" else known[name]
