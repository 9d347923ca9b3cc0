"""A tokenizer → the vocabulary in a GGUF file.

llama.cpp knows by name how a text is split before its bytes are merged, and has no other ways of splitting. Tokenizers
that normalise a text (NFC) do so in transformers alone: of plain text nothing changes.
"""

import json
import re
from typing import Any

from gguf import GGUFWriter, TokenType

from tiny_math_solver.support.errors import UserError

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# (patterns by which a tokenizer splits, whether whole words of the vocabulary are not merged) → llama.cpp's name
SPLITS = {
    ((f"{_SHORT}|{_WORDS}|\\p{{N}}|{_REST}",), False): "qwen2",
    ((f"{_SHORT}|{_WORDS}|\\p{{N}}{{1,3}}|{_REST}",), True): "llama-bpe",
    ((f"{_SHORT}|{_WORDS}|\\p{{N}}{{1,3}}|{_REST}",), False): "dbrx",
    (("digits", "words"), False): "smollm",
    (("words",), False): "gpt-2",
}


def add_vocabulary(writer: GGUFWriter, tokenizer: Any, rows: int, prompt: list[int], turn_end: int | None) -> None:
    """Write tokens, merges and special tokens; `rows` are those of the embedding.

    `prompt` is one as the model is asked: llama.cpp puts the first token in front if this one starts with it.
    `turn_end` also ends a completion. Raises UserError for a tokenizer that llama.cpp has no counterpart of.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    model, added = parts["model"], {entry["id"]: entry for entry in parts["added_tokens"]}
    if model["type"] != "BPE":
        raise UserError(f"tokenizer {tokenizer.name_or_path}: export to GGUF takes BPE, not {model['type']}")
    texts = {i: text for text, i in model["vocab"].items()} | {i: entry["content"] for i, entry in added.items()}
    tokens = [texts.get(i, f"[PAD{i}]") for i in range(rows)]
    types = [_type(added.get(i), i in texts) for i in range(rows)]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    if model["byte_fallback"]:
        _add_sentencepiece(writer, tokenizer, tokens, types, merges)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_name_of_splits(tokenizer, parts))
        writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if turn_end not in (None, tokenizer.eos_token_id):
        writer.add_eot_token_id(turn_end)
    bos = tokenizer.bos_token_id
    if bos is not None:
        writer.add_bos_token_id(bos)
    writer.add_add_bos_token(bos is not None and prompt[:1] == [bos])


def _add_sentencepiece(
    writer: GGUFWriter, tokenizer: Any, tokens: list[str], types: list[TokenType], merges: list[tuple[str, ...]]
) -> None:
    """SentencePiece's BPE, with spaces as `▁` and single bytes for unknown characters: a merge is a score there."""
    scores: dict[str, float] = {}
    for rank, merge in enumerate(merges):
        scores.setdefault("".join(merge), -float(rank))
    for i, token in enumerate(tokens):
        if _BYTE.fullmatch(token):
            types[i] = TokenType.BYTE
        elif i == tokenizer.unk_token_id:
            types[i] = TokenType.UNKNOWN
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_scores([scores.get(token, -1e6) for token in tokens])
    # llama.cpp does it after each special token, or never
    after_special = tokenizer(f"{tokenizer.eos_token}x", add_special_tokens=False)["input_ids"]
    writer.add_add_space_prefix("▁" in tokenizer.convert_ids_to_tokens(after_special)[1])


_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def _name_of_splits(tokenizer: Any, parts: Any) -> str:
    """llama.cpp's name for how a tokenizer splits a text. Raises UserError if it has none."""
    splits = _splits(parts["pre_tokenizer"]), bool(parts["model"]["ignore_merges"])
    if splits not in SPLITS:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path} splits a text as llama.cpp does not: {' | '.join(splits[0])}"
        )
    return SPLITS[splits]


def _splits(splitter: Any) -> tuple[str, ...]:
    """How a tokenizer splits a text: patterns, "digits" for each digit alone, "words" for GPT-2's pattern."""
    if splitter is None:
        return ("nothing",)
    kind = splitter["type"]
    if kind == "Sequence":
        return tuple(part for inner in splitter["pretokenizers"] for part in _splits(inner))
    if kind == "Split":
        known = splitter["behavior"] == "Isolated" and not splitter["invert"]
        return (splitter["pattern"].get("Regex", "a text") if known else f"Split {splitter['behavior']}",)
    if kind == "Digits":
        return ("digits" if splitter["individual_digits"] else "numbers",)
    if kind == "ByteLevel":
        prefix = ("a space in front",) if splitter["add_prefix_space"] else ()
        return (*prefix, "words") if splitter["use_regex"] else prefix
    return (kind,)


def _type(added: Any, is_known: bool) -> TokenType:
    if added is None:
        return TokenType.NORMAL if is_known else TokenType.UNUSED
    return TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
