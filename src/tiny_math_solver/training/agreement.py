"""One decision in all processes, to stop and to save, and proof that they still have one policy."""

import hashlib
from typing import Any

import torch
from transformers import TrainerCallback

from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.support import processes
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, StoppedError
from tiny_math_solver.training.trainer import MathGRPOTrainer

COMPARE_EVERY = 10  # steps


class Agreement(TrainerCallback):
    """Takes over what the main process has decided; the last callback, so that all others have had their say.

    A process that stopped or saved alone would leave the others waiting for it. And each has an optimizer of its own:
    every few steps their weights are compared, bit for bit.
    """

    def __init__(self, trainer: MathGRPOTrainer, events: EventLog):
        self.trainer, self.events = trainer, events

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % COMPARE_EVERY == 0 or state.global_step == state.max_steps:
            self._compare(state.global_step)
        self._agree(control)

    def _compare(self, step: int) -> None:
        """Raise StoppedError if the processes' weights differ."""
        if processes.count() == 1:
            return
        found = processes.gather(weights_hash(self.trainer.model))
        others = [rank for rank, each in enumerate(found) if each != found[0]]
        if not others:
            return
        text = f"the weights of process{'es' * (len(others) > 1)} {', '.join(map(str, others))} are not those of 0"
        self.events.add(step, "processes differ", text)
        raise StoppedError(
            f"stopped: step {step}: {text}: different hardware or libraries, or memory that fails; an earlier "
            f"checkpoint in {self.events.run.path} can be resumed without them",
            EXIT_LEARNED_NOTHING,
        )

    @staticmethod
    def _agree(control: Any) -> None:
        decided = control.should_training_stop, control.should_save
        control.should_training_stop, control.should_save = processes.on_main(lambda: decided)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._agree(control)


def weights_hash(model: Any) -> str:
    """A hash of the bytes of what is trained."""
    digest = hashlib.blake2b(digest_size=16)
    for parameter in model.parameters():
        if parameter.requires_grad:
            digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
