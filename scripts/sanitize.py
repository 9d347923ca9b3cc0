"""Runs what uses the kernels under a sanitizer of g++: `python scripts/sanitize.py address` (or `undefined`).

Three steps of training with the embedded model, then the tests of kernels, rollouts and update. Ends with the first
exit code that is not 0, after the sanitizer's report.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNTIMES = {"address": "libasan.so", "undefined": "libubsan.so"}
TRAINING = [
    "-m", "tiny_math_solver.cli", "train", "configs/quickstart.yaml", "--grpo.max_steps", "3", "--problems.test", "20",
    "--problems.dev", "20", "--evaluation.samples", "0", "--quiet",
]  # fmt: skip
# test_sanitizers.py would run the sanitizers again
TESTS = [
    "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels", "tests/rollouts", "tests/update",
    "--ignore", "tests/kernels/test_sanitizers.py",
]  # fmt: skip


def runtime(sanitizer: str) -> str | None:
    """The path of the sanitizer's runtime library, or None where g++ or the library is missing."""
    return _library(RUNTIMES[sanitizer])


def _library(name: str) -> str | None:
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    asked = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True)
    path = asked.stdout.strip()
    return path if Path(path).is_absolute() and Path(path).exists() else None


def sanitized(
    sanitizer: str, arguments: Sequence[str], timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with `arguments` and kernels that are compiled with the sanitizer; output and errors are one text."""
    library = runtime(sanitizer)
    assert library, f"no {RUNTIMES[sanitizer]}"
    settings = {
        "TINY_MATH_SANITIZE": sanitizer,
        # the second for exceptions of C++, which the first looks for when Python starts, itself a program in C
        "LD_PRELOAD": f"{library} {_library('libstdc++.so.6')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it has to the end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",  # several wait for each other many times longer than they compute
        "PYTHONPATH": str(ROOT / "src"),
    }
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | settings, cwd=ROOT, timeout=timeout, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def main(sanitizer: str) -> int:
    """Run training and tests; returns the exit code."""
    if runtime(sanitizer) is None:
        print(f"no {RUNTIMES[sanitizer]} of g++ found")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        for arguments in ([*TRAINING, "--grpo.output_dir", f"{folder}/run"], TESTS):
            ended = sanitized(sanitizer, arguments)
            print(ended.stdout)
            if ended.returncode:
                return ended.returncode
    print(f"{sanitizer} sanitizer: no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
