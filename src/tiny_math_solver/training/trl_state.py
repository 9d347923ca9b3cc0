"""The private state of TRL's trainer that we read or restore: each part in a class with `state_dict`, all in this file.

Without it a resumed run would differ: TRL and transformers save none of these.
"""

from collections import defaultdict
from typing import Any

import torch

Mark = dict[str, int]


class LoggedMetrics:
    """TRL's lists of values since the last logged line, by metric; they are averaged when a line is logged."""

    def __init__(self, trainer: Any):
        self._trainer = trainer

    def mark(self) -> Mark:
        """The present lengths, for `rewind`."""
        return {name: len(values) for name, values in self._lists.items()}

    def rewind(self, mark: Mark) -> None:
        """Drop what was added since `mark`."""
        for name, values in self._lists.items():
            del values[mark.get(name, 0) :]

    def since(self, mark: Mark) -> dict[str, list[float]]:
        """What was added since `mark`."""
        return {name: values[mark.get(name, 0) :] for name, values in self._lists.items()}

    def add(self, values: dict[str, float]) -> None:
        """Add one value to each list."""
        for name, value in values.items():
            self._lists[name].append(value)

    def replace(self, mark: Mark, name: str, value: float) -> None:
        """Put one `value` in place of those added since `mark`."""
        self._lists[name][mark.get(name, 0) :] = [value]

    def state_dict(self) -> dict[str, list[float]]:
        return dict(self._lists)

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self._trainer._metrics["train"] = defaultdict(list, state)

    @property
    def _lists(self) -> dict[str, list[float]]:
        return self._trainer._metrics["train"]


class LossSum:
    """The loss of the steps since the last logged line."""

    def __init__(self, trainer: Any):
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self._trainer._tr_loss, "logged_step": self._trainer._globalstep_last_logged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainer._tr_loss = state["loss"].to(self._trainer.args.device)
        self._trainer._globalstep_last_logged = state["logged_step"]


class EntropyBonus:
    """TRL's adaptive entropy coefficient."""

    def __init__(self, trainer: Any):
        self._trainer = trainer

    def state_dict(self) -> dict[str, float]:
        return {"coefficient": self._trainer.entropy_coef, "last_entropy": self._trainer._last_world_entropy}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._trainer.entropy_coef = state["coefficient"]
        self._trainer._last_world_entropy = state["last_entropy"]


class GenerationBuffer:
    """The micro-batches of this process that are still to be learned from, and the count of those that were."""

    def __init__(self, trainer: Any):
        self._trainer = trainer

    @property
    def micro_step(self) -> int:
        """Micro-batches this process has learned from."""
        return self._trainer._step

    def drop(self) -> None:
        """Have the completions that are still to be learned from sampled again, by the policy as it is then."""
        self._trainer._buffered_inputs = None

    def state_dict(self) -> dict[str, Any]:
        args, buffered = self._trainer.args, self._trainer._buffered_inputs
        is_used_up = self.micro_step % (args.steps_per_generation * self._trainer.num_iterations) == 0
        return {
            "step": self.micro_step,
            "accumulation": args.gradient_accumulation_steps,
            "waiting": [] if is_used_up or buffered is None else _moved(buffered, "cpu"),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        trainer, args = self._trainer, self._trainer.args
        trainer._step = state["step"]
        if state["accumulation"] != args.gradient_accumulation_steps:  # which was allowed
            trainer._step = trainer.state.global_step * args.gradient_accumulation_steps
        if state["waiting"] and len(state["waiting"]) == args.steps_per_generation:
            trainer._buffered_inputs = _moved(state["waiting"], trainer.accelerator.device)


def _moved(batches: list[dict[str, Any]], device: Any) -> list[dict[str, Any]]:
    return [
        {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in batch.items()} for batch in batches
    ]
