"""Runs that start from an adapter: trained on, or merged into the base under a new one."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig
from trl import GRPOTrainer

from helpers.runs import SHORT, rows, run
from tiny_math_solver.cli import main
from tiny_math_solver.config.sections import ModelSection
from tiny_math_solver.evaluation.evaluate import evaluate
from tiny_math_solver.models.adapter import load_adapter, save_adapter
from tiny_math_solver.models.load import load_base, load_model, load_tokenizer, resolve
from tiny_math_solver.models.starting_adapter import merged, starting_adapter
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.prompts import PromptFormat
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import make_rollouts
from tiny_math_solver.support.errors import UserError

STILL = ["--grpo.lr_scheduler_type", "linear", "--grpo.warmup_steps", "5"]  # the only step is at learning rate 0
LONGEST = 48  # tokens of a completion
WEIGHTS = "adapter_model.safetensors"
IDS = torch.arange(40)[None] + 5


def lora(settings: dict[str, Any]) -> LoraConfig:
    defaults: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return LoraConfig(**defaults | settings)


def make_adapter(folder: Path, base: str = "embedded", std: float = 0.02, **settings: Any) -> Path:
    """An adapter that changes what its base says, saved by PEFT as any trainer would."""
    torch.manual_seed(1)
    model = get_peft_model(load_base(base, dtype="float32"), lora(settings))
    for name, weight in model.named_parameters():
        if weight.requires_grad and "lora_A" not in name:
            torch.nn.init.normal_(weight, std=std)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with dropout, of rank 4 on the attention alone."""
    folder = tmp_path_factory.mktemp("adapters") / "sft"
    return make_adapter(folder, target_modules=["q_proj", "v_proj", "o_proj"], lora_dropout=0.3, std=0.05)


def started(folder: Path, adapter: Path, use: str, *overrides: str) -> SimpleNamespace:
    chosen = ["--model.adapter", str(adapter), "--model.adapter_use", use]
    return run(folder, *SHORT, *chosen, "--grpo.max_completion_length", str(LONGEST), *overrides, force=True)


def greedy(name: str, count: int = 4) -> list[str]:
    loaded = load_model(name, dtype="float32")
    result = evaluate(
        make_rollouts(loaded.model, loaded.tokenizer),
        embedded_problems("test", count),
        prompt=PromptFormat(),
        max_new_tokens=LONGEST,
        grader=Grader(),
    )
    return [record.completion for record in result.greedy]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


def plain_peft(folder: Path) -> Any:
    """What a user without this package loads: transformers' base by the name in the adapter, and PEFT."""
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder).eval()


@pytest.mark.parametrize("use", ["continue", "merge"])
def test_a_run_starts_at_the_adapter_and_without_learning_ends_there(sft: Path, tmp_path: Path, use: str):
    """Catches a start from the bare base, a merge in another dtype, and an adapter saved without the one below it."""
    found = started(tmp_path / "run", sft, use, *STILL)
    before, after = ([row["completion"] for row in rows(found.folder / f"eval/{n}.jsonl")] for n in ("before", "after"))
    assert before == after == greedy(str(sft))
    assert before != greedy("embedded")
    assert torch.allclose(logits(plain_peft(found.folder)), logits(plain_peft(sft)), atol=1e-4)
    assert greedy(str(found.folder)) == before


@pytest.mark.parametrize("use", ["continue", "merge"])
def test_the_reference_of_the_kl_term_is_the_starting_policy(sft: Path, tmp_path: Path, use: str):
    """Against the base the divergence of this adapter is large from the first step on."""
    found = started(tmp_path / "run", sft, use, "--grpo.beta", "0.1", "--lora.lora_dropout", "0", *STILL)
    assert rows(found.folder / "metrics.jsonl")[0]["kl"] < 1e-6
    assert not (found.folder / "ref").exists()


def test_the_reference_has_no_dropout(sft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """TRL scores the reference in training mode, where dropout would make it another policy at every step."""
    trainers: list[Any] = []
    begin = GRPOTrainer.train

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        trainers.append(self)
        return begin(self, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "train", watched)
    started(tmp_path / "run", sft, "continue", "--grpo.beta", "0.1", "--lora.lora_dropout", "0.5", *STILL)
    layer = trainers[0].policy.model.layers[0].self_attn.q_proj
    assert isinstance(layer.lora_dropout["ref"], torch.nn.Identity)
    assert layer.lora_dropout["default"].p == 0.5


def test_continuing_keeps_rank_and_targets_and_changes_the_weights(sft: Path, tmp_path: Path):
    found = started(tmp_path / "run", sft, "continue", "--lora.r", "2", "--grpo.learning_rate", "1e-2")
    settings = json.loads((found.folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (4, 8, 0.0)
    assert sorted(settings["target_modules"]) == ["o_proj", "q_proj", "v_proj"]
    assert any("its r=4, alpha=8 and target modules (o_proj, q_proj, v_proj) stand" in line for line in found.lines)
    checkpoint, start = load_file(found.folder / "checkpoint-1" / WEIGHTS), load_file(sft / WEIGHTS)
    assert checkpoint.keys() == start.keys()
    assert all(not torch.equal(checkpoint[key], start[key]) for key in start)


def test_merging_leaves_the_first_adapter_as_it_is(sft: Path, tmp_path: Path):
    """The joined adapter holds the first one's update unchanged, beside the trained one's."""
    found = started(tmp_path / "run", sft, "merge", "--lora.r", "2", "--lora.lora_alpha", "2")
    joined, start = load_file(found.folder / "checkpoint-1" / WEIGHTS), load_file(sft / WEIGHTS)
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert joined[key].shape[0] == 4 + 2
    assert torch.equal(joined[key][:4], start[key])
    assert any("merged into the base under a new one" in line for line in found.lines)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({"target_modules": ["q_proj", "down_proj"]}, {"target_modules": ["v_proj", "down_proj"], "r": 3}),
        ({"rank_pattern": {"layers.1.mlp.up_proj": 7}, "alpha_pattern": {"q_proj": 3}, "use_rslora": True}, {"r": 2}),
        ({"target_modules": r".*layers\.1\.self_attn\.[qk]_proj"}, {"rank_pattern": {"gate_proj": 6}}),
        ({"layers_to_transform": [0], "target_modules": ["up_proj"]}, {"target_modules": ["up_proj"], "lora_alpha": 5}),
    ],
    ids=["same", "other targets", "patterns", "regular expression", "layers"],
)  # fmt: skip
def test_joined_adapters_are_the_sum_of_both(first: dict[str, Any], second: dict[str, Any], tmp_path: Path):
    """Plain PEFT on the original base gives the logits of the fresh adapter on the merged base."""
    make_adapter(tmp_path / "first", **first)
    section = ModelSection(name=str(tmp_path / "first"), adapter_use="merge", dtype="float32")
    section, adapter = starting_adapter(section)
    assert adapter
    assert section.name == "embedded"
    model, below = merged(section, adapter, "cpu")
    assert torch.allclose(logits(model), logits(plain_peft(tmp_path / "first")), atol=1e-4)
    model = get_peft_model(model, lora({"r": 4} | second))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.03)
    (tmp_path / "joined").mkdir()
    below.save_joined(model, tmp_path / "joined")
    assert torch.allclose(logits(plain_peft(tmp_path / "joined")), logits(model.eval()), atol=1e-4)
    trained = below.trained_part(model, load_file(tmp_path / "joined" / WEIGHTS))
    model.save_pretrained(str(tmp_path / "trained"))
    alone = load_file(tmp_path / "trained" / WEIGHTS)
    assert trained.keys() == alone.keys()
    assert all(torch.equal(trained[key], alone[key]) for key in alone)


def test_a_merge_rounds_the_stored_weights_once(tiny_model_folder: Path, tmp_path: Path):
    """The base is stored in bfloat16: for float16 it must not be rounded before the sum is."""
    make_adapter(tmp_path / "a", str(tiny_model_folder), std=2e-3)
    section, adapter = starting_adapter(ModelSection(name=str(tmp_path / "a"), adapter_use="merge", dtype="float16"))
    assert adapter
    model, _ = merged(section, adapter, "cpu")
    exact = load_adapter(load_base(str(tiny_model_folder), dtype="float32"), tmp_path / "a").merge_and_unload()
    sums = dict(exact.named_parameters())
    assert model.dtype == torch.float16
    assert all(torch.equal(weight, sums[name].half()) for name, weight in model.named_parameters())


@pytest.mark.parametrize("use", ["continue", "merge"])
def test_a_resumed_run_ends_as_one_straight_through(sft: Path, tmp_path: Path, use: str):
    """Catches a checkpoint that restores the joined adapter in place of the trained one, and a reference that moved."""
    more = ["--grpo.max_steps", "3", "--grpo.save_steps", "1", "--grpo.beta", "0.02", "--lora.lora_dropout", "0.1"]
    straight = started(tmp_path / "straight", sft, use, *more).folder
    step = GRPOTrainer.training_step

    def cut(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "training_step", cut)
        with pytest.raises(KeyboardInterrupt):
            started(tmp_path / "cut", sft, use, *more)
    resumed = started(tmp_path / "cut", sft, use, *more)
    assert any("step 2: resumed" in line for line in resumed.lines)
    for name in (WEIGHTS, "rollouts.jsonl", "checkpoint-3/" + WEIGHTS, "eval/after.jsonl"):
        assert (straight / name).read_bytes() == (resumed.folder / name).read_bytes()
    kl = [[row["kl"] for row in rows(folder / "metrics.jsonl") if "kl" in row] for folder in (straight, resumed.folder)]
    assert kl[0] == kl[1]
    assert kl[0][-1] > 0


def test_another_adapter_under_the_same_name_is_not_resumed(sft: Path, tmp_path: Path):
    mine = shutil.copytree(sft, tmp_path / "mine")
    more = ["--grpo.max_steps", "2", "--grpo.save_steps", "1"]
    step = GRPOTrainer.training_step

    def cut(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 1:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "training_step", cut)
        with pytest.raises(KeyboardInterrupt):
            started(tmp_path / "run", mine, "continue", *more)
    make_adapter(mine, target_modules=["q_proj", "v_proj", "o_proj"])
    with pytest.raises(UserError, match="or the adapter it started from is another"):
        started(tmp_path / "run", mine, "continue", *more)


def test_a_chain_of_runs_loads_with_plain_peft(sft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Trained on, then merged and trained anew, then trained on: each link starts where the one before it ended."""
    links, fast = [sft], ["--grpo.learning_rate", "5e-3", "--evaluation.every", "1"]
    for number, use in enumerate(["continue", "merge", "merge", "continue"]):
        found = started(tmp_path / f"{number}", links[-1], use, *fast)
        assert [row["completion"] for row in rows(found.folder / "eval/before.jsonl")] == greedy(str(links[-1]))
        links.append(found.folder)
    assert torch.allclose(logits(plain_peft(links[-1])), logits(load_model(str(links[-1])).model), atol=1e-4)
    assert main(["merge", str(links[-1]), str(tmp_path / "whole"), "--problems", "embedded"]) == 0
    assert "same greedy answer on 32 of 32" in capsys.readouterr().out


def test_an_adapter_as_the_model_is_trained_on(sft: Path, tmp_path: Path):
    found = run(tmp_path / "run", *SHORT, "--model.name", str(sft), *STILL, force=True)
    assert found.lines[0] == "model: embedded, LoRA r=4 alpha=8"
    recorded = (found.folder / "config.yaml").read_text()
    assert f"name: embedded\n  revision: null\n  dtype: float32\n  adapter: {sft}" in recorded


def test_a_base_that_has_moved_is_named_by_model_name(tiny_model_folder: Path, tmp_path: Path):
    base = shutil.copytree(tiny_model_folder, tmp_path / "base")
    make_adapter(tmp_path / "a", str(base))
    base.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"no such model folder: .*base, which adapter .*: .* merge --base BASE"):
        starting_adapter(ModelSection(name=str(tmp_path / "a")))
    section, adapter = starting_adapter(ModelSection(name=str(tmp_path / "moved"), adapter=str(tmp_path / "a")))
    assert adapter
    assert (section.name, adapter.folder) == (str(tmp_path / "moved"), tmp_path / "a")
    assert resolve(section.name)[0] == str(tmp_path / "moved")


@pytest.mark.parametrize(
    ("settings", "flaw"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["norm"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights pissa"),
    ],
)
def test_more_than_a_plain_update_is_trained_on_but_not_merged(settings: dict[str, Any], flaw: str, tmp_path: Path):
    """`tiny-math merge` can fold them, a joined adapter cannot hold them."""
    adapter = make_adapter(tmp_path / "a", **settings)
    with pytest.raises(UserError, match=f"an adapter with {flaw} cannot be merged by model.adapter_use; tiny"):
        starting_adapter(ModelSection(name=str(adapter), adapter_use="merge"))
    found = started(tmp_path / "run", adapter, "continue", *STILL)
    assert [row["completion"] for row in rows(found.folder / "eval/before.jsonl")] == greedy(str(adapter))
    assert torch.allclose(logits(plain_peft(found.folder)), logits(plain_peft(adapter)), atol=1e-4)


def test_other_kinds_of_adapters_are_refused(tmp_path: Path):
    from peft import IA3Config, PromptTuningConfig

    for name, config in (
        ("IA3", IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")),
        ("PROMPT_TUNING", PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")),
    ):
        get_peft_model(load_base("embedded"), config).save_pretrained(str(tmp_path / name))
        with pytest.raises(UserError, match=f"an adapter of the kind {name}; only LoRA adapters can be trained on"):
            starting_adapter(ModelSection(name=str(tmp_path / name)))


def test_a_run_that_would_move_its_own_adapter_aside_is_refused(sft: Path, tmp_path: Path):
    folder = shutil.copytree(sft, tmp_path / "run" / "sft")
    for out in (folder, folder.parent):
        with pytest.raises(UserError, match=r"lies in grpo\.output_dir .*: choose another grpo\.output_dir"):
            started(out, folder, "continue")


def test_the_adapters_own_chat_template_is_used(sft: Path, tmp_path: Path):
    """Fine-tuning often comes with a template that the base does not have."""
    folder = shutil.copytree(sft, tmp_path / "templated")
    tokenizer = load_tokenizer("embedded")
    tokenizer.chat_template = "OWN {{ messages[-1].content }}"
    save_adapter(load_adapter(load_base("embedded"), sft), tokenizer, folder)
    assert load_model(str(folder)).tokenizer.chat_template == tokenizer.chat_template
    found = started(tmp_path / "run", folder, "continue", *STILL)
    assert rows(found.folder / "rollouts.jsonl")[0]["completion"]
    assert load_tokenizer("embedded", None, found.folder).chat_template == tokenizer.chat_template


@pytest.mark.parametrize("use", ["continue", "merge"])
def test_completions_end_where_those_of_the_adapter_do(sft: Path, tmp_path: Path, use: str):
    """Catches a run in which the completions of an adapter that learned to end at another token run to their limit."""
    folder = Path(shutil.copytree(sft, tmp_path / "sft"))
    tokenizer = load_tokenizer("embedded")
    end = max(set(tokenizer(greedy(str(sft))[0])["input_ids"]) - {tokenizer.eos_token_id})
    GenerationConfig(eos_token_id=[tokenizer.eos_token_id, end]).save_pretrained(folder)
    found = started(tmp_path / "run", folder, use, *STILL)
    before = [row["completion"] for row in rows(found.folder / "eval/before.jsonl")]
    assert before == greedy(str(folder)) == greedy(str(found.folder))
    assert before != greedy(str(sft))
    recorded = json.loads((found.folder / "generation_config.json").read_text())["eos_token_id"]
    assert recorded == sorted([tokenizer.eos_token_id, end])
