"""Graceful shutdown on SIGINT, SIGTERM, SIGHUP and, on Windows, SIGBREAK."""

import contextlib
import os
import signal
import time
from types import FrameType
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from tiny_math_solver.support import processes
from tiny_math_solver.support.errors import StoppedError
from tiny_math_solver.support.processes import EndedElsewhereError
from tiny_math_solver.support.signals import PASSED_ON, handled

ECHO = 5  # seconds in which a launcher, or `tiny-math seeds`, passes on a signal that all processes have received


class StopOnSignal(TrainerCallback):
    """At a signal the step under way is finished and saved, then the run ends; a second signal ends it at once.

    Outside of training a signal ends the run at once: nothing but an evaluation is lost. SIGHUP stays ignored under
    nohup.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self.training = False

    def listening(self) -> contextlib.AbstractContextManager[None]:
        """Handle the signals inside the block, in the main thread."""
        return handled(self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if processes.is_failed():  # the launcher ends the others
            raise EndedElsewhereError(1)
        may_be_echo = processes.is_launched() or PASSED_ON in os.environ
        if self.received == number and may_be_echo and time.monotonic() < self._received_at + ECHO:
            return
        if not self.training or self.received is not None:
            raise StoppedError(
                f"{name}: stopped at once; the same command resumes from the last checkpoint, if there is one",
                128 + number,
            )
        self.received, self._received_at = number, time.monotonic()
        if not processes.is_main():
            return
        # print() is not reentrant, and the signal may have interrupted it
        with contextlib.suppress(OSError):  # the terminal may be gone, which is what SIGHUP says
            os.write(2, f"tiny-math: {name}: finishing and saving this step (signal again to stop at once)\n".encode())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # all end after the same step, whichever received it
        self.received = max(filter(None, processes.gather(self.received)), default=None)
        if self.received is not None:
            control.should_training_stop = True
            control.should_save = args.save_strategy != SaveStrategy.NO

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training = False

    def raise_if_received(self, args: Any, state: Any) -> None:
        """Raise StoppedError if a signal has ended training."""
        if self.received is None:
            return
        checkpoint = f"{args.output_dir}/checkpoint-{state.global_step}"
        saved = f"everything is saved in {checkpoint}: the same command resumes from there"
        raise StoppedError(
            f"{signal.Signals(self.received).name}: stopped after step {state.global_step} of {state.max_steps}; "
            + (saved if args.save_strategy != SaveStrategy.NO else "nothing is saved (grpo.save_strategy is no)"),
            128 + self.received,
        )
