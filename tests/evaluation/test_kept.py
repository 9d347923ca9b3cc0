"""Evaluations that are kept beside the runs: recalled where nothing has changed, made again where anything has."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers.runs import rows, run, without_duration
from tiny_math_solver.evaluation.evaluate import evaluate
from tiny_math_solver.evaluation.kept import Evaluator, KeptEvaluations, fingerprint, policy_hash
from tiny_math_solver.models.load import load_model
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.prompts import PromptFormat
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import EngineRollouts, Sampling
from tiny_math_solver.support.console import CollectingConsole


@pytest.fixture(scope="module")
def rollouts() -> EngineRollouts:
    loaded = load_model("embedded", dtype="float32")
    return EngineRollouts(loaded.model, loaded.tokenizer)


ASK: dict[str, Any] = {"prompt": PromptFormat(), "max_new_tokens": 24, "grader": Grader()}


def evaluated(rollouts: EngineRollouts, folder: Path, ask: dict[str, Any] = ASK, count: int = 6) -> tuple[Any, str]:
    console = CollectingConsole()
    evaluator = Evaluator(console, lambda completions: completions / 2, KeptEvaluations(folder / "run"))
    found = evaluator.evaluate("before-test", rollouts, embedded_problems("test", count, 0), ask)
    return found, console.lines[0]


def test_the_second_evaluation_is_the_first_one(rollouts: EngineRollouts, tmp_path: Path):
    first, said = evaluated(rollouts, tmp_path)
    assert said == "before-test: 6 problems, about 3 s"
    again, said = evaluated(rollouts, tmp_path)
    assert again == first
    assert said.startswith("before-test: 6 problems, already answered by the same model (")
    assert [folder.name for folder in tmp_path.iterdir()] == [".before-tests"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"correct": false', '"correct": true', 1),
        lambda text: text.replace('"key": "', '"key": "0', 1),
        lambda text: json.dumps({**json.loads(text), "rows": []}),
    ],
    ids=["cut off", "empty", "a list", "another verdict", "another key", "no rows"],
)
def test_a_damaged_entry_is_ignored_and_written_anew(rollouts: EngineRollouts, tmp_path: Path, damage: Any):
    first, _ = evaluated(rollouts, tmp_path)
    (entry,) = (tmp_path / ".before-tests").iterdir()
    sound = entry.read_text()
    entry.write_text(damage(sound))
    again, said = evaluated(rollouts, tmp_path)
    assert (again, said) == (first, "before-test: 6 problems, about 3 s")
    assert entry.read_text() == sound


def test_whatever_shapes_the_answers_is_another_entry(rollouts: EngineRollouts):
    problems = embedded_problems("test", 6, 0)
    sampled = {"samples": 2, "sampled_problems": 3, "sampling": Sampling(24, temperature=0.7), "seed": 1}
    asks = [
        ASK,
        ASK | {"max_new_tokens": 25},
        ASK | {"prompt": PromptFormat("Think.")},
        ASK | sampled,
        ASK | sampled | {"seed": 2},
        ASK | sampled | {"sampling": Sampling(24, temperature=0.8)},
        ASK | sampled | {"sampled_problems": 4},
    ]
    keys = [fingerprint(rollouts, problems, ask) for ask in asks]
    keys += [fingerprint(rollouts, problems[:5], ASK), fingerprint(rollouts, problems[::-1], ASK)]
    keys += [fingerprint(rollouts, [replace(problems[0], answer="7"), *problems[1:]], ASK)]
    keys += [fingerprint(EngineRollouts(rollouts.model, rollouts.tokenizer, native=False), problems, ASK)]
    keys += [fingerprint(EngineRollouts(rollouts.model, rollouts.tokenizer, stop_strings=["7"]), problems, ASK)]
    assert len(set(keys)) == len(keys)
    assert fingerprint(rollouts, problems, dict(ASK)) == keys[0]


def test_a_fresh_adapter_changes_nothing_whatever_its_seed_and_a_trained_one_does():
    def adapted(seed: int) -> Any:
        torch.manual_seed(seed)
        return get_peft_model(
            load_model("embedded", dtype="float32").model, LoraConfig(target_modules="all-linear", r=4)
        )

    model = adapted(1)
    fresh = policy_hash(model)
    assert fresh == policy_hash(adapted(2))
    second = model.base_model.model.model.layers[0].mlp.up_proj.lora_B["default"].weight
    with torch.no_grad():
        second[0, 0] = 1e-7
    assert policy_hash(model) != fresh
    with torch.no_grad():
        second.zero_()
        model.base_model.model.model.norm.weight[0] += 1e-6  # a single weight of the base
    assert policy_hash(model) != fresh


def test_problems_answered_together_are_answered_as_if_alone(rollouts: EngineRollouts, tmp_path: Path):
    """Dev and test in one go take less time than one after the other; a mix-up would swap their scores."""
    test, dev = embedded_problems("test", 6, 0), embedded_problems("dev", 5, 0)
    ask = ASK | {"samples": 2, "sampled_problems": 9, "sampling": Sampling(24), "seed": 1}
    console = CollectingConsole()
    evaluator = Evaluator(console, lambda completions: completions / 2, KeptEvaluations(tmp_path / "run"))
    together = evaluator.evaluate("before-test", rollouts, test, ask, also=dev)
    assert console.lines == ["before-test: 6 problems and 5 of dev, about 12 s"]
    assert together == evaluate(rollouts, test, **ask)
    assert evaluator.evaluate("dev", rollouts, dev, ASK) == evaluate(rollouts, dev, **ASK)
    assert len(console.lines) == 1  # nothing was asked, nor had another run asked it
    alone = Evaluator(CollectingConsole(), lambda completions: None)
    assert alone.evaluate("after-test", rollouts, test, ask, also=dev) == together


def test_only_the_newest_entries_stay(rollouts: EngineRollouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tiny_math_solver.evaluation.kept.MOST_ENTRIES", 2)
    for count in (1, 2, 3):
        evaluated(rollouts, tmp_path, count=count)
    assert len(list((tmp_path / ".before-tests").iterdir())) == 2
    assert evaluated(rollouts, tmp_path, count=3)[1].startswith("before-test: 3 problems, already answered")


def test_a_folder_that_cannot_be_written_stops_nothing(rollouts: EngineRollouts, tmp_path: Path):
    (tmp_path / ".before-tests").write_text("in the way")
    assert evaluated(rollouts, tmp_path)[1] == "before-test: 6 problems, about 3 s"


LIMITED = ["--grpo.max_steps", "1", "--problems.test", "40", "--problems.dev", "8", "--evaluation.test_limit", "12",
           "--evaluation.samples", "2", "--evaluation.sampled_problems", "4"]  # fmt: skip


def test_a_second_run_beside_the_first_starts_from_its_tests(tmp_path: Path):
    first = run(tmp_path / "one", *LIMITED)
    second = run(tmp_path / "two", *LIMITED, "--grpo.learning_rate", "2e-3")
    for name in ("before", "before-unseen", "dev-000000"):
        assert (tmp_path / "two" / "eval" / f"{name}.jsonl").read_bytes() == (
            tmp_path / "one" / "eval" / f"{name}.jsonl"
        ).read_bytes()

    def answered(lines: list[str]) -> list[str]:
        named = (line for line in lines if line.startswith(("before-", "dev ")))
        return [without_duration(line).partition(" (")[0] for line in named]

    again = "already answered by the same model"
    assert answered(first.lines) == [
        "before-test: 12 problems and 8 of dev",
        "before-test, unseen kinds: 12 problems",
    ]
    assert answered(second.lines) == [
        f"before-test: 12 problems, {again}",
        f"before-test, unseen kinds: 12 problems, {again}",
        f"dev before training: 8 problems, {again}",
    ]
    assert first.summary["before"] == second.summary["before"]


def test_the_limit_holds_before_and_after_and_the_pairs_are_the_same_problems(tmp_path: Path):
    done = run(tmp_path / "run", *LIMITED)
    before, after = (
        [row["id"] for row in rows(done.folder / "eval" / f"{when}.jsonl") if row["sample"] is None]
        for when in ("before", "after")
    )
    assert before == after
    assert len(before) == done.summary["before"]["n"] == done.summary["after"]["n"] == 12
    assert before != [f"test-{i}" for i in range(12)]
    assert done.summary["problems"]["test"] == 40
    assert done.summary["problems"]["tested"] == 12
    assert any("on 12 of the 40 test problems (evaluation.test_limit) before and after" in line for line in done.lines)
