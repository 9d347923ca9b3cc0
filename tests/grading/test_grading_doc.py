"""Every example of docs/grading.md, run: its tables of completions, of numbers and of points."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.paths import ROOT
from tiny_math_solver.grading import extract_answer, grade, write_number
from tiny_math_solver.grading import points as scoring
from tiny_math_solver.grading.markup import plain
from tiny_math_solver.grading.numerals import find_numbers
from tiny_math_solver.grading.points import result_points
from tiny_math_solver.rewards.completion import Completion
from tiny_math_solver.rewards.grader import Grader

DOC = (ROOT / "docs" / "grading.md").read_text(encoding="utf-8")
Table = list[dict[str, str]]


def tables(text: str) -> Iterator[Table]:
    """Every table of a Markdown text, as a dictionary a row."""
    for match in re.finditer(r"(?:^\|.*\n)+", text, re.MULTILINE):
        header, _, *rows = (
            [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in match[0].splitlines()
        )
        yield [dict(zip(header, row, strict=True)) for row in rows]


def with_columns(*names: str) -> Table:
    return [row for table in tables(DOC) for row in table if list(row) == list(names)]


def code(cell: str) -> str:
    assert cell.startswith("`")
    assert cell.endswith("`")
    return cell[1:-1].replace("⏎", "\n")


READ = [
    *with_columns("completion", "answer", "found"),
    *with_columns("completion", "prompt", "answer", "found"),
]
GRADED = with_columns("completion", "gold", "correctness", "format", "correct", "strict")
NUMBERS = with_columns("text", "value")
POINTS = re.findall(r"```text\nprompt:(.*)\nbefore:(.*)\nsentence:(.*)\n```\n\n((?:\|.*\n)+)", DOC)


def test_no_table_is_left_out() -> None:
    assert [len(rows) >= least for rows, least in ((READ, 50), (GRADED, 10), (NUMBERS, 15), (POINTS, 4))] == [True] * 4
    run = sum(len(rows) for rows in (READ, GRADED, NUMBERS)) + sum(points[-1].count("\n") - 2 for points in POINTS)
    told = ("marker", "sign", "not accepted", "")  # first columns of the tables that explain
    assert run == sum(len(table) for table in tables(DOC) if next(iter(table[0])) not in told)


@pytest.mark.parametrize("row", READ, ids=lambda row: ascii(row["completion"]))
def test_what_is_read(row: dict[str, str]) -> None:
    prompt = code(row["prompt"]) if "prompt" in row else None
    answer = extract_answer(code(row["completion"]), question=prompt)
    assert ("" if answer.value is None else write_number(answer.value), answer.how) == (row["answer"], row["found"])


@pytest.mark.parametrize("row", GRADED, ids=lambda row: ascii(row["completion"] + row["gold"]))
def test_what_is_paid(row: dict[str, str]) -> None:
    graded = grade(None, code(row["completion"]), row["gold"])
    rewards = Grader().rewards([Completion([], {}, [1], graded)])[0]
    assert [str(reward) for reward in rewards.values()] == [row["correctness"], row["format"]]
    assert [graded.correct, graded.strict] == [row["correct"] == "yes", row["strict"] == "yes"]


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: ascii(row["text"]))
def test_what_a_number_is(row: dict[str, str]) -> None:
    (mention,) = find_numbers(plain(code(row["text"])))
    assert ("not one number" if mention.value is None else write_number(mention.value)) == row["value"]


@pytest.mark.parametrize(("prompt", "before", "sentence", "table"), POINTS)
def test_how_points_add_up(prompt: str, before: str, sentence: str, table: str) -> None:
    prompt, before, sentence = (text.strip().replace("⏎", "\n") for text in (prompt, before, sentence))
    (rows,) = tables(table)
    text = plain(sentence)
    mentions = find_numbers(text)
    assert [text[m.start : m.end] for m in mentions] == [row["number"].strip("*") for row in rows]
    points = result_points(text, mentions, before, prompt)
    assert points == [int(row["points"]) for row in rows]
    for row in rows:
        parts = [int(row[name].split()[0]) for name in ("words", "clause", "computed", "new here", "not in prompt")]
        assert sum(parts) == int(row["points"])
        assert re.search(r'\("(.*)"\)', row["words"])[1] in sentence  # type: ignore[index]
    (chosen,) = (row["number"].strip("*") for row in rows if row["number"].startswith("*"))
    found = extract_answer(f"{before}\n{sentence}", question=prompt or None)
    assert found.value is not None
    assert write_number(found.value) == chosen


def test_the_table_of_points_has_the_values_of_the_code() -> None:
    (signs,) = (table for table in tables(DOC) if list(table[0]) == ["sign", "points"])
    assert [int(row["points"].split(",")[0].replace("−", "-")) for row in signs] == [
        scoring.AFTER_RESULT_WORD, scoring.AFTER_OTHER_WORD, scoring.AFTER_CONTEXT_WORD, scoring.IN_LAST_CLAUSE,
        scoring.IN_CONCLUSION, scoring.IN_ASIDE, scoring.COMPUTED, scoring.NEW_IN_TEXT, scoring.NEW_IN_QUESTION,
        scoring.NOT_ONE_NUMBER,
    ]  # fmt: skip


def test_the_code_block_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    names: dict[str, Any] = {"question": "How many?", "text": "9 * 2 = 18\n#### 18", "gold": "18"}
    exec(block, names)
    assert (names["graded"].answer, names["graded"].correct, names["graded"].strict) == ("18", True, True)


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", DOC):
        assert (ROOT / "docs" / target).is_file(), target
    for name in re.findall(r"`(_?[A-Z_]+_[A-Z]+)`", DOC):
        assert hasattr(scoring, name), name
