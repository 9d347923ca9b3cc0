"""`tiny-math eval MODEL --lm-eval TASK`: a task of lm-evaluation-harness beside our own evaluation."""

import argparse
import json
import time
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from tiny_math_solver.cli.arguments import answer_kind_of, check_model, check_prompt, natural, read_options, settings_of
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console, NotesConsole
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.progress import loading


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lm-eval",
        metavar="TASK",
        help="also let lm-evaluation-harness evaluate the model on TASK, such as gsm8k, and explain the difference",
    )
    parser.add_argument(
        "--num-fewshot",
        "--num_fewshot",
        type=natural,
        metavar="N",
        help="worked examples in lm-eval's prompt (default: the task's own number, 5 for gsm8k)",
    )
    parser.add_argument(
        "--apply-chat-template",
        "--apply_chat_template",
        action="store_true",
        help="put lm-eval's prompt into the model's chat template",
    )
    parser.add_argument(
        "--lm-eval-train",
        metavar="SOURCE",
        help="problems for lm-eval's worked examples (default: the train split beside the test problems)",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not go together."""
    if args.lm_eval is None:
        if args.num_fewshot is not None or args.apply_chat_template or args.lm_eval_train is not None:
            raise UserError("--num-fewshot, --apply-chat-template and --lm-eval-train go with --lm-eval TASK")
        return
    given = {"--samples": args.samples, "--against": args.against, "--measure": args.measure}
    if wrong := [name for name, value in given.items() if value]:
        raise UserError(f"--lm-eval compares greedy answers of one model: leave out {' and '.join(wrong)}")
    if args.problems and len(args.problems) > 1:
        raise UserError("--lm-eval takes one --problems")
    kind = answer_kind_of(args, args.problems and args.problems[0]) or "number"
    if kind != "number":
        raise UserError(f"--lm-eval compares answers that are numbers, not of the kind {kind}")


def run(args: argparse.Namespace, named: str | None, console: Console) -> int:
    """`named` is the source of the problems, None for the task's own."""
    if find_spec("lm_eval") is None:
        raise UserError("--lm-eval needs lm-evaluation-harness: pip install 'tiny-math-solver[lm-eval]'")
    if processes.count() > 1:
        raise UserError("--lm-eval runs in one process: leave out GPUS or torchrun")
    with loading():
        from tiny_math_solver.evaluation.verdict import evaluation_lines
        from tiny_math_solver.harness.lines import comparison_lines, comparison_summary
        from tiny_math_solver.harness.model import settings_of_its_own
        from tiny_math_solver.harness.tasks import find_task, quiet, read_test, read_train
        from tiny_math_solver.models.load import load_model, locate
        from tiny_math_solver.support.files import json_lines, write_whole

    notes: Console = NotesConsole()
    check_model(args)
    quiet()
    task = find_task(args.lm_eval)
    settings = settings_of(args)
    grader = settings.grader("number", "correctness")
    options = read_options(args, settings, grader)
    examples = task.examples if args.num_fewshot is None else args.num_fewshot
    read = read_test(task, named, options)
    draws = examples and not task.has_own_examples
    train = read_train(task, named, args.lm_eval_train, options).problems if draws else []
    problems = read.problems[: args.limit]
    for note in read.notes:
        console.note(note)
    built = task.build(problems, train, examples)
    locate(args.model, args.revision, args.adapter)
    loaded = load_model(args.model, adapter=args.adapter, revision=args.revision, dtype=args.dtype)
    check_prompt(args, loaded, settings, notes)

    ours, asked = _ask_ours(args, loaded, problems, settings, grader, notes)
    scores, comparison, theirs = _ask_theirs(args, built, examples, loaded, problems, settings, grader, ours, notes)
    source, version = named or task.source(task.test_split), metadata.version("lm-eval")
    summary: dict[str, Any] = {
        **ours.summary(),
        "model": args.model,
        "adapter": args.adapter,
        "problems": {"source": source, "n": len(problems), "of": len(read.problems)},
        "lm_eval": {
            "task": task.name,
            "version": version,
            "scores": scores,
            **comparison_summary(comparison, theirs, asked),
        },
    }
    name = f"{args.model} with {args.adapter}" if args.adapter else args.model
    listed = ", ".join(f"{filter} {score:.1%}" for filter, score in scores.items())
    lines = [
        f"problems: {len(problems):,} of the {len(read.problems):,} in {source}",
        *evaluation_lines(name, summary),
        f"{task.name} of lm-evaluation-harness {version}: {listed}",
        "  prompts, examples, filters and metric are its own; completions by our rollouts, as transformers gives them",
        *comparison_lines(comparison, theirs, asked),
    ]
    if own := settings_of_its_own(loaded.model):
        listed = ", ".join(f"{setting} {value}" for setting, value in own.items())
        lines.append(f"lm_eval --model hf would also apply {listed} of generation_config.json; here nothing does")
    console.say(json.dumps(summary, indent=2) if args.json else "\n".join(lines))
    if args.out:
        write_whole(args.out, json_lines(comparison.rows()))
    return 0


def _ask_ours(
    args: argparse.Namespace, loaded: Any, problems: Sequence[Any], settings: Any, grader: Any, notes: Console
) -> tuple[Any, Any]:
    """Our Evaluation of the problems, and how they were asked."""
    from tiny_math_solver.evaluation.evaluate import evaluate
    from tiny_math_solver.harness.lines import Asked
    from tiny_math_solver.rollouts import make_rollouts

    started, limit = time.monotonic(), settings.max_new_tokens
    stops = settings.stop_strings
    rollouts = make_rollouts(loaded.model, loaded.tokenizer, args.batch_size, console=notes, stop_strings=stops)
    with notes.progress("our prompt", len(problems)) as advance:
        ours = evaluate(
            rollouts, problems, prompt=settings.prompt, max_new_tokens=limit, grader=grader, on_done=advance
        )
    cut = [record for record in ours.greedy if not record.finished]
    return ours, Asked(
        examples=0,
        chat_template=True,
        system=bool(settings.prompt.system),
        limits=[limit],
        stops=stops,
        cut=len(cut),
        cut_wrong=sum(not record.correct for record in cut),
        shortened=0,
        seconds=time.monotonic() - started,
    )


def _ask_theirs(
    args: argparse.Namespace,
    task: Any,
    examples: int,
    loaded: Any,
    problems: Sequence[Any],
    settings: Any,
    grader: Any,
    ours: Any,
    notes: Console,
) -> tuple[dict[str, float], Any, Any]:
    """The harness's scores, the Comparison with `ours`, and how the harness asked."""
    from tiny_math_solver.harness.comparison import LENIENT, ask, compare
    from tiny_math_solver.harness.lines import Asked
    from tiny_math_solver.harness.model import RolloutsLM

    with notes.progress("lm-eval's prompt", len(problems)) as advance:
        model = RolloutsLM(loaded.model, loaded.tokenizer, settings.prompt, args.batch_size, notes, advance)
        scores, seconds = ask(task, model, args.apply_chat_template)
    comparison = compare(task, problems, ours, grader)
    cut = [comparison.theirs[place] for place in sorted(model.cut)]
    return (
        scores,
        comparison,
        Asked(
            examples=examples,
            chat_template=args.apply_chat_template,
            system=False,
            limits=sorted(model.limits),
            stops=sorted(model.stops),
            cut=len(cut),
            cut_wrong=sum(not each.readings[LENIENT].right for each in cut),
            shortened=model.shortened,
            seconds=seconds,
        ),
    )
