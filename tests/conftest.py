"""Shared by the tests: no network, a tiny random model, the real GSM8K where it is present."""

import gc
import os
import shutil
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
if not shutil.which("nvidia-smi"):  # without a GPU Triton interprets its kernels; it decides so when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.hub import HubStandin, build_qwen2, publish_defaults
from helpers.paths import GSM8K_DATA


def pytest_collection() -> None:
    """Collect no garbage while the tests are imported, and with them hundreds of modules that stay."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Exempt what the libraries have loaded from garbage collection, which every training run starts several times."""
    gc.collect()
    gc.freeze()
    gc.enable()


CHECKS = "TINY_MATH_CHECK_KERNELS"
CHECKED_FOLDERS = {"kernels", "rollouts", "update"}  # the first of them has a whole training as well


@pytest.fixture(scope="module", autouse=True)
def kernel_checks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Kernels check their calls, where the environment asks for it, in the tests that are about them: it takes time."""
    if CHECKS not in os.environ or request.path.parent.name in CHECKED_FOLDERS:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(CHECKS)
        forget_kernels()
        yield
    forget_kernels()


def forget_kernels() -> None:
    """Have the kernels loaded anew, with the checks that the environment asks for."""
    if kernels := sys.modules.get("tiny_math_solver.kernels"):
        kernels.load_kernels.cache_clear()


@pytest.fixture(scope="session")
def gsm8k_folder() -> Path:
    """The real GSM8K (train.jsonl, test.jsonl), which is not part of the repository."""
    if not (GSM8K_DATA / "test.jsonl").is_file():
        pytest.skip("the real GSM8K is not here")
    return GSM8K_DATA


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Qwen2 with a ChatML tokenizer and Qwen's generation settings."""
    folder = tmp_path_factory.mktemp("tiny-qwen2")
    build_qwen2(folder)
    return folder


@pytest.fixture(autouse=True)
def no_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_TOKEN", "WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def hub_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repositories of the Hub stand-in; a test that changes them publishes into a folder of its own."""
    return publish_defaults(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def hub(hub_root: Path) -> Iterator[HubStandin]:
    with HubStandin(hub_root) as running:
        yield running
