"""environment.json: the versions, hardware and command that a rerun needs to know."""

import os
import platform
import sys
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import ENVIRONMENT
from tiny_math_solver.support import processes

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "tokenizers", "safetensors")


def machine() -> dict[str, Any]:
    """What the speed of a run depends on: hardware, threads and processes."""
    import torch

    from tiny_math_solver.support.device import default_device, device_name

    return {
        "processor": processor(),
        "cpu_count": os.cpu_count(),
        "gpu": device_name(default_device()),
        "torch_threads": torch.get_num_threads(),
        "processes": processes.count(),
    }


def write_environment(run: RunFolder, command: list[str], seed: int, completions_per_step: int) -> None:
    run.write_json(
        ENVIRONMENT,
        {
            "run_id": os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8],  # a resumed run keeps it
            "command": command,
            "seed": seed,
            "python": platform.python_version(),
            "platform": platform.platform(),
            **machine(),
            "completions_per_step": completions_per_step,  # of all of them
            "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),  # set on a busy machine (support/environment.py)
            "versions": {name: metadata.version(name) for name in LIBRARIES},
        },
    )


def processor() -> str:
    """The processors of this machine: `2 × AMD EPYC 9R14`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(named)} × {named[0]}" if named else platform.processor()


def command_line() -> list[str]:
    """The command this process was started with, its program by name."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
