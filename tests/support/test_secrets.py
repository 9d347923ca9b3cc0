"""Tokens and passwords are in nothing that a run writes or says: every file is searched."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import QUICKSTART
from tiny_math_solver.cli import main
from tiny_math_solver.support.redaction import without_secrets

SECRETS = {
    "HF_TOKEN": "hf_Ab12Cd34Ef56Gh78Ij90Kl12Mn34Op56",
    "WANDB_TOKEN": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE",
    "DB_PASSWORD": "correct-horse-battery",
}
SHORT = [
    "--problems.train", "64", "--problems.test", "4", "--problems.dev", "4",
    "--evaluation.samples", "0", "--grpo.max_steps", "2", "--grpo.per_device_train_batch_size", "16",
]  # fmt: skip


def test_nothing_a_run_writes_or_says_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    """With W&B and TensorBoard on, and a secret even among the arguments."""
    monkeypatch.chdir(tmp_path)
    for name, value in {**SECRETS, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    command = [
        "train", str(QUICKSTART), *SHORT,
        "--grpo.report_to", "[wandb, tensorboard]", "--grpo.save_steps", "1", "--grpo.output_dir", "run",
        "--prompt.system", f"The key is {SECRETS['HF_TOKEN']}.",
    ]  # fmt: skip
    process = [sys.executable, "-m", "tiny_math_solver.cli", *command]
    done = subprocess.run(process, capture_output=True, text=True, timeout=200)
    assert done.returncode in (0, 3), done.stderr
    main([*command, "--resume"])
    again = capfd.readouterr()
    assert "this run is finished" in again.out, again.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("wandb" in path.parts for path in written)
    assert any("tfevents" in path.name for path in written)
    assert any(path.parent.name.startswith("checkpoint-") for path in written)
    assert (tmp_path / "run" / "report.html") in written
    for secret in SECRETS.values():
        assert secret not in done.stdout + done.stderr + again.out + again.err
        found = [str(path) for path in written if secret.encode() in path.read_bytes()]
        assert not found, found


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", str(QUICKSTART), "--grpo.hub_token", SECRETS["HF_TOKEN"]],
        ["train", str(QUICKSTART), "--model.name", SECRETS["HF_TOKEN"]],
        ["eval", f"./{SECRETS['HF_TOKEN']}"],
        ["train", f"{SECRETS['HF_TOKEN']}.yaml"],
        ["train", str(QUICKSTART), "--grpo.max_steps", SECRETS["HF_TOKEN"]],
    ],
)
def test_no_error_message_repeats_a_secret(arguments: list[str], capsys, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert SECRETS["HF_TOKEN"] not in err
    assert err.startswith("tiny-math: ")


def test_what_is_hidden_and_what_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdefgh")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "notasecret")
    monkeypatch.setenv("SHORT_KEY", "a")
    monkeypatch.setenv("OTHER_KEY", "abcdefgh-and-more")
    monkeypatch.setenv("GITHUB_PAT", "ijklmnop")
    monkeypatch.setenv("SOME_PATH", "/usr/local/bin")
    assert without_secrets("xabcdefghx ijklmnop") == "x***x ***"
    assert without_secrets("abcdefgh-and-more /usr/local/bin") == "*** /usr/local/bin"
    assert without_secrets("https://ada:pw@host/path") == "https://host/path"
    assert without_secrets("notasecret and a") == "notasecret and a"
