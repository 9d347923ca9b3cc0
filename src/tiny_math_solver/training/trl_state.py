"""The private state of TRL's trainer that we read or restore: each part in a class with `state_dict`, all in this file.

Without it a resumed run would differ: TRL and transformers save none of these.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch

from tiny_math_solver.support import processes
from tiny_math_solver.update.passes import Batch, joined, split

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

    def gathered(self) -> dict[str, Any]:
        """The state for all processes, whose losses have their mean logged."""
        losses = processes.gather(self._trainer._tr_loss.cpu())
        return {"loss": torch.stack(losses).mean(0), "logged_step": self._trainer._globalstep_last_logged}

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
    """The micro-batches that are still to be learned from, and the count of those that were.

    With an update of our own they hold the rows of all processes, the same in each; TRL's are those of one.
    """

    def __init__(self, trainer: Any):
        self._trainer = trainer

    @property
    def micro_step(self) -> int:
        """Micro-batches this process has learned from."""
        return self._trainer._step

    @property
    def batches(self) -> list[Batch]:
        """The micro-batches of the generation batch under way; none before it, or where it was dropped."""
        return self._trainer._buffered_inputs or []

    @property
    def parts(self) -> int:
        """Micro-batches of a generation batch."""
        return self._trainer.args.steps_per_generation

    def fill(self, rows: Batch) -> None:
        """Cut the rows of a generation batch into its micro-batches."""
        self._trainer._buffered_inputs = split(rows, self.parts)

    def drop(self) -> None:
        """Have the completions that are still to be learned from sampled again, by the policy as it is then."""
        self._trainer._buffered_inputs = None

    def state_dict(self) -> dict[str, Any]:
        args = self._trainer.args
        is_used_up = self.micro_step % (self.parts * self._trainer.num_iterations) == 0
        return {
            "step": self.micro_step,
            "accumulation": args.gradient_accumulation_steps,
            "waiting": [] if is_used_up else [moved(batch, "cpu") for batch in self.batches],
            "of_all": self._trainer.update is not None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        trainer, args = self._trainer, self._trainer.args
        # the accumulation may be another one: as allowed, or for another number of processes
        trainer._step = state["step"] * args.gradient_accumulation_steps // state["accumulation"]
        is_kind = state["of_all"] == (trainer.update is not None)
        if is_kind and (waiting := [moved(batch, trainer.accelerator.device) for batch in state["waiting"]]):
            if trainer.update is None:
                trainer._buffered_inputs = waiting if len(waiting) == self.parts else None
            elif sum(len(batch["advantages"]) for batch in waiting) == args.generation_batch_size:
                self.fill(joined(waiting))


def moved(batch: Batch, device: Any) -> Batch:
    """The batch with its tensors on `device`."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
