"""How a model wants to be asked: the prompt and problems of the run it came from."""

import os
from dataclasses import dataclass
from pathlib import Path

from tiny_math_solver.config.schema import EMBEDDED, ProblemsSection, load_config
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.sources import is_file, read_file
from tiny_math_solver.problems.splits import load_test_problems
from tiny_math_solver.prompts import GSM8K_SYSTEM_PROMPT
from tiny_math_solver.support.errors import UserError


@dataclass(frozen=True)
class Settings:
    system: str
    max_new_tokens: int
    problems: ProblemsSection


def settings_of(model: str, system: str | None = None, max_new_tokens: int | None = None) -> Settings:
    """The settings of the run in folder `model`, else those of the embedded model, else GSM8K's.

    A `system` or `max_new_tokens` that is given wins.
    """
    path = Path(model) / "config.yaml"
    if os.path.exists(path):
        config = load_config(path)
        own = Settings(config.prompt.system, config.grpo["max_completion_length"], config.problems)
    elif model == EMBEDDED:
        own = Settings("", 112, ProblemsSection(source=EMBEDDED))
    else:
        own = Settings(GSM8K_SYSTEM_PROMPT, 512, ProblemsSection())
    return Settings(
        own.system if system is None else system,
        own.max_new_tokens if max_new_tokens is None else max_new_tokens,
        own.problems,
    )


def problems_to_ask(source: str | None, settings: Settings) -> list[Problem]:
    """The test problems of `source` (all of a file; `embedded:unseen` for unseen kinds), or of the run itself."""
    if source is None:
        return load_test_problems(settings.problems)
    if not source:
        raise UserError("--problems is empty; name a source, or leave it out")
    name, _, split = source.partition(":")
    if name == EMBEDDED:
        if split not in ("", "test", "dev", "unseen"):
            raise UserError(f"problems {source!r}: use embedded, embedded:dev or embedded:unseen")
        return embedded_problems(split or "test", 500)  # type: ignore[arg-type]
    if is_file(source):
        return read_file(source)
    return load_test_problems(ProblemsSection(source=source))
