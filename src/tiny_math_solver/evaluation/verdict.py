"""The result of a run or an evaluation as lines of text."""

from pathlib import Path
from typing import Any

Block = dict[str, Any]  # `before` or `after` of summary.json


def evaluation_lines(name: str, block: Block) -> list[str]:
    """One model: lenient and strict greedy accuracy, then pass@k and maj@k if they were measured."""
    low, high = block["ci95"]
    lines = [
        f"{name}: greedy accuracy {block['accuracy']:.1%}, {block['correct']} of {block['n']} problems "
        f"(95 % interval {low:.1%}–{high:.1%})",
        f"  strict (after ####) {block['strict_accuracy']:.1%}; {block['mean_tokens']:.0f} tokens per answer; "
        f"{block['finished']:.1%} finished",
    ]
    for k, share in block["pass_at_k"].items():
        where = f"   on {block['sampled_problems']} problems" if block["sampled_problems"] < block["n"] else ""
        lines.append(f"  pass@{k} {share:.1%}   maj@{k} {block['maj_at_k'][k]:.1%}{where}")
    return lines


def paired_line(against: str, paired: dict[str, float]) -> str:
    counts = f"fixed {paired['fixed']}, broken {paired['broken']}"
    return f"  compared with {against}: {counts}, McNemar p = {paired['p_value']:.2g}"


def run_lines(summary: dict[str, Any], folder: Path) -> list[str]:
    """A finished run: before, after, the paired test, its cost, and the path of the adapter."""
    before, after, paired = summary["before"], summary["after"], summary["paired"]
    known = summary["problems"]["test"]
    tested = f"{after['n']:,}" if after["n"] == known else f"{after['n']:,} of {known:,}"
    lines = [
        f"verdict: greedy accuracy {before['accuracy']:.1%} → {after['accuracy']:.1%} on {tested} test problems",
        *evaluation_lines("after", after),
        paired_line("before", paired),
    ]
    if unseen := summary["unseen"]:
        lines.append(
            f"  {unseen['after']['n']} problems of kinds not trained on: "
            f"{unseen['before']['accuracy']:.1%} → {unseen['after']['accuracy']:.1%}"
        )
    lines.append(
        f"  {summary['steps']} steps, {summary['completions']:,} completions in {summary['train_seconds']:.0f} s; "
        f"the adapter is from step {summary['best_step']}, the best on dev"
    )
    if paired["fixed"] <= paired["broken"]:
        lines.append("  no gain on test: read some rollouts before you use this adapter")
    lines += [f"adapter: {folder}", f"report: {folder / 'report.html'}"]
    return lines


def nothing_learned(folder: Path) -> str:
    """The message for a run in which no completion earned a reward."""
    return (
        f"this run learned nothing: no completion earned a reward. Read some in {folder / 'rollouts.jsonl'}: are they "
        "cut off (raise grpo.max_completion_length), or do they not end in an answer (see prompt.system)?"
    )
