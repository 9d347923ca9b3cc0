"""`bash src/train_math.sh` with a pretrained model and GSM8K from a stand-in for the Hub. Marker `real`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.hub import DATASET, MODEL, HubStandin, build_gsm8k, link_files, publish
from helpers.paths import GSM8K_DATA, ROOT
from helpers.real_models import QWEN, real_model
from tiny_math_solver.hub.snapshots import PINNED_REVISIONS

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]
SHORT = [
    "--model.dtype", "bfloat16", "--problems.dev", "4", "--problems.test", "4", "--evaluation.samples", "0",
    "--grpo.max_steps", "1", "--grpo.max_completion_length", "300", "--update.tokens_per_pass", "1024",
]  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubStandin]:
    """The pretrained model under the name and commit of the configuration's, and GSM8K, where it is at hand."""
    model, root = real_model(QWEN), tmp_path / "hub"
    publish(root, "models", MODEL, PINNED_REVISIONS[MODEL], lambda folder: link_files(model, folder))
    splits = {split: GSM8K_DATA / f"{split}.jsonl" for split in ("train", "test")}
    there = all(file.is_file() for file in splits.values())
    rows = {s: [json.loads(line) for line in f.read_text().splitlines()] for s, f in splits.items()} if there else None
    publish(root, "datasets", DATASET, PINNED_REVISIONS[DATASET], lambda folder: build_gsm8k(folder, rows_of=rows))
    with HubStandin(root) as running:
        yield running


def test_train_math_downloads_checks_trains_and_proves(hub: HubStandin, tmp_path: Path):
    """Catches a README command that fails for whoever types it first, and one that needs anything but the Hub."""
    out = tmp_path / "run"
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | hub.env(tmp_path / "home")
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    done = subprocess.run(
        ["bash", str(ROOT / "src" / "train_math.sh"), *SHORT, "--grpo.output_dir", str(out)],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1000,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert f"model: {MODEL}, LoRA r=16 alpha=32" in done.stdout
    assert "each step: 4 problems × 4 samples = 16 completions" in done.stdout
    assert not hub.foreign
    assert hub.revisions(MODEL) == {PINNED_REVISIONS[MODEL]}
    assert hub.revisions(DATASET) == {PINNED_REVISIONS[DATASET]}
    settings = json.loads((out / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == (MODEL, PINNED_REVISIONS[MODEL])
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["steps"], summary["before"]["n"]) == (1, 4)
