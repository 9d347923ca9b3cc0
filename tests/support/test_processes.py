"""Several processes: the main one goes ahead, the others wait, and a failure ends them all with one message."""

import os
import time
from pathlib import Path

import pytest
import torch

from helpers.together import together
from tiny_math_solver.support import processes
from tiny_math_solver.support.errors import StoppedError, UserError
from tiny_math_solver.support.processes import EndedElsewhereError


def test_what_the_main_process_does_the_others_wait_for(tmp_path: Path):
    """Catches a process that reads summary.json before it is written."""

    def work(rank: int) -> tuple[int, str]:
        def write() -> int:
            time.sleep(0.3)
            (tmp_path / "summary").write_text("done")
            return os.getpid()

        return processes.on_main(write), (tmp_path / "summary").read_text()

    (first, _), (second, text) = together(work)
    assert first == second
    assert text == "done"


def test_waiting_outlasts_the_time_limit_of_gradients():
    """An evaluation of half an hour ended in a time-out of gloo."""

    def evaluate() -> str:
        time.sleep(1.5)
        return "97 %"

    def work(rank: int) -> str:
        return processes.on_main(evaluate)

    assert together(work, seconds_of_patience=0.5) == ["97 %", "97 %"]


def test_an_error_of_the_main_process_ends_the_others_with_its_exit_code():
    """Catches processes that wait for one that has failed."""

    def fail() -> None:
        raise StoppedError("hopeless", 3)

    def work(rank: int) -> tuple[type, int]:
        try:
            processes.on_main(fail)
        except (StoppedError, EndedElsewhereError) as error:
            return type(error), error.exit_code
        return type(None), 0

    assert together(work) == [(StoppedError, 3), (EndedElsewhereError, 3)]


def test_the_main_process_is_first_and_the_others_do_it_too(tmp_path: Path):
    """Catches a data set read while the main process still downloads it."""

    def work(rank: int) -> str:
        def load() -> str:
            time.sleep(0.3 * (1 - rank))
            with (tmp_path / "order").open("a") as file:
                file.write(str(rank))
            return f"loaded by {rank}"

        return processes.main_first(load)

    assert together(work) == ["loaded by 0", "loaded by 1"]
    assert (tmp_path / "order").read_text() == "01"


def test_values_are_gathered_by_rank_and_alone_in_what_the_main_process_does():
    """Catches a main process that waits for the others, which wait for it."""

    def work(rank: int) -> tuple[list[int], list[int]]:
        return processes.gather(rank + 10), processes.on_main(lambda: processes.gather(rank))

    assert together(work) == [([10, 11], [0]), ([10, 11], [0])]


def test_one_process_alone_prints_its_error():
    def work(rank: int) -> tuple[bool, bool, bool]:
        before = processes.is_failed()
        processes.gather(None)  # both have asked
        return before, processes.is_first_to_fail(UserError("no disk")), processes.is_failed()

    results = together(work)
    assert [before for before, _, _ in results] == [False, False]
    assert sorted(first for _, first, _ in results) == [False, True]
    assert [after for _, _, after in results] == [True, True]


def test_what_follows_from_another_process_is_not_printed():
    def work(rank: int) -> bool:
        return processes.is_first_to_fail(EndedElsewhereError(2))

    assert together(work) == [False, False]


def test_the_death_of_another_process_is_recognised():
    """Catches a hang, and a stack of gloo for a process that ran out of memory."""

    def work(rank: int) -> str:
        processes.gather(None)
        if rank == 1:
            os._exit(9)
        try:
            processes.gather(None)
        except Exception as error:
            return str(processes.lost_process(error))
        return "nothing happened"

    text, dead = together(work)
    assert "process 1 of 2 (at the start) ended without a message" in text
    assert dead is None
    assert processes.lost_process(RuntimeError("shapes do not match")) is None
    assert processes.lost_process(UserError("Broken pipe")) is None


def test_processes_part_in_peace():
    def work(rank: int) -> bool:
        processes.part()
        return torch.distributed.is_initialized()

    assert together(work) == [False, False]


def test_a_single_process_calls_and_fails_as_if_there_were_no_others():
    assert processes.on_main(lambda: 7) == processes.main_first(lambda: 7) == 7
    assert processes.gather(7) == [7]
    with pytest.raises(ZeroDivisionError):
        processes.on_main(lambda: 1 // 0)
    assert processes.is_first_to_fail(KeyError())
    assert not processes.is_failed()
    processes.part()


def test_mpi_counts_under_the_launcher_that_uses_it(monkeypatch: pytest.MonkeyPatch):
    """A batch scheduler sets PMI_SIZE for programs that have nothing to do with each other."""
    for name, value in (("PMI_SIZE", "4"), ("PMI_RANK", "2"), ("MPI_LOCALNRANKS", "2")):
        monkeypatch.setenv(name, value)
    assert (processes.count(), processes.rank(), processes.is_main()) == (1, 0, True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert (processes.count(), processes.rank(), processes.on_this_machine()) == (4, 2, 2)
    assert not processes.is_main()
    monkeypatch.setenv("PMI_RANK", "4")
    with pytest.raises(UserError, match=r"PMI_RANK=4 of 4 processes"):
        processes.check_launcher_variables()


def test_processes_and_gpus_that_take_no_part_are_named(monkeypatch: pytest.MonkeyPatch):
    """accelerate launch --cpu --num_processes 2 starts one process without a word."""
    assert processes.unused() == ""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes.unused() == "4 GPUs are visible and one is used: torchrun --nproc_per_node 4 uses all"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert "accelerate launch has started one process" in processes.unused()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert processes.unused() == ""
