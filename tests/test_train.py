"""One short GRPO run of the shipped model, and everything it must leave behind."""

import importlib
import json
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.paths import GSM8K, ROOT
from helpers.runs import SHORT, rows, run
from tiny_math_solver.evaluation.evaluate import evaluate
from tiny_math_solver.evaluation.statistics import mcnemar
from tiny_math_solver.evaluation.verdict import run_lines
from tiny_math_solver.grading import is_correct
from tiny_math_solver.models.load import load_model
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.problems.splits import load_test_problems
from tiny_math_solver.prompts import PromptFormat
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import EngineRollouts, ReferenceRollouts, Sampling, engine_check
from tiny_math_solver.support.errors import UserError

train_module = importlib.import_module("tiny_math_solver.train")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return run(
        tmp_path_factory.mktemp("runs") / "short",
        "--grpo.max_steps", "8", "--problems.test", "60", "--problems.dev", "40",
        "--evaluation.samples", "4", "--evaluation.sampled_problems", "10",
    )  # fmt: skip


def test_reward_and_accuracy_go_up(finished: SimpleNamespace):
    """A wrong sign, a stale policy or an adapter that is not trained leaves both where they were."""
    metrics = rows(finished.folder / "metrics.jsonl")
    rewards = [m["reward"] for m in metrics]
    assert len(rewards) == 8
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.15
    summary = finished.summary
    assert summary["before"]["accuracy"] < 0.15
    assert summary["after"]["accuracy"] > summary["before"]["accuracy"] + 0.25
    assert summary["paired"]["p_value"] < 1e-3


def test_the_summary_holds_what_other_programs_read(finished: SimpleNamespace):
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert summary == json.loads(json.dumps(finished.summary))
    for block in (summary["before"], summary["after"]):
        assert block["n"] == 60
        assert block["correct"] == round(block["accuracy"] * 60)
        assert block["ci95"][0] <= block["accuracy"] <= block["ci95"][1]
        assert block["strict_accuracy"] <= block["accuracy"]
        assert set(block["pass_at_k"]) == set(block["maj_at_k"]) == {"1", "2", "4"}
        assert block["pass_at_k"]["1"] <= block["pass_at_k"]["4"]
    assert summary["steps"] == 8
    assert summary["completions"] == 1024
    assert summary["seed"] == 42
    assert summary["train_seconds"] > 0
    before, after = (rows(finished.folder / "eval" / f"{when}.jsonl") for when in ("before", "after"))
    greedy = [[r["correct"] for r in part if r["sample"] is None] for part in (before, after)]
    assert summary["paired"] == mcnemar(*greedy).to_dict()


def test_every_completion_is_recorded_with_its_reward(finished: SimpleNamespace):
    records = rows(finished.folder / "rollouts.jsonl")
    assert len(records) == 1024
    assert sum(r["tokens"] for r in records) == finished.summary["completion_tokens"]
    assert [r["step"] for r in records] == [step for step in range(1, 9) for _ in range(128)]
    for record in records:
        right = is_correct(record["completion"], record["gold"])
        assert record["rewards"]["correctness_reward"] == (1.0 if right else 0.0)
        assert record["rewards"]["format_reward"] == (0.5 if record["how"] == "hashes" else 0.0)
    for start in range(0, len(records), 8):  # a group: one problem, advantages around its mean
        group = records[start : start + 8]
        assert len({r["id"] for r in group}) == 1
        assert sum(r["advantage"] for r in group) == pytest.approx(0, abs=1e-3)
        total = [sum(r["rewards"].values()) for r in group]
        assert (max(total) == min(total)) == all(r["advantage"] == 0 for r in group)


def test_rollouts_and_trainer_are_the_same_policy(finished: SimpleNamespace):
    """Stale or wrongly merged weights in the rollouts would show from the second step on."""
    check = finished.summary["engine_check"]
    assert check["gap"] < check["limit"] == 1e-4
    assert any(line.startswith("engine (") and "no other choices" in line for line in finished.lines)
    gaps = [m["sampling/sampling_logp_difference/max"] for m in rows(finished.folder / "metrics.jsonl")]
    assert len(gaps) == 8
    assert 0 < max(gaps) < 1e-4


def test_training_problems_are_train_problems(finished: SimpleNamespace):
    held_out = {p.question for split in ("dev", "test", "unseen") for p in embedded_problems(split, 500)}
    assert not held_out & {r["question"] for r in rows(finished.folder / "rollouts.jsonl")}


def test_the_saved_adapter_is_the_best_on_dev_and_loads_with_plain_peft(finished: SimpleNamespace):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dev = finished.summary["dev"]
    assert [d["step"] for d in dev] == [0, 4, 8]
    best = max(dev, key=lambda d: (d["accuracy"], d["strict_accuracy"], -d["step"]))
    assert finished.summary["best_step"] == best["step"]

    base = json.loads((finished.folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), finished.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(finished.folder)
    result = evaluate(
        ReferenceRollouts(model, tokenizer),
        load_test_problems(finished.config.problems).problems,
        prompt=PromptFormat(),
        grader=Grader(),
        max_new_tokens=finished.config.grpo["max_completion_length"],
    )
    assert result.accuracy == finished.summary["after"]["accuracy"]


def test_the_merge_snippet_of_the_readme_works(finished: SimpleNamespace, tmp_path: Path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (snippet,) = [part.split("```")[0] for part in text.split("```python\n")[1:] if "merge_and_unload" in part]
    base = json.loads((finished.folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    snippet = snippet.replace("./checkpoint/qwen-0.5b-gsm8k-grpo", str(finished.folder))
    snippet = snippet.replace("./checkpoint/qwen-0.5b-gsm8k-merged", str(tmp_path / "merged"))
    snippet = snippet.replace("Qwen/Qwen2.5-0.5B-Instruct", base)
    exec(snippet, {})
    merged = load_model(str(tmp_path / "merged"), dtype="float32")
    ours = load_model(str(finished.folder), dtype="float32")
    assert len(merged.tokenizer) == len(ours.tokenizer) > 1000  # not the 1-token tokenizer of a bare folder
    ids = torch.tensor([[5, 9, 300, 41]])
    assert torch.allclose(merged.model(ids).logits, ours.model(ids).logits, atol=1e-4)


def test_a_run_moves_an_earlier_one_aside_and_leaves_foreign_folders_alone(tmp_path: Path, finished: SimpleNamespace):
    from tiny_math_solver.runs.folder import RunFolder

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("old: run")
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.create()
    assert (tmp_path / "run.1" / "config.yaml").read_text() == "old: run"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UserError, match="not a run folder"):
        RunFolder(tmp_path / "photos").create()


def test_the_same_seed_gives_the_same_adapter_and_another_does_not(tmp_path: Path):
    """LoRA weights drawn before the seed is set would differ from run to run."""
    weights = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(tmp_path / name, *SHORT, "--grpo.max_steps", "2", "--grpo.seed", seed)
        weights.append(load_file(tmp_path / name / "adapter_model.safetensors"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert any(not torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_an_engine_that_fails_its_check_stops_the_run_or_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(engine_check.LIMITS, torch.float32, 0.0)  # nothing passes
    with pytest.raises(UserError, match="the engine does not reproduce this model"):
        run(tmp_path / "stopped", *SHORT)
    result = run(tmp_path / "slow", *SHORT, "--rollouts.fall_back", "true", "--grpo.max_completion_length", "32")
    assert any("falling back to transformers' generate, many times slower" in line for line in result.lines)
    assert len(rows(result.folder / "rollouts.jsonl")) == 16
    assert "sampling/sampling_logp_difference/max" not in rows(result.folder / "metrics.jsonl")[0]


def test_the_plain_ways_can_be_asked_for(tmp_path: Path):
    plain = ["--rollouts.engine", "false", "--update.own_passes", "false", "--grpo.max_completion_length", "32"]
    result = run(tmp_path / "plain", *SHORT, *plain)
    assert "update in TRL's own micro-batches: update.own_passes is false" in result.lines
    assert result.summary["engine_check"] is None
    assert {"entropy", "step_time", "grad_norm"} <= rows(result.folder / "metrics.jsonl")[0].keys()


def test_a_run_that_was_never_better_says_so_and_is_not_tested_twice(tmp_path: Path):
    result = run(tmp_path / "run", *SHORT, "--grpo.learning_rate", "1e-12")
    assert result.summary["best_step"] == 0
    assert result.summary["after"] == result.summary["before"]
    assert not any(line.startswith("after-test") for line in result.lines)
    assert rows(tmp_path / "run/eval/after.jsonl") == rows(tmp_path / "run/eval/before.jsonl")
    printed = "\n".join(run_lines(result.summary, result.folder))
    assert "no step was better on dev than the start, so the adapter is the untrained one" in printed
    assert "hardly moved: raise grpo.learning_rate (now 1e-12)" in printed


def test_records_stop_at_their_limit_and_say_so(tmp_path: Path):
    result = run(tmp_path / "none", *SHORT, "--grpo.max_steps", "2", "--records.rollouts_mb", "0")
    assert not (result.folder / "rollouts.jsonl").exists()
    assert sum("records.rollouts_mb" in line for line in result.lines) == 1
    assert result.summary["completions"] == 32
    assert (result.folder / "report.html").is_file()


def test_the_seconds_of_a_step_are_told_apart(finished: SimpleNamespace):
    for row in rows(finished.folder / "metrics.jsonl"):
        parts = {name: row[f"time/{name}"] for name in ("rollout", "reward", "update", "evaluation")}
        assert all(parts[name] > 0 for name in ("rollout", "reward", "update"))
        assert (parts["evaluation"] > 0) == (row["step"] % 4 == 0 or row["step"] == 1)  # step 1: the one before it


def test_beta_and_loss_type_reach_trl(tmp_path: Path):
    result = run(tmp_path / "kl", *SHORT, "--grpo.beta", "0.1", "--grpo.loss_type", "dr_grpo")
    assert "kl" in rows(result.folder / "metrics.jsonl")[0]


def test_the_shipped_model_can_reason_but_does_not():
    """GRPO needs greedy answers that are wrong and samples some of which are right."""
    base = load_model("embedded")
    result = evaluate(
        EngineRollouts(base.model, base.tokenizer, batch_size=512),
        embedded_problems("test", 100),
        prompt=PromptFormat(),
        grader=Grader(),
        max_new_tokens=112,
        samples=16,
        sampled_problems=50,
        sampling=Sampling(112),
    )
    assert result.accuracy < 0.15
    assert result.summary()["pass_at_k"]["16"] > 0.85


def test_real_gsm8k_rows_train_a_step(gsm8k_folder: Path, tiny_model_folder: Path, tmp_path: Path):
    result = run(
        tmp_path / "real",
        "--model.name", str(tiny_model_folder), "--model.dtype", "float32",
        "--problems.source", str(gsm8k_folder / "train.jsonl"),
        "--problems.test_source", str(gsm8k_folder / "test.jsonl"),
        "--problems.test", "4", "--problems.dev", "4", "--evaluation.samples", "0",
        "--prompt.max_tokens", "2000", "--grpo.max_steps", "1", "--grpo.max_completion_length", "8",
        config=GSM8K,
        force=True,  # a random model earns nothing
    )  # fmt: skip
    assert "each step: 4 problems × 4 samples = 16 completions; 1,867 steps an epoch" in result.lines
    assert not result.outcome.earned  # a random model: the run has to say that it learned nothing
    assert (result.folder / "adapter_model.safetensors").is_file()
    load_model(str(result.folder))


@pytest.mark.large
@pytest.mark.timeout(1200)
def test_a_model_of_qwens_shape_trains_two_steps_on_real_gsm8k(
    gsm8k_folder: Path, tiny_model_folder: Path, tmp_path: Path
):
    """Catches what only real sizes show: tied embeddings of 151,936 rows, logits that do not fit."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    shape = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        intermediate_size=4864,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    model: Any = Qwen2ForCausalLM(shape)
    model = model.to(torch.bfloat16)
    assert 490e6 < model.num_parameters() < 500e6
    model.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(tmp_path / "base")
    del model
    result = run(
        tmp_path / "run",
        "--model.name", str(tmp_path / "base"), "--model.dtype", "float32",
        "--problems.source", str(gsm8k_folder / "train.jsonl"),
        "--problems.test_source", str(gsm8k_folder / "test.jsonl"),
        "--problems.test", "2", "--problems.dev", "2", "--evaluation.samples", "0",
        "--grpo.max_steps", "2", "--grpo.max_completion_length", "8",
        "--grpo.per_device_train_batch_size", "4", "--grpo.gradient_accumulation_steps", "2",
        config=GSM8K,
        force=True,
    )  # fmt: skip
    assert result.summary["steps"] == 2
    weights = load_file(result.folder / "adapter_model.safetensors")
    assert len(weights) == 24 * 7 * 2  # A and B of every linear layer
    loaded = load_model(str(result.folder), dtype="float32")
    trained = dict(loaded.model.named_parameters())
    for name, weight in weights.items():
        key = name.replace(".weight", ".default.weight")
        assert torch.equal(trained[key].float(), weight.float()), name


def test_what_only_training_needs_is_freed_before_the_best_adapter_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A second set of caches, copies and gradients beside the first was a quarter of the quickstart's peak."""
    held: dict[str, weakref.ref] = {}
    before, load = train_module._before, train_module.load_model

    def seen_before(prepared: Any, run: Any, training: Any, evaluator: Any) -> Any:
        trainer = training.trainer
        held.update(weights=weakref.ref(trainer.rollouts.weights), scorer=weakref.ref(trainer.update.scorer))
        return before(prepared, run, training, evaluator)

    def seen_load(*args: Any, **options: Any) -> Any:
        assert [name for name, kept in held.items() if kept() is not None] == []
        held.clear()
        return load(*args, **options)

    monkeypatch.setattr(train_module, "_before", seen_before)
    monkeypatch.setattr(train_module, "load_model", seen_load)
    settings = ["--grpo.max_steps", "4", "--problems.dev", "64", "--evaluation.every", "1"]
    result = run(tmp_path / "run", *SHORT, "--grpo.per_device_train_batch_size", "64", *settings)
    assert result.summary["best_step"] > 0
    assert held == {}  # it was loaded
