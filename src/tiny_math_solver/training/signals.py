"""Leave a run in good order when the terminal, the user or the machine's owner asks for it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from tiny_math_solver.support.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopOnSignal(TrainerCallback):
    """At a signal the step under way is finished and saved, then the run ends; at a second one it ends at once.

    Outside of training a signal ends the run at once: nothing but an evaluation is lost. Under nohup SIGHUP stays
    ignored.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.training = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread alone
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            if before[number] != signal.SIG_IGN:
                signal.signal(number, self._hear)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self.training or self.asked is not None:
            raise StoppedError(f"{name}: left at once; the same command goes on from the last checkpoint", 128 + number)
        self.asked = number
        # print() must not be entered from a signal handler: it may be at work
        with contextlib.suppress(OSError):  # the terminal may be gone, which is what SIGHUP says
            os.write(2, f"tiny-math: {name}: finishing and saving this step (once more: leave at once)\n".encode())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:  # all leave after the same step, whichever of them were asked
            self.asked = max(filter(None, gather_object([self.asked])), default=None)
        if self.asked is not None:
            control.should_training_stop = True
            control.should_save = args.save_strategy != SaveStrategy.NO

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training = False

    def raise_if_asked(self, args: Any, state: Any) -> None:
        """Raise StoppedError where training has ended because of a signal."""
        if self.asked is None:
            return
        saved = f"all of it is in {args.output_dir}/checkpoint-{state.global_step}: the same command goes on from there"
        raise StoppedError(
            f"{signal.Signals(self.asked).name}: stopped after step {state.global_step} of {state.max_steps}; "
            + (saved if args.save_strategy != SaveStrategy.NO else "nothing is saved (grpo.save_strategy is no)"),
            128 + self.asked,
        )
