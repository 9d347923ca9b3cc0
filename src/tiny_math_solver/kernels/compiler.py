"""Compiles the kernels for this processor and a model's shape: some seconds, once; the library is kept.

TINY_MATH_SANITIZE=address (or undefined) in the environment compiles them with that sanitizer of g++, whose runtime has
to be preloaded: `make sanitize`.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import torch

from tiny_math_solver.kernels.bindings import Kernels
from tiny_math_solver.support.files import IS_WINDOWS, sync
from tiny_math_solver.support.progress import while_it_lasts

# on the processors with the widest registers:
LARGEST_BLOCK = 16  # tokens of a block of the cache
LARGEST_PANEL = 32  # columns of a weight that are kept together
FLAGS = ("-O3", "-march=native", "-std=gnu++17", "-fPIC", "-fopenmp", "-fno-math-errno")
HASH_BYTES = 32  # of SHA-256
SANITIZE_VARIABLE = "TINY_MATH_SANITIZE"
DTYPES = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}


@functools.cache
def load_kernels(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Kernels | str:
    """The kernels for models of this shape, or the reason why there are none."""
    if dtype not in DTYPES or head_dim % LARGEST_BLOCK:
        return f"no kernels for {head_dim} elements per head in {str(dtype).removeprefix('torch.')}"
    compiler = shutil.which("g++")  # clang links another OpenMP runtime than the one torch brings
    if not compiler:
        return "no g++ found"
    if not _shares_threads():
        return "no OpenMP runtime to share with torch"
    shape = (f"-DHEADS={heads}", f"-DKV_HEADS={kv_heads}", f"-DHEAD_DIM={head_dim}")
    try:
        library = _library(compiler, (*FLAGS, *shape, *DTYPES[dtype]), _sanitizer_flags())
        return Kernels(library, heads, kv_heads, head_dim, dtype)
    except subprocess.CalledProcessError as error:
        return f"{compiler} failed: {_first_error(error.stderr.decode(errors='replace'))}"
    except (OSError, subprocess.SubprocessError, AttributeError) as error:  # the last: a function that is not in it
        return f"the kernels could not be compiled or loaded: {error}"


def _shares_threads() -> bool:
    """True if torch's own OpenMP runtime can serve the kernels: a second thread pool would compete with it."""
    try:
        return hasattr(ctypes.CDLL(None), "GOMP_parallel")
    except (OSError, TypeError):  # Windows has no table of everything that is loaded
        return False


def _first_error(output: str) -> str:
    """The line of a compiler's output that says what is wrong; notes and names of files may come before it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no message")


def _sanitizer_flags() -> tuple[str, ...]:
    chosen = os.environ.get(SANITIZE_VARIABLE)
    return (f"-fsanitize={chosen}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g") if chosen else ()


def _library(compiler: str, flags: tuple[str, ...], sanitizer: tuple[str, ...]) -> ctypes.CDLL:
    """The shared library of these sources, compiler, processor and flags.

    It is compiled if it is not in the cache, or is damaged there, as after a power failure.
    """
    package = resources.files("tiny_math_solver.kernels")
    sources = {f.name: f.read_bytes() for f in package.iterdir() if f.name.endswith((".cpp", ".h"))}
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=30).stdout
    parts = [*(part for name in sorted(sources) for part in (name.encode(), sources[name])), version, _processor()]
    key = hashlib.sha256(b"\0".join([*parts, " ".join((*flags, *sanitizer)).encode()])).hexdigest()[:20]
    path = _cache_folder() / f"kernels-{key}.so"
    if not _is_whole(path):
        _compile(compiler, flags, sanitizer, sources, path)
    return ctypes.CDLL(str(path))


def _is_whole(path: Path) -> bool:
    """True if a library is there and ends in its own hash: loading a part of one would end this process."""
    if not path.exists():
        return False
    content = path.read_bytes()
    return content[-HASH_BYTES:] == hashlib.sha256(content[:-HASH_BYTES]).digest()


def _compile(
    compiler: str, flags: tuple[str, ...], sanitizer: tuple[str, ...], sources: Mapping[str, bytes], path: Path
) -> None:
    """Compile and link `sources` to the shared library `path`, which is replaced as a whole."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:

        def run(*command: str) -> None:
            subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=120)

        for name, source in sources.items():
            Path(folder, name).write_bytes(source)
        units = [name for name in sources if name.endswith(".cpp")]
        with while_it_lasts("compiling kernels for this processor, once ..."), ThreadPoolExecutor() as pool:
            list(pool.map(lambda unit: run(compiler, *flags, *sanitizer, "-c", unit), units))
        objects = (str(Path(name).with_suffix(".o")) for name in units)
        # linked without -fopenmp, so that its symbols resolve to the runtime that torch has loaded
        run(compiler, "-shared", *sanitizer, *objects, "-o", "kernels.so", "-lm")
        with Path(folder, "kernels.so").open("rb+") as library:
            library.write(hashlib.sha256(library.read()).digest())  # behind what the loader reads
        sync(Path(folder, "kernels.so"))
        Path(folder, "kernels.so").replace(path)


def _processor() -> bytes:
    """The features that `-march=native` depends on: machines of several kinds may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor().encode()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})).encode()


def _cache_folder() -> Path:
    """A folder that no other user can write to: the library in it runs in this process."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "tiny-math-solver"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
        if os.access(folder, os.W_OK) and (IS_WINDOWS or _is_private(state)):  # Windows: a profile is its user's alone
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(_private_folder().name)


def _is_private(state: os.stat_result) -> bool:
    return state.st_uid == os.getuid() and not state.st_mode & 0o022


@functools.cache
def _private_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tiny-math-solver-")
