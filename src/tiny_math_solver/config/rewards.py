"""The rewards of a configuration: their names, weights, and which of them says that a completion is right."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CORRECTNESS_REWARD, FORMAT_REWARD = 1.0, 0.5  # for the right answer; for one that stands where the prompt asks for it
SHIPPED = ("correctness", "format", "boxed", "tag", "steps", "length")
PLACES = {"format": "hashes", "boxed": "boxed", "tag": "tag"}  # of those that pay for where the answer stands
RIGHT = "right"  # the metric of the share of right completions where a reward of the user decides


@dataclass(frozen=True)
class RewardNames:
    """The rewards in their order; `measure` is the place of the one that says whether a completion is right."""

    used: tuple[str, ...]  # as configured
    weights: tuple[float, ...]
    measure: int

    @property
    def names(self) -> tuple[str, ...]:
        """The names that metrics and records give them: TRL takes that of the function."""
        return reward_names(self.used)

    @property
    def has_own_measure(self) -> bool:
        return self.used[self.measure] != "correctness"

    @property
    def right(self) -> str:
        """The metric whose mean is the share of right completions."""
        return RIGHT if self.has_own_measure else f"rewards/{self.names[self.measure]}/mean"

    @property
    def form(self) -> int | None:
        """The place of the reward that pays for where the answer stands; None if none does."""
        return next((place for place, name in enumerate(self.used) if name in PLACES), None)

    @property
    def marked(self) -> str | None:
        """The metric that is FORMAT_REWARD times the share of completions whose answer stands where it should."""
        return None if self.form is None else f"rewards/{self.names[self.form]}/mean"

    @property
    def place(self) -> str:
        """Where the prompt asks for the answer, by the grader's name of it."""
        return PLACES["format"] if self.form is None else PLACES[self.used[self.form]]

    @property
    def are_known(self) -> bool:
        """True if the whole reward is that of right answers and of where they stand."""
        return all(name == "correctness" or name in PLACES for name in self.used) and len(self.used) <= 2

    @property
    def others(self) -> tuple[int, ...]:
        """The places of the rewards for something else than right answers."""
        return tuple(place for place in range(len(self.used)) if place != self.measure)

    def with_others(self, factor: float) -> list[float]:
        """The weights, those of the others multiplied by `factor`."""
        return [w if place == self.measure else w * factor for place, w in enumerate(self.weights)]


DEFAULT = RewardNames(("correctness", "format"), (1.0, 1.0), 0)


def names_of(section: Mapping[str, Any], weights: Sequence[float] | None) -> RewardNames:
    """The rewards of a section `rewards`, as config.yaml has it; of an earlier version without one, the default."""
    used = section.get("use") or DEFAULT.used
    measure = section.get("measure") or ("correctness" if "correctness" in used else used[0])
    return RewardNames(tuple(used), tuple(weights or [1.0] * len(used)), list(used).index(measure))


def reward_names(used: Sequence[str]) -> tuple[str, ...]:
    """A name for each reward: `correctness_reward`, or that of the user's function, with its file if two are alike."""
    names = [name.rpartition(":")[2] if ":" in name else f"{name}_reward" for name in used]
    counts = Counter(names)
    return tuple(own if counts[name] > 1 else name for own, name in zip(used, names, strict=True))
