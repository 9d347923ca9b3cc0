"""Threads of OpenMP give way where other programs need their processors."""

import os
import subprocess
import sys

import psutil
import pytest

from tiny_math_solver.support.environment import FEW_SPINS, give_way_if_busy, share_cores


@pytest.mark.parametrize(
    ("loads", "own", "threads", "gives_way"),
    [
        ([0.0, 10.0], {0, 1}, "", False),
        ([0.0, 100.0], {0, 1}, "", True),
        ([45.0, 55.0], {0, 1}, "2", True),  # one program that moves from one to the other
        ([0.0, 100.0], {0, 1}, "1", False),  # a single thread waits for nobody
        ([0.0, 100.0, 0.0, 0.0], {0, 1, 2, 3}, "3", False),  # three are free
        ([0.0, 100.0, 0.0, 0.0], {0, 1, 2, 3}, "4,2", True),
        ([100.0, 100.0, 0.0, 0.0], {2, 3}, "", False),  # those of others
        ([100.0] + [0.0] * 15, {*range(16)}, "", False),  # eight threads on sixteen processors
        ([100.0] * 9 + [0.0] * 7, {*range(16)}, "", True),
        ([1.0] * 64, {*range(64)}, "64", False),  # what a system does in any case
    ],
)
def test_on_a_busy_machine(
    loads: list[float], own: set[int], threads: str, gives_way: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: loads)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: len(loads) // 2 if len(loads) > 4 else len(loads))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: own, raising=False)
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": threads})
    give_way_if_busy()
    assert os.environ.get("GOMP_SPINCOUNT") == (FEW_SPINS if gives_way else None)


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_settings_of_the_environment_stay(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: [100.0] * 64)
    monkeypatch.setattr(os, "environ", {name: "7"})
    give_way_if_busy()
    assert os.environ == {name: "7"}


def test_it_is_not_too_late():
    """OpenMP reads its settings when torch is loaded: catches an import on the way to the command."""
    code = "import sys; from tiny_math_solver.cli import parse; parse(['train', 'x']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("given", "here", "launcher", "threads"),
    [
        ("1", "4", "torchrun", "4"),  # torchrun sets 1 for all
        ("1", "8", "torchrun", "2"),
        ("1", "32", "torchrun", "1"),
        ("3", "4", "torchrun", "3"),  # chosen
        ("1", "1", "torchrun", "1"),
        ("1", "4", "", "1"),  # mpirun, say, which sets nothing
    ],
)
def test_processes_share_the_cores_of_a_machine(
    given: str, here: str, launcher: str, threads: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {*range(16)}, raising=False)
    environment = {"OMP_NUM_THREADS": given, "WORLD_SIZE": here, "LOCAL_WORLD_SIZE": here}
    monkeypatch.setattr(os, "environ", environment | ({"TORCHELASTIC_RUN_ID": "x"} if launcher else {}))
    share_cores()
    assert os.environ["OMP_NUM_THREADS"] == threads
