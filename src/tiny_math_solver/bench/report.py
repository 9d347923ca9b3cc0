"""Everything measured, as a table for people and as JSON for the record."""

import shlex
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tiny_math_solver.bench import PARTS, rollouts, sampling, steps
from tiny_math_solver.bench.machine import ceilings, describe
from tiny_math_solver.runs.environment import command_line
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.device import default_device
from tiny_math_solver.support.errors import UserError

CONFIG = Path("configs/quickstart.yaml")
RACE_STEPS = 24
SEEDS = 5


def run(
    parts: list[str], vllm_python: str | None, console: Console, save: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    """Measure the chosen parts, or all that fit this machine; as each is done, print a line and save what there is."""
    torch.manual_seed(0)
    if default_device() == "mps":
        raise UserError("bench measures CPUs and CUDA GPUs; ACCELERATE_USE_CPU=true measures the CPU of this machine")
    parts = parts or [part for part, devices in PARTS.items() if default_device() in devices]
    result: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        # where somebody keeps vLLM says nothing to others
        "command": shlex.join("PATH" if word == vllm_python else word for word in command_line()),
        "machine": describe(),
    }
    cases = [
        case
        for part, chosen in (rollouts.GPU_CASES if default_device() == "cuda" else rollouts.CASES).items()
        if part in parts
        for case in chosen
    ]
    if "machine" in parts or cases:
        result["ceilings"] = found = ceilings()
        console.say(
            f"machine: {found['float32_flops'] / 1e9:,.0f} GFLOP/s in float32, {found['bfloat16_flops'] / 1e9:,.0f} in "
            f"bfloat16, reads {found['read_bytes'] / 1e9:,.0f} GB/s"
        )
        save(result)
    for case in cases:
        measured = rollouts.measure(case, vllm_python)
        measured["share_of_floor"] = rollouts.share_of_floor(measured, result["ceilings"])
        result.setdefault("rollouts", []).append(measured)
        console.say(rollout_line(measured))
        save(result)
    if "steps" in parts:
        result["steps"] = steps.step_times(CONFIG, [], steps=6, rounds=3)
        console.say(steps_line(result["steps"]))
        save(result)
    for name in ("steps-0.5b", "memory"):
        if name in parts:
            result[name] = _large_steps(name)
            console.say(f"0.5B-shaped, {result[name]['tokens']} tokens: {steps_line(result[name])}")
            save(result)
    if "race" in parts:
        result["race"] = steps.race(CONFIG, [], RACE_STEPS, rounds=3)
        console.say(race_line(result["race"]))
        save(result)
    for name, pupil in sampling.PUPILS.items() if "sampling" in parts else ():
        result.setdefault("sampling", {})[name] = measured = sampling.race(CONFIG, pupil, range(SEEDS), console.say)
        for line in sampling.table(measured):
            console.say(f"{name}: {line}")
        save(result)
    return result


def _large_steps(part: str) -> dict[str, Any]:
    """Steps of a random model of 0.5B's shape: 256 tokens against TRL, or 512 for the memory they take."""
    new_tokens, sides = (512, ("ours",)) if part == "memory" else (256, ("ours", "trl_seed"))
    with tempfile.TemporaryDirectory() as folder:
        shape = steps.of_qwens_shape(folder, new_tokens)
        if part == "memory":  # 16 completions at once, as in the table that people know
            shape += ["--grpo.num_generations", "4", "--grpo.per_device_train_batch_size", "16"]
        return {"tokens": new_tokens} | steps.step_times(CONFIG, shape, steps=2, rounds=1, only=sides, coin=True)


def rollout_line(measured: dict[str, Any]) -> str:
    milliseconds = ", ".join(f"{name} {ms:.2f}" for name, ms in measured["ms_per_step"].items())
    faster = ", ".join(f"{ratio:.1f}× {name}" for name, ratio in measured["times_faster_than"].items())
    return (
        f"{measured['case']}: ms a decode step: {milliseconds}; engine is {faster}; "
        f"{measured['share_of_floor']:.0%} of the machine's ceiling"
    )


def steps_line(measured: dict[str, Any]) -> str:
    seconds = ", ".join(f"{name} {s:.2f}" for name, s in measured["seconds_per_step"].items())
    faster = ", ".join(f"{ratio:.1f}× {name}" for name, ratio in measured["times_faster_than"].items())
    peaks = ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in measured.get("peak_memory_bytes", {}).items())
    return (
        f"GRPO step of {measured['completions_per_step']} completions: seconds: {seconds}"
        + (f"; ours is {faster}" if faster else "")
        + (f"; peak GPU memory: {peaks}" if peaks else "")
    )


def race_line(measured: dict[str, Any]) -> str:
    steps = {name: ", ".join(str(run["steps"]) for run in finished) for name, finished in measured["runs"].items()}
    ours, trl = measured["seconds"]["ours"], measured["seconds"]["trl_best"]
    return (
        f"to {measured['target']:.0%} on dev: ours {ours:.1f} s (steps: {steps['ours']}), TRL {trl:.1f} s (steps: "
        f"{steps['trl_best']}): {measured['times_faster_than']['trl_best']:.1f}×"
    )
