"""The stand-in for the Hub is worth something only if the real clients cannot tell the difference."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from helpers.hub import (
    DATASET,
    GENERATION_TRAPS,
    GSM8K_REVISION,
    MODEL,
    MODEL_REVISION,
    Fault,
    HubStandin,
    gsm8k_rows,
)

LOAD_EVERYTHING = """
import json, sys
from datasets import load_dataset
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

dataset, dataset_revision, model, model_revision = sys.argv[1:]
rows = load_dataset(dataset, "main", revision=dataset_revision)
tokenizer = AutoTokenizer.from_pretrained(model, revision=model_revision)
network = AutoModelForCausalLM.from_pretrained(model, revision=model_revision)
weight = network.model.layers[1].mlp.down_proj.weight
print(json.dumps({
    "rows": {split: part.to_list() for split, part in rows.items()},
    "architecture": AutoConfig.from_pretrained(model, revision=model_revision).architectures,
    "digits": tokenizer.tokenize("has 123"),
    "round_trip": tokenizer.decode(tokenizer("Ada: 3 x 4 = 12 \\u00e9\\n")["input_ids"]),
    "chat": tokenizer.apply_chat_template([{"role": "user", "content": "1+1"}], tokenize=False),
    "specials": [tokenizer.eos_token, tokenizer.pad_token],
    "vocabulary": [len(tokenizer), network.config.vocab_size],
    "dtype": str(network.dtype),
    "weight_sum": weight.double().sum().item(),
    "generation": network.generation_config.to_diff_dict(),
    "snapshot": snapshot_download(model, revision=model_revision),
}))
"""


def load_everything(env: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-c", LOAD_EVERYTHING, DATASET, GSM8K_REVISION, MODEL, MODEL_REVISION]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


@pytest.mark.slow
def test_client_libraries_load_what_is_served_and_then_work_offline(hub: HubStandin, tmp_path: Path) -> None:
    """Catches a stand-in that serves other contents or another commit than asked for, and a cache that
    only looks complete: the offline load must give the same values without one request."""
    # `datasets` counts each load by a request to S3, also with telemetry switched off.
    env = hub.env(tmp_path) | {"HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    online = load_everything(env)

    assert online["rows"] == {split: gsm8k_rows("main", split) for split in ("train", "test")}
    assert online["architecture"] == ["Qwen2ForCausalLM"]
    assert online["digits"] == ["has", "Ġ", "1", "2", "3"]
    assert online["round_trip"] == "Ada: 3 x 4 = 12 é\n"
    assert online["chat"] == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n1+1<|im_end|>\n"
    )
    assert online["specials"] == ["<|im_end|>", "<|endoftext|>"]
    assert online["vocabulary"][0] == online["vocabulary"][1]
    assert online["dtype"] == "torch.bfloat16"
    assert GENERATION_TRAPS.items() <= online["generation"].items()

    served = hub.root / "models" / MODEL / MODEL_REVISION
    downloaded = Path(online["snapshot"])
    assert {p.name: p.read_bytes() for p in downloaded.iterdir()} == {p.name: p.read_bytes() for p in served.iterdir()}
    from safetensors.torch import load_file

    weight = load_file(served / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    assert online["weight_sum"] == weight.double().sum().item() != 0

    assert hub.revisions(DATASET) == {GSM8K_REVISION}
    assert hub.revisions(MODEL) == {MODEL_REVISION}
    assert not hub.foreign

    asked = len(hub.requests)
    assert load_everything(hub.env(tmp_path, offline=True)) == online
    assert hub.requests[asked:] == []


def test_pinned_revision_and_main_differ(hub: HubStandin) -> None:
    """Catches a stand-in on which forgetting the pin would go unnoticed."""
    for kind, repo, file in (
        ("datasets", DATASET, "main/train-00000-of-00001.parquet"),
        ("models", MODEL, "model.safetensors"),
    ):
        commits = [folder for folder in (hub.root / kind / repo).iterdir() if folder.is_dir()]
        assert len({(folder / file).read_bytes() for folder in commits}) == len(commits) == 2


def test_rows_have_the_golds_that_break_graders() -> None:
    """Catches rows that are easier to grade than gsm8k: it has golds with commas and golds below zero."""
    golds = [row["answer"].rpartition("#### ")[2] for split in ("train", "test") for row in gsm8k_rows("main", split)]
    values = [int(gold.replace(",", "")) for gold in golds]
    assert any("," in gold for gold in golds)
    assert min(values) < 0
    assert len({row["question"] for split in ("train", "test") for row in gsm8k_rows("main", split)}) == 56
    assert all("**" in row["answer"] for row in gsm8k_rows("socratic", "test"))


def get(hub: HubStandin, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(hub.url + path, headers=headers), timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as problem:
        return problem.code, problem.read(), dict(problem.headers)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/Qwen/nope", "RepoNotFound"),
        (f"/api/models/{MODEL}/revision/{'f' * 40}", "RevisionNotFound"),
        (f"/{MODEL}/resolve/{MODEL_REVISION}/nope.json", "EntryNotFound"),
        (f"/datasets/{DATASET}/resolve/{'f' * 40}/README.md", "RevisionNotFound"),
        (f"/api/datasets/{DATASET}/tree/{GSM8K_REVISION}/nope", "EntryNotFound"),
    ],
)
def test_what_is_missing_is_named_as_the_hub_names_it(hub: HubStandin, path: str, code: str) -> None:
    """Catches a bare 404: the libraries tell a wrong name from a wrong revision by this header only."""
    status, _, headers = get(hub, path)
    assert (status, headers["X-Error-Code"]) == (404, code)


def test_parts_of_a_file_can_be_asked_for(hub: HubStandin) -> None:
    """Catches a resumed download that gets the whole file again and ends up with a corrupt one."""
    path = f"/{MODEL}/resolve/{MODEL_REVISION}/config.json"
    _, whole, _ = get(hub, path)
    for wanted, part in (("bytes=5-9", whole[5:10]), ("bytes=7-", whole[7:]), ("bytes=-4", whole[-4:])):
        assert get(hub, path, Range=wanted)[:2] == (206, part)
    assert get(hub, path, Range=f"bytes={len(whole)}-")[0] == 416


def test_nothing_outside_the_repository_is_served(hub: HubStandin) -> None:
    """Catches a path that climbs out of the folder being served."""
    assert get(hub, f"/{MODEL}/resolve/{MODEL_REVISION}/..%2F..%2Fmain")[0] == 400


def test_faults_strike_as_often_as_asked(hub: HubStandin) -> None:
    """Catches a fault that never ends, or one that also strikes what it was not meant for."""
    path = f"/{MODEL}/resolve/{MODEL_REVISION}/config.json"
    hub.faults = [Fault(f"/{MODEL}/resolve", status=503, times=2)]
    assert get(hub, f"/api/models/{MODEL}")[0] == 200
    assert [get(hub, path)[0] for _ in range(3)] == [503, 503, 200]
    hub.faults = [Fault("/", cut_after=10)]
    with pytest.raises(http.client.IncompleteRead):
        get(hub, path)
    hub.faults = [Fault("/", cut_after=0)]
    with pytest.raises(http.client.RemoteDisconnected):
        get(hub, path)
    assert get(hub, path)[0] == 200


def test_a_stopped_hub_refuses_and_comes_back_on_the_same_port(hub: HubStandin) -> None:
    """Catches a `stop` after which kept-alive connections are still served: "the network went away" tests
    would then pass with the network there."""
    url = hub.url
    kept_alive = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=10)
    kept_alive.request("GET", "/api/whoami-v2")
    assert kept_alive.getresponse().read()
    hub.stop()
    assert kept_alive.sock.recv(1) == b"", "the kept-alive connection is still open"
    with pytest.raises(urllib.error.URLError):
        get(hub, "/api/whoami-v2")
    hub.start()
    assert hub.url == url
    assert get(hub, "/api/whoami-v2")[0] == 401
