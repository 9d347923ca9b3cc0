"""The result of a run or an evaluation as lines of text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny_math_solver.evaluation.evaluate import Evaluation, EvaluationRecord
from tiny_math_solver.evaluation.statistics import Paired
from tiny_math_solver.grading.graded import PLACES
from tiny_math_solver.grading.markers import How
from tiny_math_solver.runs.records import read_jsonl
from tiny_math_solver.support.console import printable

AFTER_HASHES = PLACES[How.HASHES]
SHOWN = 400  # characters of a question or an answer in an example
JUDGEMENTS = {"gained": "a significant gain", "lost": "a significant loss", "unchanged": "no significant gain"}
Block = dict[str, Any]  # `before` or `after` of summary.json


def evaluation_lines(name: str, block: Block, place: str = AFTER_HASHES) -> list[str]:
    """One model: lenient and strict greedy accuracy, then pass@k and maj@k if they were measured.

    `place` says in words where the prompt asks for the answer.
    """
    low, high = block["ci95"]
    lines = [
        f"{name}: greedy accuracy {block['accuracy']:.1%}, {block['correct']} of {block['n']} problems "
        f"(95 % interval {low:.1%}–{high:.1%})",
        f"  strict ({place}) {block['strict_accuracy']:.1%}; {block['mean_tokens']:.0f} tokens per answer; "
        f"{block['finished']:.1%} finished",
    ]
    for k, share in block["pass_at_k"].items():
        where = f"   on {block['sampled_problems']} problems" if block["sampled_problems"] < block["n"] else ""
        lines.append(f"  pass@{k} {share:.1%}   maj@{k} {block['maj_at_k'][k]:.1%}{where}")
    return lines


def example_lines(before: Sequence[EvaluationRecord], after: Sequence[EvaluationRecord] = ()) -> list[str]:
    """One problem with its answer before training, and after it: the first that was fixed, else the first wrong one."""
    later = {record.id: record for record in after}
    wrong = [record for record in before if not record.correct]
    fixed = [record for record in wrong if record.id in later and later[record.id].correct]
    chosen = next(iter(fixed or wrong or before), None)
    if chosen is None:
        return []
    answers = [("before", chosen)]
    if chosen.id in later:
        same = later[chosen.id].completion == chosen.completion
        answers = [("before and after", chosen)] if same else [*answers, ("after", later[chosen.id])]
    return [
        f"  for example: {_shown(chosen.question)} (answer: {chosen.gold})",
        *(f"    {when}: {_shown(record.completion) or '(nothing)'}" for when, record in answers),
    ]


def on_one_line(text: str) -> str:
    """A text of a model or a file on one line of a terminal."""
    return " ".join(printable(text).split())


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text: the first column to the left, the others, which are numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"  {row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]


def _shown(text: str) -> str:
    """A text on one line, its middle left out if it is long."""
    line = on_one_line(text)
    return line if len(line) <= SHOWN else f"{line[: SHOWN // 2]} … {line[-SHOWN // 2 :]}"


def paired_line(against: str, paired: dict[str, float]) -> str:
    counts = f"fixed {paired['fixed']}, broken {paired['broken']}"
    return f"  compared with {against}: {counts}, McNemar p = {paired['p_value']:.2g}"


def set_lines(sets: dict[str, Block], against: str | None = None) -> list[str]:
    """Several sets by one model as a table, with `against` also the paired test with that one."""
    several = [block for block in sets.values() if block["pass_at_k"]]
    ks = list(several[0]["pass_at_k"])[-1:] if several else []  # the largest
    head = ["set", "problems", "accuracy", "95 % interval", "strict", "tokens", "finished"]
    head += [f"{what}@{k}" for k in ks for what in ("pass", "maj")]
    head += [against, "fixed", "broken", "p"] if against else []
    return aligned([head, *(_set_row(name, block, ks) for name, block in sets.items())])


def _set_row(name: str, block: Block, ks: Sequence[str]) -> list[str]:
    low, high = block["ci95"]
    row = [name, f"{block['n']:,}", f"{block['accuracy']:.1%}", f"{low:.1%}–{high:.1%}"]
    row += [f"{block['strict_accuracy']:.1%}", f"{block['mean_tokens']:.0f}", f"{block['finished']:.1%}"]
    row += [f"{block[what][k]:.1%}" for k in ks for what in ("pass_at_k", "maj_at_k")]
    if "paired" in block:
        row += [f"{block['against']['accuracy']:.1%}", *_paired_cells(block["paired"])]
    return row


def _also_lines(sets: dict[str, dict[str, Any]]) -> list[str]:
    """The further test sets as a table, each with its own paired test."""
    if not sets:
        return []
    rows = [
        [
            name,
            f"{each['after']['n']:,}",
            f"{each['before']['accuracy']:.1%}",
            f"{each['after']['accuracy']:.1%}",
            *_paired_cells(each["paired"]),
        ]
        for name, each in sets.items()
    ]
    return aligned([["further set", "problems", "before", "after", "fixed", "broken", "p"], *rows])


def _paired_cells(paired: dict[str, float]) -> list[str]:
    return [str(paired["fixed"]), str(paired["broken"]), f"{paired['p_value']:.2g}"]


def run_lines(summary: dict[str, Any], folder: Path) -> list[str]:
    """A finished run: before, after, the paired test, its cost, and the path of the adapter."""
    before, after, paired = summary["before"], summary["after"], summary["paired"]
    known = summary["problems"]["test"]
    tested = f"{after['n']:,}" if after["n"] == known else f"{after['n']:,} of {known:,}"
    lines = [
        f"verdict: greedy accuracy {before['accuracy']:.1%} → {after['accuracy']:.1%} on {tested} test problems",
        *evaluation_lines("after", after, summary.get("place", AFTER_HASHES)),
        paired_line("before", paired),
    ]
    if unseen := summary["unseen"]:
        lines.append(
            f"  {unseen['after']['n']} problems of kinds not trained on: "
            f"{unseen['before']['accuracy']:.1%} → {unseen['after']['accuracy']:.1%}"
        )
    lines += _also_lines(summary.get("also", {}))
    best = f"the adapter is from step {summary['best_step']}, the best on dev"
    if not summary["best_step"]:
        best = "no step was better on dev than the start, so the adapter is the untrained one"
    trained = f"{summary['completions']:,} completions in {summary['train_seconds']:.0f} s"
    lines.append(f"  {summary['steps']} steps, {trained}; {best}")
    greedy = [Evaluation.from_rows(read_jsonl(folder / f"eval/{when}.jsonl")).greedy for when in ("before", "after")]
    lines += example_lines(*greedy)
    lines += why_lines(summary)
    lines += [f"adapter: {folder}", f"report: {folder / 'report.html'}"]
    return lines


def why_lines(summary: dict[str, Any]) -> list[str]:
    """What kept the run from gaining, or from gaining more; nothing of one whose result is good."""
    paired, causes = Paired(**summary["paired"]), summary.get("causes", [])  # an earlier version looked for none
    if paired.has_gained:
        header = "what held it back"
    else:
        header = f"{JUDGEMENTS[paired.outcome]} on test; what the records show"
        causes = causes or ["none of the known causes: read some wrong completions in the page's rollouts"]
    return [f"  {header}:", *(f"  - {cause}" for cause in causes)] if causes else []


def nothing_learned(folder: Path) -> str:
    """The message for a run in which no completion earned a reward."""
    return (
        f"this run learned nothing: no completion earned a reward. Read some in {folder / 'rollouts.jsonl'}: are they "
        "cut off (raise grpo.max_completion_length), or do they not end in an answer (see prompt.system)?"
    )
