"""TRL's trainer with checkpoints of our own: what is written and read is decided in state.py, when is the Trainer's."""

from pathlib import Path
from typing import Any, Protocol

from trl import GRPOTrainer


class Checkpoints(Protocol):
    """What saves a trainer and puts it back, part by part, in the order in which the Trainer asks."""

    def save(self) -> None: ...

    def restore_policy(self, checkpoint: Path) -> None: ...

    def restore_optimizer(self) -> None: ...

    def restore_process(self, checkpoint: Path) -> None: ...


class ResumableGRPOTrainer(GRPOTrainer):
    """`train(resume_from_checkpoint=folder)` goes on exactly; without `checkpointing` nothing is saved."""

    checkpointing: Checkpoints | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.checkpointing:
            self.checkpointing.save()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        assert self.checkpointing
        self.checkpointing.restore_policy(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.checkpointing:
            self.checkpointing.restore_optimizer()

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Restored with the optimizer."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.checkpointing:
            self.checkpointing.restore_process(Path(checkpoint))

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self._sampler = super()._get_train_sampler(dataset)
        return self._sampler

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, resume: Any, trial: Any
    ) -> tuple[int, int]:
        epochs, skipped = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume, trial
        )
        for _ in range(epochs):  # the sampler draws a new order an epoch
            next(iter(self._sampler))
        self.state.compute_steps(self.args, max_steps)  # as configured: those of the checkpoint may be others
        return epochs, skipped

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step < self.state.max_steps:  # a checkpoint may be that of the last step
            super()._run_epoch(*args, **kwargs)
