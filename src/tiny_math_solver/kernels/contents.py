"""The contents that kernels index with: the range of every index, and the sizes that must be whole blocks.

Checked with TINY_MATH_CHECK_KERNELS=1 only, before each call, since a kernel earlier in a step may write an index.
"""

from collections.abc import Callable, Iterator, Mapping
from ctypes import ArgumentError
from typing import Any

from torch import Tensor

Call = Mapping[str, Any]  # arguments, and the sizes that follow from them, by name
Check = tuple[str, bool]  # a requirement, and if the call meets it


def check_contents(name: str, call: Call) -> None:
    """Raise ArgumentError if the kernel `name` would index beyond a tensor; sizes have been checked before."""
    for requirement, is_met in CONTENTS.get(name, lambda call: iter(()))(call):
        if not is_met:
            raise ArgumentError(f"{name}: {requirement} is not so")


def _within(indices: Tensor, low: int, high: int) -> bool:
    """True if `low <= index < high` for all."""
    return not len(indices) or bool((indices.min() >= low) & (indices.max() < high))


def _whole(call: Call, size: str, block: str) -> Check:
    return f"{size} in whole blocks of {call[block]}", call[size] % call[block] == 0


def _linear(call: Call) -> Iterator[Check]:
    yield _whole(call, "N", "PANEL")


def _bfloat16(call: Call) -> Iterator[Check]:
    yield _whole(call, "N", "PANEL")
    yield _whole(call, "K", "PANEL")


def _weight_gradient(call: Call) -> Iterator[Check]:
    yield _whole(call, "K", "PANEL")


def _columns(size: str) -> Callable[[Call], Iterator[Check]]:
    def check(call: Call) -> Iterator[Check]:
        yield _whole(call, size, "LANES")

    return check


def _embed(call: Call) -> Iterator[Check]:
    rows, columns = call["rows"], call["columns"]
    generated = call["generated"][:rows]
    yield "generated in 1 … columns", (within := _within(generated, 1, columns + 1))
    if within:
        last = call["tokens"].view(-1, columns)[:rows].gather(1, generated[:, None] - 1)
        yield "tokens below V", _within(last.flatten(), 0, call["V"])


def _cache_prompts(call: Call) -> Iterator[Check]:
    places, starts, lengths = (call[name][: call["prompts"]] for name in ("places", "starts", "lengths"))
    yield "places below slots", _within(places, 0, call["slots"])
    yield "one place for each prompt", len(places.unique()) == len(places)
    yield "lengths up to capacity", _within(lengths, 0, call["capacity"] + 1)
    inside = _within(starts, 0, call["tokens"] + 1) and _within(starts + lengths, 0, call["tokens"] + 1)
    yield "prompts within the tokens", inside


def _decode_attention(call: Call) -> Iterator[Check]:
    rows, slots = call["rows"], call["slots"]
    prompt, completion, length, generated = (
        call[name][:rows] for name in ("prompt_place", "completion_place", "prompt_length", "generated")
    )
    yield "prompt_place below slots", _within(prompt, 0, slots)
    yield "completion_place below slots", _within(completion, 0, slots)
    yield "one completion_place for each row", len(completion.unique()) == rows
    yield "prompt_length in 1 … prompt_capacity", _within(length, 1, call["prompt_capacity"] + 1)
    yield "generated in 1 … completion_capacity", _within(generated, 1, call["completion_capacity"] + 1)
    yield "positions in the rope_table", _within(length + generated - 1, 0, call["positions"])


def _draw(call: Call) -> Iterator[Check]:
    rows = call["rows"]
    if call["logits_row"] is not None:
        yield "logits_row below the rows of logits", _within(call["logits_row"][:rows], 0, call["logits_rows"])
    else:
        yield "a row of logits for each row", rows <= call["logits_rows"]
    running = call["generated"][:rows][~call["done"][:rows]]
    yield "generated below columns", _within(running, 0, call["columns"])
    yield "V up to stride", call["V"] <= call["stride"]


def _rotary(call: Call) -> Iterator[Check]:
    yield "positions in the rope_table", _within(call["positions"][: call["rows"]], 0, call["table"])


def _target_logprobs(call: Call) -> Iterator[Check]:
    yield "target below V", _within(call["target"][: call["rows"]], 0, call["V"])
    yield "V up to stride", call["V"] <= call["stride"]


def _segments(call: Call) -> Iterator[Check]:
    groups, bounds = call["groups"], call["group_completions"][: call["groups"] + 1]
    yield "group_completions ascending from 0", bool(bounds[0] == 0) and bool((bounds.diff() >= 0).all())
    count = int(bounds[-1])
    yield "group_completions up to completions", count <= min(len(call["completion_start"]), call["completions"])
    for kind, number in (("group", groups), ("completion", count)):
        start, length = call[f"{kind}_start"][:number], call[f"{kind}_length"][:number]
        inside = _within(start, 0, call["tokens"] + 1) and _within(length, 0, call["tokens"] + 1)
        yield f"{kind}s within the tokens", inside and _within(start + length, 0, call["tokens"] + 1)


CONTENTS: dict[str, Callable[[Call], Iterator[Check]]] = {
    "linear": _linear, "linear_bfloat16": _bfloat16, "pack_bfloat16": _bfloat16, "rms_norm": _columns("C"),
    "gated": _columns("M"), "embed": _embed, "cache_prompts": _cache_prompts, "decode_attention": _decode_attention,
    "draw": _draw, "add_weight_gradient": _weight_gradient, "rms_norm_backward": _columns("C"),
    "gated_backward": _columns("M"), "rotary": _rotary, "target_logprobs": _target_logprobs, "attention": _segments,
    "attention_backward": _segments,
}  # fmt: skip
