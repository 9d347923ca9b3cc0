"""The Hub paths of the commands, against the local stand-in and through the real client libraries."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from helpers.hub import DATASET, MODEL, Fault, HubStandin, build_gsm8k, build_qwen2, flipped, gsm8k_rows, publish
from helpers.paths import GSM8K
from tiny_math_solver.hub.snapshots import PINNED_REVISIONS
from tiny_math_solver.models.load import load_base, load_model
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.redaction import without_secrets

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


@pytest.fixture(scope="session")
def pinned_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commits that the package pins, and other contents on `main`."""
    root = tmp_path_factory.mktemp("pinned-hub")
    publish(root, "datasets", DATASET, PINNED_REVISIONS[DATASET], build_gsm8k)
    publish(root, "datasets", DATASET, "0" * 40, lambda folder: build_gsm8k(folder, offset=1000), main=True)
    publish(root, "models", MODEL, PINNED_REVISIONS[MODEL], build_qwen2)
    publish(root, "models", MODEL, "1" * 40, lambda folder: build_qwen2(folder, seed=1), main=True)
    return root


@pytest.fixture
def pinned_hub(pinned_root: Path):
    with HubStandin(pinned_root) as running:
        yield running


SNAPSHOTS = """
import json, sys
from tiny_math_solver.hub import snapshots as hub
from tiny_math_solver.support.errors import UserError

hub.WAITS = json.loads(sys.argv[1])
for wanted in json.loads(sys.argv[2]):
    try:
        print(hub.snapshot(*wanted))
    except UserError as error:
        print("UserError:", error)
"""
SHORT_WAITS = (0.1, 0.2, 0.3)


def snapshots(
    hub: HubStandin, home: Path, *wanted: tuple[str, ...], offline: bool = False, **more: str
) -> tuple[list[str], list[str]]:
    """Request repositories in a fresh process: `(a folder or an error for each, the lines on stderr)`."""
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | hub.env(home, offline=offline) | more
    command = [sys.executable, "-c", SNAPSHOTS, json.dumps(SHORT_WAITS), json.dumps(wanted)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def served(hub: HubStandin, kind: str, folder: str) -> Path:
    """The folder that the Hub serves as the cached `folder`."""
    return hub.root / f"{kind}s" / (MODEL if kind == "model" else DATASET) / Path(folder).name


def fetched_files(hub: HubStandin) -> list[str]:
    return sorted(
        request.path.rsplit("/", 1)[-1]
        for request in hub.requests
        if request.method == "GET" and "/resolve/" in request.path
    )


@pytest.mark.slow
def test_fetch_then_train_and_evaluate_without_network(pinned_hub: HubStandin, tmp_path: Path):
    """Catches: an unpinned download, a warm start that still asks the Hub, an adapter that forgets its base."""
    env = pinned_hub.env(tmp_path / "home") | {"HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    fetched = tiny_math(env, "fetch", str(GSM8K))
    assert fetched.returncode == 0, fetched.stderr
    assert pinned_hub.revisions(DATASET) == {PINNED_REVISIONS[DATASET]}
    assert pinned_hub.revisions(MODEL) == {PINNED_REVISIONS[MODEL]}
    assert not pinned_hub.foreign
    assert not [request for request in pinned_hub.requests if request.path.endswith(".bin")]

    asked = len(pinned_hub.requests)
    out = tmp_path / "adapter"
    trained = tiny_math(env, "train", str(GSM8K), *SHORT, "--force", "--grpo.output_dir", str(out))
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
    failed = tiny_math(env, "train", str(GSM8K), "--grpo.output_dir", str(tmp_path / "out"))
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1, failed.stderr
    assert "cannot reach http://127.0.0.1" in failed.stderr
    assert not (tmp_path / "out").exists()


WANTED = (("model", MODEL), ("dataset", DATASET))
PARQUET = "main/test-00000-of-00001.parquet"


def test_a_damaged_file_in_the_cache_is_never_used_and_downloaded_again(pinned_hub: HubStandin, tmp_path: Path):
    """Catches: a flipped byte in a Parquet file or a config, which loads without complaint; a file cut short; one
    that is removed while it cannot be had again."""
    (model, dataset), said = snapshots(pinned_hub, tmp_path, *WANTED)
    assert said == []
    broken = [Path(model, "config.json"), Path(model, "model.safetensors"), Path(dataset, PARQUET)]
    whole = [file.read_bytes() for file in broken]
    for file, damage in zip(broken, (flipped, lambda data: data[:-1], flipped), strict=True):
        file.resolve().write_bytes(damage(file.read_bytes()))
    pinned_hub.requests.clear()

    offline, _ = snapshots(pinned_hub, tmp_path, *WANTED, offline=True)
    pinned_hub.stop()
    unreachable, _ = snapshots(pinned_hub, tmp_path, *WANTED)
    pinned_hub.start()
    for (of_model, of_dataset), remedy in ((offline, "unset HF_HUB_OFFLINE once"), (unreachable, "connect once")):
        assert f"is damaged in the cache ({broken[1]}, {broken[0]}); {remedy}" in of_model
        assert f"is damaged in the cache ({broken[2]}); {remedy}" in of_dataset
    assert pinned_hub.requests == []

    assert snapshots(pinned_hub, tmp_path, *WANTED) == (
        [model, dataset],
        [
            f"tiny-math: model {MODEL}: wrong hash of model.safetensors, config.json; downloading again",
            f"tiny-math: dataset {DATASET}: wrong hash of {PARQUET}; downloading again",
        ],
    )
    assert fetched_files(pinned_hub) == sorted(file.name for file in broken)
    assert [file.read_bytes() for file in broken] == whole
    asked = len(pinned_hub.requests)
    assert snapshots(pinned_hub, tmp_path, *WANTED) == ([model, dataset], [])
    assert len(pinned_hub.requests) == asked


def test_a_file_that_arrives_damaged_is_downloaded_once_more(pinned_hub: HubStandin, tmp_path: Path):
    """Catches: trusting the transfer; a loop that never ends; a damaged file that is left behind in the cache."""
    address = f"/datasets/{DATASET}/resolve/{PINNED_REVISIONS[DATASET]}/{PARQUET}"
    pinned_hub.faults = [Fault(address, flip=True, method="GET")]
    (folder,), said = snapshots(pinned_hub, tmp_path / "once", ("dataset", DATASET))
    assert Path(folder, PARQUET).read_bytes() == (served(pinned_hub, "dataset", folder) / PARQUET).read_bytes()
    assert said == [f"tiny-math: dataset {DATASET}: wrong hash of {PARQUET}; downloading again"]

    pinned_hub.faults = [Fault(address, flip=True, method="GET", times=-1)]
    pinned_hub.requests.clear()
    (failed,), said = snapshots(pinned_hub, tmp_path / "ever", ("dataset", DATASET))
    assert failed.startswith(
        f"UserError: dataset {DATASET}: wrong hash of {PARQUET}, downloaded again from {pinned_hub.url}"
    )
    assert fetched_files(pinned_hub).count(Path(PARQUET).name) == 3  # "main" twice, and the other subset's
    kept = {blob.name: blob.read_bytes() for blob in (tmp_path / "ever").rglob("blobs/*")}
    right = {hashlib.sha256(data).hexdigest() for data in kept.values()}
    assert {name for name in kept if len(name) == 64} <= right
    assert not list((tmp_path / "ever").rglob(PARQUET))


def test_a_cache_without_links_has_nothing_to_compare(pinned_hub: HubStandin, tmp_path: Path):
    """Catches: taking every file of such a cache (Windows) for a damaged one."""
    plain: dict[str, Any] = {"HF_HUB_DISABLE_SYMLINKS": "1"}
    online = snapshots(pinned_hub, tmp_path, *WANTED, **plain)
    assert not Path(online[0][0], "config.json").is_symlink()
    assert snapshots(pinned_hub, tmp_path, *WANTED, offline=True, **plain) == online
    assert online[1] == []


@pytest.mark.slow
def test_passing_trouble_is_waited_out_and_said(pinned_hub: HubStandin, tmp_path: Path):
    """Catches: no second try, a silent one, or one that ignores a Retry-After."""
    api, files = f"/api/models/{MODEL}", f"/{MODEL}/resolve/{PINNED_REVISIONS[MODEL]}"
    pinned_hub.faults = [
        Fault(f"{api}/revision", status=503, times=2),
        Fault(f"{api}/tree", status=429, headers={"Retry-After": "1"}),
        Fault(f"{files}/config.json", cut_after=0, method="HEAD"),
        Fault(f"{files}/model.safetensors", cut_after=1000, method="GET", times=3),
        Fault(f"{files}/tokenizer.json", delay=1.5),
    ]
    started = time.monotonic()
    (folder,), said = snapshots(pinned_hub, tmp_path, ("model", MODEL), HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert time.monotonic() - started < 15
    assert {file.name: file.read_bytes() for file in Path(folder).iterdir()} == {
        file.name: file.read_bytes() for file in served(pinned_hub, "model", folder).iterdir() if file.suffix != ".bin"
    }
    assert [line.removeprefix("tiny-math: 127.0.0.1: ") for line in said] == [
        "503 Service Unavailable; trying again in 0.1 s",
        "503 Service Unavailable; trying again in 0.2 s",
        "429 Too Many Requests (asks for 1 s); trying again in 1 s",
        "connection cut; trying again in 0.1 s",
        "connection cut; trying again in 0.1 s",
        "connection cut; trying again in 0.2 s",
        "connection cut; trying again in 0.3 s",
        "no answer in 1 s; trying again in 0.1 s",
    ]


def test_a_list_of_files_that_is_cut_is_asked_for_again(pinned_hub: HubStandin, tmp_path: Path):
    """Catches: retries of the connection alone, and of downloads, which huggingface_hub resumes itself."""
    pinned_hub.faults = [Fault(f"/api/models/{MODEL}", cut_after=9, method="GET")]
    (folder,), said = snapshots(pinned_hub, tmp_path, ("model", MODEL))
    assert Path(folder, "config.json").is_file()
    assert said == ["tiny-math: 127.0.0.1: connection cut; trying again in 0.1 s"]


def test_requests_go_through_the_proxy_of_the_environment(pinned_hub: HubStandin, tmp_path: Path):
    """Catches: a client of our own that leaves out HTTP_PROXY; the stand-in is the proxy, and refuses."""
    (refused,), said = snapshots(pinned_hub, tmp_path, ("model", MODEL), HF_ENDPOINT="http://hub.example")
    assert refused.startswith("UserError: ")
    assert said == []
    assert [request.path.split("/api/")[0] for request in pinned_hub.foreign] == ["http://hub.example"]


def test_a_long_file_is_resumed_where_it_was_cut(tmp_path: Path):
    """Catches: starting a gigabyte over at each cut. This Hub never sends more than 11 of the file's 24 MB at once."""
    rows = b"".join(
        b'{"question": "%d", "answer": "#### 1"}' % number + b" " * 1000 + b"\n" for number in range(24_000)
    )
    publish(
        tmp_path, "datasets", "some/rows", "a" * 40, lambda folder: (folder / "a.jsonl").write_bytes(rows), main=True
    )
    with HubStandin(tmp_path) as hub:
        hub.faults = [Fault("/datasets/some/rows/resolve", cut_after=11_000_000, method="GET", times=-1)]
        (folder,), said = snapshots(hub, tmp_path / "home", ("dataset", "some/rows"))
    assert Path(folder, "a.jsonl").read_bytes() == rows
    assert len(said) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("/api/models", status=503), "503 Service Unavailable"),
        (Fault(f"/{MODEL}", status=429, headers={"Retry-After": "0"}), "429 Too Many Requests (asks for 0 s)"),
        (Fault(f"/{MODEL}/resolve", cut_after=9, method="GET", reset=True), "connection cut"),
        (Fault("/api/models", delay=3), "no answer in 1 s"),
    ],
    ids=["busy", "limited", "cut", "silent"],
)
def test_trouble_that_stays_ends_in_one_line_after_four_tries(
    pinned_hub: HubStandin, tmp_path: Path, fault: Fault, reason: str
):
    """Catches: huggingface_hub's own retries, which are silent, and long where the Hub says so or says nothing."""
    pinned_hub.faults = [replace(fault, times=-1)]
    started = time.monotonic()
    (failed,), said = snapshots(pinned_hub, tmp_path, ("model", MODEL), HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert time.monotonic() - started < 12
    assert failed.startswith(
        f"UserError: cannot reach {pinned_hub.url} ({reason}; tries: 4), and model {MODEL} at revision "
    )
    assert "; connect once" in failed
    assert [line.removeprefix("tiny-math: 127.0.0.1: ") for line in said] == [
        f"{reason}; trying again in {wait:g} s" for wait in SHORT_WAITS
    ]


def test_what_asking_again_cannot_help_is_asked_once_and_named(pinned_hub: HubStandin, tmp_path: Path):
    """Catches: retries of what no retry can mend, and one message for different mistakes."""
    gated, refused = "/models/some/gated", "/models/some/refused"
    pinned_hub.faults = [
        Fault(f"/api{gated}", status=403, code="GatedRepo", times=-1),
        Fault(f"/api{refused}", status=401, times=-1),
        Fault(f"/{MODEL}/resolve", status=403, code="GatedRepo", times=-1),
    ]
    lines, said = snapshots(
        pinned_hub,
        tmp_path,
        ("model", "no/such-model"),
        ("dataset", DATASET, "f" * 40),
        ("model", "a b"),
        ("model", "some/gated"),
        ("model", "some/refused"),
        ("model", MODEL),  # as on the Hub: all may list the files of a gated repository
    )
    assert said == []
    url = pinned_hub.url
    terms = "is gated: accept its terms on its page, then set HF_TOKEN"
    for line, start in zip(
        lines,
        (
            f"no model no/such-model on {url}: check the name",
            f"dataset {DATASET} has no revision {'f' * 40} on {url}: check the revision",
            f"no model a b on {url}: check the name",
            f"model some/gated {terms}",
            f"{url} answered 401 Unauthorized for model some/refused: check HF_TOKEN",
            f"model {MODEL} {terms}",
        ),
        strict=True,
    ):
        assert line.startswith(f"UserError: {start}")
    paths = [request.path for request in pinned_hub.requests]
    assert len(paths) == len(set(paths)), paths


def test_offline_says_whether_the_cache_is_empty_or_incomplete(pinned_hub: HubStandin, tmp_path: Path):
    """Catches: a cache that a break in the first download left behind, taken for a whole one."""
    pinned_hub.faults = [Fault(f"/{MODEL}/resolve/{PINNED_REVISIONS[MODEL]}/model.safetensors", status=404)]
    snapshots(pinned_hub, tmp_path, ("model", MODEL))
    pinned_hub.stop()
    (model, dataset), _ = snapshots(pinned_hub, tmp_path, *WANTED, offline=True)
    again, said = snapshots(pinned_hub, tmp_path, ("model", MODEL))
    assert said == []  # nobody there at all: no use in waiting
    assert (
        f"in offline mode, and model {MODEL} at revision {PINNED_REVISIONS[MODEL]} is only partly in the cache" in model
    )
    assert f"{PINNED_REVISIONS[DATASET]} is not in the cache; unset HF_HUB_OFFLINE once (tiny-math fetch" in dataset
    assert again[0].startswith(f"UserError: cannot reach {pinned_hub.url} (no connection: ")
    assert "is only partly in the cache; connect once (tiny-math fetch" in again[0]


@pytest.mark.slow
def test_no_message_has_a_password_or_a_token(pinned_hub: HubStandin, tmp_path: Path):
    """Catches: an address printed as it stands in HF_ENDPOINT, by this package or by a library's warning."""
    secret: dict[str, Any] = {
        "HF_ENDPOINT": pinned_hub.url.replace("//", "//ada:pass-word@"),
        "HF_TOKEN": "hf_to-ken",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
    }
    pinned_hub.faults = [
        Fault(f"/{MODEL}/resolve", cut_after=9, method="GET", times=-1),
        Fault(f"/datasets/{DATASET}/resolve", flip=True, times=-1),
    ]
    wanted = (("model", MODEL), ("model", "no/such-model"), ("dataset", DATASET))
    lines, said = snapshots(pinned_hub, tmp_path, *wanted, **secret)
    assert len(said) == 4
    assert all(line.startswith("UserError: ") and pinned_hub.url in line for line in lines)
    assert not [line for line in (*lines, *said) if "pass-word" in line or "to-ken" in line]
    assert without_secrets("at http://a:b@c/d, header b'Bearer hf_abc'") == "at http://c/d, header b'Bearer "


@pytest.mark.slow
def test_a_warm_cache_needs_no_network(pinned_hub: HubStandin, tmp_path: Path):
    """Catches: a request for what is pinned and there; waiting for a Hub that a branch could only be compared with."""
    branch = ("model", MODEL, "main")
    wanted = (*WANTED, branch)
    folders, _ = snapshots(pinned_hub, tmp_path, *wanted)
    assert Path(folders[2]).name == "1" * 40
    pinned_hub.stop()
    refused = timed(lambda: snapshots(pinned_hub, tmp_path, *wanted, branch))
    pinned_hub.start()
    pinned_hub.faults = [Fault("/", delay=5, times=-1)]
    pinned_hub.requests.clear()
    silent = timed(lambda: snapshots(pinned_hub, tmp_path, *wanted, branch, HF_HUB_DOWNLOAD_TIMEOUT="1"))
    for (found, said), seconds in (refused, silent):
        assert found == [*folders, folders[2]]
        assert len(said) == 1
        assert said[0].endswith(f"model {MODEL} is taken from the cache, commit {'1' * 12}")
        assert seconds < 5
    assert [request.revision for request in pinned_hub.requests] == ["main"]


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    started = time.monotonic()
    return action(), time.monotonic() - started


def test_neither_pickle_nor_code_is_downloaded(tmp_path: Path):
    """Catches: a list of forbidden suffixes that someone's file is not on."""
    unwanted = [
        "pytorch_model.bin", "sub/weights.bin", "a.pkl", "a.pickle", "last.ckpt", "rust_model.ot", "a.pt", "a.pth",
        "tf_model.h5", "flax_model.msgpack", "modeling_own.py", "sub/own.py", "a.joblib", "onnx/model.onnx", "a.npy",
    ]  # fmt: skip

    def build(folder: Path) -> None:
        build_qwen2(folder)
        add(folder)
        settings = json.loads((folder / "config.json").read_text()) | {
            "model_type": "own",
            "auto_map": {"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"},
        }
        (folder / "config.json").write_text(json.dumps(settings))

    def add(folder: Path) -> None:
        for name in unwanted:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")

    def build_rows(folder: Path) -> None:
        build_gsm8k(folder)
        add(folder)

    def build_without_weights(folder: Path) -> None:
        build(folder)
        (folder / "model.safetensors").unlink()

    publish(tmp_path, "models", "some/model", "a" * 40, build, main=True)
    publish(tmp_path, "models", "some/pickle", "b" * 40, build_without_weights, main=True)
    publish(tmp_path, "datasets", "some/rows", "c" * 40, build_rows, main=True)
    with HubStandin(tmp_path) as hub:
        wanted = (("model", "some/model"), ("dataset", "some/rows"), ("model", "some/pickle"))
        (model, dataset, refused), _ = snapshots(hub, tmp_path / "home", *wanted)
        assert {file.suffix for file in Path(model).rglob("*") if file.is_file()} == {".safetensors", ".json", ".txt"}
        assert {file.suffix for file in Path(dataset).rglob("*") if file.is_file()} == {".parquet", ".md"}
        assert refused.startswith("UserError: model some/pickle at revision " + "b" * 40 + " has no model.safetensors")
        loaded = tiny_math(hub.env(tmp_path / "home"), "eval", "some/model", "--problems", "embedded")
    assert loaded.returncode == 2
    assert loaded.stderr.count("\n") == 1
    assert "code" in loaded.stderr
    assert not (tmp_path / "executed").exists()

    config = {"peft_type": "LORA", "base_model_name_or_path": "embedded"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
        load_model("embedded", adapter=tmp_path)


def test_an_adapter_on_the_hub_is_evaluated_and_trained_on(tmp_path: Path):
    """Its base is another repository, whose name stands in the adapter."""

    def build_adapter(folder: Path) -> None:
        model = get_peft_model(load_base(str(base)), LoraConfig(r=4, target_modules="all-linear"))
        model.save_pretrained(str(folder))
        settings = json.loads((folder / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = "someone/base"
        (folder / "adapter_config.json").write_text(json.dumps(settings))

    base = publish(tmp_path / "hub", "models", "someone/base", "b" * 40, build_qwen2, main=True)
    publish(tmp_path / "hub", "models", "someone/lora", "a" * 40, build_adapter, main=True)
    out, config = tmp_path / "out", ["--problems.source", "embedded", "--problems.train", "32", "--problems.test", "4"]
    with HubStandin(tmp_path / "hub") as hub:
        env = hub.env(tmp_path / "home")
        start = ["train", str(GSM8K), *SHORT, *config, "--force", "--grpo.output_dir", str(out)]
        trained = tiny_math(env, *start, "--model.name", "someone/lora")
        assert trained.returncode in (0, 3), trained.stderr
        assert "trains adapter someone/lora on: its r=4" in trained.stdout
        assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/base"
        offline = env | {"HF_HUB_OFFLINE": "1"}
        measured = tiny_math(offline, "eval", "someone/lora", "--problems", "embedded", "--limit", "2")
        assert measured.returncode == 0, measured.stderr
        assert not hub.foreign
