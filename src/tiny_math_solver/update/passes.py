"""The leaner update: the same gradient as TRL's micro-batches, from fewer and shorter rows.

A generation batch comes from TRL as micro-batches padded to the longest prompt and completion of them all. Here
the rows of one optimizer step are sorted by length, those without any gradient left out, and the rest cut into
passes of about `tokens` tokens, each trimmed to its own longest row. TRL's loss functions then run on each pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Batch = dict[str, Any]  # what TRL's loss takes: tensors by name, a row a completion

# Losses that average over the rows of a micro-batch, so that a pass of other size has to be weighted.
MEAN_OVER_ROWS = ("grpo", "dr_grpo", "sapo", "luspo")
HEAD_TOKENS = 2048  # completion tokens projected onto the vocabulary at once


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass; its loss times `weight` is its part of the step's loss."""

    batch: Batch
    weight: float


def passes(
    micro_batches: list[Batch], loss_type: str, tokens: int, *, skip: bool, by_prompt: bool = False
) -> Iterator[Pass]:
    """Cut the rows of one optimizer step into passes; `skip` leaves out rows of zero advantage.

    Rows of like length go together, or with `by_prompt` rows of the same prompt, which then counts once. The weighted
    losses add up to what the micro-batches' losses add up to.
    """
    if loss_type == "bnpo":  # averages over the tokens of a micro-batch, so its rows stay among themselves
        for micro_batch in micro_batches:
            everything = micro_batch["completion_mask"].sum().clamp(min=1)
            for batch in _cut(micro_batch, tokens, skip, by_prompt):
                yield Pass(batch, float(batch["completion_mask"].sum() / everything))
        return
    if loss_type in MEAN_OVER_ROWS:
        rows = len(micro_batches[0]["advantages"])
        for batch in _cut(joined(micro_batches), tokens, skip, by_prompt):
            yield Pass(batch, len(batch["advantages"]) / rows)
        return
    # the others divide by the tokens of the generation batch, and an optimizer step may span several of those
    for _, of_one in groupby(micro_batches, key=lambda batch: float(batch["num_items_in_batch"])):
        for batch in _cut(joined(list(of_one)), tokens, skip, by_prompt):
            yield Pass(batch, 1.0)


def joined(micro_batches: list[Batch]) -> Batch:
    """Micro-batches one after the other, padded to the longest: they may come from two generation batches."""
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


def trimmed(batch: Batch) -> Batch:
    """Without the columns that are padding in every row: left of the prompts, right of the completions."""
    prompt, completion = (int(batch[f"{part}_mask"].sum(1).max()) for part in ("prompt", "completion"))
    out: Batch = {}
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.ndim == 2:
            # rows that TRL masks because they were cut off have a completion but no mask
            value = value[:, -prompt:] if name.startswith("prompt") else value[:, : max(1, completion)]
        out[name] = value
    return out


def _cut(batch: Batch, tokens: int, skip: bool, by_prompt: bool) -> Iterator[Batch]:
    prompts, completions = batch["prompt_mask"].sum(1), batch["completion_mask"].sum(1)
    rows = batch["advantages"].nonzero()[:, 0] if skip else torch.arange(len(prompts), device=prompts.device)
    if by_prompt:
        parts = rows_by_prompt(batch["prompt_ids"][rows], prompts[rows], completions[rows], tokens)
    else:
        parts = rows_by_length((prompts + completions)[rows], tokens)
    for part in parts:
        chosen = rows[part]
        yield trimmed(
            {
                name: value[chosen] if isinstance(value, Tensor) and value.ndim else value
                for name, value in batch.items()
            }
        )


def rows_by_length(lengths: Tensor, tokens: int) -> Iterator[Tensor]:
    """Indices of rows of like length, at most `tokens` tokens together with their padding, the longest first."""
    order = lengths.argsort(descending=True, stable=True)
    sizes = lengths[order].tolist()
    first = 0
    while first < len(sizes):
        count = max(1, tokens // max(1, sizes[first]))
        yield order[first : first + count]
        first += count


def rows_by_prompt(ids: Tensor, prompts: Tensor, completions: Tensor, tokens: int) -> Iterator[Tensor]:
    """Indices of rows in the order of their prompts `ids` `[B, T]`, at most `tokens` tokens together.

    `prompts` and `completions` `[B]` are lengths; of rows with the same prompt it counts once.
    """
    group = ids.unique(dim=0, return_inverse=True)[1].tolist() if len(ids) else []
    part: list[int] = []
    size, last = 0, -1
    for row in sorted(range(len(group)), key=group.__getitem__):
        prompt, completion = int(prompts[row]), int(completions[row])
        more = completion + (prompt if group[row] != last else 0)
        if part and size + more > tokens:
            yield torch.tensor(part, device=ids.device)
            part, size, more = [], 0, prompt + completion
        part.append(row)
        size, last = size + more, group[row]
    if part:
        yield torch.tensor(part, device=ids.device)


# -- Log-probabilities ------------------------------------------------------------------------------------------


def completion_logprobs(model: Any, batch: Tensor, mask: Tensor, completion: int, temperature: float) -> Tensor:
    """Log-probabilities `[B, completion]` of the last `completion` tokens of each row of ids `[B, T]`; 0 at padding.

    `model` is a transformers causal language model. Rows are moved to the left edge: with the padding behind
    them, plain causal attention needs no mask.
    """
    size = mask.shape[1]
    prompt = mask[:, : size - completion].sum(1)
    columns = torch.arange(size, device=batch.device)
    # where column `i` of the packed row comes from: skip the padding in front of the prompt
    source = (columns + (size - completion - prompt)[:, None]).clamp_(max=size - 1)
    longest = int((prompt + mask[:, size - completion :].sum(1)).max())
    ids = batch.gather(1, source)[:, :longest]
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    wanted = mask[:, size - completion :].bool()
    row, offset = wanted.nonzero(as_tuple=True)
    place = prompt[row] + offset
    head = model.get_output_embeddings()
    scored = ChosenLogProb.apply(hidden[row, place - 1], head.weight, head.bias, ids[row, place], temperature)
    return hidden.new_zeros(wanted.shape, dtype=torch.float32).masked_scatter(wanted, scored)


class ChosenLogProb(torch.autograd.Function):
    """`log softmax(x Wᵀ / temperature)[target]` without keeping the logits of more than HEAD_TOKENS tokens.

    The gradient with respect to `x` is linear in what comes from behind, `(W[target] - p W) / temperature` times
    it, so it is worked out in the forward pass, while the logits are there. `W` and the bias must be frozen.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, temperature: float) -> Tensor:
        slopes = torch.empty_like(x) if x.requires_grad else None
        scores = torch.empty(len(x), dtype=torch.float32, device=x.device)
        for start in range(0, len(x), HEAD_TOKENS):
            part = slice(start, start + HEAD_TOKENS)
            logits = functional.linear(x[part], weight, bias).float()
            if temperature != 1:
                logits /= temperature
            chosen = target[part, None]
            normaliser = logits.logsumexp(-1, keepdim=True)
            scores[part] = (logits.gather(1, chosen) - normaliser)[:, 0]
            if slopes is not None:
                share = logits.sub_(normaliser).exp_().neg_()
                share.scatter_add_(1, chosen, torch.ones_like(scores[part, None]))
                slopes[part] = share.to(weight.dtype) @ weight / temperature
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (slopes,) = ctx.saved_tensors
        return gradients[0][:, None].to(slopes.dtype) * slopes, None, None, None, None
