"""The tokens that end a completion, kept in the model's generation settings, where every library looks for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from tiny_math_solver.models.folder import read_json
from tiny_math_solver.prompts import turn_end
from tiny_math_solver.support.errors import UserError

GENERATION_CONFIG = "generation_config.json"


def causal_lm(model: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself; adapters stay in its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def eos_ids(model: Any, tokenizer: Any) -> list[int]:
    """All ids that end a completion: unlike sampling, these are taken from the model's own generation settings."""
    return sorted({*_listed(causal_lm(model).generation_config.eos_token_id), tokenizer.eos_token_id})


def end_at(model: Any, ids: Sequence[int]) -> None:
    """Let `ids` end a completion as well. Raises UserError for an id that the model has no token for."""
    if not ids:
        return
    settings, tokens = causal_lm(model).generation_config, model.get_input_embeddings().num_embeddings
    if missing := [i for i in ids if not 0 <= i < tokens]:
        raise UserError(f"eos_token_id {missing[0]}: the model has {tokens} tokens")
    settings.eos_token_id = sorted({*_listed(settings.eos_token_id), *ids})


def end_with_turn(model: Any, tokenizer: Any) -> str:
    """Let the token with which the chat template closes a turn end a completion, unless one there does already.

    Base models often declare another one, so that a completion in chat format would run to its limit. Returns the
    token that was added; empty if none was.
    """
    end = turn_end(tokenizer)
    if end is None or end.token is None or set(end.ids) & set(eos_ids(model, tokenizer)):
        return ""
    end_at(model, [*eos_ids(model, tokenizer), end.token])
    return tokenizer.decode([end.token])


def added_end_line(token: str) -> str:
    """The sentence that says what `end_with_turn` did."""
    return f"completions also end at {token!r}, with which the chat template closes a turn"


def missing_end(model: Any, tokenizer: Any, stop_strings: Sequence[str] = ()) -> str:
    """The reason why completions in the format of the chat template would not end; empty if they do."""
    end, ids = turn_end(tokenizer), eos_ids(model, tokenizer)
    if end is None or set(end.ids) & set(ids) or any(text in end.text for text in stop_strings):
        return ""
    ends, text = ", ".join(repr(tokenizer.decode([i])) for i in ids), end.text.strip()
    advice = f"; {text!r} as one of stop_strings in grpo.generation_kwargs ends them" if text else ""
    return f"the template closes a turn with {text!r}, none of {ends}: completions would not end{advice}"


def save_ends(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the ids that end a completion to `folder`, where the tokenizer there does not name them all."""
    ids = eos_ids(model, tokenizer)
    if ids != [tokenizer.eos_token_id]:
        GenerationConfig(eos_token_id=ids, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)


def load_ends(model: Any, folder: Path) -> None:
    """Let the ids that `save_ends` wrote end a completion."""
    end_at(model, saved_ends(folder))


def saved_ends(folder: Path) -> list[int]:
    """The ids that `save_ends` wrote; none where the tokenizer names them all."""
    path = folder / GENERATION_CONFIG
    return _listed(read_json(path).get("eos_token_id")) if path.is_file() else []


def _listed(ids: Any) -> list[int]:
    return [] if ids is None else list(ids) if isinstance(ids, list | tuple) else [ids]
