"""The report: figures derived from the records, and pages that show them."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.made_up_run import HOSTILE, write_run
from tiny_math_solver.report import page, page_data, write_report
from tiny_math_solver.report.diagnose import dead_groups, equations, failure_of, first_slip, gain, savings, waste
from tiny_math_solver.report.packing import as_json, unpacked
from tiny_math_solver.report.records import RunRecords, compare
from tiny_math_solver.report.rollouts import RolloutLog, Step, with_grades
from tiny_math_solver.report.training_problems import POINTS, course_of, problem_list, thinned
from tiny_math_solver.support.errors import UserError


def completion(text: str, answer: str | None = "5", correct: bool = False, finished: bool = True) -> dict[str, Any]:
    return {"completion": text, "answer": answer, "correct": correct, "strict": correct, "finished": finished}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3*4=12 and 12+1=14", [("3*4=12", True), ("12+1=14", False)]),
        ("That is 9*7=$<<9*7=63>>63.", [("9*7=$63", True)]),
        ("1,200 + 300 = 1,500", [("1,200 + 300 = 1,500", True)]),
        ("2 + 3 * 4 = 14", [("2 + 3 * 4 = 14", True)]),
        ("10 / 3 = 3.33", [("10 / 3 = 3.33", True)]),
        ("10 / 3 = 3", [("10 / 3 = 3", True)]),
        ("10 / 3 = 3.34", [("10 / 3 = 3.34", False)]),
        ("10 / 2 = 5.4", [("10 / 2 = 5.4", False)]),
        ("50% x 30 = 15", [("50% x 30 = 15", True)]),
        ("0.1 + 0.2 = 0.3", [("0.1 + 0.2 = 0.3", True)]),  # in floats it is not
        ("007 + 1 = 8", [("007 + 1 = 8", True)]),
        ("5 / 0 = 0", []),
        ("x = 5, so 5 = 5", []),
        ("9" * 500 + "+1=2", []),
        ("__import__('os') + 1 = 2", []),
    ],
)
def test_equations_are_found_and_checked_exactly(text: str, found: list[tuple[str, bool]]):
    assert equations(text) == found


def test_a_megabyte_of_digits_and_signs_takes_no_time():
    for text in ("1+" * 500_000, "1" * 1_000_000, "1+1=" * 250_000, "<<" * 500_000):
        first_slip(text)


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (completion("#### 5", correct=True), None),
        (completion("I do not know", None), "no answer"),
        (completion("First 3*4=12, then", None, finished=False), "cut off"),
        (completion("So 5 apples and 2 more, 7, then", "7", finished=False), "cut off"),
        (completion("#### 7"), "only an answer"),
        (
            completion(r"Divide 1 by 7 and take it times 100, so \[ \frac{1}{7} \times 100 = 14 \] so 14"),
            "wrong steps",
        ),
        (completion("3*4=13\n#### 13"), "arithmetic slip"),
        (completion("3*4=12\n#### 12"), "wrong steps"),
    ],
)
def test_a_failure_has_one_name(record: dict[str, Any], name: str | None):
    assert failure_of(record) == name


def test_the_gain_adds_up():
    before = [completion("", correct=bool(c)) | {"strict": s} for c, s in ((1, 0), (1, 1), (0, 0), (0, 0))]
    after = [completion("", correct=bool(c)) | {"strict": s} for c, s in ((1, 1), (1, 1), (1, 1), (0, 0))]
    assert gain(before, after) == {"strict": 0.5, "arithmetic": 0.25, "format": 0.25}


def rollout(step: int, id: str, right: bool, paid: float, tokens: int = 10, finished: bool = True) -> dict[str, Any]:
    rewards = {"correctness_reward": float(right), "format_reward": paid}
    graded = {"rewards": rewards, "correct": right, "strict": paid > 0, "advantage": 0.0, "finished": finished}
    return {"step": step, "id": id, "question": "q", "completion": "c", "tokens": tokens, **graded}


def steps_of(rows: list[dict[str, Any]], folder: Path) -> list[Step]:
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = RolloutLog(folder / "rollouts.jsonl")
    log.update()
    return log.steps


def test_dead_groups_and_waste_are_counted_by_what_they_were(tmp_path: Path):
    rows = [
        *(rollout(1, "a", True, 0.5) for _ in range(2)),
        *(rollout(1, "b", False, 0.0) for _ in range(2)),
        rollout(1, "c", True, 0.5), rollout(1, "c", False, 0.0, tokens=30, finished=False),
        rollout(2, "a", True, 0.5), rollout(2, "a", True, 0.0),
    ]  # fmt: skip
    steps = steps_of(rows, tmp_path)
    assert dead_groups(steps) == [
        {"step": 1, "all right": pytest.approx(1 / 3), "all wrong": pytest.approx(1 / 3)},
        {"step": 2, "all right": 0.0, "all wrong": 0.0},
    ]
    assert waste(steps) == {"all right": 0.2, "all wrong": 0.2, "cut off": 0.3}
    assert waste([]) == {"all right": 0.0, "all wrong": 0.0, "cut off": 0.0}


def test_what_sampler_and_share_kept_from_the_update_is_counted(tmp_path: Path):
    unused = {"used": False}
    rows = [
        *(rollout(1, "dead", False, 0.0, tokens=20) | unused for _ in range(2)),  # replaced
        rollout(1, "b", True, 0.5), rollout(1, "b", False, 0.0), rollout(1, "b", False, 0.0, tokens=30) | unused,
        rollout(2, "c", False, 0.0), rollout(2, "c", False, 0.0),  # dead, but used
    ]  # fmt: skip
    steps = steps_of(rows, tmp_path)
    assert dead_groups(steps) == [
        {"step": 1, "all right": 0.0, "all wrong": 0.0, "replaced": 0.5},
        {"step": 2, "all right": 0.0, "all wrong": 1.0, "replaced": 0.0},
    ]
    assert waste(steps) == {"all right": 0.0, "all wrong": pytest.approx(60 / 110), "cut off": 0.0}
    found = savings(steps, skipped=6)
    assert [(part["name"], part["count"]) for part in found] == [
        ("problems passed over", "6"), ("dead groups replaced", "1"), ("completions not used", "1"),
    ]  # fmt: skip
    assert "about 14 completions with 220 tokens were not sampled" in found[0]["meaning"]  # 7 / 3 and 110 / 3 a group
    assert "2 completions with 40 tokens were set aside" in found[1]["meaning"]
    assert "43% fewer tokens" in found[2]["meaning"]  # 30 of 70
    assert savings(steps_of([rollout(1, "a", True, 0.5)], tmp_path), skipped=0) == []


@pytest.mark.parametrize(
    ("rights", "name"),
    [
        ([0], "never solved"), ([0, 0, 0], "never solved"), ([4], "always solved"), ([4, 4], "always solved"),
        ([2], "in between"), ([1, 2], "improving"), ([2, 1], "slipping"), ([2, 2], "in between"),
        ([0, 4, 1], "improving"), ([3, 0, 2], "slipping"), ([1, 1, 1, 2], "in between"), ([1, 1, 2, 2], "improving"),
    ],
)  # fmt: skip
def test_the_course_of_a_problem_compares_its_halves(rights: list[int], name: str):
    assert course_of([(step, right, 4) for step, right in enumerate(rights)]) == name


def test_every_sample_of_training_counts_for_its_problem(tmp_path: Path):
    rows = [
        *(rollout(1, "a", i < 1, 0.5) for i in range(4)), *(rollout(1, "b", False, 0.0) for _ in range(4)),
        *(rollout(7, "a", i < 3, 0.5) | {"used": False} for i in range(4)),
    ]  # fmt: skip
    log = RolloutLog(tmp_path / "rollouts.jsonl")
    steps_of(rows, tmp_path)
    log.update()
    first, second = problem_list(log)
    assert first == {
        "id": "a", "question": "q", "visits": 2, "right": 4, "samples": 8, "course": "improving",
        "points": [(1, 1, 4), (7, 3, 4)],
    }  # fmt: skip
    assert (second["id"], second["course"], second["right"]) == ("b", "never solved", 0)


def test_a_long_course_is_added_up():
    visits = [(step, 1, 4) for step in range(POINTS * 2 + 1)]
    assert thinned(visits[:POINTS]) == visits[:POINTS]
    assert thinned(visits)[0] == (2, 3, 12)
    assert sum(right for _, right, _ in thinned(visits)) == len(visits)


def test_rescues_come_from_events_or_from_the_summary(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    rescue = {"step": 8, "text": "t", "undone": [5, 8], "back_to": 4, "changed": {"grpo.learning_rate": 1e-5}}
    assert RunRecords(folder).rescues == []
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "rescues": [rescue]}))
    assert RunRecords(folder).rescues == [rescue]
    (folder / "events.jsonl").write_text(json.dumps({**rescue, "step": 9, "name": "rescue"}) + "\n")
    records = RunRecords(folder)
    assert records.rescues == [{**rescue, "step": 9}]
    assert records.undone == {5, 6, 7, 8}
    assert records.figures()["events"] == []  # told once


def test_rollouts_written_without_grades_take_them_from_their_rewards(tmp_path: Path):
    folder = write_run(tmp_path / "run", rollouts=0)
    row = {"step": 1, "id": "a", "question": "q", "gold": "4", "completion": "4", "answer": "4", "advantage": 0.0}
    paid = {"correctness_reward": 1.0, "format_reward": 0.0}
    rows = [
        {**row, "how": "closing", "rewards": paid, "tokens": 3, "finished": True},
        {
            **row, "how": "closing", "rewards": {"own": 0.0}, "tokens": 1, "finished": True,
            "correct": True, "strict": False,
        },
    ]  # fmt: skip
    for group in ([rows[0]], [rows[1]]):
        (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in group))
        assert RunRecords(folder).figures()["dead"] == [{"step": 1, "all right": 1.0, "all wrong": 0.0}]
    assert with_grades(rows[0])["strict"] is False
    assert with_grades({**rows[0], "how": "hashes"})["strict"] is True
    assert with_grades(rows[1]) == rows[1]


# -- Pages ------------------------------------------------------------------------------------------------------


def test_a_run_that_goes_on_is_read_as_far_as_it_is(tmp_path: Path):
    folder = write_run(tmp_path / "run", finished=False)
    with (folder / "rollouts.jsonl").open("a") as file:
        file.write('{"step": 6, "id": "half a li')
    data = page_data([folder])
    assert data["state"] == "not finished: run"
    (run,) = data["runs"]
    assert len(run["rollouts"]["step"]) == 40
    assert [point["step"] for point in run["dev"]] == [0, 4]
    assert all(cell["after"] is None for cell in run["test"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("a: b\n")
    assert page_data([tmp_path / "empty"])["runs"][0]["rollouts"]["step"] == []


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is not a run folder"):
        write_report([tmp_path], tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 10**30, float("nan"), True, [[1]], {"a": 1}])
@pytest.mark.parametrize("name", ["rollouts", "metrics", "events", "eval/before"])
def test_a_page_is_made_or_its_records_are_damaged(tmp_path: Path, name: str, value: Any):
    """Whatever stands in the place of a value, there is no other error, and the data are JSON that a browser reads."""
    folder = write_run(tmp_path / "run", rollouts=6)
    path = folder / f"{name}.jsonl"
    lines = path.read_text().splitlines()
    for key in json.loads(lines[0]):
        path.write_text("".join(f"{line}\n" for line in [lines[0], json.dumps({**json.loads(lines[-1]), key: value})]))
        data = None
        with contextlib.suppress(UserError):
            data = page_data([folder])
        json.loads(as_json(data), parse_constant=pytest.fail)


def test_what_a_model_wrote_cannot_leave_its_place(tmp_path: Path):
    text = page(page_data([write_run(tmp_path / "run")]))
    assert "<img src=x" not in text
    assert text.count("document.title=") == 0  # all inside the packed data, which have no markup
    assert text.count("</script>") == 3  # data, plotly, scripts
    start = text.index('id="data" type="application/gzip">') + len('id="data" type="application/gzip">')
    content = text[start : text.index("</script>", start)]
    assert re.fullmatch("[A-Za-z0-9+/]*=*", content)
    assert json.loads(unpacked(content))["runs"][0]["rollouts"]["completion"][3] == HOSTILE


def test_runs_are_compared_on_the_same_problems(tmp_path: Path):
    runs = [RunRecords(write_run(tmp_path / name, after_right=right)) for name, right in (("a", 2), ("b", 4))]
    assert compare(runs) == [{"first": "a", "second": "b", "fixed": 2, "broken": 0, "p_value": 0.5}]
    (tmp_path / "b" / "eval" / "after.jsonl").write_text("")
    assert compare([runs[0], RunRecords(tmp_path / "b")]) == []
