"""Our own operators for a CPU, in C++: compiled once for a processor and a model's shape, then kept.

    vectors.h      numbers, and work on several at once     attention.h    what decoding and training share of it
    layers.cpp     products, norms, the gate                decode.cpp     a decode step: attention from a cache, draw
    update.cpp     the update's attention, and gradients

A compiler is looked for when the first engine is made; without one, or for a shape the kernels do not cover, torch
computes alone. Compiling takes a second or two; the library lies in the user's cache folder.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

import torch

# on the processors with the widest registers:
LARGEST_BLOCK = 16  # tokens of a block of the cache
LARGEST_PANEL = 32  # columns of a weight that are kept together
FLAGS = ("-O3", "-march=native", "-std=gnu++17", "-fPIC", "-fopenmp", "-fno-math-errno")
DTYPES = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}


@functools.cache
def kernels(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> ctypes.CDLL | str:
    """The library for models of this shape, or why it cannot be had."""
    if dtype not in DTYPES or head_dim % LARGEST_BLOCK:
        return f"no kernels for heads of {head_dim} numbers in {str(dtype).removeprefix('torch.')}"
    compiler = shutil.which("g++")  # clang's OpenMP is not the one that torch brings
    if not compiler:
        return "no g++ found"
    if not _shares_threads():
        return "no OpenMP runtime to share with torch"
    shape = (f"-DHEADS={heads}", f"-DKV_HEADS={kv_heads}", f"-DHEAD_DIM={head_dim}")
    try:
        return ctypes.CDLL(str(_library(compiler, (*FLAGS, *shape, *DTYPES[dtype]))))
    except subprocess.CalledProcessError as error:
        first = error.stderr.decode(errors="replace").strip().splitlines()[:1]
        return f"{compiler} failed: {' '.join(first)}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"the kernels could not be compiled or loaded: {error}"


def at(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """Where a tensor lies, for a kernel; it is read row after row without gaps."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _shares_threads() -> bool:
    """Whether torch's own OpenMP runtime serves the kernels too: a second pool of threads would fight with it."""
    return hasattr(ctypes.CDLL(None), "GOMP_parallel")


def _library(compiler: str, flags: tuple[str, ...]) -> Path:
    sources = {f.name: f.read_bytes() for f in resources.files(__name__).iterdir() if f.name.endswith((".cpp", ".h"))}
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=30).stdout
    parts = [*(part for name in sorted(sources) for part in (name.encode(), sources[name])), version, _processor()]
    key = hashlib.sha256(b"\0".join([*parts, " ".join(flags).encode()])).hexdigest()[:20]
    path = _cache_folder() / f"kernels-{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:

            def run(*command: str) -> None:
                subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=120)

            for name, source in sources.items():
                Path(folder, name).write_bytes(source)
            units = [name for name in sources if name.endswith(".cpp")]
            run(compiler, *flags, "-c", *units)
            # linked without -fopenmp: its symbols are those of the runtime that torch has loaded
            run(compiler, "-shared", *(str(Path(name).with_suffix(".o")) for name in units), "-o", "kernels.so", "-lm")
            Path(folder, "kernels.so").replace(path)
    return path


def _processor() -> bytes:
    """What `-march=native` depends on: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor().encode()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})).encode()


def _cache_folder() -> Path:
    """A folder that nobody else can write to."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "tiny-math-solver"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
        if os.access(folder, os.W_OK) and state.st_uid == os.getuid() and not state.st_mode & 0o022:
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(_private_folder().name)


@functools.cache
def _private_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tiny-math-solver-")
