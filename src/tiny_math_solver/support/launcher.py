"""Several processes started from within one, as torchrun starts them."""

import logging
import os
import sys
import uuid
from collections.abc import Sequence

from tiny_math_solver.support.errors import UserError


def run_together(count: int, arguments: Sequence[str]) -> int:
    """Run `tiny-math ARGUMENTS` in `count` processes of this machine; returns the exit code of the first that failed.

    Raises UserError if there are GPUs, but not as many.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    gpus = torch.cuda.device_count()
    if 0 < gpus < count:
        raise UserError(f"--processes {count}: each takes a GPU of its own, and this machine has {gpus}")
    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):  # what failed has said why
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does; each process takes its share of the cores then
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(settings, sys.executable)("-u", "-m", "tiny_math_solver.cli", *arguments)
    except ChildFailedError as failed:
        return failed.get_first_failure()[1].exitcode
    return 0
