"""The prompt settings that a model was trained with, and the problems to evaluate it on."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tiny_math_solver.config.generation_kwargs import stop_strings
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.sections import GRPO_DEFAULTS, GSM8K_SYSTEM_PROMPT, ProblemsSection
from tiny_math_solver.config.shipped import SHIPPED_MODELS
from tiny_math_solver.problems.generated import named_split
from tiny_math_solver.problems.layouts import ReadOptions
from tiny_math_solver.problems.sources import Loaded, Source, read_source
from tiny_math_solver.problems.splits import load_test_problems
from tiny_math_solver.prompts import PromptFormat, today
from tiny_math_solver.runs.records import CONFIG
from tiny_math_solver.support.errors import UserError


@dataclass(frozen=True)
class PromptSettings:
    """Prompt format, longest completion in tokens, the texts that end one, and the problems of a run."""

    prompt: PromptFormat
    max_new_tokens: int
    problems: ProblemsSection
    stop_strings: Sequence[str] = ()


def prompt_settings(
    model: str,
    system: str | None = None,
    max_new_tokens: int | None = None,
    variables: dict[str, Any] | None = None,
    date: str | None = None,
) -> PromptSettings:
    """The settings of the run in folder `model`, else those of a shipped model, else GSM8K's.

    The other arguments, if given, override them. A date that is not recorded is today's.
    """
    if path := run_config(Path(model)):
        config = load_config(path)
        texts = stop_strings(config.grpo.get("generation_kwargs"))
        own = PromptSettings(PromptFormat.of(config), config.max_completion_length, config.problems, texts)
    elif shipped := SHIPPED_MODELS.get(model):
        own = PromptSettings(PromptFormat(), shipped.max_new_tokens, ProblemsSection(source=shipped.problems))
    else:
        asked = PromptFormat(GSM8K_SYSTEM_PROMPT)
        own = PromptSettings(asked, GRPO_DEFAULTS["max_completion_length"], ProblemsSection())
    prompt = PromptFormat(
        own.prompt.system if system is None else system,
        own.prompt.variables if variables is None else variables,
        date or own.prompt.date or today(),
    )
    return replace(own, prompt=prompt, max_new_tokens=max_new_tokens or own.max_new_tokens)


def run_config(folder: Path) -> Path | None:
    """The configuration of the run in a folder, or of the run that a checkpoint belongs to; None if there is none."""
    is_checkpoint = re.fullmatch(r"checkpoint-\d+", folder.absolute().name)
    places = [folder, folder.absolute().parent] if is_checkpoint else [folder]
    return next((place / CONFIG for place in places if os.path.exists(place / CONFIG)), None)


def evaluation_problems(
    source: str | None,
    settings: PromptSettings,
    options: ReadOptions = ReadOptions(),  # noqa: B008  frozen
) -> Loaded:
    """The test problems of `source`, all of a file, or those of the settings if there is no source.

    Besides `embedded`, its test problems, `embedded:dev` and `embedded:unseen` name those of its other splits;
    `countdown` and `countdown:dev` likewise.
    """
    if source is None:
        return load_test_problems(settings.problems)
    if not source:
        raise UserError("--problems is empty; name a source, or leave it out")
    if (generated := named_split(source)) is not None:
        return Loaded(generated, [])
    return read_source(Source(source, "evaluation"), options)
