"""`tiny-math push` against the stand-in Hub: what arrives, how often, who may, and what never leaves the machine."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.hub import Fault, HubStandin
from helpers.hub_uploads import commit, commits, head, is_private
from helpers.paths import ROOT
from helpers.runs import SHORT, run
from publish.conftest import READ_TOKEN, TOKEN, make_up
from tiny_math_solver.cli import main
from tiny_math_solver.hub.uploads import Repository, Uploader
from tiny_math_solver.support.errors import EXIT_INTERRUPTED, UserError

PUBLISHED = {
    "README.md", "adapter_config.json", "adapter_model.safetensors", "config.yaml", "report.html", "summary.json",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def push(folder: Path, *arguments: str) -> int:
    return main(["push", str(folder), *arguments])


def repository(hub: HubStandin, name: str = "ada/sums") -> Path:
    return hub.root / "models" / name


def files(hub: HubStandin, name: str = "ada/sums", branch: str = "main") -> dict[str, bytes]:
    """The files of the head of a branch, but for the Hub's own."""
    snapshot = repository(hub, name) / head(repository(hub, name), branch)
    return {path.name: path.read_bytes() for path in snapshot.iterdir() if path.name != ".gitattributes"}


# -- What arrives -----------------------------------------------------------------------------------------------


def test_three_cuts_and_all_of_it_arrives_in_one_commit(finished: Path, hub: HubStandin, tmp_path: Path, capsys):
    """Catches: a file sent from where it was cut, a commit that is sent again because its answer was lost."""
    assert push(finished, "ada/sums", "--dry-run", "--out", str(tmp_path / "out")) == 0
    shown = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    hub.faults = [
        Fault("/lfs/whole", method="PUT", cut_body=1000),
        Fault("/api/models/ada/sums/paths-info", cut_after=0),
        Fault("/api/models/ada/sums/commit", unanswered=True),
    ]
    assert push(finished, "ada/sums", "--yes") == 0
    assert [fault.times for fault in hub.faults] == [0, 0, 0]
    assert set(shown) == PUBLISHED
    assert files(hub) == shown
    made = commits(repository(hub))
    assert [one["message"] for one in made] == [
        "initial commit",
        "GRPO: greedy accuracy 25.0% → 75.0% on 4 test problems (2 fixed, 0 broken, p = 0.5): no significant gain",
    ]
    sent = hashlib.sha256((finished / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert hub.uploads.received == [sent]
    assert is_private(repository(hub))
    printed = capsys.readouterr()
    assert "ada/sums will be created (private)" in printed.out
    assert printed.err.count("connection cut; trying again") == 3
    assert not hub.foreign


def test_the_same_command_again_sends_nothing(finished: Path, hub: HubStandin, capsys):
    assert push(finished, "ada/sums", "--yes") == 0
    asked = len(hub.requests)
    assert push(finished, "sums", "--yes") == 0  # of the account itself
    assert "already there" in capsys.readouterr().out
    assert len(commits(repository(hub))) == 2
    assert len(hub.uploads.received) == 1
    assert not [request for request in hub.requests[asked:] if request.method == "PUT" or "/commit/" in request.path]


def test_a_commit_that_is_never_answered_ends_in_one_line_and_the_same_command_goes_on(
    finished: Path, hub: HubStandin, capsys
):
    """Catches: tries without end, since requests in between succeed."""
    hub.faults = [Fault("/api/models/ada/sums/commit", cut_after=0, times=-1)]
    assert push(finished, "ada/sums", "--yes") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "(connection cut; tries: 4); the same command goes on, and sends only what is missing" in last
    assert len(commits(repository(hub))) == 1
    hub.faults = []
    assert push(finished, "ada/sums", "--yes") == 0
    assert len(commits(repository(hub))) == 2
    assert len(hub.uploads.received) == 1


def test_a_commit_that_is_made_only_after_the_next_try_has_begun_is_not_made_twice(finished: Path, hub: HubStandin):
    """Catches: a commit without its parent, of which the Hub makes a second."""
    hub.faults = [Fault("/api/models/ada/sums/commit", unanswered=True, late=0.3)]
    assert push(finished, "ada/sums", "--yes") == 0
    time.sleep(0.5)
    assert len(commits(repository(hub))) == 2
    assert set(files(hub)) == PUBLISHED


def test_a_commit_waits_for_another_that_is_being_made(finished: Path, hub: HubStandin):
    hub.faults = [Fault("/api/models/ada/sums/commit", status=409, times=2)]
    assert push(finished, "ada/sums", "--yes") == 0
    assert len(commits(repository(hub))) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again(status: int, finished: Path, hub: HubStandin):
    hub.faults = [
        Fault(path, status=status, headers={"Retry-After": "0"})
        for path in ("/api/whoami", "/lfs/whole", "/api/models/ada/sums/commit")
    ]
    assert push(finished, "ada/sums", "--yes") == 0
    assert len(commits(repository(hub))) == 2
    assert set(files(hub)) == PUBLISHED


def test_a_commit_of_somebody_else_in_between_is_kept(finished: Path, hub: HubStandin, monkeypatch: pytest.MonkeyPatch):
    look = Uploader._holds
    others: list[str] = []

    def look_while_another_commits(self, *arguments) -> bool:
        held = look(self, *arguments)
        if not others:
            others.append(commit(repository(hub), "main", {"notes.txt": b"mine"}, "another's"))
        return held

    monkeypatch.setattr(Uploader, "_holds", look_while_another_commits)
    assert push(finished, "ada/sums", "--yes") == 0
    assert set(files(hub)) == {*PUBLISHED, "notes.txt"}
    assert [one["message"][:9] for one in commits(repository(hub))] == ["initial c", "another's", "GRPO: gre"]


def test_a_large_file_goes_in_parts_and_a_part_that_is_cut_goes_again(finished: Path, hub: HubStandin):
    hub.uploads.part_size = 5000
    hub.faults = [Fault("/lfs/part/", cut_body=100), Fault("/lfs/complete", unanswered=True)]
    assert push(finished, "ada/sums", "--yes") == 0
    weights = (finished / "adapter_model.safetensors").read_bytes()
    assert len(weights) > 3 * 5000
    assert files(hub)["adapter_model.safetensors"] == weights


@pytest.mark.slow
def test_a_killed_upload_goes_on(finished: Path, hub: HubStandin, tmp_path: Path):
    """Killed when the weights have arrived and the commit is on its way."""
    hub.faults = [Fault("/api/validate-yaml", delay=60)]
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    env |= hub.env(tmp_path / "home") | {"HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "tiny_math_solver.cli", "push", str(finished), "ada/sums", "--yes"]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 60
        while not any(request.path == "/api/validate-yaml" for request in hub.requests) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert len(hub.uploads.received) == 1
    assert len(commits(repository(hub))) == 1
    hub.faults = []
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert set(files(hub)) == PUBLISHED
    assert len(hub.uploads.received) == 1
    assert len(commits(repository(hub))) == 2


def test_a_branch(finished: Path, hub: HubStandin):
    assert push(finished, "ada/sums", "--yes", "--revision", "seed-1") == 0
    assert set(files(hub, branch="seed-1")) == PUBLISHED
    assert files(hub) == {}
    assert push(finished, "ada/sums", "--yes", "--revision", "seed-1") == 0
    assert len(commits(repository(hub))) == 2


# -- Visibility, and being asked --------------------------------------------------------------------------------


def test_public_only_if_asked_for_and_never_changed_afterwards(finished: Path, hub: HubStandin, capsys):
    assert push(finished, "sums/open", "--yes", "--public") == 0
    assert "sums/open will be created (public)" in capsys.readouterr().out
    assert push(make_up(finished.parent / "other", after_right=2), "sums/open", "--yes") == 0
    assert "sums/open exists and stays public" in capsys.readouterr().out
    assert not is_private(repository(hub, "sums/open"))
    assert push(finished, "ada/sums", "--yes") == 0
    assert push(finished, "ada/sums", "--yes", "--public") == 0
    assert "ada/sums exists and stays private: its settings page makes it public" in capsys.readouterr().out
    assert is_private(repository(hub))


def test_without_a_terminal_nothing_is_uploaded_unasked(finished: Path, hub: HubStandin, capsys):
    assert push(finished, "ada/sums") == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("tiny-math: push asks for confirmation and there is no terminal: add --yes")
    assert (printed.err.count("\n"), printed.out, hub.requests) == (1, "", [])


@pytest.mark.parametrize(("answer", "code"), [("n", EXIT_INTERRUPTED), ("", EXIT_INTERRUPTED), ("y", 0)])
def test_it_asks(answer: str, code: int, finished: Path, hub: HubStandin, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert push(finished, "ada/sums") == code
    printed = capsys.readouterr().out
    size = (finished / "adapter_model.safetensors").stat().st_size
    assert f"  adapter_model.safetensors    {size / 1e3:.1f} kB\n" in printed
    assert f"{len(PUBLISHED)} files, " in printed
    assert repository(hub).exists() == (code == 0)


def test_a_dry_run_needs_no_network_and_no_token(
    finished: Path, hub: HubStandin, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.delenv("HF_TOKEN")
    assert push(finished, "ada/sums", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "adapter_model.safetensors" in printed
    assert "\nlibrary_name: peft\n" in printed
    assert hub.requests == []


# -- Who may ----------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], hub: HubStandin, *said: str) -> None:
    """One line, which says all of this, and nothing has been made or sent."""
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    for text in said:
        assert text in err
    assert "Traceback" not in err
    assert not (hub.root / "lfs").exists()


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "no token: log in once with `hf auth login`, or set HF_TOKEN"),
        ("hf_Zz12Cd34Ef56Gh78Ij90Kl12Mn34Op56", "does not know this token"),
        (READ_TOKEN, "the token of ada may only read"),
        ("hf_é", "the token contains invalid characters"),
    ],
)
def test_no_token_a_wrong_one_and_one_that_may_only_read(
    token: str, said: str, finished: Path, hub: HubStandin, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setenv("HF_TOKEN", token)
    assert push(finished, "ada/sums", "--yes") == 2
    refused(capsys, hub, said)


def test_the_token_of_the_hubs_login_will_do(
    finished: Path, hub: HubStandin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(TOKEN)
    assert push(finished, "ada/sums", "--yes") == 0


@pytest.mark.parametrize(
    "name", ["ada/su ms", "a/b/c", "-sums", "ada/sums.git", "ada/s--s", "ada/" + 97 * "s", "../sums", ""]
)
def test_names_that_no_repository_has(name: str, finished: Path, hub: HubStandin, capsys):
    assert main(["push", str(finished), "--yes", "--", name]) == 2
    refused(capsys, hub, "is not a valid repository name")
    assert hub.requests == []


def test_a_repository_of_others(finished: Path, hub: HubStandin, capsys):
    """A new one in their namespace, one that is there, and a private one, which is said not to be there."""
    assert push(finished, "bob/new", "--yes") == 2
    refused(capsys, hub, "may not write to bob/new", "don't have the rights to create")
    for name, private in (("bob/open", False), ("bob/hidden", True)):
        commit(repository(hub, name), "main", {"a": b"b"}, "initial commit")
        (repository(hub, name) / "settings.json").write_text(json.dumps({"private": private}))
        assert push(finished, name, "--yes") == 2
        refused(capsys, hub, f"may not write to {name}")
        assert len(commits(repository(hub, name))) == 1


def test_a_hub_that_is_down(finished: Path, hub: HubStandin, capsys):
    hub.stop()
    assert push(finished, "ada/sums", "--yes") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[-1].startswith(f"tiny-math: cannot reach {hub.url} (no connection")


def test_offline_mode(finished: Path, hub: HubStandin, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert push(finished, "ada/sums", "--yes") == 2
    refused(capsys, hub, "unset HF_HUB_OFFLINE")


def test_weights_of_another_kind_are_not_mixed_with(finished: Path, hub: HubStandin, capsys):
    """transformers would take the adapter for the merged model's, PEFT the shards of an earlier one for the base."""
    commit(repository(hub), "main", {"model.safetensors": b"of another"}, "initial commit")
    assert push(finished, "ada/sums", "--yes") == 2
    refused(capsys, hub, "ada/sums holds model.safetensors, which would stay beside these files")


@pytest.mark.parametrize(
    ("there", "is_refused"),
    [
        ("training_args.bin", False),
        ("optimizer.bin", False),
        ("checkpoint-500/adapter_model.safetensors", False),
        ("onnx/config.json", False),
        ("adapter_model.bin", True),
        ("config.json", True),
        ("model-00001-of-00002.safetensors", True),
        ("model.safetensors.index.json", True),
        ("pytorch_model-00001-of-00002.bin", True),
        ("adapter_model.safetensors", False),  # overwritten
    ],
)
def test_only_what_would_be_loaded_with_the_files_is_in_their_way(there: str, is_refused: bool):
    """Catches: a Trainer's own files, and those of subfolders, that keep a repository from being pushed to."""
    repository = Repository("ada/sums", "main", True, ("README.md", there))
    published = {"adapter_config.json": Path("a"), "adapter_model.safetensors": Path("b")}
    if is_refused:
        with pytest.raises(UserError, match=f"ada/sums holds {there}, which would stay beside"):
            repository.refuse_mixture(published)
    else:
        repository.refuse_mixture(published)


# -- What is no run ---------------------------------------------------------------------------------------------


def test_what_has_no_verdict_is_refused(finished: Path, hub: HubStandin, tmp_path: Path, capsys):
    assert push(tmp_path / "ruin", "ada/sums", "--yes") == 2
    refused(capsys, hub, f"no such run: {tmp_path / 'ruin'}; did you mean {finished}?")
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "config.yaml").write_text("model:\n  name: embedded\n")
    assert push(merged, "ada/sums", "--yes") == 2
    refused(capsys, hub, "no records of a run", "--merged")
    (finished / "summary.json").unlink()
    assert push(finished, "ada/sums", "--yes") == 2
    refused(capsys, hub, "this run is not finished: the command that started it resumes it")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"after": {"correct": 4}}, "4 of 4 right after training (test), eval/after.jsonl has 3 of 4"),
        ({"before": {"strict_accuracy": 0.75}}, "right before training (test)"),
        ({"paired": {"fixed": 3}}, "3 fixed, 0 broken (test), the answers in eval/ show 2 and 0"),
        ({"after": {"n": 400}}, "3 of 400 right after training"),
    ],
)
def test_a_summary_that_claims_what_the_answers_do_not_show(
    change: dict[str, dict[str, float]], said: str, finished: Path, hub: HubStandin, capsys
):
    summary = json.loads((finished / "summary.json").read_text())
    for name, fields in change.items():
        summary[name] |= fields
    (finished / "summary.json").write_text(json.dumps(summary))
    assert push(finished, "ada/sums", "--yes") == 2
    refused(capsys, hub, said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "x", "--yes"], "--out goes with --dry-run"),
        (["--dtype", "float32", "--yes"], "--dtype goes with --merged"),
        (["--token", TOKEN], "unknown argument '--token'"),
        (["--revision", "a b", "--yes"], "--revision 'a b': not a valid branch name"),
    ],
)
def test_arguments_that_do_not_go_together(arguments: list[str], said: str, finished: Path, hub: HubStandin, capsys):
    assert push(finished, "ada/sums", *arguments) == 2
    refused(capsys, hub, said)


def test_an_out_folder_that_is_taken_is_left_alone(finished: Path, tmp_path: Path, capsys):
    assert push(finished, "ada/sums", "--dry-run", "--out", str(finished)) == 2
    assert "exists already; choose another --out" in capsys.readouterr().err


# -- What never leaves the machine ------------------------------------------------------------------------------

SECRETIVE = f"""
model:
  name: embedded
problems:
  source: /home/gwendolyn/private data/sums.jsonl
  test_source: https://gwendolyn:correct-horse@data.example/test.parquet?api_key=zzzz-yyyy-xxxx
prompt:
  system: The key is {TOKEN}, not 0123456789abcdef0123456789abcdef01234567.
grpo:
  output_dir: /home/gwendolyn/runs/first
  run_name: sk-qwertzuiopasdfghjkl
  wandb_api_key: 89abcdef89abcdef
"""


def test_no_token_and_no_path_leaves_the_machine(finished: Path, hub: HubStandin, tmp_path: Path, capfd, monkeypatch):
    """A token typed into the configuration, another in an address, a key in a cause, paths in events and command."""
    monkeypatch.setenv("WANDB_API_KEY", "fedcba98fedcba98fedc")
    make_up(finished, config=SECRETIVE, base="/home/gwendolyn/models/tiny_math_solver/embedded")
    summary = json.loads((finished / "summary.json").read_text())
    summary["causes"] = ["see /home/gwendolyn/runs/first/rollouts.jsonl", "fedcba98fedcba98fedc"]
    (finished / "summary.json").write_text(json.dumps(summary))
    command = ["tiny-math", "train", "/home/gwendolyn/c.yaml", "--grpo.hub_token", "hunter2-hunter2"]
    environment = {"command": command, "gpu": None, "cpu_count": 2, "versions": {"torch": "2.6"}, "python": "3.11"}
    (finished / "environment.json").write_text(json.dumps(environment))
    event = {"step": 1, "name": "resumed", "text": f"from {finished}/checkpoint-4, /home/gwendolyn/x y/checkpoint-4"}
    (finished / "events.jsonl").write_text(json.dumps(event) + "\n")
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert push(finished, "ada/sums", "--yes") == 0
    printed = capfd.readouterr()
    secrets = (
        TOKEN, "correct-horse", "zzzz-yyyy", "0123456789abcdef0123", "qwertzuiopasd", "89abcdef89abcdef",
        "fedcba98fedcba98fedc", "hunter2", "gwendolyn", str(tmp_path), str(ROOT),
    )  # fmt: skip
    uploaded = files(hub)
    uploaded["report.html"] = unpacked(uploaded["report.html"])
    for secret in secrets:
        found = {name: content.find(secret.encode()) for name, content in uploaded.items()}
        assert {uploaded[name][place - 80 : place + 80] for name, place in found.items() if place >= 0} == set()
        assert secret not in printed.out.replace(str(finished), "") + printed.err
    assert b"sums.jsonl" in uploaded["config.yaml"]
    assert b"from run/checkpoint-4" in uploaded["report.html"] or b"from checkpoint-4" in uploaded["report.html"]
    assert json.loads(uploaded["adapter_config.json"])["base_model_name_or_path"] == "embedded"
    # the run is as it was, and the token has got into no file
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path not in before]
    assert [path for path in kept if TOKEN.encode() in path.read_bytes()] == []


def unpacked(page: bytes) -> bytes:
    """The data of a page as JSON, and the page around it."""
    import base64
    import re
    import zlib

    found = re.findall(rb"[A-Za-z0-9+/=]{200,}", page)
    texts = []
    for block in found:
        for bits in (15 + 32, -15):
            try:
                texts.append(zlib.decompress(base64.b64decode(block), bits))
                break
            except (ValueError, zlib.error):
                continue
    assert any(b'"summary"' in text for text in texts)
    return b"\n".join([*(text for text in texts if b'"summary"' in text), re.sub(rb"[A-Za-z0-9+/=]{200,}", b"", page)])


def test_a_token_in_a_file_that_is_not_ours_to_change_stops_the_upload(finished: Path, hub: HubStandin, capsys):
    (finished / "chat_template.jinja").write_text(f"{{# {TOKEN} #}}{{{{ messages }}}}")
    assert push(finished, "ada/sums", "--yes") == 2
    refused(capsys, hub, "chat_template.jinja: holds an access token, so it is not published")
    assert not repository(hub).exists()


# -- Whole models -----------------------------------------------------------------------------------------------


def test_a_run_that_trained_all_weights_has_no_adapter_to_merge(finished: Path, hub: HubStandin, capsys):
    (finished / "config.yaml").write_text("model:\n  name: embedded\nlora: null\n")
    (finished / "adapter_config.json").unlink()
    (finished / "adapter_model.safetensors").rename(finished / "model.safetensors")
    (finished / "config.json").write_text(json.dumps({"_name_or_path": "/home/gwendolyn/base", "model_type": "qwen2"}))
    assert push(finished, "ada/sums", "--yes", "--merged") == 2
    refused(capsys, hub, "all weights were trained, so there is no adapter to merge")
    assert push(finished, "ada/sums", "--yes") == 0
    there = files(hub)
    assert {"model.safetensors", "config.json"} <= set(there)
    assert json.loads(there["config.json"]) == {"_name_or_path": "base", "model_type": "qwen2"}
    assert b"of which all weights were trained." in there["README.md"]
    assert b"PeftModel" not in there["README.md"]


@pytest.mark.parametrize("arguments", [["--yes"], ["--dry-run"]])
def test_a_model_whose_weights_are_gone_is_not_published(
    arguments: list[str], finished: Path, hub: HubStandin, capsys: pytest.CaptureFixture[str]
):
    """Catches: a card and a tokenizer without a model behind them."""
    (finished / "config.yaml").write_text("model:\n  name: embedded\nlora: null\n")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (finished / name).unlink()
    (finished / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert push(finished, "ada/sums", *arguments) == 2
    refused(capsys, hub, "run: no model.safetensors: the weights are missing")
    (finished / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"weight": "model-00001-of-00001.safetensors"}})
    )
    assert push(finished, "ada/sums", *arguments) == 2
    refused(capsys, hub, "names model-00001-of-00001.safetensors, which is not in this folder")
    assert hub.requests == []


def test_the_merged_model_is_proved_and_loads_without_peft(
    hub: HubStandin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    trained = run(tmp_path / "trained", *SHORT, "--grpo.max_steps", "2", "--problems.test", "8", force=True).folder
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # training has left it on
    assert push(trained, "ada/merged", "--yes", "--merged") == 0
    printed = capsys.readouterr().out
    assert "proof: same greedy answer on 8 of 8 problems" in printed
    there = files(hub, "ada/merged")
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(there)
    assert not [name for name in there if name.startswith("adapter")]
    assert b"library_name: transformers" in there["README.md"]
    assert b"from peft" not in there["README.md"]
    assert str(tmp_path).encode() not in there["config.json"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert push(trained, "ada/merged", "--yes") == 2
    assert "ada/merged holds config.json, which would stay" in capsys.readouterr().err
