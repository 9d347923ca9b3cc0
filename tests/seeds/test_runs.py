"""The processes of several seeds: one at a time or one on each GPU, signals, runs that are killed or at work."""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny_math_solver.seeds.runs import SeedRuns, SignalledError, gpus

# each writes when it began and ended and which GPU it saw; a signal is counted, and ends it with that signal's code
CHILD = """
import os, signal, sys, time
from pathlib import Path
signals = []
def handle(number, frame):
    signals.append(number)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, handle)
out, seconds, code = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
began = time.time()
out.with_suffix(".began").touch()
while time.time() < began + seconds and not signals:
    time.sleep(0.01)
if signals:
    time.sleep(0.5)  # saves what it has
    code = 128 + signals[0]
out.write_text(f"{began} {time.time()} {os.environ.get('CUDA_VISIBLE_DEVICES')} {len(signals)}")
sys.exit(code)
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., SeedRuns]:
    """SeedRuns of children that take `seconds` and end with the code of their seed."""

    def made(seconds: float = 0.3, codes: dict[int, int] | None = None, **options: Any) -> SeedRuns:
        ended: list[tuple[int, int]] = []
        settings: dict[str, Any] = {
            "command": lambda seed: [
                sys.executable, "-c", CHILD, str(tmp_path / f"{seed}"), f"{seconds}", f"{(codes or {}).get(seed, 0)}",
            ],
            "log": lambda seed: tmp_path / f"{seed}.log",
            "is_at_work": lambda seed: False,
            "is_done": lambda seed: False,
            "on_start": lambda seed: None,
            "on_end": lambda seed, code: ended.append((seed, code)),
        } | options  # fmt: skip
        runs = SeedRuns(**settings)
        runs.ended = ended  # type: ignore[attr-defined]
        return runs

    return made


def told(folder: Path, seed: int) -> tuple[float, float, str, int]:
    began, ended, gpu, signals = (folder / f"{seed}").read_text().split()
    return float(began), float(ended), gpu, int(signals)


def wait_for(path: Path) -> None:
    until = time.monotonic() + 20
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)


def test_without_several_gpus_runs_follow_each_other(make: Callable[..., Any], tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    runs = make(codes={2: 3}, gpus=["5"])
    runs.run([1, 2, 3])
    assert runs.ended == [(1, 0), (2, 3), (3, 0)]
    spans = [told(tmp_path, seed) for seed in (1, 2, 3)]
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    assert {gpu for _, _, gpu, _ in spans} == {"5"}


def test_each_gpu_has_one_run_at_a_time(make: Callable[..., Any], tmp_path: Path):
    """Catches two runs on one GPU, and a GPU that stays idle after its first run."""
    runs = make(seconds=0.5, gpus=["GPU-a", "GPU-b"])
    runs.run([1, 2, 3, 4])
    spans = {seed: told(tmp_path, seed) for seed in (1, 2, 3, 4)}
    for gpu in ("GPU-a", "GPU-b"):
        own = sorted(span for span in spans.values() if span[2] == gpu)
        assert len(own) == 2
        assert own[0][1] <= own[1][0]
    assert spans[2][0] < spans[1][1]  # the second began while the first was at work


def test_the_gpus_are_those_that_are_visible(monkeypatch):
    """Catches GPUs of somebody else: CUDA_VISIBLE_DEVICES leaves those that are ours, by index or by name."""
    import torch

    from tiny_math_solver.support import device

    monkeypatch.setattr(device, "default_device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5f")
    assert gpus() == ["3", "GPU-5f"]
    monkeypatch.setattr(device, "default_device", lambda: "cpu")
    assert gpus() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_each_run_once_and_no_other_is_started(
    make: Callable[..., Any], tmp_path: Path, number: signal.Signals, request: pytest.FixtureRequest
):
    """Catches a run that is killed with this command, and one that gets two signals, which end it without saving."""
    default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, default)  # a shell has what it starts in the background ignore it
    request.addfinalizer(lambda: signal.signal(number, before))
    runs = make(seconds=20, gpus=["0", "1"])

    def send() -> None:
        for seed in (1, 2):
            wait_for(tmp_path / f"{seed}.began")
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(SignalledError) as stopped:
        runs.run([1, 2, 3])
    thread.join()
    assert stopped.value.number == number
    assert [told(tmp_path, seed)[3] for seed in (1, 2)] == [1, 1]
    assert not (tmp_path / "3.began").exists()
    assert runs.ended == []


def test_ctrl_c_of_a_terminal_does_not_reach_a_run_past_this_command(make: Callable[..., Any], tmp_path: Path):
    """Catches a run in the group of processes that a terminal sends its signals to: it would get each twice."""
    groups = []
    runs = make(on_end=lambda seed, code: None)
    start = runs._start

    def watched(seed: int, gpu: str | None) -> None:
        start(seed, gpu)
        groups.append(os.getpgid(runs._running[seed][0].pid))

    runs._start = watched
    runs.run([1])
    assert groups[0] != os.getpgrp()


def test_a_run_that_somebody_stops_alone_stops_the_command(make: Callable[..., Any], tmp_path: Path):
    runs = make(codes={1: 143})
    with pytest.raises(SignalledError) as stopped:
        runs.run([1, 2])
    assert stopped.value.number == signal.SIGTERM
    assert not (tmp_path / "2.began").exists()


def test_a_run_that_is_killed_leaves_the_others(make: Callable[..., Any], tmp_path: Path):
    runs = make(seconds=1)

    def kill() -> None:
        wait_for(tmp_path / "1.began")
        runs._running[1][0].kill()

    threading.Thread(target=kill).start()
    runs.run([1, 2])
    assert runs.ended == [(1, -9), (2, 0)]


def test_a_run_of_another_process_is_waited_for_and_others_go_first(make: Callable[..., Any], tmp_path: Path):
    """Catches a run that was left over from a killed command, taken for a failure of its seed."""
    runs = make(is_at_work=lambda seed: seed == 1 and not (tmp_path / "2").exists())
    runs.run([1, 2])
    assert runs.ended == [(2, 0), (1, 0)]


def test_runs_are_stopped_where_the_command_fails(make: Callable[..., Any], tmp_path: Path):
    """Catches orphans that go on training where, say, the disk is full for seeds.json."""

    def fail(seed: int, code: int) -> None:
        raise OSError("disk full")

    runs = make(seconds=0.2, gpus=["0", "1"], on_end=fail)
    ordinary = runs.command
    runs.command = lambda seed: ordinary(seed) if seed == 1 else [*ordinary(seed)[:4], "30", "0"]
    began = time.monotonic()
    with pytest.raises(OSError, match="disk full"):
        runs.run([1, 2])
    assert time.monotonic() - began < 15
    assert told(tmp_path, 2)[3] == 1


@pytest.mark.parametrize("passed_on", [True, False])
def test_a_run_takes_the_same_signal_twice_for_one_where_it_is_passed_on(passed_on: bool, monkeypatch):
    """Catches a step that is not saved where a cluster signals all processes of a job, and this command its run."""
    from tiny_math_solver.support.errors import StoppedError
    from tiny_math_solver.support.signals import PASSED_ON
    from tiny_math_solver.training.signals import StopOnSignal

    monkeypatch.setenv(PASSED_ON, "1") if passed_on else monkeypatch.delenv(PASSED_ON, raising=False)
    stop = StopOnSignal()
    stop.training = True
    stop._handle(signal.SIGTERM, None)
    if passed_on:
        stop._handle(signal.SIGTERM, None)
        with pytest.raises(StoppedError):
            stop._handle(signal.SIGINT, None)
    else:
        with pytest.raises(StoppedError):
            stop._handle(signal.SIGTERM, None)
