"""A file of somebody's own problems → what is in it, and a configuration that trains on it on this machine."""

import os
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from tiny_math_solver.config.sections import GSM8K_SYSTEM_PROMPT, MAX_UNREADABLE
from tiny_math_solver.config.shipped import SHIPPED_MODELS
from tiny_math_solver.grading import parse_gold
from tiny_math_solver.problems.layouts import ReadOptions
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.sources import Findings, Source, read_file
from tiny_math_solver.problems.splits import guessable, without_repeats
from tiny_math_solver.prompts import PromptFormat, encode_prompt
from tiny_math_solver.support.device import default_device, device_name
from tiny_math_solver.support.errors import NotHereError, UserError
from tiny_math_solver.support.memory import available, readable

FEWEST = 24  # problems: with fewer, dev and test measure nothing
LARGE_GPU = 60 << 30  # bytes that a large GPU has free
CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS = 2.5, 80  # at least, and at most: where the tokenizer is not at hand


@dataclass(frozen=True)
class Sizes:
    """The settings that depend on the machine; a step is at most `problems` × `samples`."""

    problems: int
    samples: int
    rows: int  # decoded at once
    learning_rate: float
    steps: int
    length: int  # tokens of a completion
    every: int  # steps between evaluations and checkpoints
    pass_tokens: int | None = None


ON_CPU = Sizes(16, 4, 64, 1e-4, 40, 300, 10, pass_tokens=2048)
ON_GPU = Sizes(64, 8, 256, 5e-5, 50, 400, 10)
ON_LARGE_GPU = Sizes(64, 8, 512, 5e-5, 50, 400, 10)
SHIPPED = Sizes(16, 8, 512, 1e-3, 48, 112, 4, pass_tokens=2048)


@dataclass(frozen=True)
class ProblemFile:
    """The problems of a file; `prompt_tokens` are those of its longest prompt, an estimate if not `is_counted`."""

    path: Path
    options: ReadOptions
    findings: Findings
    problems: list[Problem]
    repeated: list[str]
    prompt_tokens: int
    is_counted: bool

    @property
    def lines(self) -> list[str]:
        """What was found, a sentence a line."""
        golds = [parse_gold(problem.answer) for problem in self.problems]
        broken = sum(Fraction(gold).denominator != 1 for gold in golds)
        lines = [f"{self.path}: {self.findings.rows:,} rows, {len(self.problems):,} problems; {self.findings.layout}"]
        if dropped := self.findings.unreadable:
            much = " (many: is something wrong with the file?)" if dropped > MAX_UNREADABLE * self.findings.rows else ""
            lines.append(f"  dropped as unreadable: {dropped:,}{much}: {self.findings.named()}")
        lines += [f"  {note}" for note in (*self.repeated, *guessable(self.problems))]
        lines.append(
            f"  golds from {_number(min(golds))} to {_number(max(golds))}"
            + (f", {broken:,} of them not whole" if broken else "")
        )
        if self.findings.unstated:
            lines.append(f"  {self.findings.unstated:,} of them read from a sentence, with no #### before them")
        lines.append(f"  {self.longest}")
        return lines

    @property
    def longest(self) -> str:
        return f"the longest prompt has {'' if self.is_counted else 'about '}{self.prompt_tokens} tokens"


def look(path: Path, model: str, question: str | None = None, answer: str | None = None) -> ProblemFile:
    """Read a file of problems, however many of its rows are unreadable, from columns that are named or recognised.

    Raises UserError if it cannot be read, or has too few problems to train on and to measure with.
    """
    findings, options = Findings(), ReadOptions(question, answer, 1.0, ("--question", "--answer", ""))
    found = read_file(path, options, findings, Source(str(path), "train"))
    problems, repeated = without_repeats(found, [])
    if len(problems) < FEWEST:
        raise UserError(f"{path}: {len(problems)} different problems, and at least {FEWEST} are needed")
    tokens, is_counted = _longest_prompt(problems, model)
    return ProblemFile(path, options, findings, problems, repeated, tokens, is_counted)


def _longest_prompt(problems: list[Problem], model: str) -> tuple[int, bool]:
    """Its tokens, and False if they were estimated since the tokenizer is not on this machine."""
    from tiny_math_solver.models.load import load_tokenizer

    prompt = PromptFormat("" if model in SHIPPED_MODELS else GSM8K_SYSTEM_PROMPT)
    try:
        tokenizer = load_tokenizer(model)
    except NotHereError:
        characters = len(prompt.system) + max(len(problem.question) for problem in problems)
        return TEMPLATE_TOKENS + int(characters / CHARACTERS_PER_TOKEN), False
    return max(len(encode_prompt(tokenizer, prompt.messages(p.question), prompt)) for p in problems), True


def sizes_here(model: str) -> tuple[Sizes, str]:
    """The settings for this machine, and its name."""
    device = default_device()
    if model in SHIPPED_MODELS:
        return SHIPPED, "any machine"
    if device == "cpu":
        return ON_CPU, f"{os.cpu_count()} CPU cores, {readable(available('cpu'))} free"
    free = available(device)
    return ON_LARGE_GPU if free > LARGE_GPU else ON_GPU, f"{device_name(device) or device}, {readable(free)} free"


def configuration(file: ProblemFile, model: str, name: str) -> str:
    """The text of a configuration with comments; `name` is that of the output folder."""
    sizes, machine = sizes_here(model)
    count = len(file.problems)
    dev, test = min(200, max(8, count // 10)), min(500, max(8, count // 5))
    train = count - dev - test
    problems = sizes.problems
    while problems > max(2, train // 2):
        problems //= 2
    steps = max(20, min(sizes.steps, 4 * train // problems))
    rounds = steps * problems / train
    prompt_tokens = -(-max(64, file.prompt_tokens) // 64) * 64
    findings = file.findings
    dropped = findings.unreadable / max(1, findings.rows)
    settings: dict[str, dict[str, tuple[Any, str]]] = {
        "model": {"name": (model, "a Hub name, a folder, or embedded: the shipped model of a million parameters")},
        "problems": {
            "source": (str(file.path), f"{count:,} problems; {findings.layout}"),
            **{
                key: (column, "its column")
                for key, column in (("question", file.options.question), ("answer", file.options.answer))
                if column
            },
            "dev": (dev, "carved from them, to choose the best adapter"),
            "test": (test, "carved from them, used only before and after; or name a file in test_source"),
            **({"max_unreadable": (round(dropped + 0.01, 2), "share of rows that may be dropped")} if dropped else {}),
        },
        "prompt": {
            **({"system": ("", "the shipped model was trained without one")} if model in SHIPPED_MODELS else {}),
            "max_tokens": (prompt_tokens, f"{file.longest}; longer ones are dropped"),
        },
        "evaluation": {
            "every": (sizes.every, "steps"),
            **({"samples": (0, "no pass@k: sampling takes as long as several steps")} if sizes is ON_CPU else {}),
        },
        "rollouts": {"batch_size": (sizes.rows, "completions decoded at once; lower where memory is short")},
        **({"update": {"tokens_per_pass": (sizes.pass_tokens, "likewise")}} if sizes.pass_tokens else {}),
        "grpo": {
            "output_dir": (f"./checkpoint/{name}", "adapter, records and report"),
            "max_steps": (steps, f"{rounds:.1f} times through {train:,} train problems"),
            "num_generations": (sizes.samples, "samples of each problem: a group"),
            "per_device_train_batch_size": (problems, ""),
            "gradient_accumulation_steps": (sizes.samples, f"each step: {problems} problems × {sizes.samples} samples"),
            "learning_rate": (sizes.learning_rate, "lower it if the reward falls"),
            "lr_scheduler_type": ("constant" if sizes is SHIPPED else "cosine", ""),
            **({} if sizes is SHIPPED else {"warmup_steps": (0.05, ""), "max_grad_norm": (0.1, "")}),
            **({} if sizes is SHIPPED else {"reward_weights": ([1.0, 0.1], "correctness, format")}),
            "temperature": (1.0 if sizes is SHIPPED else 0.7, ""),
            "max_completion_length": (sizes.length, "tokens; raise it if many answers are cut off"),
            "save_steps": (sizes.every, ""),
        },
    }
    lines = [f"# Problems of {file.path.name}, for {machine}. Every setting: tiny-math fields", ""]
    for section, values in settings.items():
        lines.append(f"{section}:")
        for key, (value, comment) in values.items():
            text = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10_000).strip()[1:-1]
            lines.append(f"  {key}: {text}" + (f" # {comment}" if comment else ""))
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _number(value: Decimal | Fraction) -> str:
    return f"{value:,f}" if isinstance(value, Decimal) else str(value)
