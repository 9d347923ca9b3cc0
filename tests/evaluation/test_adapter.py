"""Merging: exact in float32, honest where rounding changes something."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from tiny_math_solver.cli import main
from tiny_math_solver.evaluation.merge import prove_merge
from tiny_math_solver.models.adapter import save_adapter
from tiny_math_solver.models.load import load_base, load_tokenizer
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.prompts import PromptFormat
from tiny_math_solver.rewards.grader import Grader


@pytest.fixture(scope="module")
def adapter(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter whose update is small compared with the weights, as after a short run."""
    torch.manual_seed(0)
    model = get_peft_model(
        load_base(str(tiny_model_folder), dtype="float32"), LoraConfig(r=4, target_modules="all-linear")
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=2e-3)
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    folder.mkdir()
    save_adapter(model, load_tokenizer(str(tiny_model_folder)), folder)
    return folder


def expected_weight(base: Path, adapter: Path) -> torch.Tensor:
    """W + (alpha / r) B A, worked out here, for the first query projection."""
    name = "model.layers.0.self_attn.q_proj"
    update = load_file(adapter / "adapter_model.safetensors")
    a, b = (update[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    return load_file(base / "model.safetensors")[f"{name}.weight"].float() + (8 / 4) * b @ a


def test_merging_in_float32_keeps_the_whole_update(tiny_model_folder: Path, adapter: Path, tmp_path: Path, capsys):
    """A base loaded in bfloat16 rounds most of such an update away."""
    out = tmp_path / "merged"
    assert main(["merge", str(adapter), str(out), "--dtype", "float32", "--problems", "embedded"]) == 0
    merged = load_file(out / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    assert torch.allclose(merged, expected_weight(tiny_model_folder, adapter), atol=1e-6)
    printed = capsys.readouterr().out
    assert "same greedy answer on 32 of 32 problems" in printed
    assert "largest logit difference" in printed
    names = {file.name for file in out.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= names


def test_the_default_dtype_is_the_bases_own_and_columns_may_be_named(
    tiny_model_folder: Path, adapter: Path, tmp_path: Path, capsys
):
    stored = load_file(tiny_model_folder / "model.safetensors")["model.norm.weight"].dtype
    (tmp_path / "own.csv").write_text("ask;gold\nAva has 3 bags of 7 marbles. How many marbles?;21\nAnd who?;Tom\n")
    named = [
        "--problems",
        str(tmp_path / "own.csv"),
        "--question",
        "ask",
        "--answer",
        "gold",
        "--max-unreadable",
        "0.5",
    ]
    assert main(["merge", str(adapter), str(tmp_path / "m"), *named]) in (0, 4)
    out, err = capsys.readouterr()
    assert "of 1 problems" in out  # one of the two rows of that file has a gold answer
    assert "own.csv: question from ask, answer from gold" in err
    assert load_file(tmp_path / "m" / "model.safetensors")["model.norm.weight"].dtype == stored == torch.bfloat16


def test_the_proof_notices_a_merge_that_is_not_one(tiny_model_folder: Path, adapter: Path):
    """A proof that the bare base passes would prove nothing."""
    proof = prove_merge(adapter, tiny_model_folder, embedded_problems("test", 4), PromptFormat(), 4, Grader())
    assert proof.problems == 4
    assert proof.max_logit_difference > 1e-3


def test_an_occupied_folder_is_left_alone(adapter: Path, tmp_path: Path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["merge", str(adapter), str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_merge_that_is_interrupted_leaves_no_half_of_a_model(adapter: Path, tmp_path: Path, monkeypatch, capsys):
    """Catches: a folder with weights and no tokenizer, which the next attempt refuses to touch."""

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", interrupt)
    assert main(["merge", str(adapter), str(tmp_path / "m"), "--problems", "embedded"]) == 130
    assert capsys.readouterr().err == "tiny-math: interrupted\n"
    assert not (tmp_path / "m").exists()


def test_an_adapter_whose_base_has_moved_is_merged_with_base(
    tiny_model_folder: Path, adapter: Path, tmp_path: Path, capsys
):
    """The proof compares with the base that was named, not with the one that is gone."""
    mine, base = shutil.copytree(adapter, tmp_path / "a"), shutil.copytree(tiny_model_folder, tmp_path / "base")
    settings = json.loads((mine / "adapter_config.json").read_text())
    for gone in ("./gone", None):
        (mine / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": gone}))
        command = ["merge", str(mine), str(tmp_path / f"{gone}"), "--dtype", "float32", "--problems", "embedded"]
        assert main(command) == 2
        assert "merge --base" in capsys.readouterr().err or gone is None
        assert main([*command, "--base", str(base)]) == 0
        assert "same greedy answer on 32 of 32 problems" in capsys.readouterr().out
        merged = load_file(tmp_path / f"{gone}" / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
        assert torch.allclose(merged, expected_weight(base, mine), atol=1e-6)
        assert main(["eval", str(base), "--adapter", str(mine), "--problems", "embedded", "--limit", "2"]) == 0
