"""`tiny-math merge`: merge an adapter into its base and prove that the result answers the same."""

import argparse
from pathlib import Path

from tiny_math_solver.cli.arguments import (
    add_answer_kind,
    add_problem_arguments,
    check_problem_arguments,
    proof_problems,
)
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import EXIT_PROOF_FAILED
from tiny_math_solver.support.progress import loading

HELP = "merge an adapter into its base, in float32, and prove the result"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", type=Path, help="adapter folder")
    parser.add_argument("out", type=Path, help="folder for the merged model")
    parser.add_argument("--base", help="base model, if it is not where the adapter says: a Hub name or a folder")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: the base's own)")
    add_proof_arguments(parser)


def add_proof_arguments(parser: argparse.ArgumentParser) -> None:
    add_problem_arguments(parser, "problems for the proof, as for eval (default: the run's own, else embedded)")
    add_answer_kind(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    return merge_and_prove(args.adapter, args.out, args, console, args.base)


def merge_and_prove(
    adapter: Path, out: Path, args: argparse.Namespace, console: Console, base: str | None = None
) -> int:
    """Merge `adapter` into folder `out`; `args` has `dtype` and those of `add_proof_arguments`.

    Returns the exit code.
    """
    with loading():
        import torch

        from tiny_math_solver.evaluation.merge import (
            FLOAT32_TOLERANCE,
            PROOF_PROBLEMS,
            merge_adapter,
            prove_merge,
            refuse_occupied,
        )
        from tiny_math_solver.models.adapter import check_adapter_files

    check_problem_arguments(args)
    refuse_occupied(out)
    check_adapter_files(adapter)
    settings, grader, problems = proof_problems(args, str(adapter), console)
    with console.part("merging base and adapter in float32"):
        dtype = merge_adapter(adapter, out, args.dtype, base)
    compared = problems[:PROOF_PROBLEMS]
    with console.part(f"answering {len(compared)} problems with both", 2 * len(compared)) as advance:
        ask = settings.prompt, settings.max_new_tokens, grader
        proof = prove_merge(adapter, out, compared, *ask, base, advance)
    console.say(f"merged into {out} ({str(dtype).removeprefix('torch.')}), tokenizer and generation config included")
    console.say(
        f"proof: same greedy answer on {proof.same_answers} of {proof.problems} problems, "
        f"largest logit difference {proof.max_logit_difference:.2g}"
    )
    if dtype is torch.float32 and proof.max_logit_difference > FLOAT32_TOLERANCE:
        console.note("the merged model is not base + adapter: do not use it")
        return EXIT_PROOF_FAILED
    if proof.same_answers < proof.problems:
        console.note(f"rounding to {dtype} changes answers; --dtype float32 keeps them")
        return EXIT_PROOF_FAILED
    return 0
