"""The columns that hold a problem and its answer: named in a setting, or recognised by the names they usually have.

An answer is taken from the column that is most surely a bare number: one of FINAL_ANSWERS if there is one, else
`answer`, else one of OTHER_ANSWERS, else a worked solution. Two columns of one kind leave a choice, which is the
user's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tiny_math_solver.config.sections import MAX_UNREADABLE
from tiny_math_solver.config.values import nearest
from tiny_math_solver.grading.kinds import AnswerKind
from tiny_math_solver.grading.kinds.number import NumberKind
from tiny_math_solver.problems.rows import LONGEST_TEXT, UnreadableError, kind_of, listed
from tiny_math_solver.support.errors import UserError

QUESTIONS = ("question", "problem", "prompt", "query", "instruction", "input", "squestion")
FINAL_ANSWERS = (
    "reward_model.ground_truth", "ground_truth", "answer_number", "final_answer", "final_ans", "expected_answer",
    "gold_answer", "gold", "target", "result", "lsolutions",
)  # fmt: skip
OTHER_ANSWERS = ("answers", "correct_answer", "correct answer")
WORKED_ANSWERS = ("solution", "response", "output", "completion")
CHATS = ("messages", "conversations")  # question and answer in one column

KNOWN = {
    ("question", "answer"): "GSM8K",
    ("question", "answer_number"): "MGSM",
    ("Body + Question", "Answer"): "SVAMP",
    ("body + question", "answer"): "ASDiv",
    ("input", "target"): "GSM-Hard",
    ("query", "response"): "MetaMathQA",
    ("instruction", "output"): "Alpaca",
    ("instruction + input", "output"): "Alpaca",
    ("prompt", "reward_model.ground_truth"): "verl",
    **{("prompt", answer): "TRL" for answer in ("answer", "ground_truth", "solution", "completion")},
    **{("problem", answer): "MATH" for answer in ("answer", "solution")},
    ("messages", "messages"): "chat",
    ("conversations", "conversations"): "ShareGPT",
    ("sQuestion", "lSolutions"): "MAWPS",
    ("question", "final_ans"): "MultiArith",
}  # the usual names of layouts, by the columns of question and answer


@dataclass(frozen=True)
class ReadOptions:
    """The columns that settings name, None for one to be recognised, and the share of rows that may be unreadable.

    `settings` are the names of these three as messages write them. With `fallback` a column that a table does not have
    is recognised instead of refused. `kind` reads the answers, by default as numbers; with `keeps_columns` problems
    have all columns of their rows.
    """

    question: str | None = None
    answer: str | None = None
    max_unreadable: float = MAX_UNREADABLE
    settings: tuple[str, str, str] = ("problems.question", "problems.answer", "problems.max_unreadable")
    fallback: bool = False
    kind: AnswerKind = field(default_factory=NumberKind)
    keeps_columns: bool = False


@dataclass(frozen=True)
class Layout:
    """The places in a row where question and answer are; the texts of several question columns are joined."""

    question: tuple["Place", ...]
    answer: "Place"

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return list(dict.fromkeys(str(place.path[0]) for place in (*self.question, self.answer)))

    @property
    def is_gsm8k(self) -> bool:
        return self._pair == ("question", "answer")

    @property
    def _pair(self) -> tuple[str, str]:
        return " + ".join(place.text for place in self.question), self.answer.text

    def __str__(self) -> str:
        question, answer = self._pair
        name = KNOWN.get((question, answer))
        return f"{f'{name} layout, ' if name else ''}question from {question}, answer from {answer}"

    def question_of(self, row: dict[str, Any]) -> str:
        """Raises UnreadableError where there is no text."""
        text = " ".join(filter(None, (_text(place, row) for place in self.question)))
        if not text:
            raise UnreadableError("the question is empty")
        if not text.isascii() and _HALF_CHARACTER.search(text):
            raise UnreadableError("the question holds a lone surrogate, which is half a character")
        return text

    def answer_of(self, row: dict[str, Any]) -> Any:
        """The value of the answer column: a text, a number, or whatever else is there."""
        value = self.answer.value(row)
        if isinstance(value, UnreadableError):  # a cell that its file's format leaves unclear
            raise value
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return _message(self.answer.text, value, "assistant")
        return value[0] if isinstance(value, list) and len(value) == 1 else value


def find_layout(where: str, names: Sequence[str], options: ReadOptions) -> Layout:
    """The layout of a table with columns `names`. Raises UserError with the columns that there are."""
    for_question, for_answer, _ = options.settings
    question = _named(where, options.question, names, for_question, options.fallback)
    answer = _named(where, options.answer, names, for_answer, options.fallback)
    if len(answer) > 1:
        raise UserError(f"{for_answer} = {options.answer!r}: the answer has to be in one column")
    usual = {name.strip().casefold(): name for name in names}
    usual |= {name: name for name in names}  # of `Answer` and `answer` the latter
    question = question or _usual_question(where, names, usual, for_question)
    return Layout(question, answer[0] if answer else _usual_answer(where, names, usual, for_answer, question))


def _named(where: str, given: str | None, names: Sequence[str], setting: str, fallback: bool) -> tuple["Place", ...]:
    """The places that a setting names, several of them joined by ` + `; empty where they are to be recognised."""
    if given is None:
        return ()
    parts = [given] if given in names else given.split(" + ")
    places = tuple(Place.parse(part.strip(), names, setting) for part in parts)
    missing = next((str(place.path[0]) for place in places if place.path[0] not in names), None)
    if missing is None:
        return places
    if fallback:
        return ()
    close = nearest(missing, list(names))
    hint = f"; did you mean {close}?" if close else ""
    raise UserError(f"{where}: no column {missing!r}, which {setting} names (found: {listed(names)}){hint}")


def _usual_question(where: str, names: Sequence[str], usual: dict[str, str], setting: str) -> tuple["Place", ...]:
    found = [usual[name] for name in QUESTIONS if name in usual]
    if "instruction" in usual and "input" in usual:  # Alpaca's input goes with the instruction
        found.remove(usual["input"])
    name = _only(where, names, found or [usual[name] for name in CHATS if name in usual], "question", setting)
    parts = [("body", False), ("context", True), (name, False)] if name.casefold() == "question" else [(name, False)]
    parts += [("input", True)] if name.casefold() == "instruction" else []
    present = [(usual.get(part, part), optional) for part, optional in parts if part in usual]
    return tuple(Place(part, (part,), optional) for part, optional in present)


def _usual_answer(
    where: str, names: Sequence[str], usual: dict[str, str], setting: str, question: tuple["Place", ...]
) -> "Place":
    final = [name for name in FINAL_ANSWERS if name.partition(".")[0] in usual]
    for kind in (final, ["answer"], OTHER_ANSWERS, WORKED_ANSWERS):
        if found := [usual.get(name, name) for name in kind if name.partition(".")[0] in usual]:
            return Place.parse(_only(where, names, found, "answer", setting), names, setting)
    chats = [place.text for place in question if place.text.casefold() in CHATS]
    return Place.parse(_only(where, names, chats, "answer", setting), names, setting)


def _only(where: str, names: Sequence[str], found: Sequence[str], wanted: str, setting: str) -> str:
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{where}: several columns could be the {wanted} ({listed(found)}): name it in {setting}")
    raise UserError(f"{where}: no column that looks like the {wanted} (found: {listed(names)}): name it in {setting}")


# -- Places ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A column, or a place within what it holds, such as `reward_model.ground_truth` or `prompt[0].content`."""

    text: str
    path: tuple[str | int, ...]
    optional: bool = False

    @classmethod
    def parse(cls, text: str, names: Sequence[str], setting: str) -> "Place":
        """The place that `text` names; dots and brackets may also belong to the name of a column."""
        column = max(
            (name for name in names if text.startswith(name) and _STEPS.fullmatch(text[len(name) :])),
            key=len,
            default="",
        )
        column = column or re.split(r"[.\[]", text)[0]
        rest = text[len(column) :]
        if not column or not _STEPS.fullmatch(rest):
            raise UserError(f"{setting}: cannot read {text!r}; write it as column, column.key or column[0].key")
        steps = (int(index) if index else key for key, index in _STEP.findall(rest))
        return cls(text, (column, *steps))

    def value(self, row: dict[str, Any]) -> Any:
        """What stands there. Raises UnreadableError if nothing does."""
        value: Any = row
        for depth, step in enumerate(self.path):
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                within = (
                    self.text if depth == 0 else f"{self.path[0]} has no {self.text.removeprefix(str(self.path[0]))}"
                )
                found = f" (found: {listed(map(str, value))})" if isinstance(value, dict) else ""
                raise UnreadableError(f"no column {within!r}{found}" if depth == 0 else within + found) from None
        return value


_STEP = re.compile(r"\.([^.\[\]]+)|\[(-?\d{1,6})\]")
_STEPS = re.compile(f"(?:{_STEP.pattern})*")


def _text(place: Place, row: dict[str, Any]) -> str:
    value = row.get(str(place.path[0])) if place.optional else place.value(row)
    if value is None and place.optional:
        return ""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = _message(place.text, value, "user")
    if not isinstance(value, str):
        raise UnreadableError(f"{place.text} must be text, found {kind_of(value)}")
    if len(value) > LONGEST_TEXT:
        raise UnreadableError(f"{place.text} has {len(value):,} characters, over {LONGEST_TEXT:,}")
    return value.strip()


def _message(column: str, messages: list[Any], role: str) -> Any:
    """The content of the only message of a role in a chat. Raises UnreadableError if there are more or none."""
    roles = ("user", "human") if role == "user" else ("assistant", "gpt")
    said = [m for m in messages if isinstance(m, dict) and m.get("role", m.get("from")) in roles]
    if len(said) != 1:
        raise UnreadableError(f"{column} has {len(said)} messages of the {role}; one is expected")
    content = said[0].get("content", said[0].get("value"))
    if isinstance(content, list):  # parts, such as {"type": "text", "text": "..."}
        if any(not isinstance(part, dict) or not isinstance(part.get("text"), str) for part in content):
            raise UnreadableError(f"{column} holds more than text")
        content = "".join(part["text"] for part in content)
    return content


_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
