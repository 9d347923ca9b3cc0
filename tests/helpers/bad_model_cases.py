"""Model and adapter folders that are damaged, incomplete, of another kind, or bring code of their own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.bad_input_cases import ROW, TINY, Case
from helpers.paths import QUICKSTART


def edited(folder: Path, name: str, **values: Any) -> None:
    """Set keys of a JSON file; None removes a key."""
    settings = json.loads((folder / name).read_text()) | values
    (folder / name).write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def model(why: str, damage: Callable[[Path], Any], message: str) -> Case:
    """A copy of the tiny model with something done to it."""

    def build(folder: Path) -> None:
        shutil.copytree(TINY["model"], folder)
        damage(folder)

    return Case(why, "eval ./m --problems p.jsonl --max-new-tokens 2", message, {"m": build, "p.jsonl": ROW})


def adapter(why: str, damage: Callable[[Path], Any], message: str) -> Case:
    """A copy of an adapter of the tiny model with something done to it."""

    def build(folder: Path) -> None:
        shutil.copytree(TINY["adapter"], folder)
        damage(folder)

    return Case(why, "eval ./a --problems p.jsonl --max-new-tokens 2", message, {"a": build, "p.jsonl": ROW})


def trained(why: str, damage: Callable[[Path], Any], message: str, options: str = "") -> Case:
    """The same, to be trained on."""

    def build(folder: Path) -> None:
        shutil.copytree(TINY["adapter"], folder)
        damage(folder)

    return Case(f"trained: {why}", f"train {QUICKSTART} --model.name ./a {options}", message, {"a": build})


def without(*names: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return build


def having(name: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: edited(folder, name, **values)


def holding(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:5000])


def tensors(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        save_file(change(load_file(folder / name)), folder / name, {"format": "pt"})

    return damage


def only_shards(index: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        without("model.safetensors")(folder)
        (folder / "model.safetensors.index.json").write_text(index)

    return damage


def code_in(name: str, **values: Any) -> Callable[[Path], None]:
    """A model that brings code, which would leave a file behind if it ran."""

    def damage(folder: Path) -> None:
        (folder / "evil.py").write_text("open('it_ran', 'w')\nraise SystemExit\n")
        edited(folder, name, **values)

    return damage


def no_end(folder: Path) -> None:
    """A tokenizer without an end of sequence: transformers knows one for Qwen, so this is no longer a Qwen."""
    shutil.copytree(TINY["model"], folder)
    edited(folder, "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    edited(folder, "tokenizer_config.json", eos_token=None, tokenizer_class="PreTrainedTokenizerFast")


def end_beyond(folder: Path) -> None:
    """A tokenizer that was given tokens, and an end of sequence among them, for another model."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<more{i}>" for i in range(9)])
    tokenizer.eos_token = "<more8>"
    tokenizer.save_pretrained(folder)


def pickled(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    without("adapter_model.safetensors")(folder)


VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt")
MERGE = "--model.adapter_use merge"
REMOTE = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
MODELS = [
    Case("no such folder", "eval ./nowhere", "no such model folder: ./nowhere"),
    Case("an empty folder", "eval ./m", "no config.json in this folder", {"m": Path.mkdir}),
    Case("a file", "eval ./m", "./m is a file: name the folder", {"m": "x"}),
    Case("off line", "eval someone/some-model --problems embedded", "cannot reach"),
    Case("no name", "eval ''", "the model's name is empty"),
    Case("dtype", "eval embedded --problems embedded --dtype int3", "dtype 'int3': use auto"),
    model("no config.json", without("config.json"), "no config.json in this folder"),
    model("config.json is no JSON", holding("config.json", b"{oops"), "config.json: not a JSON file"),
    model("config.json is a list", holding("config.json", b"[]"), "config.json: expected a JSON object, found list"),
    model("config.json is binary", holding("config.json", b"\xff\xfe"), "config.json: not a JSON file"),
    model("config.json says nothing", holding("config.json", b"{}"), "cannot load model ./m"),
    model("unknown architecture", having("config.json", model_type="nope"), "model type `nope`"),
    model(
        "BERT",
        having("config.json", model_type="bert", architectures=["BertForMaskedLM"]),
        "a BertForMaskedLM does not generate text",
    ),
    model("T5", having("config.json", model_type="t5", architectures=None), "t5 is an encoder-decoder; use a causal"),
    model(
        "vision and text, of a type that is not loaded as a language model",
        having("config.json", model_type="qwen2_5_vl", architectures=["Qwen2_5_VLForConditionalGeneration"]),
        "transformers has no causal language model for qwen2_5_vl",
    ),
    model("no heads", having("config.json", num_attention_heads=0), "cannot load model ./m: ZeroDivisionError"),
    model("size is text", having("config.json", hidden_size="big"), "cannot load model ./m"),
    model("less than no layers", having("config.json", num_hidden_layers=-1), "cannot load model ./m"),
    model("endless layers", having("config.json", num_hidden_layers=10**9, layer_types=None), "over the limit of 1000"),
    model("unknown activation", having("config.json", hidden_act="nope"), "cannot load model ./m: KeyError: 'nope'"),
    model("unknown dtype", having("config.json", dtype="nope"), "./m: AttributeError: module 'torch' has no"),
    model(
        "weights that should be quantised",
        having("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "bitsandbytes has quantised the weights, and it has not",
    ),
    model(
        "weights that should be quantised, of no method",
        having("config.json", quantization_config={"load_in_8bit": True}),
        "bitsandbytes has quantised the weights, and it has not",
    ),
    model(
        "no weights", without("model.safetensors", "pytorch_model.bin"), "no model.safetensors: the weights are missing"
    ),
    model("pickled weights alone", without("model.safetensors"), "no model.safetensors: pytorch_model.bin is a pickle"),
    model("weights cut short", cut("model.safetensors"), "cannot load model ./m: SafetensorError"),
    model("no bytes of weights", holding("model.safetensors", b""), "cannot load model ./m: SafetensorError"),
    model("weights are something else", holding("model.safetensors", b"\xff" * 999), "cannot load model ./m: Safe"),
    model(
        "other shapes",
        having("config.json", hidden_size=128),
        "has the shape [348, 64], config.json makes it [348, 128]",
    ),
    model("shapes of terabytes", having("config.json", hidden_size=10**9), "config.json makes it ["),
    model("heads of gigabytes", having("config.json", num_key_value_heads=1_398_855), "config.json makes it [22381680"),
    model("a smaller vocabulary", having("config.json", vocab_size=300), "config.json makes it ["),
    model(
        "a layer too few",
        having("config.json", num_hidden_layers=3, layer_types=["full_attention"] * 3),
        "its weights lack model.layers.2.input_layernorm.weight and 11 more",
    ),
    model(
        "a layer too many",
        having("config.json", num_hidden_layers=1, layer_types=["full_attention"]),
        "config.json has no place for model.layers.1.input_layernorm.weight and 11 more",
    ),
    model("no tensors", tensors("model.safetensors", lambda _: {}), "its weights are 0 numbers"),
    model(
        "NaN in the weights",
        tensors("model.safetensors", lambda found: {k: v * float("nan") for k, v in found.items()}),
        "NaN or infinity in model.embed_tokens.weight",
    ),
    model("index is no JSON", only_shards("{oops"), "model.safetensors.index.json: not a JSON file"),
    model("index of nothing", only_shards("{}"), "no weight_map and metadata"),
    model(
        "missing shard", only_shards('{"metadata": {}, "weight_map": {"a": "gone.safetensors"}}'), "names gone.safetens"
    ),
    model(
        "shard elsewhere", only_shards('{"metadata": {}, "weight_map": {"a": "../p.jsonl"}}'), "names ../p.jsonl, which"
    ),
    model("no tokenizer", without(*VOCABULARY), "no tokenizer.json and no other vocabulary"),
    model("tokenizer is no JSON", holding("tokenizer.json", b"{oops"), "cannot load tokenizer ./m"),
    model("tokenizer is empty", holding("tokenizer.json", b"{}"), "cannot load tokenizer ./m"),
    model(
        "tokenizer settings are no JSON",
        holding("tokenizer_config.json", b"{oops"),
        "tokenizer_config.json: not a JSON",
    ),
    model(
        "tokenizer settings are a list", holding("tokenizer_config.json", b"[]"), "expected a JSON object, found list"
    ),
    model(
        "end of sequence beyond the embedding",
        end_beyond,
        "tokenizer ./m: its end of sequence '<more8>' has id 356, the model's embedding 348 rows",
    ),
    Case("no end of sequence", f"train {QUICKSTART} --model.name ./m", "m has no end-of-sequence token", {"m": no_end}),
    model(
        "no chat template", having("tokenizer_config.json", chat_template=None), "tokenizer 'm' has no chat template"
    ),
    *(
        model(f"chat template: {why}", having("tokenizer_config.json", chat_template=template), message)
        for why, template, message in (
            ("not closed", "{% for %}", "its chat template fails: Expected an expression"),
            (
                "takes no system prompt",
                "{{ raise_exception('no system role') }}",
                "no system role; some take no system",
            ),
            ("unknown name", "{{ a.b.c }}", "its chat template fails: 'a' is undefined"),
            ("endless", "{% for i in range(10**9) %}{% endfor %}", "its chat template fails: Range too big"),
            ("looks around", "{{ ''.__class__.__mro__ }}", "its chat template fails: access to attribute"),
            ("says nothing", "{{ '' }}", "its chat template makes an empty prompt"),
        )
    ),
    model(
        "code of its own", code_in("config.json", model_type="evil", auto_map=REMOTE), "config.json: auto_map wants to"
    ),
    model(
        "code of an own class beside a known type",
        code_in("config.json", architectures=["EvilForCausalLM"], auto_map=REMOTE),
        "config.json: auto_map wants to run code",
    ),
    model(
        "code in the tokenizer",
        code_in("tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}),
        "tokenizer_config.json: auto_map wants to run code",
    ),
    Case(
        "train a model with code",
        f"train {QUICKSTART} --model.name ./m",
        "auto_map wants to run code",
        {
            "m": lambda folder: (
                shutil.copytree(TINY["model"], folder),
                code_in("config.json", model_type="evil", auto_map=REMOTE)(folder),
            )
        },
    ),
    adapter("adapter without weights", without("adapter_model.safetensors"), "no adapter_model.safetensors"),
    adapter("adapter, pickled", pickled, "adapter_model.bin is a pickle, which may run code and is not loaded"),
    adapter("adapter cut short", cut("adapter_model.safetensors"), "cannot load adapter a: SafetensorError"),
    adapter("adapter without tensors", tensors("adapter_model.safetensors", lambda _: {}), "its weights lack"),
    adapter("of another base", having("adapter_config.json", base_model_name_or_path="embedded"), "size mismatch for"),
    adapter("of another rank", having("adapter_config.json", r=8), "size mismatch for"),
    adapter(
        "unknown modules", having("adapter_config.json", target_modules=["nope"]), "Target modules {'nope'} not found"
    ),
    adapter(
        "fewer modules", having("adapter_config.json", target_modules=["q_proj"]), "has no place for base_model.model"
    ),
    adapter(
        "NaN",
        tensors("adapter_model.safetensors", lambda found: {k: v + float("nan") for k, v in found.items()}),
        "NaN or infinity in",
    ),
    adapter("unknown kind", having("adapter_config.json", peft_type="NOPE"), "KeyError: 'NOPE'"),
    adapter("another kind", having("adapter_config.json", peft_type="PREFIX_TUNING"), "cannot load adapter"),
    adapter("rank is text", having("adapter_config.json", r="x"), "cannot load adapter"),
    adapter("settings are no JSON", holding("adapter_config.json", b"{oops"), "adapter_config.json: not a JSON file"),
    adapter("settings are a list", holding("adapter_config.json", b"[]"), "expected a JSON object, found list"),
    adapter("no base", having("adapter_config.json", base_model_name_or_path=None), "cannot tell the base model"),
    adapter("base is a number", having("adapter_config.json", base_model_name_or_path=5), "cannot tell the base model"),
    adapter(
        "base is gone", having("adapter_config.json", base_model_name_or_path="./gone"), "no such model folder: ./gone"
    ),
    adapter(
        "base is itself", having("adapter_config.json", base_model_name_or_path="./a"), "no config.json in this folder"
    ),
    Case(
        "adapter for embedded",
        "eval embedded --adapter ./a --problems p.jsonl",
        "size mismatch for",
        {"a": lambda folder: shutil.copytree(TINY["adapter"], folder), "p.jsonl": ROW},
    ),
    trained("adapter without weights", without("adapter_model.safetensors"), "no adapter_model.safetensors"),
    trained("adapter, pickled", pickled, "adapter_model.bin is a pickle, which may run code and is not loaded"),
    trained("rank is text", having("adapter_config.json", r="x"), "cannot load adapter"),
    trained("of another rank", having("adapter_config.json", r=8), "size mismatch for"),
    trained("of another rank, merged", having("adapter_config.json", r=8), "size mismatch for", MERGE),
    trained("IA3", having("adapter_config.json", peft_type="IA3"), "an adapter of the kind IA3; only LoRA adapters"),
    trained("no kind", having("adapter_config.json", peft_type=None), "an adapter of the kind None; only LoRA"),
    trained("DoRA, merged", having("adapter_config.json", use_dora=True), "with use_dora cannot be merged", MERGE),
    trained(
        "base is gone",
        having("adapter_config.json", base_model_name_or_path="./gone"),
        "no such model folder: ./gone, which adapter a was trained on; say where its base is",
    ),
    trained(
        "another base",
        having("adapter_config.json"),
        "size mismatch for",
        "--model.name embedded --model.adapter ./a",
    ),
    trained("use", having("adapter_config.json"), "choose continue or merge", "--model.adapter_use fold"),
    trained(
        "two adapters", having("adapter_config.json"), "./a is an adapter, and model.adapter ./a", "--model.adapter ./a"
    ),
    trained("itself", having("adapter_config.json"), "a lies in grpo.output_dir", "--grpo.output_dir ./a"),
    Case(
        "no adapter",
        f"train {QUICKSTART} --model.adapter ./m",
        "model.adapter ./m: no adapter_config.json, so it is not an adapter",
        {"m": lambda folder: shutil.copytree(TINY["model"], folder)},
    ),
    Case("adapter is gone", f"train {QUICKSTART} --model.adapter ./gone", "./gone: no adapter_config.json"),
]
