"""`tiny-math eval`: measure a model, alone or against another one, on one set of problems or several."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tiny_math_solver.cli import lm_eval
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
        "embedded, embedded:unseen, countdown, or as problems.source is written: a Hub dataset or a file; again for "
        "another set (default: the test problems of the model's run; for a shipped model its own; else those of GSM8K)",
        several=True,
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N problems of each set")
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
    lm_eval.add_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSONL file for the records, one line per completion")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


@dataclass(frozen=True)
class ProblemSet:
    """The problems of one `--problems`: those of `found` that are asked, with what was noted while they were read."""

    source: str
    problems: list[Any]
    found: int
    notes: list[str]
    grader: Any


def run(args: argparse.Namespace, console: Console) -> int:
    processes.check_launcher_variables()
    notes: Console = NotesConsole()
    if not processes.is_main():
        console = notes = QuietConsole()
    with loading():
        from tiny_math_solver.evaluation.verdict import evaluation_lines, paired_line, set_lines
        from tiny_math_solver.grading.graded import PLACES
        from tiny_math_solver.models.load import locate
        from tiny_math_solver.support.files import json_lines, write_whole

    processes.meet()
    sources: list[str | None] = args.problems or [None]
    if twice := next((source for source in sources if sources.count(source) > 1), None):
        raise UserError(f"--problems {twice} is there twice")
    lm_eval.check_arguments(args)
    check_problem_arguments(args)
    _check_out(args)
    if args.lm_eval is not None:
        return lm_eval.run(args, sources[0], console)
    check_model(args)
    processes.main_first(lambda: locate(args.model, args.revision, args.adapter))  # downloads come before any work
    if args.against is not None:
        processes.main_first(lambda: locate(args.against, args.revision))
    settings = settings_of(args)
    sets = [_read(args, source, settings) for source in sources]
    for note in [note for each in sets for note in each.notes]:
        console.note(note)
    results = _measure(args, args.model, args.adapter, settings, sets, notes)
    others = _measure(args, args.against, None, settings, sets, notes) if args.against else None
    summaries = [
        _summary(args, settings, each, result, other)
        for each, result, other in zip(sets, results, others or [None] * len(sets), strict=True)
    ]
    named = {each.source: summary for each, summary in zip(sets, summaries, strict=True)}
    name = f"{args.model} with {args.adapter}" if args.adapter else args.model
    limit = f"answers of at most {settings.max_new_tokens} tokens"
    if len(sets) > 1:
        lines = [f"{name}: greedy accuracy, {limit}", *set_lines(named, args.against)]
    else:
        (only,), (summary,) = sets, summaries
        place = PLACES[only.grader.place]
        lines = [f"problems: {len(only.problems):,} of the {only.found:,} in {only.source}; {limit}"]
        lines += evaluation_lines(name, summary, place)
        if args.against:
            lines.append(paired_line(args.against, summary["paired"]))
            lines += evaluation_lines(args.against, summary["against"], place)
    shown = {"sets": named} if len(sets) > 1 else summaries[0]
    console.say(json.dumps(shown, indent=2) if args.json else "\n".join(lines))
    if args.out and processes.is_main():
        write_whole(args.out, json_lines(_rows(sets, results)))
    processes.part()
    return 0


def _check_out(args: argparse.Namespace) -> None:
    check_out(args.out, ".jsonl")
    if args.out and args.out.exists() and args.out.resolve() in [Path(each).resolve() for each in args.problems or ()]:
        raise UserError(f"{args.out}: holds the problems; choose another --out")


def _read(args: argparse.Namespace, source: str | None, settings: Any) -> ProblemSet:
    from tiny_math_solver.evaluation.prompt_settings import evaluation_problems

    grader = settings.grader(answer_kind_of(args, source), args.measure)
    found, notes, _ = processes.main_first(
        lambda: evaluation_problems(source, settings, read_options(args, settings, grader))
    )
    name = source or settings.problems.test_source or f"{settings.problems.source}, test"
    return ProblemSet(name, found[: args.limit], len(found), notes, grader)


def _measure(
    args: argparse.Namespace, name: str, adapter: str | None, settings: Any, sets: Sequence[ProblemSet], notes: Console
) -> list[Any]:
    """The Evaluation of each set by one model."""
    from tiny_math_solver.evaluation.evaluate import completions_of, evaluate
    from tiny_math_solver.models.load import load_model
    from tiny_math_solver.rollouts import Sampling, make_rollouts

    loaded = processes.main_first(lambda: load_model(name, adapter=adapter, revision=args.revision, dtype=args.dtype))
    try:
        check_prompt(args, loaded, settings, notes)
    except UserError as error:
        if name == args.model:
            raise
        notes.say(str(error))  # the other model may have a template without this model's variables
    rollouts = make_rollouts(
        loaded.model, loaded.tokenizer, args.batch_size, console=notes, stop_strings=settings.stop_strings
    )
    results = []
    for each in sets:
        of = f" on {each.source}" if len(sets) > 1 else ""
        total = completions_of(len(each.problems), args.samples)
        with notes.progress(f"{adapter or name}{of}", total) as advance:
            results.append(
                evaluate(
                    rollouts,
                    each.problems,
                    prompt=settings.prompt,
                    grader=each.grader,
                    max_new_tokens=settings.max_new_tokens,
                    samples=args.samples,
                    sampling=Sampling(settings.max_new_tokens, args.temperature, args.top_p, args.top_k),
                    seed=args.seed,
                    on_done=advance,
                )
            )
    return results


def _summary(args: argparse.Namespace, settings: Any, of: ProblemSet, result: Any, other: Any) -> dict[str, Any]:
    """The JSON object of one set: its Evaluation by the model, and by `--against`, if there is one."""
    summary = {
        **result.summary(),
        "model": args.model,
        "adapter": args.adapter,
        "problems": {"source": of.source, "n": len(of.problems), "of": of.found},
        "prompt": asdict(settings.prompt),
        **({"notes": of.notes} if of.notes else {}),
    }
    if other is not None:
        summary["against"] = {**other.summary(), "model": args.against}
        summary["paired"] = result.against(other).to_dict()
    return summary


def _rows(sets: Sequence[ProblemSet], results: Sequence[Any]) -> list[dict[str, Any]]:
    """The records of all sets; of several each names its own."""
    return [
        {"set": each.source, **row} if len(sets) > 1 else row
        for each, result in zip(sets, results, strict=True)
        for row in result.rows()
    ]
