"""The prompt settings that a model was trained with, and the problems to evaluate it on."""

import os
from dataclasses import dataclass
from pathlib import Path

from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.schema import EMBEDDED, GRPO_DEFAULTS, GSM8K_SYSTEM_PROMPT, ProblemsSection
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.problems.layouts import ReadOptions
from tiny_math_solver.problems.sources import Loaded, Source, read_source
from tiny_math_solver.problems.splits import load_test_problems
from tiny_math_solver.support.errors import UserError

EMBEDDED_MAX_NEW_TOKENS = 112  # as in configs/quickstart.yaml


@dataclass(frozen=True)
class PromptSettings:
    """System prompt, longest completion in tokens, and the problems of a run."""

    system: str
    max_new_tokens: int
    problems: ProblemsSection


def prompt_settings(model: str, system: str | None = None, max_new_tokens: int | None = None) -> PromptSettings:
    """The settings of the run in folder `model`, else those of the embedded model, else GSM8K's.

    `system` and `max_new_tokens`, if given, override them.
    """
    path = Path(model) / "config.yaml"
    if os.path.exists(path):
        config = load_config(path)
        own = PromptSettings(config.prompt.system, config.max_completion_length, config.problems)
    elif model == EMBEDDED:
        own = PromptSettings("", EMBEDDED_MAX_NEW_TOKENS, ProblemsSection(source=EMBEDDED))
    else:
        own = PromptSettings(GSM8K_SYSTEM_PROMPT, GRPO_DEFAULTS["max_completion_length"], ProblemsSection())
    return PromptSettings(
        own.system if system is None else system,
        own.max_new_tokens if max_new_tokens is None else max_new_tokens,
        own.problems,
    )


def evaluation_problems(
    source: str | None,
    settings: PromptSettings,
    options: ReadOptions = ReadOptions(),  # noqa: B008  frozen
) -> Loaded:
    """The test problems of `source`, all of a file, or those of the settings if there is no source.

    Besides `embedded`, its test problems, `embedded:dev` and `embedded:unseen` name those of its other splits.
    """
    if source is None:
        return load_test_problems(settings.problems)
    if not source:
        raise UserError("--problems is empty; name a source, or leave it out")
    name, _, split = source.partition(":")
    if name == EMBEDDED:
        if split not in ("", "test", "dev", "unseen"):
            raise UserError(f"problems {source!r}: use embedded, embedded:dev or embedded:unseen")
        return Loaded(embedded_problems(split or "test", 500), [])  # type: ignore[arg-type]
    return read_source(Source(source, "evaluation"), options)
