"""`grpo.generation_kwargs`: the settings of transformers' GenerationConfig that every rollout honours; not the others.

The rest of a model's own generation_config.json shapes no rollout, except for the tokens that end a completion.
"""

import difflib
from typing import Any

HONOURED = (  # beside the fields of section grpo: they change which tokens may be drawn, or where a completion ends
    "bad_words_ids", "begin_suppress_tokens", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty",
    "eos_token_id", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "guidance_scale", "min_length", "min_new_tokens", "no_repeat_ngram_size",
    "remove_invalid_values", "renormalize_logits", "sequence_bias", "stop_strings", "suppress_tokens", "top_h",
    "typical_p",
)  # fmt: skip
ELSEWHERE = {
    "temperature": "grpo.temperature",
    "top_p": "grpo.top_p",
    "top_k": "grpo.top_k",
    "min_p": "grpo.min_p",
    "repetition_penalty": "grpo.repetition_penalty",
    "cache_implementation": "grpo.cache_implementation",
    "max_new_tokens": "grpo.max_completion_length",
    "max_length": "grpo.max_completion_length",
    "num_return_sequences": "grpo.num_generations",
    "max_tokens": "grpo.max_completion_length",
    "n": "grpo.num_generations",
}
OTHER_NAMES = {"stop": "stop_strings", "stop_sequences": "stop_strings", "stop_token_ids": "eos_token_id"}
REASONS = {
    "do_sample": "the completions of a problem are always sampled: GRPO compares them",
    "max_time": "completions that depend on the clock cannot be reproduced",
    "pad_token_id": "the tokenizer's is used",
    "bos_token_id": "the chat template begins a prompt",
    "decoder_start_token_id": "the chat template begins a prompt",
    "prompt_lookup_num_tokens": "it decodes one completion at a time; the engine is faster",
    "assistant_model": "it decodes one completion at a time; the engine is faster",
}
BEAMS = ("num_beams", "num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping", "penalty_alpha")
OUTPUTS = ("output_", "return_")


def check_generation_kwargs(given: Any) -> None:
    """Raise ValueError for the first setting that not every rollout can honour, with the reason."""
    for name, value in (given or {}).items():
        if name in OTHER_NAMES:
            raise ValueError(f"{name} is called {OTHER_NAMES[name]} here")
        if name in ELSEWHERE:
            raise ValueError(f"{name} has a field of its own: {ELSEWHERE[name]}")
        if name not in HONOURED and not (name == "do_sample" and value is True):
            raise ValueError(f"{name} cannot be used in rollouts: {_reason(name)}")
    if "stop_strings" in (given or {}):
        texts = stop_strings(given)
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValueError("stop_strings: expected a text or a list of texts, none of them empty")
    ends = eos_token_ids(given)
    if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ends):
        raise ValueError("eos_token_id: expected an id or a list of ids")


def stop_strings(given: Any) -> list[str]:
    """The texts at which a completion ends."""
    return _listed((given or {}).get("stop_strings"))


def eos_token_ids(given: Any) -> list[int]:
    """The ids at which a completion ends besides the model's own."""
    return _listed((given or {}).get("eos_token_id"))


def sampling_extras(given: Any) -> dict[str, Any]:
    """The settings that are left for transformers' generate: without ends and without what is always so."""
    return {
        name: value
        for name, value in (given or {}).items()
        if value is not None and name not in ("stop_strings", "eos_token_id", "do_sample")
    }


def _reason(name: str) -> str:
    from transformers import GenerationConfig

    if name in REASONS:
        return REASONS[name]
    if name in BEAMS:
        return "a search for likely completions does not sample the policy"
    if name.startswith(OUTPUTS):
        return "it changes what generate returns, not the completions"
    known = [key for key in vars(GenerationConfig()) if not key.startswith("_")]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        return "transformers has no such setting" + (f"; did you mean {close[0]}?" if close else "")
    return "neither the engine nor the fallback supports it"


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
