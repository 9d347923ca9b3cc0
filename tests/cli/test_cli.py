"""The command line as its users meet it: answers, mistakes, exit codes."""

import os
import subprocess
import sys
import time
from pathlib import Path

from helpers.paths import GSM8K, QUICKSTART, ROOT
from tiny_math_solver.cli import main

ROW = '{"question": "Ann has 3 pens and buys 2. How many?", "answer": "3+2=5\\n#### 5"}\n'


def test_help_answers_in_under_a_second():
    """Catches a heavy import at the top of a module: torch and trl together take seconds."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "tiny_math_solver.cli", "--help"], capture_output=True, text=True)
        times.append(time.perf_counter() - started)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("train", "eval", "merge", "solve", "fields", "fetch"))
    assert min(times) < 1


def test_dry_run_prints_config_and_plan_and_writes_nothing(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(QUICKSTART), "--dry-run", "--grpo.learning_rate", "2e-3"]) == 0
    out = capsys.readouterr().out
    assert "learning_rate: 0.002" in out
    assert "each step: 16 problems × 8 samples = 128 completions; 125 steps an epoch" in out
    assert list(tmp_path.iterdir()) == []


def test_fields_lists_every_field_with_a_line_of_help(capsys):
    assert main(["fields"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.partition("): ")[2] for line in lines), [line for line in lines if not line.partition("): ")[2]]
    names = {line.split()[0] for line in lines}
    assert {"model.name", "problems.dev", "prompt.system", "evaluation.every", "lora.r", "grpo.beta"} <= names


def test_wandb_without_its_package_is_said_before_a_model_loads(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_TOKEN", "secret-token")
    monkeypatch.setattr("tiny_math_solver.training.trackers.find_spec", lambda name: None)
    assert main(["train", str(GSM8K)]) == 2
    err = capsys.readouterr().err
    assert err == f"tiny-math: wandb is not installed; run: {sys.executable} -m pip install wandb\n"


def test_bench_refuses_what_it_does_not_know_before_it_measures(capsys):
    assert main(["bench", "rollout"]) == 2
    refusal = (
        "no part 'rollout' to measure; choose of machine, rollouts, rollouts-0.5b, steps, steps-0.5b, memory, race"
    )
    assert refusal in capsys.readouterr().err
    assert main(["bench", "--vllm-python", "/no/such/python"]) == 2
    assert "no such Python: /no/such/python" in capsys.readouterr().err
    assert main(["bench", "machine", "--out", str(ROOT)]) == 2
    assert "is a folder; --out takes the name of a file" in capsys.readouterr().err


def test_tokens_choose_the_tracker_unless_the_config_did(monkeypatch):
    from tiny_math_solver.config.schema import load_config
    from tiny_math_solver.training.trackers import choose_trackers

    monkeypatch.setattr("tiny_math_solver.training.trackers.find_spec", lambda name: object())

    def chosen(config: Path, **environment: str) -> list[str] | str:
        with monkeypatch.context() as patch:
            patch.delenv("WANDB_API_KEY", raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            loaded = load_config(config)
            choose_trackers(loaded)
            return loaded.grpo["report_to"], os.environ.get("WANDB_API_KEY")

    assert chosen(GSM8K) == ([], None)
    assert chosen(GSM8K, WANDB_TOKEN="t") == (["wandb"], "t")
    assert chosen(GSM8K, WANDB_API_KEY="k") == (["wandb"], "k")
    assert chosen(GSM8K, WANDB_MODE="offline") == (["wandb"], None)
    assert chosen(GSM8K, WANDB_TOKEN="t", WANDB_MODE="disabled") == ([], "t")
    assert chosen(QUICKSTART, WANDB_TOKEN="t") == ("none", "t")


def test_eval_prints_both_scores_and_writes_records(tmp_path: Path, capsys):
    import json

    (tmp_path / "p.jsonl").write_text(ROW)
    records = tmp_path / "records.jsonl"
    command = ["eval", "embedded", "--problems", str(tmp_path / "p.jsonl"), "--samples", "4", "--out", str(records)]
    assert main([*command, "--against", "embedded", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["n"] == 1
    assert set(summary["pass_at_k"]) == {"1", "2", "4"}
    assert summary["paired"] == {"fixed": 0, "broken": 0, "p_value": 1.0}
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    assert [row["sample"] for row in rows] == [None, 0, 1, 2, 3]
    assert all(row["gold"] == "5" for row in rows)


def test_solve_prints_reasoning_and_answer(capsys):
    assert main(["solve", "embedded", "Ava has 3 bags of 7 marbles and loses 4. How many marbles are left?"]) == 0
    assert "answer: " in capsys.readouterr().out.splitlines()[-1]
