"""The engine's check is repeated while a run begins: preflight's says nothing about what happens to the model later."""

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from tiny_math_solver.config.schema import Config
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts import EngineRollouts, ReferenceRollouts
from tiny_math_solver.rollouts.engine_check import check_against_transformers
from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support import processes
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, StoppedError
from tiny_math_solver.training.trainer import MathGRPOTrainer

PROMPTS = 2  # of a repeated check, which takes seconds with a large model on a CPU


class EngineWatch(TrainerCallback):
    """Compares the engine with transformers twice: once accelerate has prepared the model, and with a first update.

    By then the model may have been moved, wrapped, or given the adapter of a checkpoint. An adapter that is still zero
    would hide that it is left out, so the second comparison waits for the first step that changes it.
    """

    def __init__(
        self, trainer: MathGRPOTrainer, run: RunFolder, config: Config, prompts: Sequence[Prompt], events: EventLog
    ):
        self.trainer, self.run, self.config, self.events = trainer, run, config, events
        self.prompts = prompts[:PROMPTS]
        self.has_seen_update = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._check(state.global_step, "once the model is prepared for training")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.has_seen_update and self._has_update():
            self.has_seen_update = True
            self._check(state.global_step, f"with the adapter of step {state.global_step}")

    def _has_update(self) -> bool:
        """False while every adapter adds nothing: a learning rate that warms up begins at 0."""
        model: Any = self.trainer.model
        return any(bool(weight.any()) for name, weight in model.named_parameters() if "lora_B" in name)

    def _check(self, step: int, when: str) -> None:
        """Compare. Raises StoppedError if the engine is another policy, unless `rollouts.fall_back` allows generate."""
        if not isinstance(self.trainer.rollouts, EngineRollouts):
            return
        check = check_against_transformers(self.trainer.rollouts, self.prompts)
        if all(processes.gather(check.passed)):
            return
        text = f"the engine does not reproduce the model {when}: {check}"
        if self.config.rollouts.fall_back:
            self.events.add(step, "engine check", f"{text}; going on with transformers' generate, many times slower")
            fall_back_to_generate(self.trainer)
            return
        self.events.add(step, "engine check", text)
        raise StoppedError(
            f"stopped: {text}; --rollouts.engine false trains with transformers' generate, many times slower; records "
            f"and the best adapter so far are in {self.run.path}",
            EXIT_LEARNED_NOTHING,
        )


def fall_back_to_generate(trainer: MathGRPOTrainer) -> None:
    """Replace the engine by transformers' generate, and the scorer that shares its weights by torch."""
    rollouts = trainer.rollouts
    trainer.generation.rollouts = ReferenceRollouts(
        rollouts.model, rollouts.tokenizer, rollouts.batch_size, rollouts.endings.texts
    )
    if trainer.update is not None:
        trainer.update.scorer = trainer.update.torch_scorer
