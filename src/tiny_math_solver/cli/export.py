"""`tiny-math export`: a model as a GGUF file for llama.cpp and Ollama, proved to answer as it does."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from tiny_math_solver.cli.arguments import (
    add_answer_kind,
    add_problem_arguments,
    check_problem_arguments,
    fraction,
    positive,
    proof_problems,
)
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.progress import loading

HELP = "write a model as a GGUF file for llama.cpp and Ollama, and prove it"
KINDS = ("f32", "f16", "q8_0", "q4_k_m")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run or adapter folder, or any model: its adapter is merged in float32")
    parser.add_argument("out", type=Path, help="folder for the GGUF file and Ollama's Modelfile")
    parser.add_argument("--gguf", choices=KINDS, default="q8_0", help="how weights are stored (default q8_0)")
    parser.add_argument("--name", help="of the file and in it (default: that of the model's folder)")
    parser.add_argument("--limit", type=positive, metavar="N", default=100, help="problems of the proof (default 100)")
    parser.add_argument(
        "--most-lost",
        type=fraction,
        metavar="SHARE",
        default=0.05,
        help="refuse an export that answers fewer problems, by more than this share of them (default 0.05)",
    )
    add_problem_arguments(parser, "problems for the proof, as for eval (default: the run's own)")
    add_answer_kind(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    if find_spec("gguf") is None:
        raise UserError("export needs the gguf library: pip install 'tiny-math-solver[gguf]', or pip install gguf")
    with loading():
        from tiny_math_solver.config.shipped import SHIPPED_MODELS
        from tiny_math_solver.evaluation.merge import refuse_occupied
        from tiny_math_solver.evaluation.verdict import evaluation_lines, paired_line
        from tiny_math_solver.export.export import Export, ProofFailedError
        from tiny_math_solver.models.load import locate, resolve
        from tiny_math_solver.support.files import check_writable, for_shell, made_whole

    check_problem_arguments(args)
    name = args.name or Path(args.model).absolute().name
    if Path(name).name != name:
        raise UserError(f"--name {name}: a name of a file, without folders")
    refuse_occupied(args.out)
    check_writable(args.out, "choose another folder")
    locate(args.model)
    settings, grader, found = proof_problems(args, args.model, console)
    problems = found[: args.limit]
    with console.part(f"loading {args.model} and merging its adapter in float32"):
        export = Export(args.model, settings)
    with made_whole(args.out):
        args.out.mkdir(parents=True, exist_ok=True)
        with console.part(f"writing {args.out} in {args.gguf}"):
            file = export.write(args.out, name, args.gguf)
        with console.part(f"answering {len(problems)} problems with both", 2 * len(problems)) as advance:
            proof = export.prove(file, args.gguf, problems, grader, advance)
        for by, answers in ((args.model, proof.before), (proof.by, proof.after)):
            console.say("\n".join(evaluation_lines(by, answers.summary())))
        console.say(paired_line(args.model, proof.paired.to_dict()))
        console.say(f"proof by {proof.by}: same greedy answer on {proof.same_answers} of {len(problems)} problems")
        if proof.lost > args.most_lost:
            raise ProofFailedError(
                f"the file answers {proof.lost:.1%} of the problems less than the model (--most-lost "
                f"{args.most_lost:g}); --gguf f16 or q8_0 loses least"
            )
    console.say(f"{file}: {file.stat().st_size / 1e6:,.1f} MB")
    tokenizer = resolve(args.model)[0] if args.model in SHIPPED_MODELS else args.model
    for program, line in {
        "ollama": for_shell("ollama", "create", name, "-f", str(args.out / "Modelfile")),
        "llama.cpp": for_shell("llama-server", "-m", str(file), "--jinja"),
        "vLLM": for_shell("vllm", "serve", str(file), "--tokenizer", tokenizer) + "  (with vllm-gguf-plugin)",
        "transformers": f"AutoModelForCausalLM.from_pretrained({str(args.out)!r}, gguf_file={file.name!r})",
    }.items():
        console.say(f"{program + ':':14}{line}")
    return 0
