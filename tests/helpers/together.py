"""Two processes that meet as under torchrun: forked ones for a function, launched ones for a whole run."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch.distributed as dist

from helpers.paths import ROOT

SECONDS = 60  # for the forked ones


def together(work: Callable[[int], Any], seconds_of_patience: float = 30) -> list[Any]:
    """The results of `work(rank)` in two processes, an exception as its value; None of a process that died.

    The parent hosts the store, as torchrun does. `seconds_of_patience` are those of the default group.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context, started = multiprocessing.get_context("fork"), []
    for rank in range(2):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_join, args=(rank, store.port, seconds_of_patience, work, sender))
        child.start()
        sender.close()
        started.append((child, receiver))
    try:
        return [_received(receiver) for _, receiver in started]
    finally:
        for child, _ in started:
            child.join(SECONDS)
            child.kill()


def launch(count: int, *arguments: str, script: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`tiny-math ARGUMENTS` by torchrun; `script`, Python that patches it, is run before."""
    program = ["-m", "tiny_math_solver.cli"] if not script else [script]
    with_launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    return subprocess.run(
        [*with_launcher, *program, *arguments],
        env=launched_environment() | environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def launched_environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def patched(folder: Path, patch: str) -> str:
    """The path of a script that does `patch` in each process, with `rank` set, and then what `tiny-math` does."""
    script = folder / "patched.py"
    script.write_text(
        "import os, sys\nfrom tiny_math_solver.cli import main\n"
        f"rank = int(os.environ['RANK'])\n{patch}\nsys.exit(main())\n"
    )
    return str(script)


def _join(rank: int, port: int, patience: float, work: Callable[[int], Any], sender: Connection) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    dist.init_process_group("gloo", timeout=timedelta(seconds=patience))
    dist.barrier()  # one whose work is short would be gone before the other has connected
    try:
        sender.send(work(rank))
    except Exception as error:
        sender.send(error)
    sender.close()
    os._exit(0)


def _received(receiver: Connection) -> Any:
    try:
        return receiver.recv() if receiver.poll(SECONDS) else None
    except EOFError:
        return None
