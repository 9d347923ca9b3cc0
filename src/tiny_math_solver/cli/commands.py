"""What each command of `tiny-math` does, given its parsed arguments; returns the exit code.

Heavy imports stay inside the commands, so that `--help` answers at once.
"""

import argparse
import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tiny_math_solver.support.console import Console, NotesConsole
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, EXIT_PROOF_FAILED, UserError

SECTIONS = ("model", "problems", "prompt", "evaluation", "rollouts", "update", "guards", "records", "lora", "grpo")
BENCH_PARTS = ("machine", "rollouts", "rollouts-0.5b", "steps", "steps-0.5b", "memory", "race")
EXAMPLE_QUESTION = (
    "Ava is 8 years old and has 3 bags of 7 marbles. She loses 4 marbles. How many marbles does Ava have?"
)


def train(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.config.schema import load_config
    from tiny_math_solver.support.environment import check_launch, is_first
    from tiny_math_solver.training.trackers import choose_trackers

    check_launch()
    if args.allow and not args.resume:
        raise UserError("--allow goes with --resume: it says what may differ from the run that goes on")
    config = load_config(args.config, args.overrides)
    choose_trackers(config)  # before the slow imports: what is missing is said at once
    from tiny_math_solver.config.library_checks import check_arguments
    from tiny_math_solver.evaluation.verdict import nothing_learned, run_lines
    from tiny_math_solver.runs.resume import Asked
    from tiny_math_solver.train import train as run
    from tiny_math_solver.training.build import prepare, training_arguments
    from tiny_math_solver.training.live_view import training_console

    check_arguments(training_arguments(config))
    if args.dry_run:
        _, _, plan = prepare(config)
        console.say(config.to_yaml())
        console.say("\n".join(plan))
        return 0
    with training_console(args.quiet or not is_first()) as on_screen:
        outcome = run(config, on_screen, Asked(args.resume, tuple(args.allow), args.force))
    if not is_first():
        return 0
    if not outcome.earned:
        console.note(nothing_learned(outcome.folder))
        return EXIT_LEARNED_NOTHING
    console.say("\n".join(["", *run_lines(outcome.summary, outcome.folder)]))
    console.say(f'next: {_own_name()} solve {outcome.folder} "{EXAMPLE_QUESTION}"')
    return 0


def check(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.config.library_checks import check_arguments
    from tiny_math_solver.config.schema import load_config
    from tiny_math_solver.preflight.check import check as checks
    from tiny_math_solver.support.environment import check_launch
    from tiny_math_solver.training.build import training_arguments

    check_launch()
    config, worst = load_config(args.config, args.overrides), "ok"
    check_arguments(training_arguments(config))
    for finding in checks(config, args.price):
        console.say(str(finding))
        worst = max(worst, finding.verdict, key=("ok", "warn", "fail").index)
    console.say({"ok": "go", "warn": "can go: see the warnings", "fail": "do not start this run"}[worst])
    return EXIT_LEARNED_NOTHING if worst == "fail" else 0


def _own_name() -> str:
    """What to type for `tiny-math`: its path where the shell would not find this installation's."""
    ours = Path(sys.executable).with_name("tiny-math")
    found = shutil.which("tiny-math")
    if not ours.exists() or (found and Path(found).samefile(ours)):
        return "tiny-math"
    return str(ours.relative_to(Path.cwd()) if ours.is_relative_to(Path.cwd()) else ours)


def evaluate_model(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.evaluation.evaluate import evaluate
    from tiny_math_solver.evaluation.prompt_settings import problems_to_ask, settings_of
    from tiny_math_solver.evaluation.verdict import evaluation_lines, paired_line
    from tiny_math_solver.models.load import base_of_adapter, load_model, locate
    from tiny_math_solver.rollouts import Sampling, make_rollouts
    from tiny_math_solver.runs.folder import json_lines, write_whole

    def load(name: str, adapter: str | None = None) -> Any:
        return load_model(name, adapter=adapter, revision=args.revision, dtype=args.dtype)

    def measure(loaded: Any) -> Any:
        return evaluate(
            make_rollouts(loaded.model, loaded.tokenizer, args.batch_size, console=NotesConsole()),
            problems,
            system=settings.system,
            max_new_tokens=settings.max_new_tokens,
            samples=args.samples,
            sampling=Sampling(settings.max_new_tokens, args.temperature, args.top_p, args.top_k),
            seed=args.seed,
        )

    _check_out(args.out, ".jsonl")
    if args.out and args.problems and args.out.exists() and args.out.resolve() == Path(args.problems).resolve():
        raise UserError(f"{args.out}: holds the problems; choose another --out")
    if args.adapter:
        base_of_adapter(Path(args.adapter))
    for name in (args.model, args.against):
        if name is not None:
            locate(name, args.revision)  # whatever has to come from the Hub comes first
    settings = settings_of(args.adapter or args.model, args.system, args.max_new_tokens)
    problems = problems_to_ask(args.problems, settings)[: args.limit]
    result = measure(load(args.model, args.adapter))
    summary = result.summary()
    lines = evaluation_lines(args.adapter or args.model, summary)
    if args.against:
        other = measure(load(args.against))
        summary["against"] = other.summary()
        summary["paired"] = result.against(other).to_dict()
        lines += [paired_line(args.against, summary["paired"]), *evaluation_lines(args.against, summary["against"])]
    console.say(json.dumps(summary, indent=2) if args.json else "\n".join(lines))
    if args.out:
        write_whole(args.out, json_lines(result.rows()))
    return 0


def merge(args: argparse.Namespace, console: Console) -> int:
    import torch

    from tiny_math_solver.config.schema import EMBEDDED
    from tiny_math_solver.evaluation.merge import (
        FLOAT32_TOLERANCE,
        PROOF_PROBLEMS,
        merge_adapter,
        prove_merge,
        refuse_occupied,
    )
    from tiny_math_solver.evaluation.prompt_settings import problems_to_ask, settings_of
    from tiny_math_solver.models.load import base_of_adapter
    from tiny_math_solver.runs.folder import read_config

    refuse_occupied(args.out)
    base_of_adapter(args.adapter)
    settings = settings_of(str(args.adapter))
    # any questions serve to compare two models: a foreign adapter needs no dataset
    source = args.problems or (None if read_config(args.adapter) else EMBEDDED)
    problems = problems_to_ask(source, settings)[:PROOF_PROBLEMS]
    dtype = merge_adapter(args.adapter, args.out, args.dtype)
    proof = prove_merge(args.adapter, args.out, problems, settings.system, settings.max_new_tokens)
    console.say(
        f"merged into {args.out} ({str(dtype).removeprefix('torch.')}), tokenizer and generation config included"
    )
    console.say(
        f"proof: same greedy answer on {proof.same_answers} of {proof.problems} problems, "
        f"largest logit difference {proof.max_logit_difference:.2g}"
    )
    if dtype is torch.float32 and proof.max_logit_difference > FLOAT32_TOLERANCE:
        console.note("the merged model is not base + adapter: do not use it")
        return EXIT_PROOF_FAILED
    if proof.same_answers < proof.problems:
        console.note(f"rounding to {dtype} changes answers; merge with --dtype float32 to keep them")
        return EXIT_PROOF_FAILED
    return 0


def solve(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.playground.terminal import ask_on, ask_once

    if args.question is not None and not args.question.strip():
        raise UserError("the question is empty; leave it out to be asked for some")
    asker = _asker(args)
    if args.question:
        ask_once(asker, args.question, args.temperature, args.samples, console)
    else:
        ask_on(asker, args.temperature, args.samples, console)
    return 0


def play(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.playground.play import Playground
    from tiny_math_solver.problems.embedded import embedded_problems

    examples = [EXAMPLE_QUESTION, *(problem.question for problem in embedded_problems("test", 3))]
    return _serve(Playground(_asker(args), args.adapter or args.model, examples).serve(args.port), console)


def _asker(args: argparse.Namespace) -> Any:
    from tiny_math_solver.evaluation.prompt_settings import settings_of
    from tiny_math_solver.models.load import load_model
    from tiny_math_solver.playground.ask import Asker
    from tiny_math_solver.rollouts import make_rollouts

    settings = settings_of(args.adapter or args.model, args.system, args.max_new_tokens)
    loaded = load_model(args.model, adapter=args.adapter, revision=args.revision, dtype=args.dtype)
    rollouts = make_rollouts(loaded.model, loaded.tokenizer, args.batch_size, console=NotesConsole())
    return Asker(loaded, rollouts, settings)


def report(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.report import REPORT, write_report

    out = args.out or (args.runs[0] / REPORT if len(args.runs) == 1 else Path(REPORT))
    _check_out(out, ".html")
    write_report(args.runs, out)
    console.say(f"report: {out}")
    return 0


def watch(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.report.watch import Watch

    return _serve(Watch(args.run_folder).serve(args.port), console)


def _serve(server: Any, console: Console) -> int:
    """Serve until Ctrl-C."""
    with server:
        console.say(f"{server.url}  (Ctrl-C ends)")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


def bench(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.bench.report import run
    from tiny_math_solver.runs.folder import write_whole

    for part in args.parts:
        if part not in BENCH_PARTS:
            raise UserError(f"no part {part!r} to measure; choose of {', '.join(BENCH_PARTS)}")
    if args.vllm_python and not shutil.which(args.vllm_python):
        raise UserError(f"no such Python: {args.vllm_python}")
    _check_out(args.out, ".json")

    def save(result: dict[str, Any]) -> None:
        if args.out:
            write_whole(args.out, json.dumps(result, indent=2) + "\n")

    result = run(args.parts, args.vllm_python, NotesConsole() if args.json else console, save)
    if args.json:
        console.say(json.dumps(result, indent=2))
    return 0


def fields(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.config.schema import known_fields

    for section in [args.section] if args.section else SECTIONS:
        for name, (kind, default, help) in known_fields(section).items():
            shown = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
            console.say(f"{section}.{name} ({shown}, default {default!r}): {help}")
    return 0


def fetch(args: argparse.Namespace, console: Console) -> int:
    from tiny_math_solver.config.schema import EMBEDDED, load_config
    from tiny_math_solver.hub.snapshots import snapshot
    from tiny_math_solver.models.load import resolve
    from tiny_math_solver.problems.sources import is_file

    model, problems = (config := load_config(args.config)).model, config.problems
    folder, commit = resolve(model.name, model.revision)
    console.say(
        f"model {model.name}: {f'commit {commit} is in the cache' if commit else f'nothing to download ({folder})'}"
    )
    if problems.source == EMBEDDED or is_file(problems.source):
        console.say(f"dataset {problems.source}: nothing to download")
    else:
        commit = snapshot("dataset", problems.source, problems.revision).name
        console.say(f"dataset {problems.source}: commit {commit} is in the cache")
    return 0


def _check_out(path: Path | None, suffix: str) -> None:
    """Refuse an `--out` that could not be written, or is something else's, before anything is measured for it."""
    from tiny_math_solver.runs.folder import check_writable

    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{path} is a folder; --out takes the name of a file")
    if path.exists() and path.suffix != suffix:
        raise UserError(f"{path}: exists and is no {suffix} file; choose another --out")
    check_writable(path.parent, "choose another --out")
