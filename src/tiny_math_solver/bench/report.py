"""Everything measured, as a table for people and as JSON for the record."""

import shlex
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import torch

from tiny_math_solver.bench import PARTS, families, rollouts, sampling, steps, trace
from tiny_math_solver.bench.machine import ceilings, describe
from tiny_math_solver.runs.environment import command_line
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.device import default_device
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.out_of_memory import is_out_of_memory
from tiny_math_solver.support.signals import OverTimeError, time_limit

CONFIG = Path("configs/quickstart.yaml")
RACE_STEPS = 24
SEEDS = 5
# problems, samples, tokens and sides: a large step, that of the table that people know, and the memory this takes
LARGE_STEPS: dict[str, tuple[int, int, int, tuple[str, ...]]] = {
    "steps-0.5b": (64, 8, 256, ("ours", "trl_best")),
    "table-0.5b": (4, 4, 256, ("ours", "trl_seed")),
    "memory": (4, 4, 512, ("ours",)),
}


Result = dict[str, Any]


def run(
    parts: list[str],
    vllm_python: str | None,
    console: Console,
    save: Callable[[Result], Any],
    limit: float | None = None,
) -> Result:
    """Measure the chosen parts, or all that fit this machine; as each is done, print a line and save what there is.

    What takes longer than `limit` seconds, or more memory than there is, is stopped, and the next one measured.
    """
    torch.manual_seed(0)
    if default_device() == "mps":
        raise UserError("bench measures CPUs and CUDA GPUs; ACCELERATE_USE_CPU=true measures the CPU of this machine")
    parts = parts or [part for part, devices in PARTS.items() if default_device() in devices]
    result: Result = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        # where somebody keeps vLLM says nothing to others
        "command": shlex.join("PATH" if word == vllm_python else word for word in command_line()),
        "machine": describe(),
    }
    for name, measure in _measurements(parts, vllm_python, console):
        try:
            with time_limit(limit):
                console.say(measure(result))
        except (Exception, OverTimeError) as error:
            if not isinstance(error, OverTimeError | UserError | TimeoutExpired) and not is_out_of_memory(error):
                raise
            result.setdefault("stopped", {})[name] = reason = str(error).partition("\n")[0]
            console.say(f"{name}: stopped: {reason}")
        save(result)
    return result


def _measurements(
    parts: list[str], vllm_python: str | None, console: Console
) -> Iterator[tuple[str, Callable[[Result], str]]]:
    """Name and function of each measurement; the function adds it to the result and returns its line."""
    by_part = rollouts.CASES | (rollouts.GPU_CASES if default_device() == "cuda" else {})
    cases = [case for part, chosen in by_part.items() if part in parts for case in chosen]
    if "machine" in parts or cases:
        yield "machine", _machine
    for case in cases:
        yield case.name, partial(_rollouts, case, vllm_python)
    if "steps" in parts:
        yield "steps", partial(_steps, "steps", lambda: steps.step_times(CONFIG, [], steps=6, rounds=3))
    for part in LARGE_STEPS:
        if part in parts:
            yield part, partial(_steps, part, partial(_large_steps, part))
    if "race" in parts:
        yield "race", _race
    if "trace" in parts:
        yield "trace", _trace
    for pupil in sampling.PUPILS if "sampling" in parts else ():
        yield f"sampling, {pupil}", partial(_sampling, pupil, console)


def _machine(result: Result) -> str:
    result["ceilings"] = found = ceilings()
    return (
        f"machine: {found['float32_flops'] / 1e9:,.0f} GFLOP/s in float32, {found['bfloat16_flops'] / 1e9:,.0f} in "
        f"bfloat16, reads {found['read_bytes'] / 1e9:,.0f} GB/s"
    )


def _rollouts(case: rollouts.Case, vllm_python: str | None, result: Result) -> str:
    measured = rollouts.measure(case, vllm_python)
    if case.model in families.MODELS:
        measured |= families.gaps(case.model)
    if "ceilings" in result:
        measured["share_of_floor"] = rollouts.share_of_floor(measured, result["ceilings"])
    result.setdefault("rollouts", []).append(measured)
    return rollout_line(measured)


def _steps(part: str, measure: Callable[[], dict[str, Any]], result: Result) -> str:
    result[part] = measured = measure()
    shape = f"0.5B-shaped, {measured['tokens']} tokens: " if "tokens" in measured else ""
    return shape + steps_line(measured)


def _race(result: Result) -> str:
    result["race"] = steps.race(CONFIG, [], RACE_STEPS, rounds=3)
    return race_line(result["race"])


def _trace(result: Result) -> str:
    if not find_spec("triton"):
        raise UserError("it counts kernels in Triton, which is not installed: pip install triton")
    result["trace"] = counted = trace.trace()
    lines = []
    for part, unit in (("decode", "row"), ("update", "token")):
        ours, torch_alone = counted[part]["ours"], counted[part]["torch"]
        lines.append(
            f"a GPU's {part}: {ours['kernels']:,} kernels, {ours['bytes'] / 1e6:.2f} MB a {unit} beside products and "
            f"attention; torch alone {torch_alone['kernels']:,} and {torch_alone['bytes'] / 1e6:.2f} MB"
        )
    return "\n".join(lines)


def _sampling(name: str, console: Console, result: Result) -> str:
    measured = sampling.race(CONFIG, sampling.PUPILS[name], range(SEEDS), console.say)
    result.setdefault("sampling", {})[name] = measured
    return "\n".join(f"{name}: {line}" for line in sampling.table(measured))


def _large_steps(part: str) -> dict[str, Any]:
    """Steps of a random model of 0.5B's shape."""
    problems, samples, new_tokens, sides = LARGE_STEPS[part]
    with tempfile.TemporaryDirectory() as folder:
        shape = steps.of_qwens_shape(folder, problems, samples, new_tokens)
        return {"tokens": new_tokens} | steps.step_times(CONFIG, shape, steps=2, rounds=1, only=sides, coin=True)


def rollout_line(measured: dict[str, Any]) -> str:
    milliseconds = ", ".join(f"{name} {ms:.2f}" for name, ms in measured["ms_per_step"].items())
    faster = ", ".join(f"{ratio:.1f}× {name}" for name, ratio in measured["times_faster_than"].items())
    share = measured.get("share_of_floor")
    of_ceiling = f"; {share:.0%} of the machine's ceiling" if share else ""
    gaps = ""
    if "forward_gap" in measured:
        gaps = f"; gap to transformers {measured['forward_gap']:.0e}, of the gradient {measured['gradient_gap']:.0e}"
    return f"{measured['case']}: ms a decode step: {milliseconds}; engine is {faster}{of_ceiling}{gaps}"


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
