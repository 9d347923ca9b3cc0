"""The content of a checkpoint: everything that shapes the rest of a run, taken out of its parts and put back.

Each part has `state_dict()` and `load_state_dict()`. The rest follows from those: the order of the problems from the
seed and the step, the draws of a rollout from the seed, the prompt and the batch's number.
"""

import math
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState

from tiny_math_solver.runs.checkpoints import (
    FORMAT,
    checkpoint_files,
    checkpoint_step,
    delete_old,
    rename_damaged,
    saved_processes,
    write_checkpoint,
)
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.state_files import load_tree, save_tree
from tiny_math_solver.support import processes
from tiny_math_solver.training.dev_evaluation import DevEvaluation
from tiny_math_solver.training.metrics_log import MetricsLog
from tiny_math_solver.training.plan import Plan
from tiny_math_solver.training.trainer import MathGRPOTrainer
from tiny_math_solver.training.trl_state import EntropyBonus, LossSum
from tiny_math_solver.training.watchdog import Watchdog

TRAINER_STATE = "trainer_state.json"


class Stateful(Protocol):
    """A part of a run that shapes its rest."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> None: ...


class Checkpointing(TrainerCallback):
    """Saves a run and restores it, part by part, at the moments that the Trainer gives.

    Policy and parts are restored before the Trainer makes its optimizer, the optimizer once it exists, and random
    states last, after the data that is already used has been skipped.
    """

    def __init__(
        self,
        trainer: MathGRPOTrainer,
        run: RunFolder,
        dev: DevEvaluation,
        metrics: MetricsLog,
        watchdog: Watchdog,
        plan: Plan,
    ):
        self.trainer, self.run, self.dev, self.metrics = trainer, run, dev, metrics
        self.plan, self.rescue = plan, watchdog.rescue
        self.parts: dict[str, Stateful] = {
            "recorder": trainer.recorder,
            "step_metrics": trainer.step_metrics,
            "logged": trainer.logged,
            "entropy_bonus": EntropyBonus(trainer),
            "dev": dev,
            "metrics": metrics,
            "rescue": watchdog.rescue,
            "watchdog": watchdog,
            "rollout_batch": trainer.rollouts.batch_size,
            "batches": trainer.batches,
        }
        if trainer.update is not None:
            self.parts["tokens_per_pass"] = trainer.update.tokens_per_pass
        self.process: dict[str, Stateful] = {"random": RandomStates(), "buffer": trainer.buffer}
        self.loss = LossSum(trainer)
        self.saved_step = -1
        self._checkpoint: Path | None = None  # being restored
        self._policy: dict[str, torch.Tensor] = {}  # of it, as the states that follow
        self._state: dict[str, Any] = {}
        self._process_state: dict[str, Any] = {}

    # -- Saving ---------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint of the finished step, and delete those no longer wanted."""
        trainer, step = self.trainer, self.trainer.state.global_step
        if step == self.saved_step:  # the Trainer asks twice after the last step
            return
        states = processes.gather({name: part.state_dict() for name, part in self.process.items()})
        loss = self.loss.gathered()

        def write() -> None:
            write_checkpoint(self.run, step, lambda folder: self._write(folder, states, loss))
            delete_old(self.run.path, trainer.args.save_total_limit, self.dev.best_step)

        processes.on_main(write)
        self.saved_step = step

    def _write(self, folder: Path, process_states: list[dict[str, Any]], loss: dict[str, Any]) -> None:
        trainer: Any = self.trainer
        trainer.save_policy(folder)
        (folder / "best").mkdir()
        shutil.copy(self.run.path / trainer.weights_file, folder / "best")
        trainer.state.save_to_json(str(folder / TRAINER_STATE))
        scaler = trainer.accelerator.scaler
        save_tree(
            folder / "state",
            {
                "format": FORMAT,
                "problems": self.plan.fingerprint,
                "completions_per_step": self.plan.config.completions_per_step,
                "records": self.run.record_sizes(),
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
                "loss": loss,
                "optimizer": trainer.optimizer.state_dict(),
                "scheduler": trainer.lr_scheduler.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
            },
        )
        for index, state in enumerate(process_states):
            save_tree(folder / f"process-{index}", state)

    # -- Restoring ------------------------------------------------------------------------------------------------

    def read(self, checkpoint: Path) -> None:
        """Read all of `checkpoint`, before anything is changed on the disk. Raises UserError where that fails."""
        self._checkpoint = checkpoint
        self._policy = load_file(checkpoint / self.trainer.weights_file)
        self._state = load_tree(checkpoint / "state")
        index = processes.rank() % saved_processes(checkpoint)  # there may be more of them than there were
        self._process_state = load_tree(checkpoint / f"process-{index}")

    def rewind(self, checkpoint: Path) -> None:
        """Put the run folder back to `checkpoint`, which was read: its records, and the best adapter at its top."""
        run, step = self.run, checkpoint_step(checkpoint)
        run.rewind(self._state["records"], step)

        def restore(folder: Path) -> None:
            for name in checkpoint_files(checkpoint):
                if not name.startswith(("best/", "state.", "process-", TRAINER_STATE)):
                    (folder / name).parent.mkdir(exist_ok=True)
                    shutil.copy(checkpoint / name, folder / name)
            shutil.copy(checkpoint / "best" / self.trainer.weights_file, folder)

        run.write_folder(restore)
        rename_damaged(run.path, step)

    def resume(self) -> None:
        """Train on from the checkpoint that was read."""
        assert self._checkpoint
        if checkpoint_step(self._checkpoint) >= self.plan.steps:  # the Trainer would train one step more
            self.trainer.state = TrainerState.load_from_json(str(self._checkpoint / TRAINER_STATE))
            self.restore_policy()
            return
        with tempfile.TemporaryDirectory() as folder:  # the Trainer would unpickle what lies beside its state
            shutil.copy(self._checkpoint / TRAINER_STATE, folder)
            self.trainer.train(resume_from_checkpoint=folder)

    def restore_policy(self) -> None:
        """Load what is trained, and the parts."""
        self.trainer.load_policy(self._policy)
        for name, part in self.parts.items():
            if name in self._state["parts"]:
                part.load_state_dict(self._state["parts"][name])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._checkpoint:
            return
        trainer: Any = self.trainer
        self.rescue.restore_rates()
        _load_optimizer(trainer.optimizer, trainer.lr_scheduler, self._state["optimizer"], self._state["scheduler"])
        if self._state["scaler"] is not None and trainer.accelerator.scaler is not None:
            trainer.accelerator.scaler.load_state_dict(self._state["scaler"])
        self.loss.load_state_dict(self._state["loss"])
        state.compute_steps(args, state.max_steps)  # as configured: those of the checkpoint may be others
        epochs, _ = self._position(args, state, **kwargs)
        for _ in range(epochs):  # each epoch draws its order from the same generator
            next(iter(trainer.sampler))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _, steps = self._position(args, state, **kwargs)
        if steps == 0:  # the epoch's data loader draws from the random states as it begins
            self._restore_process()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._restore_process()  # of an epoch under way, once the rows it has had are skipped

    @staticmethod
    def _position(args: Any, state: Any, train_dataloader: Any, **kwargs: Any) -> tuple[int, int]:
        """`(epochs, steps of the epoch under way)` that the Trainer skips when it resumes."""
        steps_per_epoch = max(1, math.ceil(len(train_dataloader) / args.gradient_accumulation_steps))
        return divmod(state.global_step, steps_per_epoch)

    def _restore_process(self) -> None:
        """Restore what belongs to this process, once."""
        if self._checkpoint is None:
            return
        for name, part in self.process.items():
            part.load_state_dict(self._process_state[name])
        self._checkpoint, self._policy, self._state, self._process_state = None, {}, {}, {}


class RandomStates:
    """The states of Python's, NumPy's and torch's generators."""

    def state_dict(self) -> dict[str, Any]:
        numpy: Any = np.random.get_state()
        return {
            "python": random.getstate(),
            "numpy": [torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,  # of this process's GPU
            "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        random.setstate((state["python"][0], tuple(state["python"][1]), state["python"][2]))
        np.random.set_state(("MT19937", state["numpy"][0].numpy().astype(np.uint32), *state["numpy"][1:]))
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
        if state.get("mps") is not None and torch.backends.mps.is_available():
            torch.mps.set_rng_state(state["mps"])


def _load_optimizer(optimizer: Any, scheduler: Any, saved: dict[str, Any], schedule: dict[str, Any]) -> None:
    """Moments and schedule as saved; whatever is configured stays, since it may have been changed on purpose."""
    base_lrs = getattr(scheduler, "base_lrs", None)
    groups = []
    for index, (then, now) in enumerate(
        zip(saved["param_groups"], optimizer.state_dict()["param_groups"], strict=True)
    ):
        group = {**now, "params": then["params"], "lr": then["lr"]}
        if base_lrs and base_lrs[index] != then.get("initial_lr"):
            group["lr"] = then["lr"] * base_lrs[index] / then["initial_lr"]
        groups.append(group)
    moments = {int(index): moment for index, moment in saved["state"].items()}  # JSON has no numbers as keys
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    rates = {"base_lrs": base_lrs, "_last_lr": [group["lr"] for group in groups]} if base_lrs else {}
    scheduler.load_state_dict(schedule | rates)
