"""The signals by which an operating system asks a program to end; Ctrl-C is a KeyboardInterrupt besides."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # Windows has no SIGHUP, and sends SIGBREAK instead
PASSED_ON = "TINY_MATH_SIGNALS_PASSED_ON"  # set for a run whose signals come from the command that started it as well
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Ended(BaseException):
    """A signal has ended the command: like Ctrl-C no `except Exception` swallows it, and all cleaning up is done."""

    def __init__(self, number: int):
        super().__init__(f"{signal.Signals(number).name}: stopped")
        self.exit_code = 128 + number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise `Ended` at the first signal but SIGINT inside the block, in the main thread; one that is ignored stays so.

    More of them have no effect: a launcher passes on what all processes have received, amid their cleaning up.
    """
    ended = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        if not ended:
            ended = True
            raise Ended(number)

    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone
        return
    before = {number: signal.getsignal(number) for number in SIGNALS if number != signal.SIGINT}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:  # else nohup ignores it, or the program around us handles it
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler == signal.SIG_DFL:
                signal.signal(number, handler)


@contextlib.contextmanager
def handled(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have `handle` called at each of SIGNALS inside the block, in the main thread; one that is ignored stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class OverTimeError(BaseException):
    """A block took longer than it may: no `except Exception` swallows it."""


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `OverTimeError` inside the block after so many seconds, at the next instruction of Python.

    Without effect on Windows, which has no timer that interrupts.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise OverTimeError(f"took longer than {seconds:g} s")

    if seconds is None or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
