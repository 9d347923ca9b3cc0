"""A page stays below its size however long the run; what it cannot show is counted, and its memory is bounded."""

import json
import math
import random
import tracemalloc
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.long_run import rows, write_rollouts
from helpers.made_up_run import write_run
from tiny_math_solver.report import PAGE_BYTES, page, page_data, room_for_data
from tiny_math_solver.report.clipping import HEAD, TAIL, clip, clipped_length
from tiny_math_solver.report.curves import NUMBERS, curves, read_columns, steps_per_point, total
from tiny_math_solver.report.packing import as_json, fitting, packed, packed_size, unpacked

# -- Packing --------------------------------------------------------------------------------------------------------


def test_packed_data_are_the_data():
    data: dict[str, Any] = {
        "text": "a\u2028</script>\0 − 数学 🧮",
        "numbers": [1, 2.5, None, True],
        "nested": [{"": []}],
    }
    assert json.loads(unpacked(packed(as_json(data)))) == data
    assert packed(as_json(data)) == packed(as_json(data))
    assert len(packed(as_json(data))) == packed_size(data)
    assert json.loads(unpacked(packed(as_json(["half a pair: \ud83e"])))) == ["half a pair: ?"]


@pytest.mark.parametrize("items", [0, 1, 2, 50, 1000])
@pytest.mark.parametrize("ratio", [0.2, 1.0, 4.0, 40.0])
@pytest.mark.parametrize("limit", [90, 150, 1_000, 20_000])
def test_almost_as_much_as_fits_is_taken(items: int, ratio: float, limit: int):
    sizes = [10 + 90 * (i % 3) for i in range(items)]
    calls = []

    def measure(n: int) -> int:
        calls.append(n)
        return 100 + math.ceil(sum(sizes[:n]) / ratio)

    n = fitting(sizes, limit, measure)
    assert n == 0 or measure(n) <= limit
    best = max((k for k in range(items + 1) if 100 + math.ceil(sum(sizes[:k]) / ratio) <= limit), default=0)
    assert n >= min(best - 1, math.floor(0.9 * best))
    assert len(calls) <= 10


def test_a_very_long_text_keeps_both_ends():
    text = "".join(chr(97 + i % 26) for i in range(HEAD + TAIL + 1))
    assert clip(text[1:]) == text[1:]
    assert clip(text) == {"head": text[:HEAD], "left_out": 1, "tail": text[-TAIL:]}
    assert [clipped_length(text), clipped_length("abc")] == [HEAD + TAIL, 3]


def test_long_curves_are_means(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    steps = [{"step": i, "a": i / 3, **({"late": 8} if i > 4 else {}), "text": "no"} for i in range(1, 8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*steps, {"step": 8, "a": math.nan}]))
    columns = read_columns(path)
    assert steps_per_point(columns) == 1
    assert curves(columns, 1)["a"] == [0.333333, 0.666667, 1, 1.33333, 1.66667, 2, 2.33333, None]
    assert curves(columns, 3) == {
        "step": [3, 6, 8], "a": [0.666667, 1.66667, 2.33333], "late": [None, 8, 8],
    }  # fmt: skip
    assert total(columns, "late") == 24
    assert total({"step": array("d", [2, 4, 6]), "a": array("d", [1.5, math.nan, 3])}, "a") == 9  # each second step
    assert total(columns, "sampler/skipped") == 0
    columns["step"].extend(range(NUMBERS))
    assert steps_per_point(columns) == 2
    assert steps_per_point(columns, runs=10) == 11


# -- Any size -------------------------------------------------------------------------------------------------------


def one_kind_of_row(number: int, text: Callable[[random.Random], str], problems: int = 20) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {
            **row,
            "completion": text(rng),
            "id": f"problem-{i // 4 % problems}",
            "question": text(rng)[:2000],
            "step": i // 40,
        }
        for i, row in enumerate(rows(number, 1))
    ]


def noise(length: int) -> Callable[[random.Random], str]:
    return lambda rng: "".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(length))


SHAPES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "many short ones": lambda: one_kind_of_row(8_000, lambda rng: f"#### {rng.random()}"),
    "as real ones": lambda: list(rows(800, 250)),
    "characters that do not compress": lambda: one_kind_of_row(400, noise(400)),
    "long ones": lambda: one_kind_of_row(40, noise(30_000)),
    "one that is longer than the page": lambda: one_kind_of_row(1, noise(400_000)),
    "a new problem each time": lambda: one_kind_of_row(6_000, noise(30), problems=6_000),
    "one text again and again": lambda: one_kind_of_row(2_000, lambda rng: "the same " * 200),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_data_fit_the_room_whatever_was_sampled(tmp_path: Path, shape: str):
    made = SHAPES[shape]()
    folder = write_run(tmp_path / "run")
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    room = 150_000
    data = page_data([folder], room)
    (run,) = data["runs"]
    shown = run["rollouts"]
    assert packed_size(data) <= room
    assert shown["total"] == len(made)
    assert ("kind" in shown) == (len(shown["step"]) < len(made))
    assert len(shown["step"]) == len(made) or packed_size(data) > 0.7 * room
    assert run["problems"]["total"] == len({row["id"] for row in made})
    assert sum(course["count"] for course in run["problems"]["courses"]) == run["problems"]["total"]
    of_step = Counter(row["step"] for row in made)
    if shown.get("whole_from") is not None:
        for step in range(shown["whole_from"], max(of_step) + 1):
            assert shown["step"].count(step) == of_step[step]


def test_test_answers_leave_room_and_those_that_changed_come_first(tmp_path: Path):
    folder, rng = write_run(tmp_path / "run"), random.Random(0)
    for name, right in (("before", lambda i: i % 10 == 0), ("after", lambda i: i % 10 in (0, 1))):
        answers = [
            {
                "id": f"p{i}", "question": noise(50)(rng), "gold": "4", "completion": noise(300)(rng), "answer": "4",
                "how": "hashes", "correct": right(i), "strict": right(i), "tokens": 9, "finished": True, "sample": None,
            }
            for i in range(600)
        ]  # fmt: skip
        (folder / "eval" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    room = 600_000
    data = page_data([folder], room)
    cells = data["runs"][0]["test"]
    whole = [cell["id"] for cell in cells if cell["question"] is not None]
    assert packed_size(data) <= room
    assert [cell["id"] for cell in cells] == [f"p{i}" for i in range(600)]
    assert {f"p{i}" for i in range(1, 600, 10)} < set(whole)
    assert 60 < len(whole) < 300
    assert cells[-1]["after"] == {
        "answer": "4", "how": "hashes", "correct": False, "strict": False, "tokens": 9, "finished": True,
        "completion": None, "failure": "only an answer", "slip": None,
    }  # fmt: skip
    assert data["runs"][0]["rollouts"]["total"] == len(data["runs"][0]["rollouts"]["step"]) == 40


def test_a_long_log_of_events_and_steps_is_cut(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    (folder / "events.jsonl").write_text(
        "".join(json.dumps({"step": i, "name": "retry", "text": "x" * 9_999}) + "\n" for i in range(1_000))
    )
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, **{f"m{j}": i * j / 7 for j in range(9)}}) + "\n" for i in range(22_000))
    )
    run = page_data([folder])["runs"][0]
    assert [event["step"] for event in run["events"]] == list(range(800, 1_000))
    assert run["earlier_events"] == 800
    assert {len(event["text"]) for event in run["events"]} == {2_000}
    assert sum(map(len, run["curves"].values())) <= NUMBERS
    assert run["steps_per_point"] == 2


def test_a_page_with_all_its_room_taken_is_below_its_size():
    """The room is what plotly, scripts and styles leave, whatever version of plotly is installed."""
    full = page({"title": "x" * 2_000}).replace('gzip">', f'gzip">{"-" * room_for_data()}', 1)
    assert 0.99 * PAGE_BYTES < len(full.encode()) < PAGE_BYTES
    assert room_for_data() > 5_000_000


def test_memory_is_that_of_the_page_not_of_the_records(tmp_path: Path):
    """Reading 24 MB of records whole takes 100 MB and more of memory; a run may have 512 MB of them."""
    folder = write_run(tmp_path / "run")
    row, rng = next(rows(1, 10)), random.Random(0)
    with (folder / "rollouts.jsonl").open("w") as file:
        for i in range(3_000):
            file.write(json.dumps({**row, "step": 1 + i // 64, "completion": rng.randbytes(4_000).hex()}) + "\n")
    assert (folder / "rollouts.jsonl").stat().st_size > 24e6
    page_data([write_run(tmp_path / "small")], 100_000)  # imports
    tracemalloc.start()
    data = page_data([folder], 60_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data["runs"][0]["rollouts"]["total"] == 3_000
    assert peak < 12e6


def test_several_runs_share_a_page(tmp_path: Path):
    folders = [write_rollouts(write_run(tmp_path / f"run{i}"), 400, 50) for i in range(3)]
    runs = page_data(folders)["runs"]
    assert all(name not in run for run in runs for name in ("rollouts", "test", "problems"))  # not shown of several
    assert [len(run["dead"]) for run in runs] == [1, 1, 1]
