"""Everything that shapes the rest of a run, taken out of a trainer and put back: the content of a checkpoint.

What is not here follows from it: the order of the problems from the seed and the step, the draws of a rollout from
the seed, the prompt and the batch's number.
"""

import hashlib
import json
import random
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerCallback

from tiny_math_solver.evaluation.merge import save_adapter
from tiny_math_solver.problems.splits import Splits
from tiny_math_solver.runs.checkpoints import (
    files_of,
    keep,
    load_tree,
    save_tree,
    set_aside,
    step_of,
    write_checkpoint,
)
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import read_json
from tiny_math_solver.training.callbacks import DevEvaluation, Metrics
from tiny_math_solver.update.passes import Batch

ADAPTER = "adapter_model.safetensors"
TRAINER_STATE = "trainer_state.json"
COUNTERS = (
    "completions", "completion_tokens", "best_reward", "extra_metrics", "dropped_steps", "_logged_step", "_recording",
)  # fmt: skip
LOSSES = ("_tr_loss", "_globalstep_last_logged")  # of steps that are not logged yet
ENTROPY = ("entropy_coef", "_last_world_entropy")  # TRL's adaptive entropy bonus


class Checkpointing(TrainerCallback):
    """Saves a trainer and what stands around it, and restores them; `trainer` is set once it is there."""

    def __init__(self, run: RunFolder, dev: DevEvaluation, metrics: Metrics, problems: str):
        self.run, self.dev, self.metrics, self.problems = run, dev, metrics, problems
        self.trainer: Any = None
        self.saved_step = -1
        self._restored: dict[str, Any] = {}

    # -- Saving -----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint of the step that is over, and delete those no longer wanted."""
        trainer, step = self.trainer, self.trainer.state.global_step
        if step == self.saved_step:  # the Trainer asks twice after the last step
            return
        processes = gather_object([_process_state(trainer)])
        if self.run.writes:
            write_checkpoint(self.run, step, lambda folder: self._write(folder, processes))
            keep(self.run.path, trainer.args.save_total_limit, self.dev.best_step)
        trainer.accelerator.wait_for_everyone()
        self.saved_step = step

    def _write(self, folder: Path, processes: list[dict[str, Any]]) -> None:
        trainer, run = self.trainer, self.run
        save_adapter(trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class, folder)
        (folder / "best").mkdir()
        shutil.copy(run.path / ADAPTER, folder / "best")
        trainer.state.save_to_json(str(folder / TRAINER_STATE))
        scaler = trainer.accelerator.scaler
        save_tree(
            folder / "state",
            {
                "problems": self.problems,
                "records": run.record_sizes(),
                "seconds": self.metrics.elapsed(),
                "optimizer": trainer.optimizer.state_dict(),
                "scheduler": trainer.lr_scheduler.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "counters": {name: getattr(trainer, name) for name in COUNTERS},
                "losses": {name: getattr(trainer, name) for name in LOSSES},
                "entropy": {name: getattr(trainer, name) for name in ENTROPY},
                "unlogged": dict(trainer._metrics["train"]),
                "sizes": _sizes(trainer),
                "sizes_asked_for": trainer.sizes_asked_for,
                "dev": {"history": self.dev.history, "best": self.dev.best, "best_step": self.dev.best_step},
            },
        )
        for index, state in enumerate(processes):
            save_tree(folder / f"process-{index}", state)

    # -- Restoring --------------------------------------------------------------------------------------------------

    def rewind(self, checkpoint: Path) -> None:
        """The run folder as it was: its records, and the best adapter at its top."""
        run, step = self.run, step_of(checkpoint)
        run.rewind(read_json(checkpoint / "state.json")["records"], step)

        def restore(folder: Path) -> None:
            for name in files_of(checkpoint):
                if not name.startswith(("best/", "state.", "process-", TRAINER_STATE)):
                    (folder / name).parent.mkdir(exist_ok=True)
                    shutil.copy(checkpoint / name, folder / name)
            shutil.copy(checkpoint / "best" / ADAPTER, folder)

        run.write_folder(restore)
        if run.writes:
            set_aside(run.path, step)

    def restore_policy(self, checkpoint: Path) -> None:
        """The adapter, and what the trainer counts."""
        trainer = self.trainer
        self._restored = state = load_tree(checkpoint / "state")
        model = trainer.accelerator.unwrap_model(trainer.model)
        set_peft_model_state_dict(model, load_file(checkpoint / ADAPTER))
        for name, value in state["counters"].items():
            setattr(trainer, name, value)
        for name, value in state["entropy"].items():
            setattr(trainer, name, value)
        trainer._metrics["train"] = defaultdict(list, state["unlogged"])
        if state["sizes_asked_for"] == trainer.sizes_asked_for:  # made smaller since, when memory ran out
            saved, now = state["sizes"], _sizes(trainer)
            trainer.tokens_per_pass = min(saved["tokens_per_pass"], now["tokens_per_pass"])
            trainer.rollouts.batch_size = min(saved["batch_size"], now["batch_size"])
        self.dev.history, self.dev.best_step = state["dev"]["history"], state["dev"]["best_step"]
        self.dev.best = tuple(state["dev"]["best"])
        self.metrics.before = state["seconds"]

    def restore_optimizer(self) -> None:
        """Moments and schedule; what is configured stays as it is now, which may have been changed on purpose."""
        state, trainer = self._restored, self.trainer
        moments, groups = state["optimizer"]["state"], []
        base_lrs = getattr(trainer.lr_scheduler, "base_lrs", None)
        for index, (saved, now) in enumerate(
            zip(state["optimizer"]["param_groups"], trainer.optimizer.state_dict()["param_groups"], strict=True)
        ):
            group = {**now, "params": saved["params"], "lr": saved["lr"]}
            if base_lrs and base_lrs[index] != saved.get("initial_lr"):
                group["lr"] = saved["lr"] * base_lrs[index] / saved["initial_lr"]
            groups.append(group)
        numbered = {int(index): moments[index] for index in moments}  # JSON has no numbers as keys
        trainer.optimizer.load_state_dict({"state": numbered, "param_groups": groups})
        schedule = {"base_lrs": base_lrs, "_last_lr": [group["lr"] for group in groups]} if base_lrs else {}
        trainer.lr_scheduler.load_state_dict(state["scheduler"] | schedule)
        if state["scaler"] is not None and trainer.accelerator.scaler is not None:
            trainer.accelerator.scaler.load_state_dict(state["scaler"])

    def restore_process(self, checkpoint: Path) -> None:
        """Random states, and completions that are still to be learned from."""
        trainer = self.trainer
        state = load_tree(checkpoint / f"process-{trainer.accelerator.process_index}")
        random.setstate((state["python"][0], tuple(state["python"][1]), state["python"][2]))
        np.random.set_state(("MT19937", state["numpy"][0].numpy().astype(np.uint32), *state["numpy"][1:]))
        torch.set_rng_state(state["torch"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])
        trainer._step = state["step"]
        if state["accumulation"] != trainer.args.gradient_accumulation_steps:  # which was allowed
            trainer._step = trainer.state.global_step * trainer.args.gradient_accumulation_steps
        waiting = state["waiting"]
        if waiting and len(waiting) == trainer.args.steps_per_generation:
            trainer._buffered_inputs = _moved(waiting, trainer.accelerator.device)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._restored:
            return
        for name, value in self._restored["losses"].items():
            setattr(self.trainer, name, value.to(args.device) if isinstance(value, torch.Tensor) else value)
        self._restored = {}


def _process_state(trainer: Any) -> dict[str, Any]:
    numpy: Any = np.random.get_state()
    waiting = trainer._step % (trainer.args.steps_per_generation * trainer.num_iterations)
    return {
        "python": random.getstate(),
        "numpy": [torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "step": trainer._step,
        "accumulation": trainer.args.gradient_accumulation_steps,
        "waiting": _moved(trainer._buffered_inputs, "cpu") if waiting else [],
    }


def _moved(batches: list[Batch], device: Any) -> list[Batch]:
    return [
        {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in batch.items()} for batch in batches
    ]


def _sizes(trainer: Any) -> dict[str, int]:
    return {"tokens_per_pass": trainer.tokens_per_pass, "batch_size": trainer.rollouts.batch_size}


def fingerprint(splits: Splits) -> str:
    """A hash of the problems of a run: it goes on with the same ones only."""
    digest = hashlib.sha256()
    for part in (splits.train, splits.dev, splits.test, splits.unseen):
        digest.update(json.dumps([[p.id, p.question, p.answer] for p in part]).encode())
    return digest.hexdigest()
