"""Problem → chat messages → token ids: the only copy of the prompt.

Training, evaluation, the merge proof and the playground all build their prompts here, so a model always gets the same
words, through its own chat template.
"""

import contextlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from tiny_math_solver.config.schema import Config
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.support.errors import UserError

Message = dict[str, str]

TODAY = "strftime_now"  # the function with which a chat template puts in today's date
# In front of a template these lines make its calls of strftime_now give the date that is recorded. What a template
# sees is reduced to plain data by transformers, so a function cannot be passed to it.
PINNED_TODAY = (
    "{% macro strftime_now(format) %}{% set pinned = namespace(text=format) %}"
    "{% for code, value in pinned_date.items() %}{% set pinned.text = pinned.text | replace(code, value) %}{% endfor %}"
    "{{ pinned.text }}{% endmacro %}\n"
)
TEMPLATE_VARIABLES = "grpo.chat_template_kwargs"  # the setting that has them
TEMPLATES = ("plain", "think")  # that come with the package
ANSWER = "The sum is 7531."  # in the made-up turn that shows how a template closes one


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids `[T]` of a prompt and the group that its samples belong to, which is a problem of the batch.

    Prompts of one group have equal ids. The group is prefilled once and its samples are numbered through, and the
    number decides their random draws: two groups with equal ids draw the same completions.
    """

    ids: list[int]
    group: int
    first: int = 0  # number of the first sample, where others of the group are drawn elsewhere


@dataclass(frozen=True)
class PromptFormat:
    """All that makes a prompt of a question, besides the chat template.

    `variables` are the template's own (grpo.chat_template_kwargs). `date`, as 2026-01-31, is the one that a template
    puts in for today's; None: today's.
    """

    system: str = ""
    variables: dict[str, Any] = field(default_factory=dict)
    date: str | None = None

    @classmethod
    def of(cls, config: Config) -> "PromptFormat":
        return cls(config.prompt.system, config.template_variables, config.prompt.date)

    def messages(self, question: str) -> list[Message]:
        return chat_messages(question, self.system)


@dataclass(frozen=True)
class TurnEnd:
    """The text with which a chat template closes the model's turn, and its ids; `token` is the first special one."""

    text: str
    ids: list[int]
    token: int | None


def group_prompts(prompt_ids: Iterable[list[int]]) -> list[Prompt]:
    """Prompts for a caller that has no groups of its own: one group for each distinct prompt."""
    groups: dict[tuple[int, ...], int] = {}
    return [Prompt(ids, groups.setdefault(tuple(ids), len(groups))) for ids in prompt_ids]


def first_samples(groups: Iterable[Hashable], samples: int) -> list[int]:
    """The number of each group's first sample: one that is asked twice goes on where it was, whoever answers it."""
    asked: Counter[Hashable] = Counter()
    firsts = []
    for group in groups:
        firsts.append(asked[group])
        asked[group] += samples
    return firsts


def chat_messages(question: str, system: str = "") -> list[Message]:
    """The chat that asks `question`; without `system` the template may add its own system prompt (Qwen's does)."""
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": question}]


def encode_prompt(tokenizer: Any, messages: list[Message], prompt: PromptFormat = PromptFormat()) -> list[int]:
    """Token ids `[T]` of the prompt in the chat template, up to the start of the assistant's turn.

    Raises UserError if the tokenizer has no chat template or one that fails: nothing else would reveal that an
    instruction-tuned model is asked in a format it has never seen.
    """
    text = render(tokenizer, messages, prompt)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError(f"tokenizer {tokenizer.name_or_path!r}: its chat template makes an empty prompt")
    return ids


def train_prompts(
    tokenizer: Any, problems: Sequence[Problem], prompt: PromptFormat, max_tokens: int
) -> tuple[list[Problem], list[Prompt]]:
    """The problems whose prompt has at most `max_tokens` tokens, and these prompts, which are never truncated.

    Problems with the same prompt share a group; groups are numbered by the length of their prompt.
    """
    encoded = [encode_prompt(tokenizer, prompt.messages(p.question), prompt) for p in problems]
    kept = [i for i, ids in enumerate(encoded) if len(ids) <= max_tokens]
    ranked = sorted({tuple(encoded[i]) for i in kept}, key=lambda ids: (len(ids), ids))
    groups = {ids: group for group, ids in enumerate(ranked)}
    return [problems[i] for i in kept], [Prompt(encoded[i], groups[tuple(encoded[i])]) for i in kept]


# -- The chat template ------------------------------------------------------------------------------------------


def render(tokenizer: Any, messages: list[Message], prompt: PromptFormat, *, open_turn: bool = True) -> str:
    """The chat as text, with `open_turn` up to the start of the assistant's turn. Raises UserError where it fails."""
    template, variables = template_call(tokenizer, prompt)
    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=open_turn, **variables
        )
    except Exception as error:  # a template is a program and may raise anything
        hint = (
            "; some take no system prompt: leave prompt.system (or --system) empty"
            if messages[0]["role"] == "system"
            else ""
        )
        raise UserError(f"tokenizer {tokenizer.name_or_path!r}: its chat template fails: {error}{hint}") from error


def template_call(tokenizer: Any, prompt: PromptFormat) -> tuple[str, dict[str, Any]]:
    """`(template, variables)` for `apply_chat_template`; the template is the tokenizer's, pinned to the date."""
    template = chat_template(tokenizer)
    if prompt.date is None or not puts_in_date(tokenizer):
        return template, prompt.variables
    return PINNED_TODAY + template, {**prompt.variables, "pinned_date": _date_codes(prompt.date)}


def self_contained_template(tokenizer: Any, prompt: PromptFormat) -> str:
    """The chat template with the prompt's variables and its date inside, for programs that pass it none."""
    template, variables = template_call(tokenizer, prompt)
    return "".join(f"{{% set {name} = {value!r} %}}" for name, value in variables.items()) + template


def read_template(name: str, setting: str = "prompt.template") -> str:
    """The chat template of a name or a file. Raises UserError where `setting` names neither, or it cannot be parsed."""
    if name in TEMPLATES:
        return (resources.files("tiny_math_solver") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"{setting}: {name!r} is neither {' nor '.join(TEMPLATES)} nor a file")
    try:
        text = path.read_text(encoding="utf-8")
        _ENVIRONMENT.parse(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{setting}: {name} cannot be read: {error}") from None
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{setting}: {name}:{error.lineno}: {error.message}") from None
    return text


def chat_template(tokenizer: Any) -> str:
    """The tokenizer's chat template, of several the default one. Raises UserError if there is none."""
    hint = "use an instruction-tuned model, or set prompt.template (--template): plain, think, or a .jinja file"
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"tokenizer {tokenizer.name_or_path!r} has no chat template; {hint}")
    try:
        return tokenizer.get_chat_template()
    except ValueError:  # several, none of them the default
        raise UserError(f"tokenizer {tokenizer.name_or_path!r} has no default chat template; {hint}") from None


def puts_in_date(tokenizer: Any) -> bool:
    """True if the chat template asks for today's date."""
    return TODAY in _variables(chat_template(tokenizer))


def today() -> str:
    return date.today().isoformat()


def check_variables(tokenizer: Any, prompt: PromptFormat, setting: str = TEMPLATE_VARIABLES) -> None:
    """Raise UserError for variables that the chat template never mentions: they would change nothing.

    `setting` names, in the message, where they were set.
    """
    known = _variables(chat_template(tokenizer))
    if unknown := sorted(set(prompt.variables) - known):
        own = sorted(known - STANDARD_VARIABLES - set(tokenizer.special_tokens_map))
        raise UserError(
            f"{setting}: the chat template of {tokenizer.name_or_path} never mentions "
            f"{', '.join(unknown)}: it would change nothing; its own variables: {', '.join(own) or 'none'}"
        )


def idle_settings(tokenizer: Any, prompt: PromptFormat, question: str) -> list[str]:
    """A sentence for each setting of the template without which the prompt would be the same."""
    made = render(tokenizer, prompt.messages(question), prompt)
    notes = []
    for name, value in prompt.variables.items():
        others = {other: kept for other, kept in prompt.variables.items() if other != name}
        with contextlib.suppress(UserError):  # a template that fails without it needs it
            if made == render(tokenizer, prompt.messages(question), replace(prompt, variables=others)):
                notes.append(f"{TEMPLATE_VARIABLES}: {name} = {value!r} leaves the prompt as it is without it")
    if prompt.date and not puts_in_date(tokenizer):
        notes.append("prompt.date: the chat template puts in no date")
    return notes


def turn_end(tokenizer: Any) -> TurnEnd | None:
    """How the chat template closes the model's turn; None if it cannot be told."""
    turn = [*chat_messages("1 + 1?"), {"role": "assistant", "content": ANSWER}]
    try:
        text = render(tokenizer, turn, PromptFormat(), open_turn=False)
    except UserError:  # none, or one that takes no finished turn
        return None
    _, answer, closing = text.rpartition(ANSWER)
    ids = tokenizer(closing, add_special_tokens=False)["input_ids"] if answer and closing else []
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return TurnEnd(closing, ids, next((i for i in ids if i in special), None)) if answer else None


STANDARD_VARIABLES = {"messages", "add_generation_prompt", "raise_exception", TODAY}  # of every template


@cache
def _variables(template: str) -> frozenset[str]:
    """The names that a template takes from outside; none of one that cannot be parsed, which fails when it is used."""
    try:
        return frozenset(meta.find_undeclared_variables(_ENVIRONMENT.parse(template)))
    except jinja2.TemplateSyntaxError:
        return frozenset()


class _Generation(Extension):
    """transformers' `{% generation %}` blocks, which mark the model's turns."""

    tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


_ENVIRONMENT = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", _Generation])


def _date_codes(day: str) -> dict[str, str]:
    """`{"%d": "31", …}`: strftime's codes on that day, at midnight."""
    then = datetime.fromisoformat(day)
    plain = {f"%{code}": then.strftime(f"%{code}") for code in "aAwdbBmyYHIpMSfjUWcxXGuV"}
    short = {"%-d": then.day, "%-m": then.month, "%-H": 0, "%-I": 12, "%-M": 0, "%-S": 0, "%e": f"{then.day:2d}"}
    joint = {"%F": day, "%D": then.strftime("%m/%d/%y"), "%T": "00:00:00", "%R": "00:00"}
    unpadded = {code: str(value) for code, value in short.items()}
    return {"%%": "\1", **plain, **unpadded, **joint, "\1": "%"}
