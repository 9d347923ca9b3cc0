"""The kernels by themselves: what torch computes, and what happens where they cannot be had."""

import shutil
from ctypes import CDLL, c_float, c_long
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tiny_math_solver import kernels as package
from tiny_math_solver.kernels import at, kernels
from tiny_math_solver.models.load import load_model
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts import EngineRollouts, Sampling

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")


@pytest.fixture
def library() -> CDLL:
    found = kernels(4, 2, 32, torch.float32)
    assert not isinstance(found, str), found
    return found


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nothing compiled yet, and a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kernels.cache_clear()
    yield tmp_path / "cache" / "tiny-math-solver"
    kernels.cache_clear()


def linear(library: CDLL, x: torch.Tensor, weight: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
    panel, bias = library.panel_columns(), torch.linspace(-1, 1, len(weight))
    panels = weight.view(-1, panel, weight.shape[1]).transpose(1, 2).contiguous()
    out = torch.full((len(x), len(weight)), torch.nan)
    sizes = c_long(len(x)), c_long(x.shape[1]), c_long(len(weight))
    library.linear(sizes[0], at(x), sizes[1], at(panels), at(bias), at(add), at(out), sizes[2])
    return out


@needs_compiler
@pytest.mark.parametrize("rows", [1, 2, 5, 11, 12, 13, 25, 40])
def test_products_are_torchs_and_the_same_to_the_bit_in_any_batch(rows: int, library):
    generator = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, 96, generator=generator), torch.randn(128, 96, generator=generator)
    add = torch.randn(rows, 128, generator=generator)
    expected = x.double() @ weight.double().T + torch.linspace(-1, 1, 128)
    whole = linear(library, x, weight)
    assert torch.allclose(whole.double(), expected, atol=1e-5)
    assert torch.allclose(linear(library, x, weight, add).double(), expected + add, atol=1e-5)
    assert torch.equal(linear(library, x[-1:].contiguous(), weight), whole[-1:])


@needs_compiler
def test_norm_and_gate_are_torchs_far_out_too(library):
    x = torch.randn(7, 256) * torch.logspace(-3, 3, 256)
    weight, out = torch.randn(256), torch.empty(7, 256)
    library.norm(c_long(7), at(x), at(weight), c_float(1e-6), c_long(256), at(out))
    assert torch.allclose(out, functional.rms_norm(x, (256,), weight, 1e-6), rtol=1e-5, atol=1e-6)
    x[0, :4] = torch.tensor([200.0, -200.0, 0.0, -90.0])
    gated = torch.empty(7, 128)
    library.gate(c_long(7), at(x), c_long(128), at(gated))
    expected = functional.silu(x[:, :128].double()) * x[:, 128:]
    assert torch.allclose(gated.double(), expected, rtol=1e-5, atol=1e-6)


@needs_compiler
def test_sums_over_tokens_are_torchs(library):
    left, right, out = torch.randn(70, 50), torch.randn(70, 64), torch.ones(50, 64)
    library.add_product(c_long(70), at(left), c_long(50), at(right), c_long(64), at(out))
    assert torch.allclose(out.double(), left.double().T @ right.double() + 1, atol=1e-5)


@needs_compiler
def test_they_are_compiled_once_and_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    assert isinstance(kernels(4, 2, 32, torch.float32), CDLL)
    (kept,) = fresh.iterdir()
    changed = kept.stat().st_mtime_ns
    kernels.cache_clear()
    assert isinstance(kernels(4, 2, 32, torch.float32), CDLL)
    assert [path.stat().st_mtime_ns for path in fresh.iterdir()] == [changed]
    assert isinstance(kernels(4, 2, 32, torch.bfloat16), CDLL)
    assert len(list(fresh.iterdir())) == 2


@needs_compiler
def test_a_cache_folder_that_cannot_be_had_is_done_without(fresh: Path):
    fresh.parent.write_text("a file where the folder should be")
    assert isinstance(kernels(4, 2, 32, torch.float32), CDLL)


@needs_compiler
def test_a_cache_folder_that_others_can_write_to_is_not_used(fresh: Path):
    """What is loaded from there runs in this process."""
    fresh.mkdir(parents=True)
    fresh.chmod(0o777)
    assert isinstance(kernels(4, 2, 32, torch.float32), CDLL)
    assert list(fresh.iterdir()) == []


def test_without_a_compiler_torch_does_it(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package.shutil, "which", lambda name: None)
    loaded = load_model("embedded", dtype="float32")
    rollouts = EngineRollouts(loaded.model, loaded.tokenizer)
    assert rollouts.kind == "torch alone: no g++ found"
    (made,) = rollouts.generate([Prompt([5, 6, 7], 0)], 1, Sampling(4, temperature=0))
    assert len(made.completion_ids) in range(1, 5)


def test_a_compiler_that_fails_is_named(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho 'no space left' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert kernels(4, 2, 32, torch.float32) == f"{compiler} failed: no space left"
    assert list(fresh.iterdir()) == []


def test_a_shape_without_kernels_says_so():
    assert kernels(4, 2, 24, torch.float32) == "no kernels for heads of 24 numbers in float32"
    assert kernels(4, 2, 32, torch.float16) == "no kernels for heads of 32 numbers in float16"
