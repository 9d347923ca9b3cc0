"""Models of other kinds than the engine's: their sizes, their padding, and the code and tokenizers they come with."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from helpers.bad_model_cases import code_in, edited
from helpers.paths import QUICKSTART
from helpers.runs import SHORT, rows, run
from tiny_math_solver.cli import main
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.sections import ModelSection
from tiny_math_solver.models.adapter import refuse_tied
from tiny_math_solver.models.load import load_base, load_model, load_tokenizer, resolve
from tiny_math_solver.models.starting_adapter import merged, starting_adapter
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts import Sampling, make_rollouts
from tiny_math_solver.rollouts.padding import check_padding, number_positions
from tiny_math_solver.support.device import dtype_note, resolve_dtype
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.training.plan import prepare
from tiny_math_solver.update.torch_scorer import model_sizes, torch_pass_bytes

ENDS: dict[str, Any] = {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
GPT2 = transformers.GPT2Config(vocab_size=1024, n_embd=48, n_layer=2, n_head=3, **ENDS)
TEXT: dict[str, Any] = {
    "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, **ENDS,
}  # fmt: skip
SEEING: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
GEMMA3 = transformers.Gemma3Config(
    text_config={**TEXT, "head_dim": 64, "sliding_window": 64},
    vision_config={**SEEING, "image_size": 28, "patch_size": 14},
    mm_tokens_per_image=4,
)
SLIDING, FULL = "sliding_attention", "full_attention"
OF_GEMMA: dict[str, Any] = {**TEXT, "head_dim": 32, "sliding_window": 20, "layer_types": [SLIDING, FULL]}
OF_FAMILIES: list[Any] = [
    transformers.Gemma2Config(**OF_GEMMA),
    transformers.Gemma3TextConfig(**OF_GEMMA),
    transformers.MistralConfig(**TEXT, head_dim=64, sliding_window=20),
    transformers.Phi3Config(**TEXT, sliding_window=20),
    transformers.Qwen3Config(**TEXT, head_dim=32),
    transformers.SmolLM3Config(**TEXT, no_rope_layers=[1, 0]),
]
MOE = transformers.Qwen2MoeConfig(
    **TEXT, num_experts=4, num_experts_per_tok=3, moe_intermediate_size=60, shared_expert_intermediate_size=20
)
GEMMA3N = transformers.Gemma3nTextConfig(
    **{**TEXT, "intermediate_size": [128, 96]}, head_dim=32, layer_types=["sliding_attention", "full_attention"],
    vocab_size_per_layer_input=1024, hidden_size_per_layer_input=16, laurel_rank=8, num_kv_shared_layers=0,
    sliding_window=64, activation_sparsity_pattern=[0.0, 0.0],
)  # fmt: skip
MAMBA = transformers.MambaConfig(vocab_size=1024, hidden_size=64, state_size=8, num_hidden_layers=2, **ENDS)


def random_model(config: Any, std: float = 0.1) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=1.0 if weight.ndim == 1 else 0.0, std=std)
    return model.eval()


def saved(config: Any, folder: Path) -> Path:
    """A random model of that kind with the embedded model's tokenizer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(resolve("embedded")[0]) / name, folder)
    return folder


# -- Sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (GPT2, (48, 192, 3, 16, 3)),
        (GEMMA3, (64, 128, 2, 64, 1)),
        (MOE, (64, 200, 2, 32, 1)),  # 3 experts of 60 and the shared one
        (GEMMA3N, (64, 128, 2, 32, 1)),  # a size for each layer
        (MAMBA, (64, 128, 1, 64, 1)),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_sizes_are_read_from_every_kind_of_config(config: Any, sizes: tuple[int, ...]):
    """Catches attributes that only some configs have: sizes in text_config, a list of sizes, no attention heads."""
    assert model_sizes(config) == sizes
    one, two = (torch_pass_bytes(config, torch.float32, tokens, 8, is_checkpointed=False) for tokens in (10, 20))
    assert 10 * 2 * 4 * sizes[0] < two - one < two


def trained_and_merged(config: Any, folder: Path) -> list[str]:
    """What a run of one step says; its adapter is merged and compared."""
    chosen = ["--model.name", str(saved(config, folder / "m")), "--grpo.max_completion_length", "8"]
    found = run(folder / "run", *SHORT, *chosen, "--guards.stop", "false", force=True)
    assert rows(found.folder / "metrics.jsonl")[0]["step"] == 1
    merge = ["merge", str(found.folder), str(folder / "merged"), "--dtype", "float32", "--problems", "embedded"]
    assert main(merge) == 0
    return found.lines


@pytest.mark.parametrize("config", [GPT2, MOE, GEMMA3N], ids=lambda config: config.model_type)
def test_other_kinds_train_by_generate_and_merge(config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = trained_and_merged(config, tmp_path)
    assert any(f"the engine does not support architecture {config.model_type}" in line for line in lines)
    assert "same greedy answer on 32 of 32" in capsys.readouterr().out


@pytest.mark.parametrize("config", [*OF_FAMILIES, GEMMA3], ids=lambda config: config.model_type)
def test_families_of_the_engine_train_by_it_and_merge(config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Of a model that also sees the text part is decoded; the adapter of its eyes leaves the update to torch."""
    lines = trained_and_merged(config, tmp_path)
    assert not [line for line in lines if "does not support" in line or "many times slower" in line]
    by_torch = [line for line in lines if line.startswith("update in torch")]
    assert len(by_torch) == (config is GEMMA3)
    assert any("greedy tokens compared with transformers" in line for line in lines)
    assert "same greedy answer on 32 of 32" in capsys.readouterr().out


@pytest.mark.parametrize("config", [GPT2, GEMMA3], ids=lambda config: config.model_type)
def test_other_kinds_start_from_a_merged_adapter(config: Any, tmp_path: Path):
    """Catches layers that are no plain Linear: GPT-2's transposed ones, and those of an attention in a vision tower."""
    base = saved(config, tmp_path / "m")
    adapted = get_peft_model(load_base(str(base)), LoraConfig(target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    adapted.save_pretrained(str(tmp_path / "a"))
    section, adapter = starting_adapter(ModelSection(name=str(tmp_path / "a"), adapter_use="merge"))
    assert adapter
    model, below = merged(section, adapter, "cpu")
    ids = torch.arange(20)[None]
    (tmp_path / "joined").mkdir()
    below.save_joined(get_peft_model(model, LoraConfig(target_modules="all-linear", r=2)), tmp_path / "joined")
    again = load_model(str(tmp_path / "joined"), dtype="float32").model
    with torch.inference_mode():
        expected, plain = adapted.eval()(input_ids=ids).logits, load_base(str(base))(input_ids=ids).logits
        for found in (model.eval(), again):
            assert torch.allclose(found(input_ids=ids).logits, expected, atol=1e-4)
    assert not torch.allclose(expected, plain, atol=1e-2)


# -- Padding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [GPT2, GEMMA3, MAMBA], ids=lambda config: config.model_type)
def test_scoring_of_padded_rows_sees_the_positions_that_generate_sees(config: Any):
    """A model with learned positions would be updated as another policy than the one that was sampled."""
    model = get_peft_model(random_model(config), LoraConfig(target_modules=r".*\.(c_attn|q_proj|in_proj)")).eval()
    check_padding(model)
    row = torch.arange(9)[None] + 30
    ids, mask = (torch.cat([value.new_zeros(1, 6), value], 1) for value in (row, torch.ones_like(row)))
    with torch.inference_mode():
        alone, without = model(input_ids=row).logits, model(input_ids=ids, attention_mask=mask).logits[:, 6:]
        number_positions(model)
        padded = model(input_ids=ids, attention_mask=mask).logits[:, 6:]
    assert torch.allclose(padded, alone, atol=1e-4)
    if config is GPT2:
        assert not torch.allclose(without, alone, atol=1e-2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.RwkvConfig(vocab_size=1024, hidden_size=64, num_hidden_layers=2), "padding in front of a prompt"),
        (
            transformers.Llama4TextConfig(**TEXT, head_dim=32, intermediate_size_mlp=128, num_local_experts=2),
            r"a pass through the model fails \(AttributeError: 'tuple' object .* other lora.target_modules may do",
        ),
    ],
    ids=["rwkv", "llama4"],
)
def test_models_that_padding_or_an_adapter_breaks_are_refused(config: Any, message: str):
    """Without this the first answers of RWKV in a batch of unequal prompts are not the model's, and nobody is told."""
    model = random_model(config)
    with pytest.raises(UserError, match=message):
        make_rollouts(get_peft_model(model, LoraConfig(target_modules="all-linear")), load_tokenizer("embedded"))


# -- Code that comes with a model -------------------------------------------------------------------------------


def test_auto_map_beside_native_classes_is_left_alone(tiny_model_folder: Path, tmp_path: Path, capsys, monkeypatch):
    """Many models still carry the code that transformers took over since; it must load, and its code must not run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_folder, tmp_path / "m")
    code_in("config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})(tmp_path / "m")
    edited(tmp_path / "m", "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    loaded = load_model("m")
    assert type(loaded.model).__name__ == "Qwen2ForCausalLM"
    assert len(load_tokenizer("m")) == 348
    assert not (tmp_path / "it_ran").exists()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "model m: auto_map in config.json and tokenizer_config.json is ignored: transformers' own classes" in said


# -- Tokenizers -------------------------------------------------------------------------------------------------


@pytest.fixture
def larger_tokenizer(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """The tiny Qwen2 with nine more tokens than the embedding has rows, one of which is to be the padding."""
    shutil.copytree(tiny_model_folder, tmp_path / "m")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "m")
    tokenizer.add_tokens([f"<more{i}>" for i in range(9)])
    tokenizer.pad_token = "<more1>"
    tokenizer.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_a_tokenizer_with_spare_entries_is_used(larger_tokenizer: Path, capsys: pytest.CaptureFixture[str]):
    loaded = load_model(str(larger_tokenizer), dtype="float32")
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id
    assert "has 357 entries, the model's embedding 348 rows" in capsys.readouterr().err
    ids = loaded.tokenizer("What is 2 + 2?")["input_ids"]
    for engine in (True, False):
        rollouts = make_rollouts(loaded.model, loaded.tokenizer, engine=engine)
        (made,) = rollouts.generate([Prompt(ids, 0)], 1, Sampling(3, temperature=0))
        assert max(made.completion_ids) < 348


def test_a_prompt_with_a_token_beyond_the_embedding_is_refused(larger_tokenizer: Path):
    """A kernel would read past the end of the embedding."""
    loaded = load_model(str(larger_tokenizer), dtype="float32")
    ids = loaded.tokenizer("What is <more3>?")["input_ids"]
    message = "a prompt has the token '<more3>' with id 351, but the model's embedding has 348 rows"
    for engine in (True, False):
        rollouts = make_rollouts(loaded.model, loaded.tokenizer, engine=engine)
        with pytest.raises(UserError, match=message):
            rollouts.generate([Prompt(ids, 0)], 1, Sampling(3))
        with pytest.raises(UserError, match=message):
            list(rollouts.stream(ids, Sampling(3)))


def test_a_template_with_a_token_beyond_the_embedding_is_refused_before_a_run(larger_tokenizer: Path):
    tokenizer: Any = AutoTokenizer.from_pretrained(larger_tokenizer)
    tokenizer.chat_template = "<more7>{{ messages[-1].content }}"
    tokenizer.save_pretrained(larger_tokenizer)
    with pytest.raises(UserError, match="a prompt has the token '<more7>' with id 355"):
        prepare(load_config(QUICKSTART, ["--model.name", str(larger_tokenizer)]))


# -- Dtypes -----------------------------------------------------------------------------------------------------


def test_a_gpu_that_emulates_bfloat16_computes_in_float32_and_says_so(monkeypatch: pytest.MonkeyPatch):
    """On Turing torch reports bfloat16 as supported, and emulates it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolve_dtype("auto", "cuda") is torch.float32
    assert dtype_note("auto", "cuda").startswith("this GPU has no bfloat16: the model is in float32")
    assert resolve_dtype("bfloat16", "cuda") is torch.bfloat16
    assert "only emulates bfloat16" in dtype_note("bfloat16", "cuda")
    assert dtype_note("float16", "cuda") == dtype_note("auto", "cpu") == ""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert resolve_dtype("auto", "cuda") is torch.bfloat16
    assert dtype_note("auto", "cuda") == ""


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("found", ["amx_bf16", "avx512_bf16", "avx512_f"])
def test_auto_is_bfloat16_on_a_cpu_that_multiplies_in_it_and_for_weights_stored_so(
    stored: torch.dtype, found: str, monkeypatch: pytest.MonkeyPatch
):
    """The shipped model is float32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {found: True}, raising=False)
    expected = torch.bfloat16 if found.endswith("bf16") and stored is torch.bfloat16 else torch.float32
    assert resolve_dtype("auto", "cpu", stored) is expected
    assert resolve_dtype("float32", "cpu", stored) is torch.float32
    assert resolve_dtype("auto", "mps", stored) is torch.float32
    assert load_base("embedded").dtype is torch.float32


# -- Tied embeddings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "key", "name"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, "target_modules", "model.embed_tokens"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules", "lm_head"),
        ({"target_modules": ".*(q_proj|embed_tokens)"}, "target_modules", "model.embed_tokens"),
        ({"target_modules": "all-linear", "modules_to_save": ["lm_head"]}, "modules_to_save", "lm_head"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, "modules_to_save", "model.embed_tokens"),
    ],
)
def test_lora_on_a_tied_embedding_is_refused(settings: dict[str, Any], key: str, name: str):
    model = load_base("embedded")
    assert model.config.tie_word_embeddings
    with pytest.raises(UserError, match=rf"lora\.{key}: {name} shares its weight between input and output"):
        refuse_tied(model, LoraConfig(**settings))
    refuse_tied(model, LoraConfig(**{**settings, "modules_to_save": None, "target_modules": "all-linear"}))
    refuse_tied(model, LoraConfig(**{**settings, "modules_to_save": ["norm"], "target_modules": ["q_proj"]}))
    untied = AutoConfig.for_model("qwen2", **TEXT, tie_word_embeddings=False)
    refuse_tied(AutoModelForCausalLM.from_config(untied), LoraConfig(**settings))


def test_a_run_with_lora_on_a_tied_embedding_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = ["--grpo.output_dir", str(tmp_path / "run")]
    assert main(["train", str(QUICKSTART), *out, "--lora.target_modules", "[q_proj, lm_head]"]) == 2
    assert "lora.target_modules: lm_head shares its weight" in capsys.readouterr().err
    assert main(["train", str(QUICKSTART), *out, "--lora.bias", "all", "--grpo.beta", "0.1"]) == 2
    assert "set grpo.beta 0 or lora.bias none" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
