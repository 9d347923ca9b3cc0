"""Three steps of training under the sanitizers of g++, which see every access of the kernels."""

import re
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from sanitize import TRAINING, runtime, sanitized

KERNELS = """
import torch
from tiny_math_solver.kernels import load_kernels
kernels = load_kernels(4, 2, 32, torch.float32)
x, weight, out, log_sum = torch.randn(7, 64), torch.ones(64), torch.empty(7, 64), torch.empty(2)
kernels.rms_norm(7, x, weight, 1e-6, 64, out)
logits, target = torch.randn(2, 64), torch.tensor([0, 63])
kernels.target_logprobs(2, logits, 64, 64, 1.0, target, log_sum)
print("right calls are fine", flush=True)
"""
FREED = """
address = x.data_ptr()
del x
import ctypes
kernels.rms_norm.unchecked(
    ctypes.c_long(7), ctypes.c_void_p(address), *kernels.rms_norm.converted((weight, weight, 1e-6, 64, out))[1:]
)
"""
pytestmark = pytest.mark.slow


def needs(sanitizer: str) -> None:
    if runtime(sanitizer) is None:
        pytest.skip(f"no {sanitizer} sanitizer of g++ here")


@pytest.mark.parametrize("sanitizer", ["address", "undefined"])
def test_a_short_training_is_clean(sanitizer: str, tmp_path: Path):
    needs(sanitizer)
    ended = sanitized(sanitizer, [*TRAINING, "--grpo.output_dir", str(tmp_path / "run")], timeout=230)
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert "verdict: greedy accuracy" in ended.stdout
    assert "runtime error" not in ended.stdout
    assert "AddressSanitizer" not in ended.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        "kernels.rms_norm(8, x, weight, 1e-6, 64, out)",  # one row too many
        "kernels.rms_norm(7, x, weight[:48].clone(), 1e-6, 64, out)",
        "target[1] = 64; kernels.target_logprobs(2, logits, 64, 64, 1.0, target, log_sum)",
        FREED,
    ],
    ids=["rows", "weight", "index", "freed"],
)
def test_a_wrong_call_is_found(wrong: str, monkeypatch: pytest.MonkeyPatch):
    """Else a clean training would prove nothing; the switch that checks calls is off."""
    needs("address")
    monkeypatch.delenv("TINY_MATH_CHECK_KERNELS", raising=False)
    assert sanitized("address", ["-c", KERNELS], timeout=120).returncode == 0
    ended = sanitized("address", ["-c", KERNELS + wrong], timeout=120)
    assert ended.returncode != 0
    assert "right calls are fine" in ended.stdout
    assert "AddressSanitizer: heap-" in ended.stdout  # buffer-overflow or use-after-free
    assert re.search(r"#\d 0x\w+ in (rms_norm|target_logprobs)", ended.stdout), ended.stdout[-3000:]
