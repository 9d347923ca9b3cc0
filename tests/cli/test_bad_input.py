"""Bad input of every kind: one line that says what is wrong, exit code 2, nothing written and nothing lost."""

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pytest

from helpers.bad_input_cases import (
    COMMANDS,
    CONFIGS,
    ENVIRONMENT,
    PROBLEMS,
    ROW,
    SECRET,
    SETTINGS,
    TINY,
    TRAIN,
    Case,
    Content,
    parquet,
)
from helpers.bad_model_cases import MODELS, edited
from helpers.bad_run_cases import RUNS, SHORT
from helpers.hub import build_qwen2
from helpers.paths import QUICKSTART
from tiny_math_solver.cli import main

TABLES = {
    "config": CONFIGS,
    "setting": SETTINGS,
    "problems": PROBLEMS,
    "model": MODELS,
    "command": COMMANDS,
    "environment": ENVIRONMENT,
    "run folder": RUNS,
}
CASES = [pytest.param(case, id=f"{kind}: {case.why}") for kind, table in TABLES.items() for case in table]


@pytest.fixture(scope="module", autouse=True)
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A random two-layer model, an adapter of it, and a run of the shipped model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    TINY.update({name: tmp_path_factory.mktemp(name) for name in ("model", "adapter")})
    build_qwen2(TINY["model"])
    base = AutoModelForCausalLM.from_pretrained(TINY["model"], dtype=torch.float32)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(str(TINY["adapter"]))
    TINY["run"] = tmp_path_factory.mktemp("runs") / "run"
    assert main(shlex.split(f"train {QUICKSTART} --grpo.output_dir {TINY['run']} --quiet {SHORT}")) == 0


def lay_out(files: dict[str, Content]) -> None:
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def state(folder: Path) -> list[tuple[str, int, int]]:
    """Of folders the names alone: whether one can be written is tried with a file that is gone again."""
    files = {p: (0, 0) if p.is_dir() else (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*")}
    return sorted((str(path), *status) for path, status in files.items())


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_exit_2_and_nothing_written(case: Case, tmp_path: Path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    lay_out(case.files)
    there = state(tmp_path)
    capfd.readouterr()
    started = time.perf_counter()
    code = main(shlex.split(case.arguments))
    seconds = time.perf_counter() - started
    out, err = capfd.readouterr()
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("tiny-math: ")
    assert err.strip().isprintable()
    assert case.message in err
    assert SECRET not in out + err
    assert state(tmp_path) == there
    assert seconds < 20


def test_the_table_is_large_and_names_each_case_once():
    names = [param.id for param in CASES]
    assert len(names) == len(set(names)), [name for name in names if names.count(name) > 1]
    assert len(names) > 250


def test_bad_input_in_a_process_of_its_own(tmp_path: Path):
    """Catches what only a fresh process shows: libraries that print while they are loaded, a question on stdin."""
    folder = tmp_path / "m"
    shutil.copytree(TINY["model"], folder)
    edited(folder, "config.json", num_hidden_layers=3, layer_types=["full_attention"] * 3)  # it would print a report
    command = [sys.executable, "-m", "tiny_math_solver.cli", "eval", str(folder), "--problems", "embedded"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr.startswith(f"tiny-math: model {folder}: its weights lack")
    assert done.stderr.count("\n") == 1
    assert not done.stdout


FINE = [
    Case("BOM", "eval embedded --problems p.jsonl", "", {"p.jsonl": ROW.encode("utf-8-sig")}),
    Case("CRLF", "eval embedded --problems p.jsonl", "", {"p.jsonl": ROW.replace("\n", "\r\n") + "\r\n"}),
    Case("no last line end", "eval embedded --problems p.jsonl", "", {"p.jsonl": ROW.strip()}),
    Case(
        "deep JSON of no concern",
        "eval embedded --problems p.jsonl",
        "",
        {"p.jsonl": ROW.replace("{", '{"x": ' + "[" * 500 + "]" * 500 + ", ", 1)},
    ),
    Case(
        "Parquet of categories",
        "eval embedded --problems p.parquet",
        "",
        {"p.parquet": parquet(question=pyarrow.array(["q"]).dictionary_encode(), answer=["#### 1"])},
    ),
    Case("config with a BOM", "train c.yaml --dry-run", "", {"c.yaml": QUICKSTART.read_text().encode("utf-8-sig")}),
    Case("config with CRLF", "train c.yaml --dry-run", "", {"c.yaml": QUICKSTART.read_text().replace("\n", "\r\n")}),
    Case(
        "empty sections",
        "train c.yaml --dry-run",
        "",
        {"c.yaml": "model: {name: embedded}\nproblems: {source: embedded}\ngrpo:\nlora:\n"},
    ),
    Case("a date for a name", f"{TRAIN} --grpo.run_name 2024-01-31", ""),
    Case(
        "CUDA_VISIBLE_DEVICES", "eval embedded --problems p.jsonl", "", {"p.jsonl": ROW}, {"CUDA_VISIBLE_DEVICES": "x"}
    ),
    Case("HF_HUB_OFFLINE", "eval embedded --problems p.jsonl", "", {"p.jsonl": ROW}, {"HF_HUB_OFFLINE": "maybe"}),
    Case("WANDB_MODE without wandb", TRAIN, "", {}, {"WANDB_MODE": "sometimes"}),
    Case("OMP_NUM_THREADS", "eval embedded --problems p.jsonl", "", {"p.jsonl": ROW}, {"OMP_NUM_THREADS": "2,1"}),
]


@pytest.mark.parametrize("case", FINE, ids=lambda case: case.why)
def test_what_only_looks_bad_works(case: Case, tmp_path: Path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    lay_out(case.files)
    assert main(shlex.split(case.arguments)) == 0, capfd.readouterr().err
