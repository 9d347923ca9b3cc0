"""The runs of several seeds, each a process of its own: one after the other, or one on each GPU at a time.

A crash, or memory that runs out, ends one run and leaves the others. A run has a process group of its own, so that
Ctrl-C does not reach it past this command, which passes each signal on once: a run that receives two ends at once.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tiny_math_solver.support.files import IS_WINDOWS
from tiny_math_solver.support.signals import PASSED_ON, SIGNALS, handled

LOOK_SECONDS = 0.1  # between two looks at the runs
STOPPED = {128 + number for number in SIGNALS}  # exit codes of a run that a signal has stopped
VISIBLE = "CUDA_VISIBLE_DEVICES"


class SignalledError(Exception):
    """A signal has stopped the runs."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def gpus() -> list[str]:
    """The value of CUDA_VISIBLE_DEVICES that leaves one GPU, for each of those that are visible."""
    import torch

    from tiny_math_solver.support.device import default_device

    if default_device() != "cuda":
        return []
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return (named or [str(index) for index in range(count)])[:count]


@dataclass
class SeedRuns:
    """Starts `command(seed)` for each seed, prints into `log(seed)`, or on the terminal where that is None.

    `is_at_work` says whether another process trains the seed, whose end is waited for, and `is_done` whether it has a
    result. `on_start` and `on_end` are told of each run, the latter with its exit code: negative, the signal that has
    killed it.
    """

    command: Callable[[int], list[str]]
    log: Callable[[int], Path | None]
    is_at_work: Callable[[int], bool]
    is_done: Callable[[int], bool]
    on_start: Callable[[int], Any]
    on_end: Callable[[int, int], Any]
    gpus: Sequence[str] = ()  # with two or more, one run on each
    received: int | None = None
    _running: dict[int, tuple[subprocess.Popen[bytes], str | None]] = field(default_factory=dict)

    def run(self, seeds: Sequence[int]) -> None:
        """Run them all. Raises SignalledError once every run has ended, if a signal has stopped one or this command."""
        waiting = list(seeds)
        free: list[str | None] = list(self.gpus) if len(self.gpus) > 1 else [None]
        try:
            with handled(self._pass_on):
                while waiting or self._running:
                    while self.received is None and free and (seed := self._next(waiting)) is not None:
                        self._start(seed, free.pop(0))
                    for seed, code in self._ended():
                        free.append(self._running.pop(seed)[1])
                        if code in STOPPED or -code in SIGNALS:
                            if self.received is None:  # somebody stopped this run alone: they mean all of it
                                self._pass_on(abs(code) % 128)
                        elif code and self.is_at_work(seed):  # its folder was locked
                            waiting.append(seed)
                        else:
                            self.on_end(seed, code)
                    if self.received is not None and not self._running:
                        raise SignalledError(self.received)
                    time.sleep(LOOK_SECONDS)
        finally:
            self._end_all()

    def _next(self, waiting: list[int]) -> int | None:
        """Take the next seed to start from `waiting`, and those out that another process has finished meanwhile."""
        for seed in list(waiting):
            if not self.is_at_work(seed):
                waiting.remove(seed)
                if not self.is_done(seed):
                    return seed
                self.on_end(seed, 0)
        return None

    def _start(self, seed: int, gpu: str | None) -> None:
        self.on_start(seed)
        variables = os.environ | {PASSED_ON: "1"} | ({VISIBLE: gpu} if gpu is not None else {})
        options: dict[str, Any] = {"process_group": 0}
        if IS_WINDOWS:
            options = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        with contextlib.ExitStack() as stack:
            if (log := self.log(seed)) is not None:
                options |= {"stdout": stack.enter_context(log.open("ab")), "stderr": subprocess.STDOUT}
            process = subprocess.Popen(self.command(seed), stdin=subprocess.DEVNULL, env=variables, **options)
        self._running[seed] = process, gpu
        if self.received is not None:  # while it was started
            _send(process, self.received)

    def _ended(self) -> list[tuple[int, int]]:
        codes = [(seed, process.poll()) for seed, (process, _) in self._running.items()]
        return [(seed, code) for seed, code in codes if code is not None]

    def _pass_on(self, number: int, frame: FrameType | None = None) -> None:
        self.received = number
        for process, _ in list(self._running.values()):
            _send(process, number)

    def _end_all(self) -> None:
        """Stop the runs that are left, where this command fails."""
        for process, _ in self._running.values():
            _send(process, signal.SIGTERM)
        for process, _ in self._running.values():
            process.wait()


def train_command(arguments: Sequence[str]) -> list[str]:
    """`tiny-math train ARGUMENTS` by this very installation."""
    return [sys.executable, "-u", "-m", "tiny_math_solver.cli", "train", *arguments]


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    if IS_WINDOWS:  # the only signal that reaches a process group there
        number = getattr(signal, "CTRL_BREAK_EVENT", number)
    with contextlib.suppress(OSError):  # it has just ended
        process.send_signal(number)
