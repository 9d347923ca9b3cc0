"""One decision in all processes: to stop, and to save."""

from typing import Any

from transformers import TrainerCallback

from tiny_math_solver.support import processes


class Agreement(TrainerCallback):
    """Takes over what the main process has decided; the last callback, so that all others have had their say.

    A process that stopped or saved alone would leave the others waiting for it.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        decided = control.should_training_stop, control.should_save
        control.should_training_stop, control.should_save = processes.on_main(lambda: decided)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_step_end(args, state, control)
