"""Each guard speaks where it should and is silent where it should be; sabotaged runs are caught."""

import json
import random
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.paths import QUICKSTART
from helpers.sabotage import without_the_adapter
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.schema import Config
from tiny_math_solver.grading import Graded, How
from tiny_math_solver.rollouts import decoder
from tiny_math_solver.rollouts.kernel_decoder import KernelDecoder
from tiny_math_solver.support.console import CollectingConsole
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, StoppedError, UserError
from tiny_math_solver.train import train
from tiny_math_solver.training.engine_watch import EngineWatch
from tiny_math_solver.training.generation import Generation
from tiny_math_solver.training.guards import WINDOW, findings
from tiny_math_solver.training.trainer import MathGRPOTrainer
from tiny_math_solver.update.merged_scorer import MergedScorer
from tiny_math_solver.update.torch_scorer import TorchScorer

HEALTHY = {
    "reward": 0.7, "rewards/correctness_reward/mean": 0.4, "rewards/format_reward/mean": 0.3, "entropy": 0.3,
    "completions/mean_length": 100.0, "completions/clipped_ratio": 0.02, "frac_reward_zero_std": 0.3, "kl": 0.05,
    "clip_ratio/region_mean": 0.01, "sampling/sampling_logp_difference/mean": 1e-6,
}  # fmt: skip


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(QUICKSTART)


def names(config: Config, *rows: dict[str, float], dtype: torch.dtype = torch.float32) -> list[str]:
    """The findings after each of `rows`, on top of a healthy step, has filled a whole window."""
    return [f.name for f in findings([HEALTHY | row for row in rows for _ in range(WINDOW)], config, dtype)]


def correct(share: float) -> dict[str, float]:
    return {"rewards/correctness_reward/mean": share, "reward": share + 0.3}


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ({}, []),
        ({"frac_reward_zero_std": 0.85}, ["dead groups"]),
        ({"frac_reward_zero_std": 0.85, **correct(0.9)}, []),
        ({"frac_reward_zero_std": 0.95, **correct(0.9)}, ["nothing left to learn"]),
        ({"completions/clipped_ratio": 0.3}, ["truncation"]),
        ({"completions/clipped_ratio": 0.08}, []),
        ({"entropy": 0.02}, ["entropy collapse"]),
        ({"entropy": 0.02, **correct(0.95)}, []),
        ({"completions/mean_length": 40}, ["length collapse"]),
        ({"completions/mean_length": 40, **correct(0.6)}, []),
        ({"completions/mean_length": 320}, ["length blow-up"]),
        ({"completions/mean_length": 320, **correct(0.6)}, []),
        ({"rewards/format_reward/mean": 0.45, **correct(0.2)}, ["collapse", "format without accuracy"]),
        ({"rewards/format_reward/mean": 0.45, **correct(0.39)}, []),
        ({"reward": 0.3}, ["collapse", "reward collapse"]),
        ({"reward": 0.4}, []),
        ({"kl": 2.0}, ["KL blow-up"]),
        ({"clip_ratio/region_mean": 0.4}, ["clip ratio"]),
        ({"sampling/sampling_logp_difference/mean": 3e-4}, ["rollouts of another policy"]),
        ({"sampling/transformers_logp_difference/mean": 0.01}, ["rollouts of another policy"]),
    ],
)
def test_each_guard_speaks_for_its_own_trouble_alone(config: Config, later: dict[str, float], expected: list[str]):
    assert names(config, {}, later) == expected


def test_a_format_that_is_never_sampled_is_said_where_it_is_paid(config: Config):
    """The policy learns to answer right, and its strict accuracy stays 0. Two in a thousand teach nothing either."""
    unseen = HEALTHY | {"rewards/format_reward/mean": 0.001}
    assert findings([unseen] * (2 * WINDOW - 1), config, torch.float32) == []
    (found,) = findings([HEALTHY] * WINDOW + [unseen] * 2 * WINDOW, config, torch.float32)
    assert found.name == "format unseen"
    assert found.text.startswith("0.2% of the completions of 10 steps give their answer after ####")
    unpaid = load_config(QUICKSTART, ["--grpo.reward_weights", "[1.0, 0.0]"])
    assert findings([unseen] * 2 * WINDOW, unpaid, torch.float32) == []


def test_rounding_of_half_precision_is_no_other_policy(config: Config):
    for pair in ("sampling", "transformers"):
        gap = {f"sampling/{pair}_logp_difference/mean": 0.01}
        assert names(config, gap, dtype=torch.bfloat16) == []
        assert names(config, gap, dtype=torch.float32) == ["rollouts of another policy"]


def test_every_finding_names_its_number_and_a_setting(config: Config):
    """A warning without a remedy is noise."""
    bad = HEALTHY | {
        "frac_reward_zero_std": 0.85, "completions/clipped_ratio": 0.3, "entropy": 0.02, "completions/mean_length": 40,
        "rewards/format_reward/mean": 0.45, "kl": 2.0, "clip_ratio/region_mean": 0.4, "reward": 0.3,
        "rewards/correctness_reward/mean": 0.2,
    }  # fmt: skip
    found = findings([HEALTHY] * WINDOW + [bad] * WINDOW, config, torch.float32)
    assert len(found) == 9
    for finding in found:
        assert any(c.isdigit() for c in finding.text)
        assert "grpo." in finding.text, finding


def test_healthy_runs_with_noise_are_left_in_peace(config: Config):
    """200 runs of 40 steps, 20 % noise in every number: a guard that cries wolf is switched off."""
    rng = random.Random(0)
    for _ in range(200):
        noisy = [{name: value * rng.uniform(0.8, 1.2) for name, value in HEALTHY.items()} for _ in range(40)]
        for end in range(1, 41):
            assert findings(noisy[:end], config, torch.bfloat16) == []


# -- Runs -------------------------------------------------------------------------------------------------------

SHORT = [
    "--problems.train", "192", "--problems.test", "8", "--problems.dev", "16", "--evaluation.samples", "0",
    "--evaluation.every", "100",
    "--grpo.per_device_train_batch_size", "16", "--grpo.max_steps", "12", "--guards.zero_reward_steps", "5",
]  # fmt: skip


def run(folder: Path, *overrides: str) -> SimpleNamespace:
    console = CollectingConsole()
    config = load_config(QUICKSTART, [*SHORT, *overrides, "--grpo.output_dir", str(folder)])
    stopped = None
    try:
        train(config, console)
    except StoppedError as error:
        stopped = error
    return SimpleNamespace(folder=folder, lines=console.lines, stopped=stopped, events=rows(folder / "events.jsonl"))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def found(result: SimpleNamespace) -> set[str]:
    return {event["name"] for event in result.events}


def test_a_healthy_run_has_nothing_to_say(tmp_path: Path):
    result = run(tmp_path / "run")
    assert result.stopped is None
    assert result.events == []


def test_sabotage_a_reward_that_is_always_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Generation, "_graded", _never_right)
    result = run(tmp_path / "run")
    assert result.stopped.exit_code == EXIT_LEARNED_NOTHING
    assert "no reward" in str(result.stopped)
    assert len(rows(tmp_path / "run" / "metrics.jsonl")) == 5
    shown = "\n".join(result.lines)
    assert all(word in shown for word in ("question: ", "gold: ", "completion: "))
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()


def _never_right(self: Generation, row: Any, rollout: Any, endings: Any) -> Graded:
    return Graded(None, How.NONE, correct=False, text=endings.text(rollout.completion_ids))


def test_sabotage_no_reward_goes_on_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Generation, "_graded", _never_right)
    result = run(tmp_path / "run", "--guards.stop", "false", "--grpo.max_steps", "7")
    assert result.stopped is None
    assert [event["step"] for event in result.events if event["name"] == "no reward"] == [5]


def test_sabotage_a_template_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tiny_math_solver.models.load import load_tokenizer

    def bare(*args: Any) -> Any:
        tokenizer = load_tokenizer(*args)
        tokenizer.chat_template = None
        return tokenizer

    monkeypatch.setattr("tiny_math_solver.training.plan.load_tokenizer", bare)
    with pytest.raises(UserError, match="has no chat template"):
        run(tmp_path / "run")


@pytest.mark.parametrize("overrides", [[], ["--rollouts.native", "false"]], ids=["kernels", "torch"])
def test_sabotage_rollouts_without_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]):
    """With the kernels the update has the same stale weights: the comparison with transformers finds it."""
    monkeypatch.setattr(EngineWatch, "on_step_end", lambda *args, **kwargs: None)  # which would be first
    without_the_adapter(monkeypatch)
    result = run(tmp_path / "run", *overrides)
    assert result.stopped.exit_code == EXIT_LEARNED_NOTHING
    assert "rollouts of another policy" in found(result)
    assert len(rows(tmp_path / "run" / "metrics.jsonl")) <= 6


def test_sabotage_a_learning_rate_of_a_hundred_times(tmp_path: Path):
    result = run(tmp_path / "run", "--grpo.learning_rate", "0.1", "--guards.rescue", "false", "--grpo.seed", "1")
    assert result.stopped.exit_code == EXIT_LEARNED_NOTHING
    assert found(result) & {"collapse", "no reward"}
    assert any("grpo.learning_rate" in event["text"] for event in result.events)


def test_sabotage_completions_cut_to_eight_tokens(tmp_path: Path):
    result = run(tmp_path / "run", "--grpo.max_completion_length", "8", "--grpo.max_steps", "8")
    assert "truncation" in found(result)
    assert any("raise grpo.max_completion_length (now 8)" in event["text"] for event in result.events)


# -- What is not finite -----------------------------------------------------------------------------------------


def poisoned(monkeypatch: pytest.MonkeyPatch, steps: set[int], what: str) -> None:
    """Make the loss, or a gradient, NaN at the given optimizer steps."""
    inner = MathGRPOTrainer._update_policy

    def bad(self: Any, model: Any) -> torch.Tensor:
        loss = inner(self, model)
        if self.state.global_step + 1 in steps:
            if what == "loss":
                return loss * torch.nan
            next(p for p in model.parameters() if p.requires_grad).grad.view(-1)[3] = torch.inf
        return loss

    monkeypatch.setattr(MathGRPOTrainer, "_update_policy", bad)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_dropped_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
):
    poisoned(monkeypatch, {3, 4, 6}, what)
    result = run(tmp_path / "run", "--grpo.max_steps", "7", "--grpo.save_steps", "1", "--grpo.save_total_limit", "9")
    assert result.stopped is None
    assert [e["step"] for e in result.events] == [3, 4, 6]
    assert all(f"the {what} is not finite" in e["text"] for e in result.events)
    weights = [load_file(tmp_path / "run" / f"checkpoint-{step}" / "adapter_model.safetensors") for step in range(1, 8)]
    same = [all(torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(weights)]
    assert same == [False, True, True, False, True, False]  # steps 3, 4 and 6 left the adapter as it was
    assert all(bool(w.isfinite().all()) for part in weights for w in part.values())
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert "NaN" not in line


def test_three_in_a_row_stop_the_run_at_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    poisoned(monkeypatch, {4, 5, 6, 7}, "gradient")
    result = run(tmp_path / "run")
    assert "3 steps in a row were not finite" in str(result.stopped)
    saved = load_file(tmp_path / "run" / "checkpoint-6" / "adapter_model.safetensors")
    assert all(bool(w.isfinite().all()) for w in saved.values())


def test_weights_that_are_not_finite_are_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inner, calls = torch.optim.AdamW.step, count(1)

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = inner(self, *args, **kwargs)
        if next(calls) == 3:
            with torch.no_grad():
                self.param_groups[0]["params"][0][0, 0] = torch.nan
        return out

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    result = run(tmp_path / "run", "--grpo.save_steps", "1")
    assert "weights that are not finite" in str(result.stopped)
    last = max((tmp_path / "run").glob("checkpoint-*"))
    assert last.name == "checkpoint-2"


# -- Out of memory ----------------------------------------------------------------------------------------------


def starved(monkeypatch: pytest.MonkeyPatch, tokens: int, steps: set[int]) -> None:
    """Let passes of more than `tokens` tokens fail at the given optimizer steps."""
    inner, at = MathGRPOTrainer._update_policy, SimpleNamespace(step=0)

    def noted(self: Any, model: Any) -> torch.Tensor:
        at.step = self.state.global_step + 1
        return inner(self, model)

    def limited(real: Callable[..., Any]) -> Callable[..., Any]:
        def logprobs(self: Any, batch: Any) -> Any:
            size = batch["prompt_mask"].numel() + batch["completion_mask"].numel()
            if at.step in steps and size > tokens:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(self, batch)

        return logprobs

    monkeypatch.setattr(MathGRPOTrainer, "_update_policy", noted)
    for scorer in (MergedScorer, TorchScorer):
        monkeypatch.setattr(scorer, "logprobs", limited(scorer.logprobs))


@pytest.mark.parametrize("overrides", [[], ["--rollouts.native", "false"]], ids=["kernels", "torch"])
def test_a_step_out_of_memory_is_repeated_in_smaller_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
):
    """Catches a gradient that keeps what the failed attempt left, and metrics that count its passes twice."""
    short = ["--grpo.max_steps", "3", "--grpo.max_completion_length", "64", *overrides]
    plain = run(tmp_path / "plain", *short)
    with monkeypatch.context() as patch:
        starved(patch, 1000, {2})
        result = run(tmp_path / "starved", *short)
    assert plain.events == []
    assert {e["name"] for e in result.events} == {"out of memory"}
    assert [e["step"] for e in result.events] == [2] * len(result.events)
    one, other = (rows(r.folder / "metrics.jsonl") for r in (plain, result))
    for a, b in zip(one, other, strict=True):
        assert set(a) == set(b)
        for name in ("reward", "loss", "grad_norm", "entropy", "completions/mean_length", "num_tokens"):
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-6), name
    weights = [load_file(r.folder / "checkpoint-3" / "adapter_model.safetensors") for r in (plain, result)]
    moved = max(float(w.abs().max()) for name, w in weights[0].items() if "lora_B" in name)
    gap = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])
    assert gap < 1e-2 * moved


def test_rollouts_out_of_memory_go_on_with_fewer_at_once_and_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain = run(tmp_path / "plain", "--grpo.max_steps", "3")
    init = decoder.Decoder.__init__

    def limited(self: Any, weights: Any, sampling: Any, eos_ids: Any, slots: int, prompt_tokens: int) -> None:
        if slots > 10:
            raise MemoryError
        init(self, weights, sampling, eos_ids, slots, prompt_tokens)

    with monkeypatch.context() as patch:
        patch.setattr(decoder.Decoder, "__init__", limited)
        result = run(tmp_path / "starved", "--grpo.max_steps", "3")
    assert any(
        e["text"].startswith("rollouts.batch_size is reduced to 8 for the rest of the run") for e in result.events
    )
    for name in ("rollouts.jsonl", "adapter_model.safetensors"):
        assert (plain.folder / name).read_bytes() == (result.folder / name).read_bytes()
    assert issubclass(KernelDecoder, decoder.Decoder)


def test_what_does_not_fit_at_all_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    starved(monkeypatch, 10, {2})
    with pytest.raises(UserError, match=r"out of memory: lower rollouts.batch_size, update.tokens_per_pass"):
        run(tmp_path / "run")
