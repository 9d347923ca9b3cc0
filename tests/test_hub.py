"""The Hub paths of the commands, against the local stand-in and through the real client libraries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import DATASET, MODEL, Fault, HubStandin, build_gsm8k, build_qwen2, gsm8k_rows, publish

from tiny_math_solver.hub import PINNED_REVISIONS

CONFIG = Path(__file__).parents[1] / "configs" / "gsm8k-qwen2.5-0.5b.yaml"
SHORT = [
    "--problems.dev", "8", "--grpo.max_steps", "1", "--grpo.max_completion_length", "6",
    "--evaluation.samples", "0", "--grpo.save_strategy", "no",
]  # fmt: skip


def tiny_math(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    return subprocess.run(
        [sys.executable, "-m", "tiny_math_solver.cli", *arguments],
        env=clean | env,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture
def pinned_hub(tmp_path: Path):
    """A Hub that has the commits the product pins, and other contents on `main`."""
    root = tmp_path / "hub"
    publish(root, "datasets", DATASET, PINNED_REVISIONS[DATASET], build_gsm8k)
    publish(root, "datasets", DATASET, "0" * 40, lambda folder: build_gsm8k(folder, offset=1000), main=True)
    publish(root, "models", MODEL, PINNED_REVISIONS[MODEL], build_qwen2)
    publish(root, "models", MODEL, "1" * 40, lambda folder: build_qwen2(folder, seed=1), main=True)
    with HubStandin(root) as running:
        yield running


@pytest.mark.slow
def test_fetch_then_train_and_evaluate_without_network(pinned_hub: HubStandin, tmp_path: Path):
    """Catches: an unpinned download, a warm start that still asks the Hub, an adapter that forgets its base."""
    env = pinned_hub.env(tmp_path / "home") | {"HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    fetched = tiny_math(env, "fetch", str(CONFIG))
    assert fetched.returncode == 0, fetched.stderr
    assert pinned_hub.revisions(DATASET) == {PINNED_REVISIONS[DATASET]}
    assert pinned_hub.revisions(MODEL) == {PINNED_REVISIONS[MODEL]}
    assert not pinned_hub.foreign
    assert not [request for request in pinned_hub.requests if request.path.endswith(".bin")]

    asked = len(pinned_hub.requests)
    out = tmp_path / "adapter"
    trained = tiny_math(env, "train", str(CONFIG), *SHORT, "--grpo.output_dir", str(out))
    # a random model earns nothing and the run says so with its own exit code
    assert trained.returncode in (0, 3), trained.stderr
    assert "each step: 4 problems × 4 samples = 16 completions" in trained.stdout
    questions = {row["question"] for row in gsm8k_rows("main", "train")}
    rollouts = [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]
    assert len(rollouts) == 16
    assert {r["question"] for r in rollouts} <= questions
    settings = json.loads((out / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == (MODEL, PINNED_REVISIONS[MODEL])

    measured = tiny_math(env | {"HF_HUB_OFFLINE": "1"}, "eval", str(out), "--max-new-tokens", "4", "--json")
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["n"] == len(gsm8k_rows("main", "test"))
    assert len(pinned_hub.requests) == asked, pinned_hub.requests[asked:]


@pytest.mark.slow
def test_an_unreachable_hub_is_one_line_within_seconds(pinned_hub: HubStandin, tmp_path: Path):
    env = pinned_hub.env(tmp_path / "home")
    pinned_hub.stop()
    failed = tiny_math(env, "train", str(CONFIG), "--grpo.output_dir", str(tmp_path / "out"))
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1, failed.stderr
    assert "cannot reach http://127.0.0.1" in failed.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_model_revision_or_dataset_is_named(pinned_hub: HubStandin, tmp_path: Path, capfd):
    """In one process, as imports are most of the time; the endpoint is read when huggingface_hub is imported."""
    code = """
import sys
from tiny_math_solver.errors import UserError
from tiny_math_solver.hub import snapshot
for kind, name, revision in [("model", "no/such-model", None), ("dataset", "openai/gsm8k", "f" * 40),
                             ("model", "a b", None)]:
    try:
        snapshot(kind, name, revision)
    except UserError as error:
        print(error)
"""
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | pinned_hub.env(tmp_path / "home")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert lines[0].startswith("no model no/such-model on http://127.0.0.1")
    assert lines[1].startswith(f"dataset openai/gsm8k has no revision {'f' * 40} on http://127.0.0.1")
    assert lines[2].startswith("no model a b")


def test_a_busy_hub_is_said_to_be_out_of_reach(pinned_hub: HubStandin, tmp_path: Path):
    pinned_hub.faults.append(Fault("/api/models", status=503, times=-1))
    code = "from tiny_math_solver.hub import snapshot; snapshot('model', 'Qwen/Qwen2.5-0.5B-Instruct')"
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | pinned_hub.env(tmp_path / "home")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert "UserError: cannot reach http://127.0.0.1" in done.stderr
