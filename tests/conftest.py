"""Shared by the tests: no network, a tiny random model, the real GSM8K where it is present."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.hub import HubStandin, build_qwen2, publish_defaults
from helpers.paths import GSM8K_DATA


def pytest_collection_finish() -> None:
    """Exempt what the libraries have loaded from garbage collection, which every training run starts several times."""
    gc.collect()
    gc.freeze()


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
