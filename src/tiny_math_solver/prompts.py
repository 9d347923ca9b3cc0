"""Problem → chat messages → token ids: the only copy of the prompt.

Training, evaluation, the merge proof and the playground all build their prompts here, so a model always gets the same
words, through its own chat template.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.support.errors import UserError

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids `[T]` of a prompt and the group that its samples belong to, which is a problem of the batch.

    Prompts of one group have equal ids. The group is prefilled once and its samples are numbered through, and the
    number decides their random draws: two groups with equal ids draw the same completions.
    """

    ids: list[int]
    group: int


def group_prompts(prompt_ids: Iterable[list[int]]) -> list[Prompt]:
    """Prompts for a caller that has no groups of its own: one group for each distinct prompt."""
    groups: dict[tuple[int, ...], int] = {}
    return [Prompt(ids, groups.setdefault(tuple(ids), len(groups))) for ids in prompt_ids]


def chat_messages(question: str, system: str = "") -> list[Message]:
    """The chat that asks `question`; without `system` the template may add its own system prompt (Qwen's does)."""
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": question}]


def encode_prompt(tokenizer: Any, messages: list[Message]) -> list[int]:
    """Token ids `[T]` of the prompt in the chat template, up to the start of the assistant's turn.

    Raises UserError if the tokenizer has no chat template or one that fails: nothing else would reveal that an
    instruction-tuned model is asked in a format it has never seen.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r} has no chat template; use an instruction-tuned model, "
            "or add a chat_template to its tokenizer_config.json"
        )
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program and may raise anything
        hint = "; some take no system prompt: leave it empty" if messages[0]["role"] == "system" else ""
        raise UserError(f"tokenizer {tokenizer.name_or_path!r}: its chat template fails: {error}{hint}") from error
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError(f"tokenizer {tokenizer.name_or_path!r}: its chat template makes an empty prompt")
    return ids


def train_prompts(
    tokenizer: Any, problems: Sequence[Problem], system: str, max_tokens: int
) -> tuple[list[Problem], list[Prompt]]:
    """The problems whose prompt has at most `max_tokens` tokens, and these prompts, which are never truncated.

    Problems with the same prompt share a group; groups are numbered by the length of their prompt.
    """
    encoded = [encode_prompt(tokenizer, chat_messages(p.question, system)) for p in problems]
    kept = [i for i, ids in enumerate(encoded) if len(ids) <= max_tokens]
    ranked = sorted({tuple(encoded[i]) for i in kept}, key=lambda ids: (len(ids), ids))
    groups = {ids: group for group, ids in enumerate(ranked)}
    return [problems[i] for i in kept], [Prompt(encoded[i], groups[tuple(encoded[i])]) for i in kept]
