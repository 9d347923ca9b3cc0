"""The forecast by a clock of the test's own: how many problems it asks, what it says of them, and what it refuses."""

from types import SimpleNamespace
from typing import Any

import pytest

from helpers.paths import QUICKSTART
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.evaluation.evaluate import EvaluationRecord
from tiny_math_solver.evaluation.statistics import wilson_interval
from tiny_math_solver.preflight import forecast as module
from tiny_math_solver.preflight.forecast import FEWEST, Forecast, enough_to_refuse, forecast
from tiny_math_solver.preflight.pace import Duration, Pace
from tiny_math_solver.rollouts.speed import DecodeSpeed, measured
from tiny_math_solver.support.console import CollectingConsole

HOUR = 3600.0


def record(problem: str = "p", *, correct: bool = False, how: str = "hashes", finished: bool = True) -> Any:
    rewards: Any = {"correctness_reward": 1.0 * correct, "format_reward": 0.5 * (how == "hashes")}
    return EvaluationRecord(problem, "q", "1", "c", "1", how, correct, correct, 10, finished, rewards=rewards)


class Machine:
    """A model that takes `seconds` a completion, by its own clock, and answers each problem by `answer`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, answer: Any = None, limit: float = 20.0):
        self.monkeypatch, self.now, self.seconds = monkeypatch, 0.0, seconds
        self.rounds: list[int] = []
        self.answer = answer or (lambda problem, sample: {"correct": sample % 2 == 0})
        self.config = load_config(QUICKSTART, ["--evaluation.forecast_seconds", str(limit)])
        monkeypatch.setattr(module, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module, "sample", self.sample)

    def sample(
        self, rollouts: Any, problems: Any, prompt: Any, grader: Any, samples: int, sampling: Any, on_done: Any
    ) -> list[Any]:
        self.rounds.append(len(problems))
        self.now += self.seconds * samples * len(problems)
        on_done(samples * len(problems))
        return [record(p.id, **self.answer(int(p.id), i)) for p in problems for i in range(samples)]

    def ask(self, *, is_measured: bool = True, run_takes: float = HOUR) -> Forecast:
        train = [SimpleNamespace(id=str(i)) for i in range(2000)]
        prepared: Any = SimpleNamespace(config=self.config, splits=SimpleNamespace(train=train), plan=None)
        generation = SimpleNamespace(grader=None)
        trainer: Any = SimpleNamespace(rollouts=None, sampling=None, generation=generation)
        decode = DecodeSpeed(0.0, self.seconds / 10, 512) if is_measured else None
        pace = Pace(decode, 1.0, 10, 10.0)
        self.monkeypatch.setattr(
            Pace, "run", lambda pace, plan: Duration(run_takes, 0.0, 0.0, 0.0, 0.0) if pace.decode else None
        )
        found, after = forecast(prepared, trainer, pace, CollectingConsole())
        assert found is not None
        assert after.asking(1) == pytest.approx(self.seconds)  # the pace that was seen
        return found


def test_as_many_problems_as_fit_the_time_are_asked_in_rising_rounds(monkeypatch: pytest.MonkeyPatch):
    machine = Machine(monkeypatch, seconds=20 / 8 / 100.5)  # the time is enough for 100 problems of 8 samples
    found = machine.ask()
    assert machine.rounds == [16, 32, 52]
    assert found.seconds <= 20
    fast = Machine(monkeypatch, seconds=1e-6)
    assert len(fast.ask().groups) == 128  # more would tell little more


def test_a_slow_machine_asks_a_few_problems_once(monkeypatch: pytest.MonkeyPatch):
    machine = Machine(monkeypatch, seconds=30.0)
    assert len(machine.ask().groups) == FEWEST
    assert machine.rounds == [FEWEST]


def test_a_pace_that_was_never_measured_begins_with_a_few(monkeypatch: pytest.MonkeyPatch):
    """transformers' generate is not tried before it is asked."""
    machine = Machine(monkeypatch, seconds=20 / 8 / 40)
    machine.ask(is_measured=False)
    assert machine.rounds[0] == FEWEST
    assert 30 <= sum(machine.rounds) <= 40


def test_a_short_run_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch):
    machine = Machine(monkeypatch, seconds=0.01)
    found = machine.ask(run_takes=100.0)  # 2 % are 2 seconds
    assert found.seconds <= 2.0
    assert 20 <= len(found.groups) <= 25


def test_no_time_is_no_forecast(monkeypatch: pytest.MonkeyPatch):
    machine = Machine(monkeypatch, seconds=0.01, limit=0)
    prepared: Any = SimpleNamespace(config=machine.config, splits=SimpleNamespace(train=[]), plan=None)
    pace = Pace(None, 1.0, 10, 10.0)
    assert forecast(prepared, SimpleNamespace(), pace, CollectingConsole()) == (None, pace)  # type: ignore[arg-type]
    assert machine.rounds == []


def test_the_same_problems_feed_the_history_on_any_machine(monkeypatch: pytest.MonkeyPatch):
    slow, fast = (Machine(monkeypatch, seconds=s).ask().reproducible_outcomes for s in (30.0, 1e-6))
    assert slow == fast == [(str(i), 4, 8) for i in range(FEWEST)]


# -- Verdicts ---------------------------------------------------------------------------------------------------

NOTHING: Any = lambda problem, sample: {"how": "none"}  # noqa: E731


def test_three_steps_of_problems_without_a_reward_are_needed_to_refuse(monkeypatch: pytest.MonkeyPatch):
    """16 problems a step: with none of 48, fewer than one a step has a reward, with 95 % confidence."""
    machine = Machine(monkeypatch, seconds=1e-6, answer=NOTHING)
    assert enough_to_refuse(machine.config) == 48
    assert "none of 1024 completions earns a reward" in machine.ask().hopeless
    assert (1 - 1 / 16) ** 48 < 0.05 < (1 - 1 / 16) ** 44
    few = load_config(
        QUICKSTART, ["--grpo.per_device_train_batch_size", "4", "--grpo.gradient_accumulation_steps", "2"]
    )
    assert enough_to_refuse(few) == 16  # one problem a step


def test_thin_evidence_refuses_nothing_and_says_so(monkeypatch: pytest.MonkeyPatch):
    found = Machine(monkeypatch, seconds=30.0, answer=NOTHING).ask()
    assert found.hopeless == ""
    assert "none of 32 completions earns a reward" in found.doubt
    assert "4 problems are too few to refuse the run, which takes 48" in found.doubt


def test_a_suspicion_is_pursued_for_the_whole_time(monkeypatch: pytest.MonkeyPatch):
    """A run that learns nothing costs more than the two percent that a sound one is asked to wait."""
    machine = Machine(monkeypatch, seconds=20 / 8 / 60, answer=NOTHING)
    found = machine.ask(run_takes=100.0)
    assert 2.0 < found.seconds <= 20.0
    assert found.hopeless


def test_doubt_is_lifted_by_one_group_with_a_gradient(monkeypatch: pytest.MonkeyPatch):
    answer = lambda problem, sample: {"how": "hashes" if (problem, sample) == (20, 3) else "none"}  # noqa: E731
    found = Machine(monkeypatch, seconds=0.01, answer=answer).ask()
    assert found.hopeless == found.doubt == ""
    assert found.dead == pytest.approx(1 - 1 / len(found.groups))


def test_the_uncertainty_is_said():
    right, wrong = record(correct=True), record()
    found = Forecast([[right, wrong], [right, right], [wrong, wrong], [right, wrong]], 1.0)
    assert found.dead_interval == wilson_interval(2, 4)
    low, high = found.pass_interval
    assert low < 0.5 < high
    said = str(found)
    assert f"50% of 8 sampled completions are right (95 % interval {low:.0%}–{high:.0%}" in said
    assert "50% (15%–85%) of the groups without a gradient" in said


def test_the_speed_of_a_step_is_a_line_through_two_sizes(monkeypatch: pytest.MonkeyPatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("tiny_math_solver.rollouts.speed.perf_counter", lambda: clock.now)

    def step(rows: int) -> None:
        clock.now += 0.04 + 0.001 * rows

    speed = measured(step, 64, 128)
    assert (speed.fixed, speed.per_row) == (pytest.approx(0.04), pytest.approx(0.001))
    assert speed.seconds(100, 10) == pytest.approx(10 * 0.14)
    assert speed.seconds(256, 10) == pytest.approx(2 * 10 * 0.168)  # in two turns
    assert measured(step, 4, 4).seconds(4, 1) == pytest.approx(0.044)
