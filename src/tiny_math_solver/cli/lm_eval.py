"""`tiny-math eval MODEL --lm-eval TASK`: a task of lm-evaluation-harness beside our own evaluation."""

import argparse
import json
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
        from tiny_math_solver.harness.lines import comparison_lines, comparison_summary
        from tiny_math_solver.harness.sides import Sides
        from tiny_math_solver.harness.tasks import find_task, quiet, read_test, read_train
        from tiny_math_solver.models.load import load_model, locate
        from tiny_math_solver.support.files import json_lines, write_whole

    notes: Console = NotesConsole()
    check_model(args)
    quiet()
    task, settings = find_task(args.lm_eval), settings_of(args)
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

    sides = Sides(loaded, settings, problems, grader, args.batch_size, notes)
    ours, asked = sides.ours()
    scores, comparison, theirs = sides.theirs(built, ours, examples, chat_template=args.apply_chat_template)
    summary: dict[str, Any] = {
        **ours.summary(),
        "model": args.model,
        "adapter": args.adapter,
        "problems": {"source": named or task.source(task.test_split), "n": len(problems), "of": len(read.problems)},
        "lm_eval": {
            "task": task.name,
            "version": metadata.version("lm-eval"),
            "scores": scores,
            **comparison_summary(comparison, theirs, asked),
        },
    }
    lines = [*_score_lines(summary), *comparison_lines(comparison, theirs, asked), *_own_lines(loaded.model)]
    console.say(json.dumps(summary, indent=2) if args.json else "\n".join(lines))
    if args.out:
        write_whole(args.out, json_lines(comparison.rows()))
    return 0


def _score_lines(summary: dict[str, Any]) -> list[str]:
    """Our accuracy and the harness's scores."""
    from tiny_math_solver.evaluation.verdict import evaluation_lines

    problems, theirs, adapter = summary["problems"], summary["lm_eval"], summary["adapter"]
    scores = ", ".join(f"{filter} {score:.1%}" for filter, score in theirs["scores"].items())
    return [
        f"problems: {problems['n']:,} of the {problems['of']:,} in {problems['source']}",
        *evaluation_lines(f"{summary['model']} with {adapter}" if adapter else summary["model"], summary),
        f"{theirs['task']} of lm-evaluation-harness {theirs['version']}: {scores}",
        "  prompts, examples, filters and metric are its own; completions by our rollouts, as transformers gives them",
    ]


def _own_lines(model: Any) -> list[str]:
    """What the harness's own model would do besides, if there is anything."""
    from tiny_math_solver.harness.model import settings_of_its_own

    listed = ", ".join(f"{setting} {value}" for setting, value in settings_of_its_own(model).items())
    return (
        [f"lm_eval --model hf would also apply {listed} of generation_config.json; here nothing does"] if listed else []
    )
