"""The prompt settings that a model was trained with, and the problems to evaluate it on."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tiny_math_solver.config.generation_kwargs import stop_strings
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.rewards import DEFAULT, RewardNames
from tiny_math_solver.config.sections import GRPO_DEFAULTS, GSM8K_SYSTEM_PROMPT, ProblemsSection
from tiny_math_solver.config.shipped import SHIPPED_MODELS, kind_of
from tiny_math_solver.problems.layouts import ReadOptions
from tiny_math_solver.problems.sources import Loaded
from tiny_math_solver.problems.splits import load_test_problems, named_problems
from tiny_math_solver.prompts import PromptFormat, read_template, today
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.runs.records import CONFIG
from tiny_math_solver.support.errors import UserError

CHAT_TEMPLATE = "chat_template.jinja"  # with which transformers saves a tokenizer


@dataclass(frozen=True)
class PromptSettings:
    """Prompt format, longest completion in tokens, the texts that end one, and the problems and rewards of a run."""

    prompt: PromptFormat
    max_new_tokens: int
    problems: ProblemsSection
    stop_strings: Sequence[str] = ()
    rewards: RewardNames = DEFAULT
    right_from: float = 1.0
    template: str | None = None  # the chat template, where it is not that of the model's tokenizer

    def grader(self, kind: str | None = None, measure: str | None = None) -> Grader:
        """The grader of the run, or one for another kind of answers, or with another measure.

        A run may come from somebody else: functions that it names are not run unless they are named here. Raises
        UserError then.
        """
        used, own_kind = self.rewards.used[self.rewards.measure], kind_of(self.problems)
        for given, own, option in ((kind, own_kind, "--answer-kind"), (measure, used, "--measure")):
            if given is None and ":" in own:
                raise UserError(f"the run's answers are judged by {own}: {option} {own} runs that code here")
        form = () if self.rewards.form is None else (self.rewards.used[self.rewards.form],)
        names = RewardNames((measure or "correctness", *form), (1.0,) * (1 + len(form)), 0)
        return Grader(kind or own_kind, names, self.right_from, self.max_new_tokens)


def prompt_settings(
    model: str,
    system: str | None = None,
    max_new_tokens: int | None = None,
    variables: dict[str, Any] | None = None,
    date: str | None = None,
    template: str | None = None,
) -> PromptSettings:
    """The settings of the run in folder `model`, else those of a shipped model, else GSM8K's.

    The other arguments, if given, override them. A date that is not recorded is today's.
    """
    if path := run_config(Path(model)):
        config = load_config(path)
        texts = stop_strings(config.grpo.get("generation_kwargs"))
        rewards = config.reward_names, config.rewards.right_from
        used = path.parent / CHAT_TEMPLATE if config.prompt.template is not None else None
        own = PromptSettings(
            PromptFormat.of(config), config.max_completion_length, config.problems, texts, *rewards,
            read_template(str(used)) if used and used.is_file() else None,
        )  # fmt: skip
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
    own = own if template is None else replace(own, template=read_template(template, "--template"))
    return replace(own, prompt=prompt, max_new_tokens=max_new_tokens or own.max_new_tokens)


def run_config(folder: Path) -> Path | None:
    """The configuration of the run in a folder, or of the run that a checkpoint belongs to; None if there is none."""
    is_checkpoint = re.fullmatch(r"checkpoint-\d+", folder.absolute().name)
    places = [folder, folder.absolute().parent] if is_checkpoint else [folder]
    return next((place / CONFIG for place in places if os.path.exists(place / CONFIG)), None)


def evaluation_problems(
    source: str | None,
    settings: PromptSettings,
    options: ReadOptions,
) -> Loaded:
    """The test problems of `source` as `named_problems` reads it, or those of the settings if there is no source."""
    if source is None:
        own = settings.problems
        named = replace(options, question=own.question, answer=own.answer, settings=ReadOptions().settings)
        return load_test_problems(own, named)
    if not source:
        raise UserError("--problems is empty; name a source, or leave it out")
    return named_problems(source, options)
