"""Rows of one optimizer step → passes: the gradient of TRL's micro-batches from fewer and shorter rows.

TRL pads micro-batches to the longest prompt and the longest completion of the whole generation batch. The rows of one
optimizer step are sorted by length or by group here, those without a gradient left out, and the rest cut into passes of
about `tokens` tokens, each trimmed to its own longest row. TRL's loss functions then run on each pass.

Shapes: `B` completions, `T` tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# The input of TRL's loss: tensors by name, a row per completion, and `group` [B]. `used` [B], if there, is False for
# rows that were dropped from their group (share.py), `own` [B] for those that another process passes.
Batch = dict[str, Any]

# Losses that average over the rows of a micro-batch: a pass of another size has to be weighted.
MEAN_OVER_ROWS = ("grpo", "dr_grpo", "sapo", "luspo")


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass; its loss times `weight` is its share of the step's loss."""

    batch: Batch
    weight: float


def passes(
    micro_batches: list[Batch],
    loss_type: str,
    tokens: int,
    *,
    skip_zero_advantage: bool,
    by_group: bool = False,
    share: float = 1.0,
    processes: int = 1,
) -> Iterator[Pass]:
    """Cut the rows of one optimizer step into passes of about `tokens` tokens.

    Rows of like length go together, or with `by_group` rows of the same group, whose prompt then counts once. The
    weighted losses add up to the sum of the micro-batches' losses.

    Each micro-batch has the rows of so many `processes`. This one passes its own rows, and the mean of the processes'
    losses is that of TRL's.

    `share` is that of the rows used in each group. A mean over rows is then one over as many as are used: each used
    row weighs the same, however many of a micro-batch's rows are used. Where tokens of the generation batch are
    counted, whoever drops rows counts those of used ones.
    """
    settings = {"skip_zero_advantage": skip_zero_advantage, "by_group": by_group}
    if loss_type == "bnpo":  # averages over the tokens of a micro-batch, so its rows are not mixed with those of others
        for micro_batch in (part for whole in micro_batches for part in split(whole, processes)):
            used = used_rows(micro_batch)
            all_tokens = micro_batch["completion_mask"][used].sum().clamp(min=1)
            weight = len(used) / (len(micro_batch["advantages"]) * share)
            for batch in _cut(micro_batch, tokens, **settings):
                yield Pass(batch, weight * float(batch["completion_mask"].sum() / all_tokens))
        return
    if loss_type in MEAN_OVER_ROWS:
        rows = len(micro_batches[0]["advantages"]) / processes
        for batch in _cut(joined(micro_batches), tokens, **settings):
            yield Pass(batch, len(batch["advantages"]) / (rows * share))
        return
    # the others divide by the tokens of the generation batch, and an optimizer step may span several of those
    for _, of_one in groupby(micro_batches, key=lambda batch: float(batch["num_items_in_batch"])):
        for batch in _cut(joined(list(of_one)), tokens, **settings):
            yield Pass(batch, 1.0)


def joined(micro_batches: list[Batch]) -> Batch:
    """Concatenate micro-batches, padded to the longest: they may come from two generation batches."""
    out: Batch = {}
    for name, first in micro_batches[0].items():
        values = [micro_batch[name] for micro_batch in micro_batches]
        if not isinstance(first, Tensor) or first.ndim == 0:
            out[name] = first
        elif first.ndim == 1:
            out[name] = torch.cat(values)
        else:
            longest = max(value.shape[1] for value in values)
            left = name.startswith("prompt")
            gaps = [longest - value.shape[1] for value in values]
            padded = [
                functional.pad(value, (gap, 0) if left else (0, gap)) for value, gap in zip(values, gaps, strict=True)
            ]
            out[name] = torch.cat(padded)
    return out


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch in `parts` of consecutive rows."""
    size = len(batch["advantages"]) // parts
    return [select_rows(batch, slice(first, first + size)) for first in range(0, size * parts, size)]


def trimmed(batch: Batch) -> Batch:
    """Drop the columns that are padding in every row: left of the prompts, right of the completions."""
    prompt, completion = (int(batch[f"{part}_mask"].sum(1).max()) for part in ("prompt", "completion"))
    out: Batch = {}
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.ndim == 2:
            # rows that TRL masks because they were cut off have a completion but no mask
            value = value[:, -prompt:] if name.startswith("prompt") else value[:, : max(1, completion)]
        out[name] = value
    return out


def select_rows(batch: Batch, rows: Any) -> Batch:
    """The rows `rows` (indices or a slice) of every tensor of a batch."""
    return {name: value[rows] if isinstance(value, Tensor) and value.ndim else value for name, value in batch.items()}


def used_rows(batch: Batch) -> Tensor:
    """Indices of the rows that are learned from."""
    if "used" in batch:
        return batch["used"].nonzero()[:, 0]
    return torch.arange(len(batch["advantages"]), device=batch["advantages"].device)


def passed_rows(batch: Batch, *, skip_zero_advantage: bool) -> Tensor:
    """Indices of the rows that have a gradient, of any process."""
    rows = used_rows(batch)
    return rows[batch["advantages"][rows] != 0] if skip_zero_advantage else rows


def _cut(batch: Batch, tokens: int, *, skip_zero_advantage: bool, by_group: bool) -> Iterator[Batch]:
    prompts, completions = batch["prompt_mask"].sum(1), batch["completion_mask"].sum(1)
    rows = passed_rows(batch, skip_zero_advantage=skip_zero_advantage)
    if "own" in batch:
        rows = rows[batch["own"][rows]]
    if by_group:
        parts = rows_by_group(batch["group"][rows], prompts[rows], completions[rows], tokens)
    else:
        parts = rows_by_length((prompts + completions)[rows], tokens)
    for part in parts:
        yield trimmed(select_rows(batch, rows[part]))


def rows_by_length(lengths: Tensor, tokens: int) -> Iterator[Tensor]:
    """Indices of rows of like length, at most `tokens` tokens per part including padding, the longest first."""
    order = lengths.argsort(descending=True, stable=True)
    sizes = lengths[order].tolist()
    first = 0
    while first < len(sizes):
        count = max(1, tokens // max(1, sizes[first]))
        yield order[first : first + count]
        first += count


def rows_by_group(group: Tensor, prompts: Tensor, completions: Tensor, tokens: int) -> Iterator[Tensor]:
    """Indices of rows in the order of their `group` `[B]`, at most `tokens` tokens per part.

    `prompts` and `completions` `[B]` are lengths; the prompt of a group counts once per part.
    """
    groups, prompt_sizes, sizes = group.tolist(), prompts.tolist(), completions.tolist()
    part: list[int] = []
    size, last = 0, None
    for row in sorted(range(len(groups)), key=groups.__getitem__):
        prompt, completion = prompt_sizes[row], sizes[row]
        more = completion + (prompt if groups[row] != last else 0)
        if part and size + more > tokens:
            yield torch.tensor(part, device=group.device)
            part, size, more = [], 0, prompt + completion
        part.append(row)
        size, last = size + more, groups[row]
    if part:
        yield torch.tensor(part, device=group.device)
