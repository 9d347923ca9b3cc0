"""Models as GGUF files: what llama.cpp computes with them, and how their weights are rounded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quants
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from helpers.models import FULL, SIZES, SLIDING, small
from tiny_math_solver.export.gguf_file import TARGETS, Exported, write_gguf
from tiny_math_solver.export.llama_cpp import LlamaCppRollouts, find_llama_cpp
from tiny_math_solver.export.quantize import packed, type_of
from tiny_math_solver.export.vocabulary import SPLITS
from tiny_math_solver.models.load import load_tokenizer
from tiny_math_solver.prompts import Prompt, chat_messages, encode_prompt
from tiny_math_solver.rollouts import ReferenceRollouts, Sampling
from tiny_math_solver.rollouts.endings import Endings
from tiny_math_solver.support.errors import UserError

with_llama_cpp = pytest.mark.skipif(find_llama_cpp() is None, reason="no llama.cpp on this machine")
GREEDY = Sampling(max_new_tokens=24, temperature=0)
QUESTIONS = ["Tom has 3 pens.", "How many are 12 × 7?", "Ärger, 4 €!", "x\n\n  y", "Ava's 5 bags: 1,024 + 99?", "…"]
GEMMA: dict[str, Any] = {"sliding_window": 20, "query_pre_attn_scalar": 16, "max_position_embeddings": 512}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
CONFIGS: dict[str, Callable[[], Any]] = {
    "qwen2": lambda: Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2, own output": lambda: Qwen2Config(**SIZES, tie_word_embeddings=False),
    "qwen3": lambda: Qwen3Config(**{**SIZES, "num_attention_heads": 6, "head_dim": 32}),
    "llama": lambda: LlamaConfig(**SIZES),
    "llama 3": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "llama, linear": lambda: LlamaConfig(**SIZES, rope_parameters={**ROPE, "rope_type": "linear", "factor": 4.0}),
    "mistral": lambda: MistralConfig(**{**SIZES, "head_dim": 32}, sliding_window=None),
    "smollm3": lambda: SmolLM3Config(**{**SIZES, "num_hidden_layers": 4}, no_rope_layers=[1, 1, 1, 0]),
    "phi3": lambda: Phi3Config(**SIZES, rope_parameters={**ROPE, "partial_rotary_factor": 0.5}),
    "gemma2": lambda: Gemma2Config(
        **{**SIZES, **GEMMA, "num_hidden_layers": 4},
        layer_types=[SLIDING, FULL] * 2,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=4.0,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **{**SIZES, **GEMMA, "num_hidden_layers": 6},
        layer_types=[SLIDING] * 5 + [FULL],
        rope_parameters={SLIDING: ROPE, FULL: {**ROPE, "rope_theta": 1e6}},
    ),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("embedded")


def random_model(name: str) -> Any:
    config = CONFIGS[name]()
    return small(config, layers=config.num_hidden_layers)


def written(path: Path, model: Any, tokenizer: Any, kind: str = "f32") -> Path:
    asked = encode_prompt(tokenizer, chat_messages("1 + 1?"))
    write_gguf(path, model, tokenizer, Exported("tiny", kind, tokenizer.chat_template, asked, None))
    return path


@with_llama_cpp
@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_generates_what_transformers_does(name: str, tokenizer: Any, tmp_path: Path):
    """Catches a wrong rotation, norm, cap, window or name of a weight: random models differ at once."""
    model = random_model(name)
    file = written(tmp_path / "tiny.gguf", model, tokenizer)
    prompts = [Prompt(encode_prompt(tokenizer, chat_messages(text * 3)), group) for group, text in enumerate(QUESTIONS)]
    run = find_llama_cpp()
    assert run
    with run(file, 512) as llama:
        asked = [llama.prompt_ids(chat_messages(text * 3)) for text in QUESTIONS]
        made = LlamaCppRollouts(llama, Endings(tokenizer, [2])).generate(prompts, 1, GREEDY)
    assert asked == [prompt.ids for prompt in prompts]
    expected = ReferenceRollouts(model, tokenizer).generate(prompts, 1, GREEDY)
    for theirs, own in zip(made, expected, strict=True):
        assert lead(model, own.prompt_ids, own.completion_ids, theirs.completion_ids) < 0.01


@with_llama_cpp
def test_a_file_that_was_cut_short_is_said(tokenizer: Any, tmp_path: Path):
    file = written(tmp_path / "tiny.gguf", random_model("qwen2"), tokenizer)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    run = find_llama_cpp()
    assert run
    with pytest.raises(UserError, match=r"has ended, or does not answer, with this file|does not start"), run(file, 99):
        pass


def lead(model: Any, prompt: list[int], own: list[int], theirs: list[int]) -> float:
    """By how much the model's choice beats the other's where they part.

    A near tie may fall otherwise in half precision. `<|endoftext|>` ends a completion for llama.cpp, whatever the file.
    """
    place = next((i for i, (a, b) in enumerate(zip(own, theirs, strict=False)) if a != b), None)
    if place is None:
        assert theirs == own or (theirs == own[: len(theirs)] and theirs[-1] == 0)
        return 0.0
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + own[:place]])).logits[0, -1]
    return (logits[own[place]] - logits[theirs[place]]).item()


def test_every_family_is_tried():
    assert {make().model_type for make in CONFIGS.values()} == set(TARGETS)


# -- Tokenizers -------------------------------------------------------------------------------------------------


def sentencepiece(prefix: str) -> Any:
    """A tokenizer as those of Llama 2 and Gemma; the space in front of a text stands after special tokens or not."""
    model = models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    made = Tokenizer(model)
    made.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        if prefix == "always"
        else normalizers.Replace(" ", "▁")
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False))
    state = json.loads(made.to_str())
    state["added_tokens"] = [entry for entry in state["added_tokens"] if entry["id"] < 3]
    made = Tokenizer.from_str(json.dumps(state))
    return with_template(made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level(splitter: Any, ignore_merges: bool = False) -> Any:
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.pre_tokenizer = splitter
    special = ["<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    return with_template(made, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def with_template(made: Tokenizer, **special: str) -> Any:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token=special["eos_token"], **special)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    return tokenizer


def split(pattern: str) -> Any:
    words = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


DIGITS = pre_tokenizers.Digits(individual_digits=True)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
TEXTS = [*QUESTIONS, "Tom's 12 pens cost 3 dollars; they'll want 1000000 more.\nHow many are 45 + 678?"] * 5
TOKENIZERS: dict[str, Callable[[], Any]] = {
    "SentencePiece, a space in front": lambda: sentencepiece("always"),
    "SentencePiece, none": lambda: sentencepiece("never"),
    "llama 3": lambda: byte_level(split(next(key[0][0] for key, name in SPLITS.items() if name == "dbrx")), True),
    "threes of digits": lambda: byte_level(split(next(key[0][0] for key, name in SPLITS.items() if name == "dbrx"))),
    "single digits, GPT-2's words": lambda: byte_level(pre_tokenizers.Sequence([DIGITS, WORDS])),
    "GPT-2's words": lambda: byte_level(WORDS),
}


@with_llama_cpp
@pytest.mark.parametrize("name", TOKENIZERS)
def test_llama_cpp_reads_a_text_as_the_tokenizer_does(name: str, tmp_path: Path):
    tokenizer = TOKENIZERS[name]()
    texts = [*QUESTIONS, *TEXTS[-1:], "3.50€ — 1,234,567 naïve  Tom's\n\n\tx", "日本語 12", " a  b ", "I'LL 4ever"]
    run = find_llama_cpp()
    assert run
    with run(written(tmp_path / "tiny.gguf", small(CONFIGS["qwen2"]()), tokenizer), 512) as llama:
        for text in texts:
            messages = chat_messages(text)
            assert llama.prompt_ids(messages) == encode_prompt(tokenizer, messages), text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: byte_level(split(r"\d|\w+")), r"splits a text as llama.cpp does not: \d|\w+"),
        (lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)), "a space in front | words"),
        (
            lambda: with_template(Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a")), eos_token="b"),
            "BPE, not WordLevel",
        ),
    ],
)
def test_a_tokenizer_that_llama_cpp_lacks_is_refused(make: Callable[[], Any], message: str, tmp_path: Path):
    tokenizer = make()
    with pytest.raises(UserError) as refused:
        written(tmp_path / "tiny.gguf", small(CONFIGS["qwen2"]()), tokenizer)
    assert message in str(refused.value)


# -- Weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "most"), [(Type.F16, 3e-4), (Type.Q8_0, 0.007), (Type.Q5_0, 0.05), (Type.Q4_K, 0.08), (Type.Q6_K, 0.02)]
)
@pytest.mark.parametrize("shape", [(3, 256), (5, 1024)])
def test_rounded_weights_are_close(kind: Type, most: float, shape: tuple[int, int]):
    """With the library's own reader, for normal weights, others of one sign, and rows of one value."""
    torch.manual_seed(0)
    for weight in (torch.randn(shape) * 0.02, torch.rand(shape) + 0.1, -torch.rand(shape), torch.full(shape, -0.3)):
        back = torch.from_numpy(quants.dequantize(packed(weight, kind), kind))
        assert back.shape == weight.shape
        assert (back - weight).square().mean().sqrt() < most * weight.square().mean().sqrt()
    assert not quants.dequantize(packed(torch.zeros(shape), kind), kind).any()


def test_a_large_weight_among_small_ones_keeps_its_value():
    weight = torch.randn(4, 256) * 0.01
    weight[:, 7] = torch.tensor([3.0, -3.0, 3.0, -3.0])
    for kind in (Type.Q4_K, Type.Q6_K):
        back = torch.from_numpy(quants.dequantize(packed(weight, kind), kind))
        assert torch.allclose(back[:, 7], weight[:, 7], rtol=0.02)


def test_a_weight_of_many_rows_is_packed_in_parts(monkeypatch: pytest.MonkeyPatch):
    weight = torch.randn(7, 512)
    whole = packed(weight, Type.Q4_K)
    monkeypatch.setattr("tiny_math_solver.export.quantize.VALUES_AT_ONCE", 512)
    assert (packed(weight, Type.Q4_K) == whole).all()


@pytest.mark.parametrize(
    ("kind", "name", "columns", "expected"),
    [
        ("f32", "blk.0.attn_q.weight", 256, Type.F32),
        ("f16", "token_embd.weight", 100, Type.F16),
        ("q8_0", "blk.0.attn_q.weight", 64, Type.Q8_0),
        ("q8_0", "blk.0.attn_q.weight", 100, Type.F16),
        ("q4_k_m", "blk.5.attn_q.weight", 256, Type.Q4_K),
        ("q4_k_m", "blk.5.attn_q.weight", 896, Type.Q5_0),
        ("q4_k_m", "blk.0.attn_v.weight", 256, Type.Q6_K),
        ("q4_k_m", "blk.4.ffn_down.weight", 256, Type.Q4_K),
        ("q4_k_m", "blk.23.ffn_down.weight", 4864, Type.Q6_K),
        ("q4_k_m", "blk.23.attn_v.weight", 896, Type.Q8_0),
        ("q4_k_m", "token_embd.weight", 256, Type.Q6_K),
        ("q4_k_m", "token_embd.weight", 100, Type.F16),
    ],
)
def test_the_type_of_a_weight(kind: str, name: str, columns: int, expected: Type):
    assert type_of(kind, name, (8, columns), layers=24, is_tied=True) is expected
    assert type_of(kind, "output_norm.weight", (columns,), layers=24, is_tied=True) is Type.F32


def test_an_untied_embedding_is_an_ordinary_weight():
    assert type_of("q4_k_m", "token_embd.weight", (8, 256), layers=24, is_tied=False) is Type.Q4_K
    assert type_of("q4_k_m", "output.weight", (8, 256), layers=24, is_tied=False) is Type.Q6_K


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: Gemma2Config(**SIZES, **{**GEMMA, "query_pre_attn_scalar": 40}), "root of the head's size"),
        (lambda: Gemma2Config(**SIZES, **GEMMA, layer_types=[FULL] * 3), "a window in other layers"),
        (lambda: SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1]), "rotates other layers"),
        (lambda: Qwen3Config(**SIZES, rope_parameters=LLAMA3), "does not take rope type llama3 of qwen3"),
        (lambda: LlamaConfig(**SIZES, hidden_act="relu"), "does not take activation relu"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(config: Any, message: str, tokenizer: Any, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        written(tmp_path / "tiny.gguf", small(config()), tokenizer)


def test_a_window_that_llama_cpp_lacks_ends_the_context(tokenizer: Any, tmp_path: Path):
    """Up to that length the model is the same without it."""
    from gguf import GGUFReader

    model = small(MistralConfig(**SIZES, sliding_window=48))
    reader = GGUFReader(written(tmp_path / "tiny.gguf", model, tokenizer))
    assert reader.get_field("llama.context_length").contents() == 48  # type: ignore[union-attr]
