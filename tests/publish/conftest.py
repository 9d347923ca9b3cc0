"""A finished run to publish, made up, and a stand-in Hub that this process talks to."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from helpers.hub import HubStandin
from helpers.hub_uploads import Account
from helpers.made_up_run import write_run
from helpers.paths import ROOT
from tiny_math_solver.hub import uploads

TOKEN = "hf_Ab12Cd34Ef56Gh78Ij90Kl12Mn34Op56"
READ_TOKEN = "hf_Re12Cd34Ef56Gh78Ij90Kl12Mn34Op56"
EMBEDDED_FOLDER = ROOT / "src/tiny_math_solver/embedded"


def make_up(folder: Path, after_right: int = 3, base: str = "embedded", config: str = "") -> Path:
    """A made-up run with an adapter's files."""
    write_run(folder, after_right=after_right)
    if config:
        (folder / "config.yaml").write_text(config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(EMBEDDED_FOLDER / name, folder / name)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "revision": None, "r": 4}))
    save_file({"weight": torch.arange(4000.0)}, folder / "adapter_model.safetensors")
    for name in ("checkpoint-4/optimizer.bin", "environment.json"):
        (folder / name).parent.mkdir(exist_ok=True)
    (folder / "checkpoint-4" / "optimizer.bin").write_bytes(b"state")
    return folder


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return make_up(tmp_path / "run")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandin]:
    """An empty Hub, on which ada may write to her own repositories and those of sums; waits are short."""
    accounts = {TOKEN: Account("ada", orgs=("sums",)), READ_TOKEN: Account("ada", role="read")}
    with HubStandin(tmp_path / "hub", accounts) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
        monkeypatch.setattr(uploads, "WAITS", (0.01, 0.02, 0.03))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        huggingface_hub.close_session()
        yield running
        huggingface_hub.close_session()
