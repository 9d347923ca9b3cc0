"""The measurements: equal work on both sides, and figures that follow from the times."""

import json
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from helpers.paths import QUICKSTART
from tiny_math_solver.bench import families, report, rollouts, sampling, steps
from tiny_math_solver.bench.rollouts import Case
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.support.console import CollectingConsole
from tiny_math_solver.training.trainer import MathGRPOTrainer


def test_a_rollout_case_is_measured_on_both_sides():
    """`measure` itself asserts that every side made completions of the full length."""
    measured = rollouts.measure(Case("embedded", 8, 4, 6, rounds=1))
    times, faster = measured["ms_per_step"], measured["times_faster_than"]
    assert set(times) == {"engine", "generate"}
    assert faster == {"generate": pytest.approx(times["generate"] / times["engine"])}
    assert measured["tokens_per_second"]["engine"] == pytest.approx(8e3 / times["engine"])
    assert measured["weight_bytes"] == 4 * 919_680
    ceilings = {"read_bytes": 1e9, "float32_flops": 1e12}  # 3.68 ms to read the weights, 0.015 to multiply
    assert rollouts.share_of_floor(measured, ceilings) == pytest.approx(3.67872 / times["engine"])


@pytest.mark.parametrize("family", families.MODELS)
def test_a_small_model_of_every_family_is_measured(family: str):
    """In the table of docs/benchmarks.md: equal work on both sides, and gaps within what is claimed."""
    assert rollouts.measure(Case(family, 4, 2, 3, rounds=1))["ms_per_step"].keys() == {"engine", "generate"}
    model = families.family_model(family)
    assert 0.7e6 < sum(p.numel() for p in model.parameters()) < 1.2e6
    found = families.gaps(family)
    assert 0 < found["forward_gap"] <= 1e-4
    assert 0 < found["gradient_gap"] <= 1e-4


def test_the_sides_of_a_step_train_on_equally_many_completions():
    config = load_config(QUICKSTART)
    for side in steps.sides(config.completions_per_step).values():
        other = load_config(QUICKSTART, side.overrides)
        assert other.completions_per_step == config.completions_per_step == 128


def test_the_other_side_is_trl_itself():
    short = ["--grpo.num_generations", "2", "--grpo.max_completion_length", "8", "--problems.train", "20"]
    small = ["--grpo.per_device_train_batch_size", "4", "--grpo.gradient_accumulation_steps", "1", *short]
    made: list[Any] = []

    class Spy(steps.TrainerCallback):
        trainer = None

        def on_train_begin(self, *args, **kwargs):
            made.append(self.trainer)

    for stock in (True, False):
        times = steps.train_side(steps.Side("side", stock), QUICKSTART, small, 2, None, Spy())
        assert len(times) == 2
        assert min(times) > 0
    assert type(made[0]) is steps.GRPOTrainer
    assert type(made[1]) is MathGRPOTrainer


def point(seconds: float, completions: int, accuracy: float) -> dict[str, float]:
    return {"seconds": seconds, "completions": completions, "accuracy": accuracy}


def test_the_target_of_a_race_is_crossed_between_two_evaluations():
    """Catches a target that counts from the next evaluation alone, and one that is crossed twice."""
    points = [point(1, 100, 0.2), point(3, 300, 0.6), point(4, 400, 0.3), point(5, 500, 0.9)]
    found = sampling.summary(points, 0.5)
    assert found == pytest.approx({"seconds": 2.5, "completions": 250, "final_accuracy": 0.6, "total_seconds": 5})
    assert sampling.summary(points, 0.1) == pytest.approx(
        {**found, "seconds": 0.5, "completions": 50}
    )  # from 0 at first
    never = sampling.summary(points, 0.95)
    assert never["seconds"] is never["completions"] is None
    assert sampling.run_line(never) == "target not reached; 60.0% at the end, 5.0 s in all"


def test_arms_of_a_race_are_compared_seed_by_seed():
    """Medians of ratios, not the ratio of medians: 2 and 1/2 and 3 have median 2, whatever the seeds' own times."""

    def runs(*seconds: float | None) -> list[dict[str, Any]]:
        return [
            {"seconds": s, "completions": s and 10 * s, "final_accuracy": 0.9, "total_seconds": 9.0} for s in seconds
        ]

    both = {"none": runs(2, 10, 3, None), "share": runs(1, 20, 1, 5)}
    compared = sampling._compared(both)
    assert compared["share"] == {"times": {"seconds": 2, "completions": 2}, "final_accuracy": 0}
    lines = sampling.table({"target": 0.8, "runs": both, "against_none": compared})
    assert lines[1] == (
        "share: to 80% on dev 3.0 s (2.00×), 30 completions (2.00×), 4 of 4 seeds; at the end 90.0% (+0.0 points) "
        "after 9.0 s"
    )


def test_the_arms_of_the_race_are_what_they_are_called():
    """Catches a renamed setting, and an arm that leaves something out."""
    for name, pupil in sampling.PUPILS.items():
        for arm, overrides in sampling.ARMS.items():
            config = load_config(QUICKSTART, [*pupil.overrides, *overrides])
            on = config.problems.sampling == "adaptive", config.rollouts.replace_dead == 2, config.update.share == 0.5
            assert sum(on) == {"none": 0, "all three": 3}.get(arm, 1), (name, arm)
            assert arm in ("none", "all three") or load_config(QUICKSTART, ["--" + arm.split()[0], arm.split()[1]])


def test_a_side_that_does_not_fit_is_measured_in_smaller_micro_batches(monkeypatch: pytest.MonkeyPatch):
    """Both sides still train on as many completions a step, and what cannot be halved is no result."""
    tried: list[tuple[int | None, int]] = []

    def train(side: steps.Side, *args: Any, **kwargs: Any) -> list[float]:
        tried.append((side.batch, side.accumulation))
        if side.batch is None or side.batch > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [1.0]

    monkeypatch.setattr(steps, "train_side", train)
    best = steps.sides(32)["trl_best"]
    assert steps._as_fits(best, QUICKSTART, [], 1, coin=False) == ([1.0], 8)
    assert tried == [(32, 1), (16, 2), (8, 4)]
    with pytest.raises(torch.OutOfMemoryError):
        steps._as_fits(steps.sides(32)["ours"], QUICKSTART, [], 1, coin=False)


def test_what_takes_too_long_or_too_much_is_named_and_the_rest_measured(monkeypatch: pytest.MonkeyPatch):
    """Results are saved after each measurement, so that a machine that goes away takes the last one alone."""

    def endless() -> Any:
        while True:
            time.sleep(0.01)

    def too_large(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(report, "ceilings", endless)
    monkeypatch.setattr(report.steps, "race", too_large)
    step = {"completions_per_step": 4, "seconds_per_step": {"ours": 1.0}, "times_faster_than": {}}
    monkeypatch.setattr(report.steps, "step_times", lambda *args, **kwargs: step)
    saved: list[set[str]] = []
    console = CollectingConsole()
    found = report.run(["machine", "steps", "race"], None, console, lambda result: saved.append(set(result)), 0.2)
    assert found["stopped"] == {"machine": "took longer than 0.2 s", "race": "CUDA out of memory."}
    assert found["steps"] == step
    assert [len(names) for names in saved] == [4, 5, 5]
    assert console.lines[0] == "machine: stopped: took longer than 0.2 s"


@pytest.mark.slow
def test_our_kernels_for_a_gpu_are_fewer_and_move_less():
    """As many kernels as a layer has operators, and two fifths of the bytes at most that torch moves alone."""
    pytest.importorskip("triton")
    # in a process of its own: a model of this width would count for the memory that other tests measure
    program = "import json; from tiny_math_solver.bench import trace; print(json.dumps(trace.trace(4)))"
    command = [sys.executable, "-c", program]
    counted = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    for part, of_layer in (("decode", 8), ("update", 70)):
        ours, alone = counted[part]["ours"], counted[part]["torch"]
        assert of_layer * 24 / 2 < ours["kernels"] < of_layer * 24 + 20 < alone["kernels"]
        assert ours["bytes"] < 0.4 * alone["bytes"]
    rows = 2 * 896 * 2  # bytes of a row that a norm reads and writes
    assert counted["decode"]["ours"]["bytes"] > 24 * 2 * rows + 2 * 151_936 * 2  # two norms a layer; the draw


def test_what_a_part_lacks_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    console = CollectingConsole()
    report.run(["trace"], None, console, lambda result: None)
    assert console.lines == ["trace: stopped: it counts kernels in Triton, which is not installed: pip install triton"]
