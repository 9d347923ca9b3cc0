"""The time of a step by the number of processes: fitted to runs of one, checked on two and four, carried on to 1,024.

    OMP_NUM_THREADS=1 .venv/bin/python scripts/scaling.py measure     # the runs, 3 minutes on an idle machine
    .venv/bin/python scripts/scaling.py                               # the fit, the simulation, the figure

The first writes bench/results/scaling-runs.json, the second reads it, bench/results/gsm8k-lengths.json and the H200's
rates, prints the tables of docs/scaling.md and draws its figure. Chromium has to be on the PATH for the figure.
"""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from tiny_math_solver.cli import main as tiny_math
from tiny_math_solver.support.dealing import dealt, group_parts
from tiny_math_solver.training.batches import PROMPT_COST, Lengths
from tiny_math_solver.training.trainer import MathGRPOTrainer
from tiny_math_solver.update.own_rows import share_of

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
RUNS, LENGTHS, FIGURE = RESULTS / "scaling-runs.json", RESULTS / "gsm8k-lengths.json", ROOT / "docs" / "scaling.png"
PARTS = ("rollout", "reward", "update", "waiting", "evaluation")
BATCH, LARGE = 64, 256  # per_device_train_batch_size of one process, accumulated twice
PROCESSES, REPEATS = (1, 2, 4), 3
GROUPS_AT_ONCE, SIMULATED = 64, 24  # groups of a process in weak scaling, steps that a point is the mean of


# -- Runs -------------------------------------------------------------------------------------------------------


def measure() -> None:
    """Train the quickstart with 1, 2 and 4 processes of one thread, and 1 and 2 with a batch four times as large.

    Each three times, of which the one that took the middle time is kept.
    """
    asked = [(count, BATCH // count, 24) for count in PROCESSES] + [(n, LARGE // n, 8) for n in (2, 1)]
    repeated: dict[tuple[int, int], list[Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (count, batch, steps) in [(n, each) for n in range(REPEATS) for each in asked]:
            run = Path(folder) / f"{count}-{batch}-{number}"
            train = ["train", str(ROOT / "configs/quickstart.yaml"), "--quiet", "--grpo.max_steps", str(steps)]
            train += ["--evaluation.test_limit", "50", "--evaluation.samples", "0", "--grpo.output_dir", str(run)]
            train += ["--grpo.per_device_train_batch_size", str(batch)]
            if (count, batch, number) == (1, LARGE, REPEATS - 1):
                recording = _timed_recording(train)
            else:
                launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
                command = [sys.executable, *launcher, "-m", "tiny_math_solver.cli", *train]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            repeated.setdefault((count, batch), []).append(_steps(run))
    runs = [
        {"processes": count, "steps": sorted(found, key=_seconds_of)[REPEATS // 2]}
        for (count, _), found in repeated.items()
    ]
    found = {"cores": len(os.sched_getaffinity(0)), "recording": recording, "unpickling": _unpickling(), "runs": runs}
    RUNS.write_text(json.dumps(found))


def _seconds_of(steps: list[dict[str, Any]]) -> float:
    return float(sum(step["seconds"] for step in steps))


def _timed_recording(train: list[str]) -> float:
    """Train in this process; returns the seconds in which a completion is recorded, as every process does for all."""
    record, spent, rows = MathGRPOTrainer._record, 0.0, 0

    def timed(self: MathGRPOTrainer, output: dict[str, Any]) -> None:
        nonlocal spent, rows
        started = time.perf_counter()
        record(self, output)
        spent, rows = spent + time.perf_counter() - started, rows + len(output["advantages"])

    MathGRPOTrainer._record = timed  # type: ignore[method-assign]
    tiny_math(train)
    return spent / rows


def _steps(run: Path) -> list[dict[str, Any]]:
    """Of each step but the first: seconds by part, and the lengths and advantages of its completions by group."""
    metrics, rollouts = (
        [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "rollouts")
    )
    steps = []
    for before, row in pairwise(metrics):
        made = [each for each in rollouts if each["step"] == row["step"]]
        names = [each["id"] for each in made]
        steps.append(
            {
                "seconds": row["seconds"] - before["seconds"] - row["time/evaluation"],
                **{part: row.get(f"time/{part}", 0.0) for part in PARTS},
                "problems": names,
                "tokens": [each["tokens"] for each in made],
                "live": [bool(each["advantage"]) for each in made],
            }
        )
    return steps


def _unpickling() -> float:
    """Seconds in which a process packs and unpacks a token of a completion that another has made."""
    rows = [([1] * 256, [-0.123] * 256, "x" * 900) for _ in range(256)]
    started = time.perf_counter()
    for _ in range(4):
        pickle.loads(pickle.dumps(rows))
    return (time.perf_counter() - started) / 4 / (256 * 256)


# -- The model --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """Seconds: of a decode step, of a token in it, of a group's prefill; of grading a completion; of a step's update,
    of a token in it; of what every process does for a step, for each of its completions and for each of all; of the
    messages to one more process; of a token that comes from another process; of averaging the gradients.

    `slower` is what work takes beside that of other processes on the same machine.
    """

    decode_step: float
    decoded: float
    prefill: float
    graded: float
    update: float
    updated: float
    step: float
    row: float
    any_row: float
    message: float
    received: float
    gradients: float = 0.0
    slower: float = 1.0


@dataclass(frozen=True)
class Step:
    """Lengths `[P][G]` of the completions of a step by group, and which of them have a gradient."""

    tokens: list[list[int]]
    live: list[list[bool]]
    prompt: int
    expected: list[float]  # of a group's completion, as known before


def seconds(machine: Machine, step: Step, processes: int) -> dict[str, float]:
    """The parts of a step's time: those of the process that takes longest, and what all of them do."""
    samples = len(step.tokens[0])
    parts = group_parts(len(step.tokens), samples, processes)
    units = [(group, part) for group in range(len(step.tokens)) for part in parts]
    costs = [PROMPT_COST * step.prompt + len(part) * step.expected[group] for group, part in units]
    rollouts = []
    for share in dealt(costs, processes):
        rows = [step.tokens[group][number] for group, part in (units[unit] for unit in share) for number in part]
        decoding = machine.decode_step * max(rows, default=0) + machine.decoded * sum(rows)
        rollouts.append(decoding + machine.prefill * len(share) + machine.graded * len(rows))
    flat = [(group, row) for group, rows in enumerate(step.live) for row, is_live in enumerate(rows) if is_live]
    lengths = torch.tensor([step.tokens[group][row] for group, row in flat], dtype=torch.long)
    groups = torch.tensor([group for group, _ in flat], dtype=torch.long)
    shares = share_of(groups, torch.full_like(groups, step.prompt), lengths, processes)
    passed = torch.zeros(processes, dtype=torch.long).index_add(0, shares, lengths)
    prompts = torch.tensor([len(set(groups[shares == share].tolist())) for share in range(processes)]) * step.prompt
    update = machine.update + machine.updated * int((passed + prompts).max())
    tokens, completions = sum(map(sum, step.tokens)), len(step.tokens) * samples
    others = (processes - 1) / processes
    return {
        "rollouts": machine.slower * max(rollouts),
        "update": machine.slower * update,
        "other": machine.slower * (machine.step + machine.row * completions / processes),
        "everyone": machine.slower * machine.any_row * completions,
        "messages": machine.message * (processes - 1) + machine.received * tokens * others,
        "gradients": machine.gradients * 2 * others,
        "idle": machine.slower * (max(rollouts) - mean(rollouts)),  # part of rollouts
    }


def total(parts: dict[str, float]) -> float:
    return sum(value for name, value in parts.items() if name != "idle")


def recorded(run: dict[str, Any], samples: int, prompt: int) -> list[Step]:
    """The steps of a run, with what was known of its problems at each."""
    known, steps = Lengths(), []
    for step in run["steps"]:
        groups = [range(first, first + samples) for first in range(0, len(step["tokens"]), samples)]
        names = [step["problems"][group[0]] for group in groups]
        tokens = [[step["tokens"][row] for row in group] for group in groups]
        live = [[step["live"][row] for row in group] for group in groups]
        steps.append(Step(tokens, live, prompt, [known.expected(name) for name in names]))
        known.observe({name: mean(rows) for name, rows in zip(names, tokens, strict=True)})
    return steps


def fitted(runs: list[dict[str, Any]], recording: float, unpickling: float, samples: int, prompt: int) -> Machine:
    """The rates of one process by least squares over its steps; messages and slowness from the run of two."""
    alone = [run for run in runs if run["processes"] == 1]
    measured = [step for run in alone for step in run["steps"]]
    steps = [step for run in alone for step in recorded(run, samples, prompt)]

    def fit(columns: list[list[float]], seconds: list[float]) -> list[float]:
        """Non-negative least squares: columns whose weight would be below 0 are left out, one after the other."""
        kept = list(range(len(columns)))
        while True:
            weights = np.linalg.lstsq(np.array([columns[i] for i in kept]).T, np.array(seconds), rcond=None)[0]
            if min(weights) >= 0:
                found = dict(zip(kept, weights.tolist(), strict=True))
                return [found.get(i, 0.0) for i in range(len(columns))]
            del kept[int(weights.argmin())]

    longest = [float(max(map(max, step.tokens))) for step in steps]
    tokens = [float(sum(map(sum, step.tokens))) for step in steps]
    groups = [float(len(step.tokens)) for step in steps]
    rows = [samples * count for count in groups]
    passed = [
        float(sum(n for a, b in zip(step.tokens, step.live, strict=True) for n, live in zip(a, b, strict=True) if live)
              + prompt * sum(any(live) for live in step.live))
        for step in steps
    ]  # fmt: skip
    ones = [1.0] * len(steps)
    decode_step, decoded, prefill = fit([longest, tokens, groups], [step["rollout"] for step in measured])
    graded = sum(step["reward"] for step in measured) / sum(rows)
    update, updated = fit([ones, passed], [step["update"] for step in measured])
    machine = Machine(decode_step, decoded, prefill, graded, update, updated, 0.0, 0.0, 0.0, 0.0, 2 * unpickling)
    two = next(run for run in runs if run["processes"] == 2)
    of_two = list(zip(recorded(two, samples, prompt), two["steps"], strict=True))
    modelled = [seconds(machine, step, 2) for step, _ in of_two]
    work = sum(step["rollout"] + step["reward"] + step["update"] for _, step in of_two)
    machine = replace(machine, slower=max(1.0, work / sum(parts["rollouts"] + parts["update"] for parts in modelled)))

    # what is left of a step of one process grows with its rows; what two take beyond that are messages
    rest = [step["seconds"] - step["rollout"] - step["reward"] - step["update"] for step in measured]
    step_time, of_one = fit([ones, rows], rest)
    machine = replace(machine, step=step_time, row=max(0.0, of_one - recording), any_row=min(of_one, recording))
    missing = mean(step["seconds"] - total(seconds(machine, lengths, 2)) for lengths, step in of_two)
    return replace(machine, message=max(0.0, missing))


def on_cores(machine: Machine, processes: int, cores: int) -> Machine:
    """The machine where `processes` of one thread share `cores`; messages do not take longer there."""
    if processes == 1:
        return replace(machine, slower=1.0)
    crowd = max(1.0, processes / cores)
    return replace(machine, slower=machine.slower * crowd, received=machine.received * crowd)


# -- The simulation ---------------------------------------------------------------------------------------------


def h200(cpu: Machine) -> Machine:
    """The H200's rates for 0.5B weights, between machines: 25 GB/s and 30 µs a message, 40 rounds of messages a step.

    One that decodes 16 and 1,024 rows in 1.04 and 3.24 ms, and whose steps of 512 completions of 266 tokens took 0.87 s
    of rollouts, 0.20 s of grading, 0.88 s of update and 0.24 s of all else.
    """
    recipe = json.loads((RESULTS / "h200.json").read_text())
    decode = {rows: entry["ms_per_step"] / 1e3 for rows, entry in recipe["decode"]["second"].items()}
    taken = next(value for name, value in recipe.items() if name.startswith("recipe"))
    of_step, completions, tokens, longest = taken["seconds_a_step"], 512, 512 * taken["mean_tokens"], 400
    decoded = (decode["1024"] - decode["16"]) / (1024 - 16)
    decode_step = decode["16"] - 16 * decoded
    by_rates = decode_step * longest + decoded * tokens
    factor = of_step["time/rollout"] / by_rates
    rest = of_step["step_time"] - sum(of_step[f"time/{part}"] for part in ("rollout", "reward", "update"))
    row, any_row = min(cpu.row, 0.5 * rest / completions), min(cpu.any_row, 0.5 * rest / completions)
    return Machine(
        decode_step * factor,
        decoded * factor,
        0.0,
        of_step["time/reward"] / completions,
        0.0,
        of_step["time/update"] / tokens,
        rest - (row + any_row) * completions,
        row,
        any_row,
        message=40 * 30e-6,
        received=cpu.received,
        gradients=8.8e6 * 4 / 25e9,
    )


def drawn(lengths: list[list[int]], groups: int, draw: random.Random) -> Step:
    """A step of so many groups, drawn from those recorded; a new problem is expected to be as long as all are."""
    chosen = [draw.choice(lengths) for _ in range(groups)]
    typical = mean(map(mean, lengths))
    return Step(chosen, [[True] * len(group) for group in chosen], 110, [typical] * groups)


def simulated(machine: Machine, lengths: list[list[int]], processes: int, groups: int) -> dict[str, float]:
    """The mean parts of a step."""
    draw, repeats = random.Random(processes), max(3, SIMULATED // processes)
    steps = [seconds(machine, drawn(lengths, groups, draw), processes) for _ in range(repeats)]
    return {name: mean(step[name] for step in steps) for name in steps[0]}


def figure(points: dict[str, list[tuple[int, float]]], measured: list[tuple[int, float]]) -> None:
    """Draw the curves of efficiency into docs/scaling.png."""
    import plotly.graph_objects as go
    from playwright.sync_api import sync_playwright

    chart = go.Figure()
    for name, curve in points.items():
        chart.add_scatter(x=[n for n, _ in curve], y=[100 * y for _, y in curve], name=name, mode="lines+markers")
    chart.add_scatter(
        x=[n for n, _ in measured], y=[100 * y for _, y in measured], name="measured: quickstart on 2 CPU cores",
        mode="markers", marker={"symbol": "x", "size": 10, "color": "black"},
    )  # fmt: skip
    chart.update_layout(
        template="simple_white", width=760, height=420, margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis={"type": "log", "title": "processes", "tickvals": [2**n for n in range(11)]},
        yaxis={"title": "completions a second, % of N times one process", "rangemode": "tozero"},
        legend={"x": 0.02, "y": 0.05},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chart.write_html(page := Path(folder) / "figure.html")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 780, "height": 440})
        view.goto(page.as_uri())
        view.wait_for_timeout(800)
        view.locator(".js-plotly-plot").screenshot(path=FIGURE)
        browser.close()


def main() -> int:
    if sys.argv[1:] == ["measure"]:
        measure()
        return 0
    known = json.loads(RUNS.read_text())
    runs, cores, samples, prompt = known["runs"], known["cores"], 8, 60
    cpu = fitted(runs, known["recording"], known["unpickling"], samples, prompt)
    print(*(f"{name} {value:.2e}" for name, value in vars(cpu).items()), sep="\n")
    print("\n| processes | completions | measured | model | difference |\n|---|---|---|---|---|")
    measured = []
    for number, run in enumerate(runs):
        count = run["processes"]
        model = on_cores(cpu, count, cores)
        took = mean(step["seconds"] for step in run["steps"])
        by_model = mean(total(seconds(model, step, count)) for step in recorded(run, samples, prompt))
        measured += [(count, took)] if number < len(PROCESSES) else []
        rows, gap = len(run["steps"][0]["tokens"]), by_model / took - 1
        print(f"| {count} | {rows} | {took:.3f} s | {by_model:.3f} s | {gap:+.0%} |")
    gpu, lengths = h200(cpu), json.loads(LENGTHS.read_text())["tokens"]
    numbers = [2**n for n in range(11)]
    weak = [simulated(gpu, lengths, n, GROUPS_AT_ONCE * n) for n in numbers]
    strong = [simulated(gpu, lengths, n, 8 * GROUPS_AT_ONCE) for n in numbers]
    for name, steps in (("512 completions a process", weak), ("4,096 completions in all", strong)):
        print(f"\n{name}\n")
        print("| processes | step | rollouts | of these idle | update | other | everyone | messages | gradients |")
        print("|---|---|---|---|---|---|---|---|---|")
        for n, parts in zip(numbers, steps, strict=True):
            cells = [
                f"{parts[key]:.2f}"
                for key in ("rollouts", "idle", "update", "other", "everyone", "messages", "gradients")
            ]
            print(f"| {n:,} | {total(parts):.2f} s | {' | '.join(cells)} |")
    figure(
        {
            "512 completions a process": [
                (n, total(weak[0]) / total(step)) for n, step in zip(numbers, weak, strict=True)
            ],
            "4,096 completions in all": [
                (n, total(strong[0]) / total(step) / n) for n, step in zip(numbers, strong, strict=True)
            ],
        },
        [(n, measured[0][1] / took / min(n, cores)) for n, took in measured],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
