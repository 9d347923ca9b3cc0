"""Ollama's Modelfile: a chat template in Go's language, the run's system prompt, and greedy decoding.

A Jinja template is a program and is not translated: how it frames a system prompt, a question and an answer is read off
chats that it renders.
"""

from dataclasses import dataclass
from typing import Any

from tiny_math_solver.prompts import Message, PromptFormat, render
from tiny_math_solver.support.errors import UserError

SYSTEM, QUESTION, ANSWER = "the system 4711", "the question 4712", "the answer 4713"  # found again in a rendered chat
CONTEXT = 4096  # tokens that Ollama keeps, where the model can


@dataclass(frozen=True)
class Frame:
    """The texts of a chat template around what is said; the first two only where there is a system prompt."""

    before_system: str
    after_system: str
    before_question: str  # without a system prompt; may hold one of the template's own
    after_question: str
    after_answer: str

    def go_template(self) -> str:
        """The same in the language of Ollama's TEMPLATE."""
        with_system = f"{_literal(self.before_system)}{{{{ .System }}}}{_literal(self.after_system)}"
        return (
            f"{{{{ if .System }}}}{with_system}{{{{ else }}}}{_literal(self.before_question)}{{{{ end }}}}"
            f"{{{{ .Prompt }}}}{_literal(self.after_question)}{{{{ .Response }}}}{_literal(self.after_answer)}"
        )


def frame_of(tokenizer: Any, prompt: PromptFormat) -> Frame | None:
    """How the chat template frames a chat; None if what is said does not stand in it as it is."""

    def rendered(*messages: Message, open_turn: bool = True) -> str:
        return render(tokenizer, list(messages), prompt, open_turn=open_turn)

    system, question, answer = (
        {"role": role, "content": text}
        for role, text in (("system", SYSTEM), ("user", QUESTION), ("assistant", ANSWER))
    )
    try:
        before, found, after = rendered(question).partition(QUESTION)
        _, answered, closing = rendered(question, answer, open_turn=False).partition(ANSWER)
    except UserError:
        return None
    try:
        head, has_system, tail = rendered(system, question).partition(SYSTEM)
    except UserError:  # it takes no system prompt
        head, has_system, tail = "", "", ""
    between, has_question, rest = tail.partition(QUESTION)
    if not has_system:
        head, between, has_question, rest = "", before, QUESTION, after
    is_framed = found and answered and has_question and rest == after
    return Frame(head, between, before, after, closing) if is_framed else None


def modelfile(file: str, frame: Frame | None, system: str, stops: list[str], limits: tuple[int, int]) -> str:
    """The text of a Modelfile beside `file`. `limits` are the longest completion and context, in tokens.

    Without a frame Ollama takes the template in the GGUF file, as far as it knows it.
    """
    longest, context = limits
    parts = [f"FROM ./{file}"]
    if frame:
        parts.append(f"TEMPLATE {_quoted(frame.go_template())}")
    if system:
        parts.append(f"SYSTEM {_quoted(system)}")
    parts += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    settings = {"temperature": 0, "num_predict": longest, "num_ctx": min(context, CONTEXT)}
    return "\n".join([*parts, *(f"PARAMETER {name} {value}" for name, value in settings.items())]) + "\n"


def _literal(text: str) -> str:
    """Text that Go's templates leave as it is."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    if '"""' in text:
        raise UserError('a Modelfile cannot hold a text with """ in it')
    return f'"""{text}"""'
