"""The rows that each of several processes passes: every one once, evenly, and together the gradient of one process."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from helpers.updates import micro_batches, new_trainer, own_gradient
from tiny_math_solver.support import processes
from tiny_math_solver.update.own_rows import mark_own, share_of
from tiny_math_solver.update.passes import Batch, joined

LOSSES = ["grpo", "dapo", "dr_grpo", "bnpo", "luspo", "cispo", "sapo", "vespo"]


def of_several(
    trainer: Any, batches: list[Batch], count: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, float]:
    """The mean gradient and loss of `count` processes with as many rows together, one after the other."""
    args, steps = trainer.args, len(batches) // count
    shared = [joined(batches[first : first + count]) for first in range(0, len(batches), count)]
    found = []
    with monkeypatch.context() as patch:
        patch.setattr(processes, "count", lambda: count)
        patch.setattr(Accelerator, "num_processes", count)
        patch.setattr(trainer, "current_gradient_accumulation_steps", steps)
        patch.setattr(args, "steps_per_generation", args.steps_per_generation // count)
        for rank in range(count):
            patch.setattr(processes, "rank", lambda rank=rank: rank)
            found.append(own_gradient(trainer, shared))
    gradients, losses = zip(*found, strict=True)
    return torch.stack(gradients).mean(0), sum(losses) / count


@pytest.mark.parametrize("native", ["true", "false"], ids=["kernels", "torch"])
@pytest.mark.parametrize("beta", ["0.0", "0.05"])
@pytest.mark.parametrize("loss", LOSSES)
def test_processes_make_the_gradient_of_one(
    tmp_path: Path, loss: str, beta: str, native: str, monkeypatch: pytest.MonkeyPatch
):
    """Catches normalisers of a process's own rows, rows passed twice or by nobody, and micro-batches that are mixed."""
    if native == "true" and not shutil.which("g++"):
        pytest.skip("no compiler")
    options = ["--grpo.loss_type", loss, "--grpo.beta", beta, "--rollouts.native", native]
    trainer = new_trainer(tmp_path / "run", "--update.tokens_per_pass", "500", *options)
    batches = micro_batches(trainer)
    expected, expected_loss = own_gradient(trainer, batches)
    assert expected.norm() > 0
    for count in (2, 4):
        got, got_loss = of_several(trainer, batches, count, monkeypatch)
        assert (got - expected).norm() / expected.norm() < 1e-5
        assert got_loss == pytest.approx(expected_loss, abs=1e-6)


@pytest.mark.parametrize("loss", ["grpo", "dapo", "bnpo"])
def test_down_sampled_rows_are_dealt_too(tmp_path: Path, loss: str, monkeypatch: pytest.MonkeyPatch):
    trainer = new_trainer(tmp_path / "run", "--update.share", "0.5", "--grpo.loss_type", loss)
    batches = micro_batches(trainer)
    expected, _ = own_gradient(trainer, batches)
    got, _ = of_several(trainer, batches, 4, monkeypatch)
    assert expected.norm() > 0
    assert (got - expected).norm() / expected.norm() < 1e-5


def test_a_process_may_have_no_row_with_a_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two rows with a gradient, four processes. Catches a mean over those that had something to do."""
    trainer = new_trainer(tmp_path / "run")
    batches = micro_batches(trainer)
    for batch in batches:
        batch["advantages"] = torch.zeros_like(batch["advantages"])
    batches[0]["advantages"][0], batches[5]["advantages"][2] = 1.0, -2.0
    expected, _ = own_gradient(trainer, batches)
    got, _ = of_several(trainer, batches, 4, monkeypatch)
    assert expected.norm() > 0
    assert (got - expected).norm() / expected.norm() < 1e-5


def rows(groups: list[int], prompts: list[int], completions: list[int], advantages: list[float]) -> Batch:
    def mask(lengths: list[int]) -> torch.Tensor:
        return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()

    return {
        "group": torch.tensor(groups),
        "advantages": torch.tensor(advantages),
        "prompt_mask": mask(prompts).flip(1),
        "completion_mask": mask(completions),
    }


def test_shares_are_of_equal_length_and_of_whole_groups_where_these_are_equal():
    group = torch.tensor([3, 1, 3, 1, 0, 0, 2, 2])
    tokens = torch.full((8,), 10)
    assert share_of(group, tokens, tokens, 4).tolist() == [3, 1, 3, 1, 0, 0, 2, 2]
    assert share_of(group, tokens, tokens, 2).tolist() == [1, 0, 1, 0, 0, 0, 1, 1]


def test_no_share_is_longer_than_the_mean_by_more_than_a_row():
    generator = torch.Generator().manual_seed(0)
    for shares in (2, 3, 8):
        group = torch.randint(0, 9, (60,), generator=generator)
        completions = torch.randint(1, 400, (60,), generator=generator)
        prompts = torch.zeros(60, dtype=torch.long)
        found = share_of(group, prompts, completions, shares)
        lengths = [int(completions[found == share].sum()) for share in range(shares)]
        assert max(lengths) <= completions.sum() / shares + completions.max()


def test_rows_without_a_gradient_are_nobodys_load_and_nobodys_row():
    batches = [rows([0, 0, 1, 1], [5] * 4, [9, 9, 9, 9], [0.0, 0.0, 1.0, -1.0]),
               rows([2, 2, 3, 3], [5] * 4, [9, 9, 9, 9], [0.0, 0.0, 2.0, -2.0])]  # fmt: skip
    own = [
        torch.cat([batch["own"] for batch in mark_own(batches, rank, 2, skip_zero_advantage=True)]).tolist()
        for rank in (0, 1)
    ]
    assert own[0] == [False, False, True, True, False, False, False, False]
    assert own[1] == [False, False, False, False, False, False, True, True]
    assert mark_own(batches, 0, 1, skip_zero_advantage=True) is batches
