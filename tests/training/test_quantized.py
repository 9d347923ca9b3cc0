"""A quantised base: rollouts, update, merge and resumption all mean the dequantised weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from helpers.paths import QUICKSTART
from helpers.power_cut import power_cut
from helpers.runs import SHORT, rows, run
from tiny_math_solver.cli import main
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.models import quantized
from tiny_math_solver.models.load import load_base, load_model, load_tokenizer
from tiny_math_solver.models.quantized import dense_weight, dequantized, is_quantized, stored_tensors
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.rollouts import EngineRollouts
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.training.plan import prepare

pytest.importorskip("bitsandbytes")
pytest.importorskip("torchao")

IDS = torch.arange(5, 45)[None]
KINDS = ["nf4", "int8"]
BYTES = {"nf4": 0.5, "int8": 1.0}  # of a weight, without its scales
GAPS = {"nf4": (0.2, 4.0), "int8": (0.01, 0.5)}  # of logits to the unquantised model: not nothing, and bounded


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_computes_with_the_dequantised_weights(kind: str):
    """Catches a forward pass that rounds activations: rollouts would come from another policy than it scores."""
    model, plain = load_base("embedded", dtype="float32", quantization=kind), load_base("embedded", dtype="float32")
    layer = model.model.layers[0].mlp.up_proj
    assert is_quantized(layer)
    held = sum(part.nbytes for part in stored_tensors(layer.weight))
    assert held <= 1.3 * BYTES[kind] * layer.in_features * layer.out_features
    assert dense_weight(layer).shape == (layer.out_features, layer.in_features)
    with torch.no_grad():
        own = model(IDS).logits
        dense = dequantized(model, torch.float32)(IDS).logits
        gap = (own - plain(IDS).logits).abs().max().item()
    assert (own - dense).abs().max() < 1e-4
    least, most = GAPS[kind]
    assert least < gap < most
    assert not any(is_quantized(module) for module in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_copy_is_the_dequantised_base(kind: str):
    weights = PolicyWeights(load_base("embedded", dtype="float32", quantization=kind))
    layer = weights.layers[0]
    expected = dense_weight(weights.body.layers[0].self_attn.o_proj)
    assert torch.equal(layer.attention_out.dense()[: len(expected)], expected)
    made = weights.layers[0].attention_out.weight.clone()
    weights.sync()  # nothing has changed: filled once
    assert torch.equal(weights.layers[0].attention_out.weight, made)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_trains_and_merges_with_proof(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    done = run(tmp_path / "run", *SHORT, "--model.quantization", kind, "--grpo.max_steps", "3", force=True)
    assert f"model: embedded in {kind}, LoRA" in done.lines[0]
    assert done.summary["engine_check"]["gap"] < 1e-4
    metrics = rows(done.folder / "metrics.jsonl")
    assert metrics[0]["sampling/transformers_logp_difference/max"] < 1e-4
    adapter = load_model(str(done.folder), dtype="float32").model
    trained = list(load_file(next(done.folder.glob("checkpoint-*")) / "adapter_model.safetensors").values())
    assert {weight.dtype for weight in trained} == {torch.float32}
    assert any((weight != weight.bfloat16().float()).any() for weight in trained)  # TRL rounds them to bfloat16
    assert main(["merge", str(done.folder), str(tmp_path / "merged"), "--problems", "embedded"]) == 0
    assert "same greedy answer on 32 of 32 problems" in capsys.readouterr().out
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert not hasattr(merged.config, "quantization_config")
    with torch.inference_mode():
        assert (merged(IDS).logits - adapter(IDS).logits).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_with_the_same_bytes(kind: str, tmp_path: Path):
    settings = [*SHORT, "--model.quantization", kind, "--grpo.max_steps", "4", "--grpo.save_steps", "1"]
    straight = run(tmp_path / "straight", *settings, force=True)
    with power_cut(2):
        run(tmp_path / "cut", *settings, force=True)
    resumed = run(tmp_path / "cut", *settings, force=True)
    for name in ("adapter_model.safetensors", "rollouts.jsonl"):
        assert (resumed.folder / name).read_bytes() == (straight.folder / name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_that_came_quantised_trains_and_merges_with_proof(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Catches a pass in bitsandbytes' coarser way, and a merged model that is saved as if it were still packed."""
    folder = tmp_path / "packed"
    load_base("embedded", dtype="float32", quantization=kind).save_pretrained(folder)
    load_tokenizer("embedded").save_pretrained(folder)
    done = run(tmp_path / "run", *SHORT, "--model.name", str(folder), force=True)
    assert done.summary["engine_check"]["gap"] < 1e-4
    assert main(["merge", str(done.folder), str(tmp_path / "merged"), "--problems", "embedded"]) == 0
    assert "same greedy answer on 32 of 32 problems" in capsys.readouterr().out
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    adapter = load_model(str(done.folder), dtype="float32").model
    with torch.inference_mode():
        assert (merged(IDS).logits - adapter(IDS).logits).abs().max() < 1e-4
    with pytest.raises(UserError, match="is quantised already"):
        load_base(str(folder), quantization="nf4")


def test_an_8_bit_optimizer_resumes_with_the_same_bytes(tmp_path: Path):
    settings = [*SHORT, "--grpo.optim", "adamw_bnb_8bit", "--grpo.max_steps", "4", "--grpo.save_steps", "1"]
    straight = run(tmp_path / "straight", *settings, force=True)
    with power_cut(2):
        run(tmp_path / "cut", *settings, force=True)
    resumed = run(tmp_path / "cut", *settings, force=True)
    name = "adapter_model.safetensors"
    assert (resumed.folder / name).read_bytes() == (straight.folder / name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_evaluated_is_the_policy_that_was_trained(kind: str, tmp_path: Path):
    """Catches an adapter that is put on the unquantised base, to which it does not belong."""
    done = run(tmp_path / "run", *SHORT, "--model.quantization", kind, force=True)
    loaded = load_model(str(done.folder), dtype="float32")
    quantised = load_base("embedded", dtype="float32", quantization=kind)
    weight = loaded.model.base_model.model.model.layers[1].mlp.down_proj.base_layer.weight
    assert torch.equal(weight, dense_weight(quantised.model.layers[1].mlp.down_proj))
    assert isinstance(EngineRollouts(loaded.model, loaded.tokenizer), EngineRollouts)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--model.quantization", "int4"], "choose nf4 or int8"),
        (["--model.quantization", "nf4", "--lora", "null"], "model.quantization needs an adapter"),
        (["--model.quantization", "nf4", "--model.adapter", "x"], "model.quantization starts a new adapter"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], message: str):
    with pytest.raises(UserError) as error:
        load_config(QUICKSTART, overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(("kind", "library"), [("nf4", "bitsandbytes"), ("int8", "torchao")])
def test_a_library_that_is_missing_is_named(kind: str, library: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"needs {library}: pip install 'tiny-math-solver\[quantized\]'"):
        load_base("embedded", quantization=kind)


def test_the_plan_says_what_the_base_is_held_in():
    config = load_config(QUICKSTART, [*SHORT, "--model.quantization", "int8"])
    assert prepare(config).plan.lines[0].startswith("model: embedded in int8, LoRA r=16")
