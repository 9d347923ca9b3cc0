"""The configurations that are shipped: each loads, plans what its comments say, and has a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.hub import DATASET, MODEL, HubStandin, build_gsm8k, build_qwen2, gsm8k_rows, publish
from helpers.paths import GSM8K, ROOT
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.hub.snapshots import PINNED_REVISIONS
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.splits import Splits
from tiny_math_solver.training.plan import Plan

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
FOR_GSM8K = [path for path in CONFIGS if path.name.startswith("gsm8k-")]
EPOCH = 7273  # GSM8K's train problems without the 200 of dev


def of_each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


def test_there_is_one_for_each_kind_of_machine():
    assert {path.stem for path in FOR_GSM8K} == {"gsm8k-qwen2.5-0.5b", "gsm8k-fast", "gsm8k-24gb", "gsm8k-cpu"}


def test_each_has_an_output_folder_of_its_own():
    """Catches a configuration that moves another one's finished adapter aside."""
    folders = {load_config(path).output_dir for path in CONFIGS}
    assert len(folders) == len(CONFIGS)
    assert {folder.parent for folder in folders} == {Path("checkpoint")}


@of_each(CONFIGS)
def test_the_first_lines_say_how_it_is_started(path: Path):
    head = path.read_text(encoding="utf-8").partition("\nmodel:")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    command = "bash src/train_math.sh" if path == GSM8K else f"configs/{path.name}"
    assert command in head


@of_each(CONFIGS)
def test_the_comment_on_the_batch_is_right(path: Path):
    """Catches a batch that was changed without the sentence that explains it."""
    config, text = load_config(path), path.read_text(encoding="utf-8")
    problem = [Problem(str(i), f"question {i}", "", "1") for i in range(EPOCH)]
    plan = Plan(config, Splits(problem, problem[:1], problem[:1]))
    comment = text.partition("\ngrpo: # ")[2].partition("\n")[0]
    found = re.fullmatch(
        r"(?P<problems>\d+) problems × (?P<samples>\d+) samples = (?P<completions>\d+) completions a step", comment
    )
    assert found, comment
    assert plan.step_line.startswith(
        f"each step: {found['problems']} problems × {found['samples']} samples = {found['completions']} completions; "
    )
    for count in re.findall(r"([\d,]+) completions in all", text):
        assert int(count.replace(",", "")) == plan.steps * config.completions_per_step
    for count in re.findall(r"an epoch is (\d+) steps", text):
        assert int(count) == plan.steps_per_epoch


@of_each(FOR_GSM8K)
def test_those_for_gsm8k_differ_in_size_alone(path: Path):
    """Catches another model, prompt, adapter or temperature in one of them: results could not be compared."""
    config, table = load_config(path), load_config(GSM8K)
    assert (config.model.name, config.model.revision) == (table.model.name, table.model.revision)
    assert (config.problems.source, config.problems.revision) == (table.problems.source, table.problems.revision)
    assert (config.prompt, config.lora) == (table.prompt, table.lora)
    assert config.grpo["temperature"] == table.grpo["temperature"]
    assert config.rollouts.batch_size <= config.completions_per_step or path == GSM8K


DRY_RUNS = """
import sys
from tiny_math_solver.cli import main

for config in sys.argv[1:]:
    code = main(["train", config, "--dry-run"])
    print("exit code", code)
"""


@pytest.mark.slow
def test_each_plan_is_printed(tmp_path: Path):
    """Catches a configuration that loads here, and fails where its problems and its tokenizer are read."""
    rows = {
        split: [row for offset in range(first, first + 1200, 40) for row in gsm8k_rows("main", split, offset)]
        for split, first in (("train", 0), ("test", 5000))  # none in both
    }
    publish(tmp_path, "datasets", DATASET, PINNED_REVISIONS[DATASET], lambda folder: build_gsm8k(folder, rows_of=rows))
    publish(tmp_path, "models", MODEL, PINNED_REVISIONS[MODEL], build_qwen2)
    with HubStandin(tmp_path) as hub:
        env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | hub.env(tmp_path / "home")
        command = [sys.executable, "-c", DRY_RUNS, *map(str, FOR_GSM8K)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("exit code 0") == len(FOR_GSM8K), done.stderr
    plans = done.stdout.split("exit code 0\n")
    for path, said in zip(FOR_GSM8K, plans, strict=False):
        config = load_config(path)
        problems = config.completions_per_step // config.num_generations
        assert f"each step: {problems} problems × {config.num_generations} samples" in said
        assert f"{1200 - config.problems.dev:,} train, {config.problems.dev} dev" in said
        assert said.splitlines()[-1] == f"output: {config.output_dir}"
