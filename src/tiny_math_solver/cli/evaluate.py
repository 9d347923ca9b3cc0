"""`tiny-math eval`: measure a model, alone or against another one."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tiny_math_solver.cli.arguments import (
    add_model_arguments,
    add_problem_arguments,
    answer_kind_of,
    check_model,
    check_out,
    check_problem_arguments,
    check_prompt,
    fraction,
    natural,
    not_negative,
    positive,
    read_options,
    seed,
    settings_of,
)
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console, NotesConsole, QuietConsole
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.progress import loading

HELP = "measure a model: greedy accuracy, pass@k, maj@k, paired verdict"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_problem_arguments(
        parser,
        "embedded, embedded:unseen, countdown, or as problems.source is written: a Hub dataset or a file (default: the "
        "test problems of the model's run; for a shipped model its own; else those of GSM8K)",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N problems")
    parser.add_argument(
        "--samples",
        type=natural,
        metavar="N",
        default=0,
        help="sampled completions per problem, for pass@k (default 0)",
    )
    parser.add_argument(
        "--temperature", type=not_negative, default=1.0, metavar="T", help="of the samples (default 1.0)"
    )
    parser.add_argument(
        "--top-p", type=fraction, default=1.0, metavar="P", help="of the samples (default 1.0: all tokens)"
    )
    parser.add_argument("--top-k", type=natural, default=0, metavar="K", help="of the samples (default 0: all tokens)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the samples (default 0)")
    parser.add_argument(
        "--measure",
        metavar="REWARD",
        help="a reward function of yours that says which completions are right, as file.py:function",
    )
    parser.add_argument("--against", metavar="OTHER", help="second, earlier model for a paired verdict")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSONL file for the records, one line per completion")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace, console: Console) -> int:
    processes.check_launcher_variables()
    notes: Console = NotesConsole()
    if not processes.is_main():
        console = notes = QuietConsole()
    with loading():
        from tiny_math_solver.evaluation.evaluate import completions_of, evaluate
        from tiny_math_solver.evaluation.prompt_settings import evaluation_problems
        from tiny_math_solver.evaluation.verdict import evaluation_lines, paired_line
        from tiny_math_solver.grading.graded import PLACES
        from tiny_math_solver.models.load import load_model, locate
        from tiny_math_solver.rollouts import Sampling, make_rollouts
        from tiny_math_solver.support.files import json_lines, write_whole

    def measure(name: str, adapter: str | None = None) -> Any:
        loaded = processes.main_first(
            lambda: load_model(name, adapter=adapter, revision=args.revision, dtype=args.dtype)
        )
        try:
            check_prompt(args, loaded, settings, notes)
        except UserError as error:
            if name == args.model:
                raise
            notes.say(str(error))  # the other model may have a template without this model's variables
        rollouts = make_rollouts(
            loaded.model, loaded.tokenizer, args.batch_size, console=notes, stop_strings=settings.stop_strings
        )
        with notes.progress(f"{adapter or name}", completions_of(len(problems), args.samples)) as advance:
            return evaluate(
                rollouts,
                problems,
                prompt=settings.prompt,
                grader=grader,
                max_new_tokens=settings.max_new_tokens,
                samples=args.samples,
                sampling=Sampling(settings.max_new_tokens, args.temperature, args.top_p, args.top_k),
                seed=args.seed,
                on_done=advance,
            )

    processes.meet()
    check_out(args.out, ".jsonl")
    if args.out and args.problems and args.out.exists() and args.out.resolve() == Path(args.problems).resolve():
        raise UserError(f"{args.out}: holds the problems; choose another --out")
    check_problem_arguments(args)
    check_model(args)
    processes.main_first(lambda: locate(args.model, args.revision, args.adapter))  # downloads come before any work
    if args.against is not None:
        processes.main_first(lambda: locate(args.against, args.revision))
    settings = settings_of(args)
    grader = settings.grader(answer_kind_of(args), args.measure)
    found, dropped, _ = processes.main_first(
        lambda: evaluation_problems(args.problems, settings, read_options(args, settings, grader))
    )
    problems = found[: args.limit]
    for note in dropped:
        console.note(note)
    result = measure(args.model, args.adapter)
    source = args.problems or settings.problems.test_source or f"{settings.problems.source}, test"
    summary = {
        **result.summary(),
        "model": args.model,
        "adapter": args.adapter,
        "problems": {"source": source, "n": len(problems), "of": len(found)},
        "prompt": asdict(settings.prompt),
        **({"notes": dropped} if dropped else {}),
    }
    name = f"{args.model} with {args.adapter}" if args.adapter else args.model
    place, limit = PLACES[grader.place], f"answers of at most {settings.max_new_tokens} tokens"
    lines = [
        f"problems: {len(problems):,} of the {len(found):,} in {source}; {limit}",
        *evaluation_lines(name, summary, place),
    ]
    if args.against:
        other = measure(args.against)
        summary["against"] = {**other.summary(), "model": args.against}
        summary["paired"] = result.against(other).to_dict()
        lines.append(paired_line(args.against, summary["paired"]))
        lines += evaluation_lines(args.against, summary["against"], place)
    console.say(json.dumps(summary, indent=2) if args.json else "\n".join(lines))
    if args.out and processes.is_main():
        write_whole(args.out, json_lines(result.rows()))
    processes.part()
    return 0
