"""Whatever is typed, written or lying in a file: an answer or a UserError, in bounded time.

The default run is short and the same every time. `FUZZ_MINUTES=5 pytest tests/test_fuzz.py` draws anew for that many
minutes in all, shared among the tests; what fails is printed with the smallest input that does it.
"""

import contextlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers.hub import build_qwen2
from tiny_math_solver.cli import parse
from tiny_math_solver.config.fields import known_fields
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.schema import Config
from tiny_math_solver.grading import How, extract_answer, is_correct, parse_gold, parse_number, write_number
from tiny_math_solver.models.load import load_model
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.sources import read_file
from tiny_math_solver.support.errors import UserError

pytestmark = pytest.mark.fuzz
MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
SLOW = 2.0  # seconds of this process that no single input may take
FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")
FUZZED: list[str] = []


def fuzz(examples: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """A test of `examples` drawn inputs, or in the long run of as many as its share of the minutes allows."""

    def decorate(body: Callable[..., None]) -> Callable[[], None]:
        FUZZED.append(body.__name__)
        checked = settings(
            max_examples=examples if not MINUTES else 10 * examples,
            derandomize=not MINUTES,
            deadline=None,  # the time of a call is measured without what drawing its input takes
            database=None,
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(body))

        @pytest.mark.timeout(240 + 60 * MINUTES)
        def test() -> None:
            end = time.monotonic() + 60 * MINUTES / len(FUZZED)
            checked()
            while time.monotonic() < end:
                checked()

        test.__doc__ = body.__doc__
        return test

    return decorate


def timed(call: Callable[[], Any]) -> Any:
    started = time.process_time()
    try:
        return call()
    finally:
        assert time.process_time() - started < SLOW


def at(name: str, content: bytes) -> Path:
    path = Path(FOLDER.name) / name
    path.write_bytes(content)
    return path


# -- Answers ----------------------------------------------------------------------------------------------------

PIECES = [
    "#### ", "####", "###", "\\boxed{", "\\boxed{18}", "\\frac{1}{2}", "\\dfrac", "\\text{ apples}", "\\$", "$", "€",
    "%", " percent", "**", "*", "`", "```", "~~", "<<", ">>", "<b>", "</b>", "<think>", "</think>", "<|im_end|>",
    "</s>", "|", "The answer is ", "the final answer: ", "Answer:", "answer", "So ", "Therefore, ", "is ", " = ", "=",
    "≈", " or ", " and ", "not ", "n't ", "wait, ", "no, ", "actually ", "maybe ", "between ", "to ", "-", "–", "−",
    "+", " * ", "×", "/", "÷", "^", "^2", "²", "½", "10^", "e5", "1e999", "(", ")", "[", "]", "{", "}", ",", ".",
    ". ", ": ", ";", "?", "!", "\n", "\n\n", "\n- ", "\n1. ", "\nQuestion: ", "\nStep 2: ", "\n---\n", " dollars",
    " cents", " hours", " minutes", "k", "M", " million", " hundred", "one", "twenty-one", " and a half", " third",
    " 3/4", "1,200", "1.200,50", "1 200", "-5", "0.5", ".5", "5.", "007", "2:30", "12/25/2020", "٣", "１８", "१८", " x",
    "x ", " pi", "sqrt", '"value": ', "how many", "How many apples are left?", "Tom has 3 cats, 4 dogs. ", "reward",
    "grade", "correct", "\u0130", "\ud800", "\x00", "\u200b", "\t", "\r\n", "9" * 3000,
]  # fmt: skip
numbers = st.one_of(
    st.integers(-(10**9), 10**9).map(str), st.integers(0, 50).map(str), st.sampled_from(["1,234", "3.50"])
)
marked = st.builds(
    lambda marker, number, after: marker.format(number) + after,
    st.sampled_from(
        ["\n#### {}", "#### {}", "\\boxed{{{}}}", "\nThe answer is {}", " = {}", "\n**Answer:** ${}", "{}%"]
    ),
    numbers,
    st.sampled_from(["", "\n", ".", " apples", " or ", "\nWait, ", "?", "\n\nQuestion: "]),
)
pieces = st.one_of(st.sampled_from(PIECES), numbers, marked, st.text(max_size=6))
texts = st.lists(pieces, max_size=40).map("".join) | st.text(max_size=300)
questions = st.none() | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
SENTENCES = [
    "She has 3 pens and buys 2 more. ", "Then 3 + 2 = 5.", "\n", "That is <<3+2=5>>5 in all. ", "So it goes on. ",
    "Each costs $1,250.50, or half of that. ", "\n- 4 * 25% = 1", "Is it 7? ", "#### Step 1\n",
]  # fmt: skip
prose = st.lists(st.sampled_from(SENTENCES), max_size=8).map("".join)


def is_number(value: Any) -> bool:
    return isinstance(value, Fraction) or (isinstance(value, Decimal) and value.is_finite())


@fuzz(1500, text=texts, question=questions)
def test_an_answer_is_a_number_or_none(text: str, question: str | None) -> None:
    answer = timed(lambda: extract_answer(text, question=question))
    assert (answer.value is None) is (answer.how is How.NONE)
    assert answer.value is None or is_number(answer.value)
    assert answer.equivalent is None or is_number(answer.equivalent)
    assert extract_answer(text, question=question) == answer
    if answer.value is not None and len(written := write_number(answer.value)) <= 2000:
        assert parse_number(written) == answer.value
    if answer.value is not None:
        assert is_correct(text, answer.value, question=question)


@fuzz(500, text=texts, question=questions, space=st.sampled_from([" ", "\n", "\n\n", " \n", "\t", "\r\n"]))
def test_space_at_the_end_changes_no_answer(text: str, question: str | None, space: str) -> None:
    """A model that ends its turn after a line end must not be paid for it, nor pay."""
    answer, spaced = extract_answer(text, question=question), extract_answer(text + space, question=question)
    assert (spaced.value, spaced.how) == (answer.value, answer.how)


@fuzz(
    800,
    before=prose,
    number=st.integers(-(10**12), 10**12),
    style=st.sampled_from(["{}", "{:,}", " {}", "{} ", "{}.", "{:,} pens"]),
)
def test_a_marked_integer_is_read_as_it_stands(before: str, number: int, style: str) -> None:
    answer = extract_answer(f"{before}\n####{' ' * (style[0] != ' ')}{style.format(number)}")
    assert (answer.value, answer.how) == (number, How.HASHES)


@fuzz(60, piece=texts, ending=texts, size=st.integers(10_000, 300_000))
def test_a_long_repetition_takes_bounded_time(piece: str, ending: str, size: int) -> None:
    assume(piece)
    text = (piece * (size // len(piece) + 1))[:size] + ending
    timed(lambda: extract_answer(text, question=text[:2000]))


golds = st.one_of(
    texts, st.integers(), st.floats(), st.decimals(), st.fractions(), st.none(), st.booleans(), st.lists(pieces)
)


@fuzz(1500, gold=golds)
def test_a_gold_is_a_number_or_refused(gold: Any) -> None:
    try:
        value = timed(lambda: parse_gold(gold))
    except ValueError:
        assert not isinstance(gold, int) or isinstance(gold, bool) or abs(gold) > 10**1900
        assert not isinstance(gold, float) or not math.isfinite(gold)
        return
    assert is_number(value)
    if isinstance(gold, (int, Fraction, Decimal)):
        assert value == gold
    if isinstance(gold, float):
        assert value == Decimal(str(gold))


# -- Configuration ----------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.integers(-2, 2),
    st.sampled_from(["embedded", "auto", "no", "steps", "nan", "1e3", "{", "./x", "x/y", "x" * 5000, "../..", "~"]),
)  # fmt: skip
values = scalars | st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def plain(default: Any) -> Any:
    """A default as a file could hold it: neither an enumeration nor an object."""
    try:
        return yaml.safe_load(yaml.safe_dump(default))
    except yaml.YAMLError:
        return None


@st.composite
def trees(draw: Any) -> dict[str, Any]:
    """Sections of a configuration, mostly with keys that there are and values that might be meant."""
    tree = {}
    for section in draw(st.lists(st.sampled_from([*Config.model_fields, "grpo", "lora"]), max_size=4)):
        known = known_fields(section)
        keys = draw(st.lists(st.sampled_from(sorted(known)), max_size=3))
        tree[section] = {key: draw(values | st.just(plain(known[key][1]))) for key in keys}
    if draw(st.integers(0, 4)) == 0:
        tree[draw(st.sampled_from(sorted(Config.model_fields)) | st.text(max_size=4))] = draw(
            values | st.dictionaries(scalars.filter(lambda key: key == key), values, max_size=3)
        )
    return tree


def loads_or_refuses(path: Path, overrides: list[str] | None = None) -> None:
    try:
        config = timed(lambda: load_config(path, overrides))
    except UserError:
        return
    again = at("again.yaml", config.to_yaml().encode())
    assert load_config(again) == config


@fuzz(400, tree=trees())
def test_any_tree_is_a_configuration_or_refused(tree: dict[str, Any]) -> None:
    loads_or_refuses(at("tree.yaml", yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")))


YAML = [
    "grpo",
    "lora",
    "model",
    ":",
    ": ",
    "\n",
    "\n  ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a ",
    "*a",
    "!!int ",
    "|\n",
    ">",
    "'",
    '"',
]
YAML += [
    "<<: ",
    "? ",
    "---\n",
    "%YAML 1.1\n",
    "#",
    "name",
    "seed",
    "r",
    "1",
    "1e3",
    "null",
    "~",
    "2020-01-01",
    "\t",
    "\x00",
    "\\",
]
yaml_texts = st.lists(st.sampled_from(YAML) | st.text(max_size=3), max_size=40).map("".join)


@fuzz(600, content=yaml_texts.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=200))
def test_any_file_is_a_configuration_or_refused(content: bytes) -> None:
    loads_or_refuses(at("any.yaml", content))


options = st.sampled_from([f"--{section}.{name}" for section in Config.model_fields for name in known_fields(section)])
typed = st.one_of(
    options, scalars.map(str), yaml_texts, st.text(max_size=8), st.builds("{}={}".format, options, scalars)
)


@fuzz(400, overrides=st.lists(typed, max_size=5))
def test_any_overrides_are_taken_or_refused(overrides: list[str]) -> None:
    loads_or_refuses(at("empty.yaml", b""), overrides)


WORDS = [
    "train",
    "eval",
    "merge",
    "solve",
    "play",
    "report",
    "watch",
    "bench",
    "fields",
    "fetch",
    "check",
    "embedded",
    "x",
]
WORDS += [
    "--limit",
    "--samples",
    "--port",
    "--out",
    "--json",
    "--temperature",
    "--grpo.seed",
    "--quiet=1",
    "--",
    "-1",
    "1.5",
    "",
]


@fuzz(
    600,
    arguments=st.lists(
        st.sampled_from(WORDS) | st.text(max_size=5).filter(lambda word: not word.startswith("-")), max_size=6
    ),
)
def test_any_command_line_is_parsed_or_refused(arguments: list[str]) -> None:
    with contextlib.suppress(UserError):
        assert parse(arguments).command


# -- Problem files ----------------------------------------------------------------------------------------------


def reads_or_refuses(path: Path) -> list[Problem]:
    try:
        problems = timed(lambda: read_file(path))
    except UserError:
        return []
    for problem in problems:
        assert problem.question.strip()
        assert is_number(parse_gold(problem.answer))
        assert is_correct(f"#### {problem.answer}", problem.answer, strict=True), problem
    return problems


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
columns = st.sampled_from(["question", "answer", "Question", "x"])
answers = st.integers(-(10**6), 10**6).map(lambda n: f"So.\n#### {n:,}") | texts | json_values
good_rows = st.fixed_dictionaries({"question": texts, "answer": answers})
json_rows = st.lists(good_rows | st.dictionaries(columns, json_values) | json_values, max_size=5)


@fuzz(300, rows=json_rows, end=st.sampled_from(["\n", "\r\n", "\n\n"]), bom=st.booleans())
def test_any_rows_are_problems_or_refused(rows: list[Any], end: str, bom: bool) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)
    reads_or_refuses(at("rows.jsonl", b"\xef\xbb\xbf" * bom + text.encode("utf-8", "surrogatepass")))


@fuzz(
    300,
    rows=st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=9),
    ascii_only=st.booleans(),
    question=st.text(),
)
def test_good_rows_come_back_as_they_are(rows: list[int], ascii_only: bool, question: str) -> None:
    made = [{"question": f"How many? {question}", "answer": f"Work.\n#### {n:,}"} for n in rows]
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in made)
    lines = read_file(at("good.jsonl", text.encode()))
    assert [(p.question, p.answer, p.solution) for p in lines] == [
        (row["question"].strip(), f"{n:,}", "Work.") for row, n in zip(made, rows, strict=True)
    ]
    table = at("good.parquet", b"")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), table)
    assert read_file(table) == lines


@fuzz(300, content=st.binary(max_size=300), name=st.sampled_from(["any.jsonl", "any.parquet", "any.json"]))
def test_any_bytes_are_problems_or_refused(content: bytes, name: str) -> None:
    reads_or_refuses(at(name, content))


def parquet_bytes(**options: Any) -> bytes:
    path = at("made.parquet", b"")
    rows = [{"question": f"Ann has {n} pens. How many?", "answer": f"#### {n}", "n": n} for n in range(50)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path.read_bytes()


PARQUET = [parquet_bytes(), parquet_bytes(compression="none", use_dictionary=False), parquet_bytes(compression="zstd")]
# most of them past the magic bytes, half of them in the footer, where a byte is a length, a type or an offset
places = st.integers(4, 400) | st.integers(-700, -5) | st.integers(-12, 4)
changes = st.lists(
    st.tuples(places, st.sampled_from(["set", "flip", "insert", "drop"]), st.integers(0, 255)), max_size=4
)


@fuzz(500, made=st.sampled_from(PARQUET), changes=changes, keep=st.sampled_from([1.0] * 6 + [0.5, 0.99]))
def test_a_damaged_parquet_file_is_read_or_refused(
    made: bytes, changes: list[tuple[int, str, int]], keep: float
) -> None:
    content = bytearray(made)
    for where, kind, byte in changes:
        index = where % len(content)
        if kind == "insert":
            content.insert(index, byte)
        elif kind == "drop":
            del content[index]
        else:
            content[index] = byte if kind == "set" else content[index] ^ (1 << byte % 8)
    reads_or_refuses(at("damaged.parquet", bytes(content[: int(keep * len(content))])))


# -- Model folders ----------------------------------------------------------------------------------------------


@cache
def tiny_model() -> tuple[Path, dict[str, Any], dict[str, Any]]:
    folder = Path(FOLDER.name) / "model"
    folder.mkdir()
    build_qwen2(folder)
    return folder, *(json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer_config.json"))


json_settings = st.dictionaries(st.integers(0, 60), values | st.integers(-9, 10**12), max_size=3)


@fuzz(80, model=json_settings, tokenizer=json_settings)
def test_a_model_with_any_settings_loads_or_is_refused(model: dict[int, Any], tokenizer: dict[int, Any]) -> None:
    folder, *originals = tiny_model()
    for name, original, changes in zip(
        ("config.json", "tokenizer_config.json"), originals, (model, tokenizer), strict=True
    ):
        keys = [*sorted(original), "auto_map", "quantization_config", "pad_token"]
        changed = {keys[index % len(keys)]: value for index, value in changes.items()}
        (folder / name).write_text(json.dumps({**original, **changed}))
    with contextlib.suppress(UserError):
        timed(lambda: load_model(str(folder), dtype="float32", device="cpu"))
