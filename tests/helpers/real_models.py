"""Pretrained models for the tests marked `real`, and the commands as a user types them.

The models are folders of the Hugging Face kind, none of which is in the repository. The environment variable
TINY_MATH_MODELS names a folder that holds them; else a sibling folder `shared/models` has a build.py, which makes them
(`build.py NAME FOLDER`), once, into a cache.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from helpers.paths import ROOT

QWEN = "qwen2.5-coder-0.5b"  # of the same architecture, tokenizer and chat template as the configurations' model
SMOLLM = "smollm2-135m"  # of the Llama family
BUILDER = ROOT.parent / "shared" / "models" / "build.py"
BUILD_SECONDS = 600


def real_model(name: str) -> Path:
    """The folder of a pretrained model; skips the test, with the reason, where there is none."""
    if given := os.environ.get("TINY_MATH_MODELS"):
        folder = Path(given).expanduser().resolve() / name
        if not folder.parent.is_dir():
            pytest.fail(f"TINY_MATH_MODELS={given} is no folder")
        if not is_whole(folder):
            pytest.skip(f"TINY_MATH_MODELS={given} has no model {name}")
        return folder
    if not BUILDER.is_file():
        pytest.skip(f"no pretrained {name}: TINY_MATH_MODELS is not set, and there is no ../shared/models/build.py")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tiny-math-solver" / "models"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}.lock"):
        if not is_whole(cache / name):
            build(name, cache / name)
    return cache / name


def is_whole(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def build(name: str, folder: Path) -> None:
    """Have build.py make a model; skips the test where it cannot, for instance without a network."""
    command = [sys.executable, str(BUILDER), name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if done.returncode or not is_whole(folder):
        said = (done.stderr or done.stdout).strip().splitlines()
        pytest.skip(f"{BUILDER} cannot build {name}: {said[-1] if said else f'exit code {done.returncode}'}")


def tiny_math(*arguments: str | Path, seconds: float = 600) -> str:
    """What a command prints; its exit code must be 0."""
    done = subprocess.run(
        [sys.executable, "-m", "tiny_math_solver.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    printed = done.stdout[-4000:] + done.stderr[-4000:]
    assert done.returncode == 0, f"{arguments[0]}: exit code {done.returncode}\n{printed}"
    return done.stdout
