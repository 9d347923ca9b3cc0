"""Several processes that train one run together, as torchrun and accelerate launch start them.

The main process, that of rank 0, prints, writes the run folder and decides; `on_main` and `main_first` let it go
ahead, `gather` brings the processes' values together. With a single process each of them is a plain call.

What is decided and gathered travels in groups of their own over the CPU. Nobody gives up waiting for the main process
that goes ahead: a download may take hours. Work that is shared ends everywhere at about the same time: who does not
arrive within `patience` is reported with the place where it was last seen, as is one that has died.
"""

import contextlib
import functools
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import psutil

from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.signals import Ended

T = TypeVar("T")

# of torchrun and accelerate; of Intel MPI, Open MPI and MVAPICH, which accelerate launch starts processes by on CPUs
WORLD_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LOCAL_WORLD_SIZE = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")

LONG_PATIENCE = timedelta(days=30)  # of a process that waits for the main one to go ahead
STORE_PATIENCE = timedelta(seconds=5)
SECONDS_TO_END = 15  # for a process that has failed; then it is ended, whatever its threads still wait for
SECONDS_TO_DIE = 0.5  # for a process whose connections are closed already
HANGS = "Timed out waiting"
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", HANGS)
NO_STORE = (KeyError, ValueError, OSError, RuntimeError)

patience = timedelta(minutes=30)  # with others that share work; set before the processes meet
_is_ahead = False  # while the main process works and the others wait


class EndedElsewhereError(Exception):
    """Another process has failed and printed why; `exit_code` is the one it ends with."""

    def __init__(self, exit_code: int):
        super().__init__(exit_code)
        self.exit_code = exit_code


def count() -> int:
    """The number of processes that train together; 1 without a launcher."""
    return _whole(WORLD_SIZE, default=1, lowest=1)


def is_main() -> bool:
    """True in the process that prints and writes, the one of rank 0."""
    return rank() == 0


def rank() -> int:
    """The number of this process, from 0."""
    return _whole(RANK, default=0, lowest=0)


def is_launched() -> bool:
    """True under a launcher, be it of one process."""
    return _set_name(RANK) in os.environ


def on_this_machine() -> int:
    """The number of them that share this machine's memory."""
    return min(count(), _whole(LOCAL_WORLD_SIZE, default=1, lowest=1))


def check_launcher_variables() -> None:
    """Raise UserError if a launcher's variables are not numbers or contradict each other."""
    refuse_sharded_models()
    processes = count()
    for names, lowest in ((RANK, 0), (("LOCAL_RANK",), -1)):
        if _whole(names, default=0, lowest=lowest) >= processes:
            name = _set_name(names)
            raise UserError(f"environment: {name}={os.environ[name]} of {processes} processes (WORLD_SIZE){_ADVICE}")


def refuse_sharded_models() -> None:
    """Raise UserError if accelerate launch is told to cut the model up."""
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise UserError(
                f"environment: ACCELERATE_USE_{name}: each process has the whole model, which cannot be cut up; start "
                "with torchrun, or accelerate launch with configs/accelerate/multi_gpu.yaml"
            )


def unused() -> str:
    """A sentence about processes or GPUs that were asked for or are there and take no part; empty if there are none."""
    if count() > 1:
        return ""
    # set by accelerate launch for more than one process, of which its launcher for CPUs starts one
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ and "RANK" not in os.environ:
        return (
            "accelerate launch has started one process: on a CPU it starts several only through mpirun "
            "(--mpirun_hostfile); torchrun --nproc_per_node N starts N"
        )
    import torch

    gpus = torch.cuda.device_count()
    return f"{gpus} GPUs are visible and one is used: torchrun --nproc_per_node {gpus} uses all" if gpus > 1 else ""


@contextlib.contextmanager
def meeting() -> Iterator[None]:
    """Let SIGTERM end this process at once: in the block it may wait, outside of Python, for one that never comes."""
    if count() == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def meet() -> None:
    """Have the processes of a launcher meet, where no Trainer does that; each takes its own GPU, if there are any."""
    if count() > 1:
        from accelerate import PartialState

        with meeting():
            PartialState()


# -- Together ---------------------------------------------------------------------------------------------------


def on_main(work: Callable[[], T]) -> T:
    """The result of `work`, which the main process does while the others wait; it has to be picklable.

    If it fails there, the error is raised in the main process and EndedElsewhereError in the others.
    """
    if not _are_together():
        return work()
    if not is_main():
        is_done, result = _from_main(None)
        if not is_done:
            raise EndedElsewhereError(result)
        return result
    try:
        with _ahead():
            result = work()
    except BaseException as error:
        with contextlib.suppress(RuntimeError):  # the others may be gone
            _from_main((False, exit_code(error)))
        raise
    _from_main((True, result))
    return result


def main_first(work: Callable[[], T]) -> T:
    """The result of `work` in this process, which finds the caches filled.

    The main process does it first, then the first one of each other machine.
    """
    done: list[T] = []
    on_main(lambda: done.append(work()))
    if _are_together():
        if not done and _whole(("LOCAL_RANK",), default=0, lowest=-1) == 0:
            done.append(work())
        _meet_again()
    return done[0] if done else work()


def gather(value: T) -> list[T]:
    """The values of all processes, by rank."""
    if not _are_together():
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value, group=_groups().sharing)
    return values


def begins(place: str) -> None:
    """Let the others know that this process begins `place`, such as "the rollouts of step 3", should it not end."""
    if _are_together():
        with contextlib.suppress(*NO_STORE):
            _own_store().set(_place_key(rank()), place)


def sharing() -> tuple[int, int]:
    """`(rank, count)` of the processes that are to share work here; `(0, 1)` where one works alone."""
    return (rank(), count()) if _are_together() else (0, 1)


def own_part(rows: Sequence[T]) -> list[T]:
    """The part of this process of `rows` that are shared in consecutive parts of equal length."""
    size = math.ceil(len(rows) / count())
    return list(rows[rank() * size :][:size])


def average(tensors: Sequence[Any]) -> None:
    """Put in each tensor's place its mean over all processes, which have tensors of the same shapes."""
    if not _are_together() or not tensors:
        return
    import torch
    import torch.distributed as dist

    together = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(together)
    together /= count()
    for tensor, part in zip(tensors, together.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def part() -> None:
    """Leave the other processes once all is done."""
    if _are_together():
        import torch.distributed as dist

        gather(None)
        _groups.cache_clear()
        _own_store.cache_clear()
        dist.destroy_process_group()


@contextlib.contextmanager
def _ahead() -> Iterator[None]:
    """The others wait while the main process does the block: whatever is called in it is a plain call."""
    global _is_ahead
    _is_ahead = True
    try:
        yield
    finally:
        _is_ahead = False


def _are_together() -> bool:
    """True once several processes have met, which they do where transformers sets up the device."""
    if count() == 1 or _is_ahead:
        return False
    import torch.distributed as dist

    return dist.is_initialized()


def _meet_again() -> None:
    """Wait until all are here, for as long as it takes."""
    import torch.distributed as dist

    dist.all_gather_object([None] * count(), None, group=_groups().ahead)


def _from_main(value: Any) -> Any:
    import torch.distributed as dist

    values = [value]
    dist.broadcast_object_list(values, src=0, group=_groups().ahead, device=None)
    return values[0]


class _Groups(NamedTuple):
    """What values travel in, and who is there: `(machine, process id)` by rank."""

    ahead: Any
    sharing: Any
    members: list[tuple[str, int]]


@functools.cache
def _groups() -> _Groups:
    import torch.distributed as dist

    members: list[Any] = [None] * count()
    with meeting():
        ahead, sharing = (dist.new_group(backend="gloo", timeout=timeout) for timeout in (LONG_PATIENCE, patience))
        dist.all_gather_object(members, (socket.gethostname(), os.getpid()), group=sharing)
    return _Groups(ahead, sharing, members)


# -- A process that fails ---------------------------------------------------------------------------------------


def exit_code(error: BaseException) -> int:
    """The code with which a process ends after `error`."""
    return getattr(error, "exit_code", 1)


def is_first_to_fail(error: BaseException) -> bool:
    """True in one process alone, the first to ask: it prints its error. Those of the others follow from it.

    A process that has failed ends soon, even if a thread of it still waits for the others.
    """
    try:
        if count() == 1:
            return True
    except UserError:  # the launcher's variables are the error
        return True
    if _are_together() and hasattr(signal, "alarm"):
        signal.alarm(SECONDS_TO_END)  # kills, where Python waits at its end for a thread
        with contextlib.suppress(ValueError):  # the launcher ends all, but one has to say why
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return not isinstance(error, EndedElsewhereError) and _is_first()


def lost_process(error: BaseException) -> UserError | None:
    """The error to print if `error` comes from a process that ended without telling why, or does not go on."""
    is_lost = isinstance(error, RuntimeError) and any(words in str(error) for words in LOST)
    is_ended = isinstance(error, Ended)  # the launcher may notice first
    if not (is_lost or is_ended) or not _are_together():
        return None
    resumes = "the same command resumes from the last checkpoint, if there is one"
    others = [other for other in range(count()) if other != rank()]
    until, dead = time.monotonic() + SECONDS_TO_DIE, list[int]()
    while not dead and time.monotonic() < until:
        dead = [other for other in others if _is_dead(other)]
        time.sleep(0.05)
    if is_ended and not dead:
        return None
    if HANGS in str(error) and not dead:
        seen = "; ".join(f"process {other} was last seen at {_place_of(other)}" for other in others)
        return UserError(
            f"process {rank()} has waited for {patience.total_seconds():,.0f} s (grpo.ddp_timeout) at "
            f"{_place_of(rank())}; {seen}; {resumes}"
        )
    which = f"process {dead[0]} of {count()} (at {_place_of(dead[0])})" if dead else "another process of this run"
    return UserError(f"{which} ended without a message (killed, perhaps out of memory); {resumes}")


def _is_dead(other: int) -> bool:
    """True if process `other` is known to be gone, which this machine can tell of its own."""
    machine, number = _groups().members[other]
    if machine != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(number).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


def _place_of(other: int) -> str:
    try:
        store = _store()
        return str(store.get(_place_key(other)).decode()) if store.check([_place_key(other)]) else "the start"
    except NO_STORE:
        return "a place unknown"


def _place_key(other: int) -> str:
    return f"tiny-math/place/{os.environ.get('TORCHELASTIC_RESTART_COUNT')}/{other}"


@functools.cache
def _own_store() -> Any:
    return _store()


def is_failed() -> bool:
    """True if a process has failed and printed why: this one is about to be ended."""
    if count() == 1:
        return False
    try:
        return bool(_store().check([_failure_key()]))
    except NO_STORE:
        return False


def _is_first() -> bool:
    import torch.distributed as dist

    try:  # the first to write its rank wins
        return int(_store().compare_set(_failure_key(), "", str(rank()))) == rank()
    except NO_STORE:  # it ended with the main process, or there never was one
        return is_main() or not dist.is_initialized()


def _store() -> Any:
    """The store by which the launcher has the processes meet; a connection of its own reaches it at any time.

    Raises KeyError, ValueError, OSError or RuntimeError where there is none.
    """
    import torch.distributed as dist

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    socket.create_connection((host, port), STORE_PATIENCE.seconds).close()  # torch prints a stack where this fails
    return dist.TCPStore(host, port, is_master=False, timeout=STORE_PATIENCE, wait_for_workers=False)


def _failure_key() -> str:
    return f"tiny-math/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT')}"


# -- The environment --------------------------------------------------------------------------------------------

_ADVICE = "; unset it, or start with accelerate launch"


def _set_name(names: tuple[str, ...]) -> str:
    """The first of `names` that is set, or the first of all; those of MPI count under accelerate's launcher alone."""
    is_mpi = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return next((name for name in names[: None if is_mpi else 1] if name in os.environ), names[0])


def _whole(names: tuple[str, ...], default: int, lowest: int) -> int:
    name = _set_name(names)
    text = os.environ.get(name, str(default))
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    if number < lowest:
        raise UserError(f"environment: {name}={text!r} is not a whole number of {lowest} or more{_ADVICE}")
    return number
