"""The private state of TRL's trainer that we read or restore: each part in a class with `state_dict`, all in this file.

Without it a resumed run would differ: TRL and transformers save none of these.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch

from tiny_math_solver.support import processes

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

    def gather(self, mark: Mark) -> None:
        """Put the mean over all processes in place of what each has added since `mark`."""
        if processes.count() == 1:
            return
        found: dict[str, list[float]] = defaultdict(list)
        for added in processes.gather(self.since(mark)):
            for name, values in added.items():
                found[name] += values
        for name, values in found.items():
            if values:
                self.replace(mark, name, sum(values) / len(values))

    def state_dict(self) -> dict[str, list[float]]:
        return dict(self._lists)

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self._trainer._metrics["train"] = defaultdict(list, state)

    @property
    def _lists(self) -> dict[str, list[float]]:
        return self._trainer._metrics["train"]


@contextlib.contextmanager
def measured_alone(accelerator: Any) -> Iterator[None]:
    """Have TRL's loss measure the rows of this process alone: no process waits for the passes of another."""

    def own(tensor: torch.Tensor, reduction: str = "") -> torch.Tensor:
        return tensor

    accelerator.gather = accelerator.reduce = own
    try:
        yield
    finally:
        del accelerator.gather, accelerator.reduce


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
