"""Free memory: of the machine, and of what limits this process."""

import subprocess
import sys

import psutil
import pytest

from tiny_math_solver.support import memory
from tiny_math_solver.support.files import for_shell


def test_a_limit_on_the_address_space_bounds_what_is_free():
    """Catches a run that plans with the machine's memory under `ulimit -v`, and ends where that is reached."""
    code = (
        "import resource, psutil\n"
        "from tiny_math_solver.support.memory import available\n"
        "limit = psutil.Process().memory_info().vms + (500 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "print(available('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 400 << 20 < int(done.stdout) <= 500 << 20


def test_without_a_limit_the_machine_decides(monkeypatch: pytest.MonkeyPatch):
    assert memory._address_space_free() == memory.NO_LIMIT
    monkeypatch.delattr(psutil, "RLIMIT_AS")  # as on Windows and macOS
    assert memory._address_space_free() == memory.NO_LIMIT


def test_words_of_a_command_can_be_copied_into_a_shell():
    assert for_shell("tiny-math", "solve", "my runs/it's $HOME") == "tiny-math solve 'my runs/it'\"'\"'s $HOME'"
