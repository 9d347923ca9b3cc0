"""The kernels on two threads: every other test runs on one, where no race can show."""

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.runs import SHORT, run


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of threads after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_two_threads_compute_what_one_does(tmp_path: Path):
    """Catches two threads that add to one sum, and values read before they are written."""
    folders = []
    for count in (1, 2):
        torch.set_num_threads(count)
        assert ctypes.CDLL(None).omp_get_max_threads() == count  # the OpenMP runtime that the kernels share with torch
        folders.append(
            run(tmp_path / str(count), *SHORT, "--grpo.max_steps", "3", "--grpo.max_completion_length", "64").folder
        )
    one, two = ((folder / "rollouts.jsonl").read_bytes() for folder in folders)
    assert one == two
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    assert all(torch.equal(first[name], second[name]) for name in first)
