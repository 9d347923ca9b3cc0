"""Seeds that are killed or stopped and started again end with the verdict of those that were left alone."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.paths import QUICKSTART

SMALL = [
    "--seeds", "2", "--grpo.max_steps", "8", "--grpo.save_steps", "1", "--evaluation.every", "4", "--problems.train",
    "64", "--problems.test", "16", "--problems.dev", "16", "--evaluation.samples", "0",
    "--grpo.per_device_train_batch_size", "16",
]  # fmt: skip


class Command:
    """`tiny-math seeds` on one folder; `log` has what all of them have printed."""

    def __init__(self, folder: Path, name: str):
        self.out, self.log = folder / name, folder / f"{name}.log"
        self.seeds = folder / f"{name}-seeds"

    def start(self) -> psutil.Popen:
        command = [sys.executable, "-m", "tiny_math_solver.cli", "seeds", str(QUICKSTART), *SMALL]
        with self.log.open("ab") as log:
            return psutil.Popen(
                [*command, "--grpo.output_dir", str(self.out)],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def start_until(self, due: Callable[[], bool]) -> psutil.Popen:
        process = self.start()
        while not due():
            assert process.poll() is None, self.log.read_text()
            time.sleep(0.005)
        return process

    def finish(self) -> None:
        assert self.start().wait() == 0, self.log.read_text()

    def verdict(self) -> dict[str, Any]:
        """The content of seeds.json but for its times."""
        record = json.loads((self.seeds / "seeds.json").read_text(encoding="utf-8"))
        for row in record["runs"]:
            assert row.pop("train_seconds") > 0
        return record

    def has(self, name: str) -> bool:
        return (self.seeds / name).exists()


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=20)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_and_stopped_seeds_end_with_the_same_verdict(tmp_path: Path):
    """Catches seeds that are trained twice, lost, or left to run, and a verdict that depends on how it came about."""
    straight = Command(tmp_path, "straight")
    straight.finish()
    killed = Command(tmp_path, "killed")

    process = killed.start_until(lambda: killed.has("seed-42/checkpoint-3"))  # in training
    kill([process, *process.children(recursive=True)])

    process = killed.start_until(lambda: killed.has("seed-42/checkpoint-6"))  # a signal to the command alone
    (child,) = process.children()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert not child.is_running()
    text = killed.log.read_text()
    assert "tiny-math: SIGTERM: stopped with 0 of 2 seeds finished; the same command goes on" in text
    assert "SIGTERM: stopped after step" in (killed.seeds / "seed-42.log").read_text()  # saved

    process = killed.start_until(  # while the test is answered, after the last step
        lambda: killed.has("seed-43/checkpoint-8") and not killed.has("seed-43/summary.json")
    )
    kill([process, *process.children(recursive=True)])

    process = killed.start()  # the command alone: its run outlives it
    while not (children := process.children()):
        time.sleep(0.01)
    while not killed.has("seed-43/summary.json") and not at_work(killed.seeds / "seed-43"):
        time.sleep(0.01)
    kill([process])
    assert children[0].is_running() or killed.has("seed-43/summary.json")
    killed.finish()

    assert killed.verdict() == straight.verdict()
    for seed in (42, 43):
        names = [f"seed-{seed}/adapter_model.safetensors", f"seed-{seed}/eval/after.jsonl"]
        for name in names:
            assert (killed.seeds / name).read_bytes() == (straight.seeds / name).read_bytes()
    assert not list(killed.seeds.glob("seed-*.1"))
    assert "(finished earlier)" in killed.log.read_text()


def at_work(folder: Path) -> bool:
    """True if a process has the lock on a folder."""
    from tiny_math_solver.seeds.folder import SeedsFolder

    return SeedsFolder(folder.parent).is_at_work(int(folder.name.removeprefix("seed-")))


@pytest.mark.slow
def test_a_crash_of_one_run_is_counted_and_ends_no_other(tmp_path: Path):
    """Catches a command that dies with a run, and one that ends with 0 where a seed has no result."""
    command = Command(tmp_path, "run")
    process = command.start_until(lambda: command.has("seed-42/checkpoint-2"))
    kill(process.children())
    assert process.wait() == 5
    record = command.verdict()
    assert record["failed"] == [
        {"seed": 42, "exit_code": 137, "why": "killed, perhaps for want of memory (exit code 137)"}
    ]
    assert [row["seed"] for row in record["runs"]] == [43]
    text = command.log.read_text()
    assert "tiny-math: 1 of 2 seeds failed; the same command tries them again" in text
    assert "the mean is over the 1 seed with a result; 1 of 2 ended without one" in text
    assert (command.seeds / "report.html").is_file()
    command.finish()
    assert [row["seed"] for row in command.verdict()["runs"]] == [42, 43]
