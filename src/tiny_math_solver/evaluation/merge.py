"""Merging an adapter into its base, and proving the merge; the result loads with plain transformers."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from tiny_math_solver.evaluation.evaluate import evaluate
from tiny_math_solver.evaluation.prompt_settings import run_config
from tiny_math_solver.models.load import LoadedModel, load_model, locate, stored_dtype
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import PromptFormat, encode_prompt
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import make_rollouts
from tiny_math_solver.support.device import resolve_dtype
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.files import made_whole, occupied
from tiny_math_solver.support.progress import Advance

PROOF_PROBLEMS = 32
FLOAT32_TOLERANCE = 1e-3  # logits of two float32 models that differ in rounding alone stay far below this


@dataclass(frozen=True)
class MergeProof:
    """The merged model compared with base + adapter on `problems` problems."""

    problems: int
    same_answers: int  # problems with the same greedy answer
    max_logit_difference: float


def merge_adapter(adapter: Path, out: Path, dtype: str | None = None, base: str | None = None) -> torch.dtype:
    """Merge in float32, and save in `dtype` (default: that of the base) with tokenizer and generation config.

    `base` names the base model if it is not where the adapter says.

    Merging in bfloat16 would lose the adapter's update, which is small beside the base weights, to rounding. Returns
    the dtype saved. Raises UserError if `out` is not empty or cannot be written.
    """
    refuse_occupied(out)
    name, revision, _ = locate(base, adapter=adapter) if base else locate(str(adapter))
    loaded = _load_adapted(adapter, base, device="cpu")
    saved = resolve_dtype(dtype, "cpu") if dtype else stored_dtype(name, revision)
    merged = loaded.model.merge_and_unload().to(saved)
    try:
        with made_whole(out):
            merged.save_pretrained(out)
            loaded.tokenizer.save_pretrained(out)
            if record := run_config(adapter):  # has the prompt settings
                shutil.copy(record, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from None
    return saved


def refuse_occupied(out: Path) -> None:
    """Raise UserError if `out` is a file, or a folder that is not empty."""
    if occupied(out):
        raise UserError(f"{out}: exists already; choose another folder for the merged model")


def prove_merge(
    adapter: Path,
    merged: Path,
    problems: list[Problem],
    prompt: PromptFormat,
    max_new_tokens: int,
    grader: Grader,
    base: str | None = None,
    on_done: Advance | None = None,
) -> MergeProof:
    """Load base + adapter and the merged model from disk, in float32, and compare them on `problems`.

    `on_done` is told how many answers of the two are there.
    """
    ours = _load_adapted(adapter, base)
    plain = load_model(str(merged), dtype="float32")
    answers: list[list[str]] = []

    def advance(done: int) -> None:
        if on_done:
            on_done(len(answers) * len(problems) + done)

    for loaded in (ours, plain):
        rollouts = make_rollouts(loaded.model, loaded.tokenizer)
        result = evaluate(
            rollouts, problems, prompt=prompt, max_new_tokens=max_new_tokens, grader=grader, on_done=advance
        )
        # completions without an answer are compared as text
        answers.append([record.answer or record.completion for record in result.greedy])
    same = sum(a == b for a, b in zip(*answers, strict=True))
    return MergeProof(len(problems), same, max(_logit_gap(ours, plain, p, prompt) for p in problems))


def _load_adapted(adapter: Path, base: str | None, device: str | None = None) -> LoadedModel:
    """The base in float32 with its adapter."""
    if base is None:
        return load_model(str(adapter), dtype="float32", device=device)
    return load_model(base, adapter=adapter, dtype="float32", device=device)


def _logit_gap(ours: LoadedModel, plain: LoadedModel, problem: Problem, prompt: PromptFormat) -> float:
    """The largest difference of any logit over a prompt and its worked answer."""
    ids = encode_prompt(ours.tokenizer, prompt.messages(problem.question), prompt)
    ids += ours.tokenizer(problem.worked_answer, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = [m.model(torch.tensor([ids], device=m.model.device)).logits for m in (ours, plain)]
    return (logits[0] - logits[1]).abs().max().item()
