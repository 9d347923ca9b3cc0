"""Everything that a configuration says about right and wrong, in one object: training and evaluation share it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import TrainerState

from tiny_math_solver.config.rewards import DEFAULT, RewardNames
from tiny_math_solver.config.schema import Config
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.kinds import AnswerKind, answer_kind
from tiny_math_solver.grading.kinds.own import OwnKind
from tiny_math_solver.grading.markers import How
from tiny_math_solver.rewards.completion import Completion, Rewards
from tiny_math_solver.rewards.own import OwnReward, run_together
from tiny_math_solver.rewards.shipped import shipped
from tiny_math_solver.support.own_code import OwnFunction


class Grader:
    """Grades completions by the kind of their answers, pays them, and says which are right.

    `limit` is that of a completion in tokens. Raises UserError for own functions that cannot be loaded.
    """

    def __init__(
        self, kind: str = "number", names: RewardNames = DEFAULT, right_from: float = 1.0, limit: int = 0
    ) -> None:
        self.kind_name, self.names, self.right_from = kind, names, right_from
        self.kind: AnswerKind = answer_kind(kind)
        self.place = How(names.place)
        self.own = {name: OwnReward(used) for name, used in zip(names.names, names.used, strict=True) if ":" in used}
        self._shipped = {
            name: shipped(used, limit) for name, used in zip(names.names, names.used, strict=True) if ":" not in used
        }
        # arguments of own functions beside columns, prompts and completions; in training they are the trainer's
        self.extra: dict[str, Any] = {"trainer_state": TrainerState(), "log_metric": lambda name, value: None}
        self.seconds: dict[str, float] = {}  # that own functions have taken

    @classmethod
    def of(cls, config: Config) -> "Grader":
        names = config.reward_names
        return cls(config.answer_kind, names, config.rewards.right_from, config.max_completion_length)

    @property
    def measure(self) -> str:
        """The name of the reward that says whether a completion is right."""
        return self.names.names[self.names.measure]

    @property
    def identity(self) -> dict[str, Any]:
        """All that right and wrong depend on, files of the user by their hash."""
        deciding = [self.own[self.measure]] if self.measure in self.own else []
        return {
            "kind": self.kind_name,
            "place": self.place.value,
            "measure": [self.measure, self.right_from],
            "files": [function.digest for function in [*deciding, *self._of_kind]],
        }

    @property
    def runs_own_code(self) -> bool:
        """True if functions of the user grade or pay completions."""
        return bool(self.own or self._of_kind)

    @property
    def _of_kind(self) -> list[OwnFunction]:
        return [self.kind.function] if isinstance(self.kind, OwnKind) else []

    def grade(self, question: str | None, text: str | None, gold: str | None) -> Graded:
        """As `AnswerKind.grade`; where another reward is the measure, `judged` has the last word."""
        return self.kind.grade(question, text, gold, self.place)

    def rewards(self, completions: Sequence[Completion]) -> list[Rewards]:
        """The rewards of some completions, in the order of the configuration. Raises OwnCodeError for own functions."""
        if not completions:
            return []
        found = run_together(self.own, completions, self.extra) if self.own else {}
        for name, (_, seconds) in found.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        return [
            {
                name: found[name][0][index] if name in found else self._shipped[name](completion)
                for name in self.names.names
            }
            for index, completion in enumerate(completions)
        ]

    def judged(self, graded: Graded, rewards: Mapping[str, float | None]) -> Graded:
        """The completion with the verdict of the measure."""
        if not self.names.has_own_measure:
            return graded
        value = rewards[self.measure]
        return replace(graded, correct=value is not None and value >= self.right_from)
