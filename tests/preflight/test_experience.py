"""Forecasts of whole runs: corrected by earlier runs, and compared with what was measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.runs import SHORT, run
from tiny_math_solver.cli import main
from tiny_math_solver.preflight.experience import DEAD, TOKENS, experience_for
from tiny_math_solver.preflight.outlook import Compared, Outlook, compared
from tiny_math_solver.preflight.pace import Course, Duration
from tiny_math_solver.preflight.run_forecast import RunForecast, Truth
from tiny_math_solver.runs.environment import machine
from tiny_math_solver.runs.records import as_recorded

CONFIG: dict[str, Any] = {
    "model": {"name": "embedded"},
    "problems": {"source": "embedded"},
    "grpo": {"learning_rate": 1e-3},
}
PARTS = {"before": 2.0, "rollouts": 10.0, "update": 20.0, "dev": 4.0, "after": 4.0, "rest": 0.0}
DURATION = Duration(**PARTS)
BASE = Course.unchanged(20.0, dead=0.1)
NOTHING = Outlook(dict.fromkeys(PARTS))


def earlier_run(
    folder: Path,
    config: dict[str, Any] = CONFIG,
    times: float = 1.0,
    lengths: tuple[float, ...] = (20.0, 30.0, 40.0),
    **changes: Any,
) -> Path:
    """A run that took `times` the seconds that hindsight computed, with a forecast of 20 tokens and 1 GB."""
    folder.mkdir(parents=True)
    environment = machine() | changes
    computed = {"seconds": PARTS, "memory": 1_000_000_000, "tokens": 20.0, "dead": 0.1}
    measured = {
        "seconds": {part: seconds * times for part, seconds in PARTS.items()} | {"rest": 3.0},
        "memory": 1_200_000_000,
        "tokens": sum(lengths) / len(lengths),
        "dead": 0.5,
        "hindsight": PARTS,
    }
    rows = [{"step": step, TOKENS: length, DEAD: 0.1 * step} for step, length in enumerate(lengths, 1)]
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps(environment))
    run_forecast = {"computed": computed, "expected": computed, "learned_from": [], "steps": len(lengths)}
    (folder / "forecast.json").write_text(json.dumps({"run": run_forecast}))
    (folder / "summary.json").write_text(json.dumps({"steps": len(lengths), "measured": measured}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_without_earlier_runs_a_forecast_stays_as_it_is(tmp_path: Path):
    experience = experience_for(tmp_path / "none" / "run", CONFIG, machine())
    assert experience.names == []
    assert experience.course(BASE, 5) == BASE
    assert experience.duration(DURATION, 5) == DURATION
    assert experience.memory(7) == 7


def test_each_part_of_the_time_is_corrected_by_what_hindsight_left_unexplained(tmp_path: Path):
    earlier_run(tmp_path / "a", times=1.5)
    experience = experience_for(tmp_path / "run", CONFIG, machine())
    found = experience.duration(DURATION, steps=6)  # the earlier run had 3, and 3 s beside the parts
    assert found == Duration(before=3.0, rollouts=15.0, update=30.0, dev=6.0, after=6.0, rest=6.0)
    assert experience.memory(500) == 600


def test_completions_grow_as_in_the_same_number_of_steps_of_an_earlier_run(tmp_path: Path):
    earlier_run(tmp_path / "a")
    experience = experience_for(tmp_path / "run", CONFIG, machine())
    short = experience.course(BASE, steps=2)
    assert (short.before, short.training, short.after) == pytest.approx((20.0, 25.0, 25.0))
    assert short.dead == pytest.approx(0.15)
    longer = experience.course(BASE, steps=6)  # the last three, a mean of 30, stand for what did not come
    assert longer.training == pytest.approx(30.0)
    assert experience.course(Course.unchanged(10.0), steps=2).training == pytest.approx(12.5)


def test_the_runs_that_differ_least_are_learned_from(tmp_path: Path):
    other = CONFIG | {"grpo": {"learning_rate": 5e-4, "temperature": 0.7}}
    for name in "abc":
        earlier_run(tmp_path / name, other, times=9.0)
    for name in "xyz":
        earlier_run(tmp_path / name, times=1.1)
    experience = experience_for(tmp_path / "run", CONFIG, machine())
    assert experience.names == ["x", "y", "z"]
    assert experience.duration(DURATION, 3).update == pytest.approx(22.0)


def test_lengths_on_other_problems_tell_nothing_and_speeds_do(tmp_path: Path):
    earlier_run(tmp_path / "a", CONFIG | {"problems": {"source": "countdown"}}, times=2.0)
    experience = experience_for(tmp_path / "run", CONFIG, machine())
    assert experience.course(BASE, 3) is BASE
    assert experience.duration(DURATION, 3).update == pytest.approx(40.0)
    basis = RunForecast(NOTHING, NOTHING, experience.names, 3, has_learned_course=False).basis
    assert basis == "if completions stay as long (speeds as in 1 earlier run beside it)"


@pytest.mark.parametrize(
    "other", [{"processor": "another"}, {"torch_threads": 64}, {"gpu": "a GPU"}, {"processes": 2}], ids=str
)
def test_a_run_of_another_machine_does_not_count(other: dict[str, Any], tmp_path: Path):
    earlier_run(tmp_path / "a", **other)
    assert experience_for(tmp_path / "run", CONFIG, machine()).names == []


def test_a_run_of_another_model_does_not_count(tmp_path: Path):
    earlier_run(tmp_path / "a", CONFIG | {"model": {"name": "another"}})
    earlier_run(tmp_path / "b", CONFIG | {"lora": {"r": 16}})
    assert experience_for(tmp_path / "run", CONFIG | {"lora": {"r": 8}}, machine()).names == ["b"]


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "forecast.json", "summary.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"run": 3, "measured": {"seconds": 1}, "steps": "x"}\n'])
def test_a_damaged_run_is_passed_over(name: str, content: str, tmp_path: Path):
    (earlier_run(tmp_path / "a") / name).write_text(content)
    assert experience_for(tmp_path / "run", {"model": {"name": "x"}}, machine()).names == []


def test_only_what_both_know_is_compared():
    """The test before training may come from an earlier run: then its time counts on neither side."""
    forecast = Outlook({**PARTS, "before": 50.0}, 100, 20.0, 0.25)
    found = Outlook({**PARTS, "before": None, "update": 10.0}, 80, None, 0.5)
    time, memory, dead = compared(forecast, found)
    assert (time.forecast, time.measured) == (38.0, 28.0)
    assert memory.error == pytest.approx(0.25)
    assert (dead.error, dead.off) == (-0.25, "-25 points")
    assert str(Compared("tokens", 30.0, 40.0)) == "tokens 30, measured 40 (-25 %)"


def test_nothing_measured_is_no_division_by_zero():
    found = Outlook(dict.fromkeys(PARTS), None, 0.0, 0.0)
    assert [each.name for each in compared(Outlook(PARTS, 1, 1.0, 0.0), found)] == ["dead groups"]


def test_a_run_ends_with_what_it_had_forecast_and_the_next_one_learns_from_it(tmp_path: Path):
    first = run(tmp_path / "first", *SHORT)
    assert any(line.startswith("expected: ") and line.endswith("if completions stay as long") for line in first.lines)
    measured = first.summary["measured"]
    assert first.summary["best_step"] == 0  # so the test after training is that before it
    assert all(seconds > 0 for part, seconds in measured["seconds"].items() if part != "after")
    assert measured["seconds"]["after"] is None
    assert measured["tokens"] == pytest.approx(first.summary["completion_tokens"] / first.summary["completions"])
    row = json.loads((first.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert measured["dead"] == row[DEAD]
    assert sum(measured["seconds"][part] for part in ("rollouts", "update", "dev", "rest")) == pytest.approx(
        first.summary["train_seconds"]
    )
    second = run(tmp_path / "second", *SHORT, "--grpo.seed", "7")
    assert any(line.endswith("as in 1 earlier run beside it") for line in second.lines)
    expected = json.loads((second.folder / "forecast.json").read_text())["run"]["expected"]
    assert expected["dead"] == measured["dead"]
    assert expected["seconds"]["rest"] == pytest.approx(measured["seconds"]["rest"])
    truth = Truth.of(second.folder)
    assert truth
    assert [each.name for each in truth.expected] == ["time", "memory", "tokens", "dead groups"]
    assert second.summary["measured"]["seconds"]["before"] is None  # recalled


def test_forecasts_lists_runs_with_medians(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    earlier_run(tmp_path / "a")
    earlier_run(tmp_path / "deep" / "b", lengths=(10.0, 10.0))
    assert main(["forecasts", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["time", "memory", "tokens", "dead", "groups", "earlier", "runs"]
    assert lines[1].split()[1:] == ["-7", "%", "-17", "%", "-33", "%", "-40", "points", "0"]
    assert lines[2].split()[1:] == ["-7", "%", "-17", "%", "+100", "%", "-40", "points", "0"]
    assert lines[3].split() == ["median", "7", "%", "17", "%", "67", "%", "40", "points", "2", "runs"]


def test_forecasts_of_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["forecasts", str(tmp_path)]) == 2
    assert "no finished run with a forecast" in capsys.readouterr().err
    assert main(["forecasts", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    shutil.rmtree(earlier_run(tmp_path / "a") / "none", ignore_errors=True)
    (tmp_path / "a" / "summary.json").write_text("{}")  # of an earlier version
    assert main(["forecasts", str(tmp_path / "a")]) == 2


def test_a_run_that_logs_no_step_ends_as_well(tmp_path: Path):
    """The end of a run must not fail for want of metrics."""
    result = run(tmp_path / "run", *SHORT, "--grpo.logging_steps", "5")
    assert result.summary["measured"]["tokens"] is None
    truth = Truth.of(result.folder)
    assert truth
    assert [each.name for each in truth.expected] == ["time", "memory"]
    assert experience_for(tmp_path / "next", as_recorded(result.config), machine()).names == []


def test_steps_that_learn_again_from_earlier_completions_have_no_length(tmp_path: Path):
    folder = earlier_run(tmp_path / "a", lengths=(20.0, 40.0))
    again = [json.dumps({"step": step, "loss": 0.1}) for step in (3, 4)]
    (folder / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text() + "\n".join([*again, ""]))
    course = experience_for(tmp_path / "run", CONFIG, machine()).course(BASE, steps=4)
    assert (course.training, course.after) == (30.0, 30.0)


def test_a_row_of_several_steps_stands_for_all_of_them(tmp_path: Path):
    """With grpo.logging_steps 10 a run has a tenth of the rows; counting these for steps made the end weigh most."""
    folder = earlier_run(tmp_path / "a", lengths=(20.0, 30.0, 40.0, 50.0))
    rows = [{"step": 2, TOKENS: 25.0, DEAD: 0.1}, {"step": 4, TOKENS: 45.0, DEAD: 0.3}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    experience = experience_for(tmp_path / "run", CONFIG, machine())
    assert experience.course(BASE, steps=4).training == pytest.approx(35.0)
    assert experience.course(BASE, steps=2).after == pytest.approx(25.0)
    assert experience.course(BASE, steps=4).dead == pytest.approx(0.2)


def test_dead_groups_are_learned_before_they_are_replaced(tmp_path: Path):
    """Metrics have the share that is left after replacing, from which another number of rounds leaves another."""
    folder = earlier_run(tmp_path / "a", CONFIG | {"rollouts": {"replace_dead": 1}})
    rows = [{"step": step, TOKENS: 20.0, DEAD: 0.25} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert experience_for(tmp_path / "run", CONFIG, machine()).course(BASE, 3).dead == pytest.approx(0.5)


def test_a_run_that_went_on_beyond_its_forecast_is_not_compared_with_it(tmp_path: Path):
    folder = earlier_run(tmp_path / "a")
    assert Truth.of(folder)
    summary = json.loads((folder / "summary.json").read_text()) | {"steps": 48}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert Truth.of(folder) is None
    assert experience_for(tmp_path / "run", CONFIG, machine()).names == []


def test_without_samples_of_the_base_model_memory_alone_is_forecast(tmp_path: Path):
    result = run(tmp_path / "run", *SHORT, "--evaluation.forecast_seconds", "0")
    line = next(line for line in result.lines if line.startswith("expected: "))
    assert line.endswith(" of memory")
