"""environment.json: the versions, hardware and command that a rerun needs to know."""

import os
import platform
import sys
import uuid
from importlib import metadata
from pathlib import Path

from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import ENVIRONMENT
from tiny_math_solver.support import processes

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "tokenizers", "safetensors")


def write_environment(run: RunFolder, command: list[str], seed: int, completions_per_step: int) -> None:
    import torch

    from tiny_math_solver.support.device import default_device, device_name

    run.write_json(
        ENVIRONMENT,
        {
            "run_id": os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8],  # a resumed run keeps it
            "command": command,
            "seed": seed,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "gpu": device_name(default_device()),
            "torch_threads": torch.get_num_threads(),
            "processes": processes.count(),
            "completions_per_step": completions_per_step,  # of all of them
            "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),  # set on a busy machine (support/environment.py)
            "versions": {name: metadata.version(name) for name in LIBRARIES},
        },
    )


def command_line() -> list[str]:
    """The command this process was started with, its program by name."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
