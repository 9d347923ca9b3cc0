"""One optimizer step: micro-batches gathered, cut into passes, and passed through the model for their gradient.

The loss is TRL's. It asks for the log-probabilities of the pass under way, which a `Scorer` computes.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tiny_math_solver.support import processes
from tiny_math_solver.support.batch_size import BatchSize
from tiny_math_solver.support.memory import large_blocks_mapped
from tiny_math_solver.update.own_rows import mark_own
from tiny_math_solver.update.passes import Batch, passes, rows_by_length, select_rows, trimmed
from tiny_math_solver.update.scorer import Scorer
from tiny_math_solver.update.torch_scorer import TorchScorer

MAPPED_PASS = 1 << 28  # bytes, beyond which the blocks of a pass on a CPU are mapped one by one
COMPARED_ROWS = 8  # of the scorer with the model's own modules
SAMPLED = "sampling_per_token_logps"  # TRL's name for the log-probabilities of the rollouts
GAP, LARGEST_GAP = "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max"
GAP_TO_TRANSFORMERS, LARGEST_TO_TRANSFORMERS = (
    f"sampling/transformers_logp_difference/{kind}" for kind in ("mean", "max")
)
OF_PASSES = ("kl", "clip_ratio/region_mean", "entropy")  # logged by TRL's loss


@dataclass
class UpdateResult:
    """The step's loss, what is to be logged of it, and why some quantities cannot be.

    `gaps` are those between rollouts and update of each pass's tokens, `scored` the number of these.
    """

    loss: Tensor
    gaps: list[Tensor]
    scored: list[Tensor] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    excused: dict[str, str] = field(default_factory=dict)  # the reason by the name of the quantity


class PolicyUpdate:
    """Gathers the micro-batches of an optimizer step in `window`; `run`, then `conclude`, make their gradient.

    The micro-batches have the rows of all processes, each of which passes a share of them (own_rows.py).
    `skip_zero_advantage` leaves out rows of zero advantage, which is exact where the loss has no other term. `share` is
    that of the rows used in each group.
    """

    def __init__(
        self,
        model: Any,
        scorer: Scorer,
        torch_scorer: TorchScorer,
        tokens_per_pass: BatchSize,
        loss_type: str,
        *,
        skip_zero_advantage: bool,
        share: float = 1.0,
    ):
        self.model, self.scorer, self.torch_scorer = model, scorer, torch_scorer
        self.tokens_per_pass, self.loss_type = tokens_per_pass, loss_type
        self.skip_zero_advantage, self.share = skip_zero_advantage, share
        self.window: list[Batch] = []
        self._pass: Batch = {}  # under way
        self._pass_logprobs = torch.empty(0)

    def run(
        self, loss_of: Callable[[Batch], Tensor], backward: Callable[[Tensor], Any], *, compare: bool
    ) -> UpdateResult:
        """Make the gradient of this process's window, which `conclude` completes; `compare` scorer and transformers.

        `loss_of` is TRL's loss of a batch, which calls `pass_logprobs`; `backward` takes the loss of a pass.
        """
        device, count = self.window[0]["completion_ids"].device, processes.count()
        rows = mark_own(self.window, processes.rank(), count, skip_zero_advantage=self.skip_zero_advantage)
        result = UpdateResult(torch.zeros((), device=device), gaps=[torch.empty(0, device=device)])
        self.scorer.begin()
        if compare and self.scorer is not self.torch_scorer:
            mean, largest = self.gap_to_transformers()
            result.metrics |= {GAP_TO_TRANSFORMERS: mean, LARGEST_TO_TRANSFORMERS: largest}
        elif not compare:
            result.excused |= dict.fromkeys((GAP_TO_TRANSFORMERS, LARGEST_TO_TRANSFORMERS), "compared every few steps")
        with large_blocks_mapped() if self._is_mapped(device) else contextlib.nullcontext():
            for part in passes(
                rows,
                self.loss_type,
                self.tokens_per_pass.value,
                skip_zero_advantage=self.skip_zero_advantage,
                by_group=self.scorer.by_group,
                share=self.share,
                processes=count,
            ):
                self._pass = part.batch
                loss = loss_of(part.batch) * part.weight
                backward(loss)
                result.loss += loss.detach()
                result.scored.append(part.batch["completion_mask"].sum())
                if (sampled := part.batch.get(SAMPLED)) is not None:
                    result.gaps.append((self._pass_logprobs - sampled).abs()[part.batch["completion_mask"].bool()])
        self.scorer.finish()
        for parameter in self.model.parameters():
            # an optimizer skips a parameter whose gradient is None; a zero still applies decay and momentum
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return result

    def _is_mapped(self, device: torch.device) -> bool:
        return device.type == "cpu" and self.scorer.pass_bytes(self.tokens_per_pass.value) > MAPPED_PASS

    def conclude(self, result: UpdateResult) -> None:
        """Make the gradient that of all processes, and add to the metrics or say why there are none."""
        processes.average([p.grad for p in self.model.parameters() if p.grad is not None])
        surprisals = [-batch[SAMPLED][batch["completion_mask"].bool()] for batch in self.window if SAMPLED in batch]
        if surprisals and len(values := torch.cat(surprisals)):  # of every row, not of the passed ones alone
            result.metrics["entropy"] = values.mean().item()
        gaps, tokens = torch.cat(result.gaps), sum(map(int, result.scored))
        measured = _Measured(gaps.sum().item(), len(gaps), _largest(gaps), tokens, len(result.scored))
        found = processes.gather(measured)
        if count := sum(each.gaps for each in found):
            result.metrics[GAP] = sum(each.total for each in found) / count
            result.metrics[LARGEST_GAP] = _largest(torch.tensor([each.largest for each in found]))
        if not any(each.tokens for each in found):
            result.excused |= dict.fromkeys((GAP, LARGEST_GAP), "no token of the step has a gradient")
        if not any(each.passes for each in found):
            result.excused |= dict.fromkeys(OF_PASSES, "no completion of the step has a gradient")

    def pass_logprobs(self) -> Tensor:
        """Log-probabilities `[B, T]` of the completions of the pass under way, with their gradient."""
        logprobs = self.scorer.logprobs(self._pass)
        self._pass_logprobs = logprobs.detach()
        return logprobs

    def logprobs_without_gradient(self, model: Any, ids: Tensor, mask: Tensor, completion: int) -> Tensor:
        """Log-probabilities `[B, completion]` of the last tokens of rows of ids `[B, T]` under `model`."""
        logprobs = torch.empty(len(ids), completion, device=ids.device)
        for rows in rows_by_length(mask.sum(1), self.tokens_per_pass.value):
            logprobs[rows] = self.torch_scorer.logprobs_of(model, ids[rows], mask[rows], completion)
        return logprobs

    @torch.no_grad()
    def gap_to_transformers(self) -> tuple[float, float]:
        """The mean and the largest difference of a log-probability between the scorer and the model, on a few rows."""
        few = trimmed(select_rows(self.window[0], slice(COMPARED_ROWS)))
        gaps = (self.scorer.logprobs(few) - self.torch_scorer.logprobs(few)).abs()
        return (gaps.sum() / few["completion_mask"].sum().clamp(min=1)).item(), gaps.max().item()

    def shrink(self) -> bool:
        """After memory ran out: halve the passes, at least to the longest row, and drop the attempt's gradients."""
        if not self.tokens_per_pass.halve(at_least=max(map(_longest_row, self.window))):
            return False
        for parameter in self.model.parameters():
            parameter.grad = None
        return True


class _Measured(NamedTuple):
    """What one process has measured in a step: gaps, and tokens with a gradient, in so many passes."""

    total: float
    gaps: int
    largest: float
    tokens: int
    passes: int


def _largest(values: Tensor) -> float:
    """The largest of `values` `[n]`; 0 of none, NaN if one is."""
    return values.max().item() if len(values) else 0.0


def _longest_row(batch: Batch) -> int:
    return int((batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)).max())
