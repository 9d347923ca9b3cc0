"""`kill -9` at random moments, and while a checkpoint is being written: the resumed run ends with the same bytes."""

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.paths import QUICKSTART
from tiny_math_solver.runs.checkpoints import POLICIES

SMALL = [
    "--grpo.max_steps", "6", "--grpo.save_steps", "1", "--evaluation.every", "3", "--problems.train", "64",
    "--problems.test", "8", "--problems.dev", "16", "--evaluation.samples", "0",
    "--grpo.per_device_train_batch_size", "16",
]  # fmt: skip


def start(folder: Path, overrides: list[str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tiny_math_solver.cli", "train", str(QUICKSTART), "--grpo.output_dir", str(folder)]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, *overrides], stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def there(folder: Path, pattern: str) -> bool:
    """True if the run folder holds such a file, which may appear or vanish while we look."""
    try:
        return any(folder.glob(pattern))
    except FileNotFoundError:
        return False


def adapter(folder: Path) -> str:
    (weights,) = (folder / name for name in POLICIES if (folder / name).is_file())
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def kill_when(due: Callable[[], bool], folder: Path, overrides: list[str], log: Path) -> bool:
    """Start or resume the run and kill it once `due`; False if it had ended by then."""
    process = start(folder, overrides, log)
    while process.poll() is None and not due():
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert process.returncode in (0, -9), log.read_text()
    return process.returncode == -9


def finish(folder: Path, overrides: list[str], log: Path) -> str:
    process = start(folder, overrides, log)
    assert process.wait() == 0, log.read_text()
    return adapter(folder)


@pytest.mark.slow
@pytest.mark.parametrize("trained", [[], ["--lora", "null", "--grpo.learning_rate", "1e-4"]], ids=["adapter", "all"])
def test_killed_while_a_checkpoint_is_written(trained: list[str], tmp_path: Path):
    small = [*SMALL, *trained]
    straight = finish(tmp_path / "straight", small, tmp_path / "log")
    folder, writing = tmp_path / "killed", 0
    for place in (".part-*/state.json", ".part-*/SHA256SUMS", "checkpoint-5"):

        def due(place: str = place) -> bool:
            return there(folder, place)

        if kill_when(due, folder, small, tmp_path / "log"):
            writing += there(folder, ".part-*")
    assert writing, "no kill came while something was being written"
    assert finish(folder, small, tmp_path / "log") == straight
    assert not list(folder.glob(".part-*"))


@pytest.mark.large
@pytest.mark.timeout(3600)
def test_killed_at_50_random_moments_of_a_quickstart(tmp_path: Path):
    """Every fourth kill waits, from its random moment on, until a checkpoint or an adapter is being written."""
    began = time.perf_counter()
    straight = finish(tmp_path / "straight", [], tmp_path / "log")
    whole = time.perf_counter() - began

    def chain(seed: int) -> int:
        """25 kills, each run restarted until it ends; returns how many hit while something was being written."""
        log, rng = tmp_path / f"log-{seed}", random.Random(seed)
        kills = runs = writing = 0
        while kills < 25:
            folder, runs = tmp_path / f"run-{seed}-{runs}", runs + 1
            while kills < 25:
                moment, wait = time.perf_counter() + rng.uniform(0, whole), kills % 4 == 3

                def due(moment: float = moment, wait: bool = wait, folder: Path = folder) -> bool:
                    return time.perf_counter() >= moment and (not wait or there(folder, ".part-*/*"))

                if not kill_when(due, folder, [], log):
                    break
                kills, writing = kills + 1, writing + there(folder, ".part-*")
            assert finish(folder, [], log) == straight, f"run {runs} after {kills} kills"
            print(f"chain {seed}, run {runs}: {kills} kills, {writing} while something was being written; same bytes")
        return writing

    with ThreadPoolExecutor() as pool:  # each run has one thread
        writing = sum(pool.map(chain, (0, 1)))
    assert writing >= 5
