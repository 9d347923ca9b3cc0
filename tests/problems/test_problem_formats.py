"""The formats of problem files: CSV as spreadsheets write it, JSON documents, compressed files, folders of shards."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tiny_math_solver.config.sections import ProblemsSection
from tiny_math_solver.problems.sources import Findings, read_file
from tiny_math_solver.problems.splits import load_splits
from tiny_math_solver.support.errors import UserError

PENS = "Lea has 5 pens and buys 4 more. How many pens has she?"
KITES = 'Ben says "3 kites";\nthen he finds 4. How many?'
ROWS = [{"question": PENS, "answer": 9}, {"question": KITES, "answer": "7"}]
READ = [(PENS, "9"), (KITES, "7")]
QUOTED = KITES.replace('"', '""')


def pairs(path: Path, findings: Findings | None = None) -> list[tuple[str, str]]:
    return [(p.question, p.answer) for p in read_file(path, findings=findings)]


TABLES = {
    "plain.csv": f'question,answer\n{PENS},9\n"{QUOTED}",7\n',
    "excel.csv": f'\ufeffQuestion;Answer\r\n{PENS};9\r\n"{QUOTED}";7\r\n',
    "marked.csv": f'\ufeffsep=;\r\nquestion;answer\r\n{PENS};9\r\n"{QUOTED}";7\r\n',
    "pipes.csv": f'question|answer\n{PENS}|9\n"{QUOTED}"|7\n',
    "index.csv": f',question,answer,note\n0,{PENS},9,"a, b"\n1,"{QUOTED}",7,\n',
    "spaces.csv": f' Question ,answer \n{PENS},9\n\n"{QUOTED}",7\n,\n',
    "tabs.tsv": f'question\tanswer\n{PENS}\t9\n"{QUOTED}"\t7\n',
    "no header.tsv": f'{PENS}\t9\n"{QUOTED}"\t7\n',
    "tabs.csv": f'question\tanswer\n{PENS}\t9\n"{QUOTED}"\t7\n',
    "UPPER.CSV": f'question,answer\n{PENS},9\n"{QUOTED}",7\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_as_spreadsheets_and_programs_write_them(name: str, tmp_path: Path):
    """Catches: a BOM that becomes part of a name, a semicolon or line end within quotes that ends a cell."""
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8", newline="")
    assert pairs(tmp_path / name) == READ


def test_bad_rows_of_a_table_are_named_by_the_line_they_begin_in(tmp_path: Path):
    """Catches: cells that move into the next column, and an open quote that swallows rows without a word."""
    good = "".join(f"How many are {n} + {n}?,{2 * n}\n" for n in range(3))
    text = f'question,answer\n"Two\nlines?",2\nAnn has 3, Bo 4. How many?,7\nonly one\n{good}"Open?,1\n{good}'
    path = tmp_path / "p.csv"
    path.write_text(text)
    findings = Findings()
    assert [answer for _, answer in pairs(path, findings)] == ["2", "0", "2", "4"]
    assert findings.examples == [
        f"{path}:4: 3 cells where the header has 2: is a text not in quotes?",
        f"{path}:5: 1 cells where the header has 2: is a text not in quotes?",
        f"{path}:9: not a row of CSV: unexpected end of data",
        f"{path}:10: belongs to the bad row in line 9",
        f"{path}:11: belongs to the bad row in line 9",
    ]
    assert findings.unreadable == 6
    assert findings.rows == 10


def test_a_decimal_comma_is_one_where_semicolons_part_the_cells(tmp_path: Path):
    """Catches: 4,50 dropped or read as 450; 1.234 paid as either number."""
    path = tmp_path / "p.csv"
    path.write_text("question;answer\nA?;4,50\nB?;-1.234,5\nC?;8,0\nD?;7\nE?;1,5 kg\nF?;1.234\nG?;1,234\nH?;0,125\n")
    findings = Findings()
    assert pairs(path, findings) == [
        ("A?", "4.5"),
        ("B?", "-1234.5"),
        ("C?", "8"),
        ("D?", "7"),
        ("E?", "1.5"),
        ("H?", "0.125"),
    ]
    assert [text.partition(": ")[2][:22] for text in findings.examples] == [
        "1.234 may be a number ", "1,234 may be a number "
    ]  # fmt: skip
    path.write_text("question,answer\nA?,1.234\n")
    assert pairs(path) == [("A?", "1.234")]


def test_golds_with_units_are_numbers(tmp_path: Path):
    """Catches: the exponent of m² taken for another number; 16,5 postcards dropped."""
    path = tmp_path / "p.csv"
    path.write_text("question;answer\nA?;231 m²\nB?;16,5 postcards\nC?;30 cm^2\nD?;7 °C\nE?;4 m/s²\nF?;3 h 20 min\n")
    findings = Findings()
    assert pairs(path, findings) == [("A?", "231"), ("B?", "16.5"), ("C?", "30"), ("D?", "7"), ("E?", "4")]
    assert "3 h 20 min" in findings.named()  # two numbers: neither is guessed


def test_several_lists_of_rows_in_one_document_are_refused_by_name(tmp_path: Path):
    (tmp_path / "p.json").write_text(json.dumps({"train": ROWS, "test": ROWS[:1]}))
    with pytest.raises(UserError, match=r"several lists of rows"):
        read_file(tmp_path / "p.json")
    (tmp_path / "p.json").write_text(json.dumps({"train": ROWS, "test": ROWS}))  # as long as each other
    with pytest.raises(UserError, match=r"several lists of rows \(train, test\); write each into a file of its own"):
        read_file(tmp_path / "p.json")


def test_text_that_is_not_utf8_is_named_and_never_guessed(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_bytes(f"question,answer\n{PENS},9\nZoé?,1\n".encode("latin-1"))
    findings = Findings()
    assert pairs(path, findings) == READ[:1]
    assert findings.examples == [f"{path}:3: not UTF-8 text; save the file as UTF-8"]


DOCUMENTS = {
    "array": json.dumps(ROWS),
    "array over lines": json.dumps(ROWS, indent=2),
    "array with a mark": "\ufeff" + json.dumps(ROWS),
    "list within an object": json.dumps({"version": 1, "data": ROWS}),
    "list within an object, over lines": json.dumps({"version": 1, "data": ROWS}, indent=1),
    "columns": json.dumps({"question": [PENS, KITES], "answer": [9, "7"]}, indent=1),
    "columns by row": json.dumps({"question": {"0": PENS, "1": KITES}, "answer": {"0": 9, "1": "7"}}),
    "rows by name": json.dumps({"first": ROWS[0], "second": ROWS[1]}),
    "objects over lines": "\n".join(json.dumps(row, indent=1) for row in ROWS),
    "objects": "\n\n".join(json.dumps(row) for row in ROWS),
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".json.gz", ""])
def test_json_documents_hold_the_same_problems_however_they_are_written(name: str, suffix: str, tmp_path: Path):
    data = DOCUMENTS[name].encode()
    path = tmp_path / f"p{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    assert pairs(path) == READ


ASKED, SAID = {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}


@pytest.mark.parametrize("row", [{"messages": [ASKED, SAID]}, {"prompt": [ASKED], "completion": [SAID]}])
def test_one_object_that_is_a_chat_is_a_row_and_not_a_document(row: dict[str, Any], tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row))
    assert pairs(path) == [("1 + 1?", "2")]


def test_bad_elements_of_an_array_are_counted_and_the_others_read(tmp_path: Path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps([ROWS[0], "oops", {"question": "?"}, ROWS[1], None]))
    findings = Findings()
    assert pairs(path, findings) == READ
    assert findings.examples == [
        f"{path} row 2: expected an object with question and answer, found str",
        f"{path} row 3: no column 'answer' (found: question)",
        f"{path} row 5: expected an object with question and answer, found null",
    ]


def test_a_first_line_that_is_cut_does_not_cost_the_file(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"question": "cut\n' + "".join(json.dumps(row) + "\n" for row in ROWS))
    findings = Findings()
    assert pairs(path, findings) == READ
    assert findings.examples[0].startswith(f"{path}:1: not a JSON object")


@pytest.mark.parametrize("name", ["p.csv.gz", "p.tsv.gz", "p.jsonl.gz"])
def test_compressed_files_are_read_as_they_are(name: str, tmp_path: Path):
    mark = "\t" if "tsv" in name else ","
    lines = [f"question{mark}answer", f"{PENS}{mark}9"] if "json" not in name else [json.dumps(ROWS[0])]
    (tmp_path / name).write_bytes(gzip.compress("\n".join(lines).encode()))
    assert pairs(tmp_path / name) == READ[:1]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def numbered(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {"question": f"How many are {n} and one more?", "answer": float(n + 1)} for n in range(first, first + count)
    ]


def test_a_folder_is_read_like_a_dataset_of_the_hub(tmp_path: Path):
    """Catches: shards out of order or left out, a validation split that becomes test without a word."""
    for shard in range(3):
        write_parquet(tmp_path / f"train-0000{shard}-of-00003.parquet", numbered(10 * shard, 10))
    write_parquet(tmp_path / "dev.parquet", numbered(100, 4))
    splits = load_splits(ProblemsSection(source=str(tmp_path), dev=5))
    assert sorted(int(p.answer) for p in splits.train + splits.dev) == list(range(1, 31))
    assert [p.answer for p in splits.test] == ["101", "102", "103", "104"]
    assert splits.notes == [f"{tmp_path}: its split validation"]
    assert splits.train[0].id.startswith("train-")


def test_shards_with_other_columns_are_each_read_by_their_own(tmp_path: Path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [{"question": "A?", "answer": "1"}])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [{"problem": "B?", "solution": "\\boxed{2}"}])
    assert pairs(tmp_path) == [("A?", "1"), ("B?", "2")]


def test_a_folder_without_data_is_refused(tmp_path: Path):
    (tmp_path / "notes.md").write_text("nothing here")
    with pytest.raises(UserError, match=r"notes\.md: expected a \.jsonl, \.json, \.csv, \.tsv or \.parquet file"):
        read_file(tmp_path)
