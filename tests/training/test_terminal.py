"""The live view of a run in progress."""

import dataclasses
import io
from typing import Any

import pyte
import pytest
import rich.console

from tiny_math_solver.runs.records import RolloutRow
from tiny_math_solver.training.live_view import LiveView, StepReport, show_step, sparkline, step_line, training_console

LOGS = {
    "reward": 1.02, "rewards/correctness_reward/mean": 0.66, "rewards/format_reward/mean": 0.36,
    "completions/mean_length": 36.0, "frac_reward_zero_std": 0.25, "time/rollout": 0.5, "time/update": 0.5,
}  # fmt: skip
DEV = [
    {"step": step, "accuracy": accuracy, "strict_accuracy": 0.5, "low": 0.5, "high": 0.7}
    for step, accuracy in ((0, 0.08), (4, 0.61))
]
SAMPLE: RolloutRow = {
    "step": 6, "id": "1", "question": "What is 2+2?", "gold": "4", "completion": "\x1b[31m2+2=4\n#### 4",
    "answer": "4", "how": "hashes", "rewards": {"correctness_reward": 1.0, "format_reward": 0.5}, "advantage": 1.0,
    "tokens": 12, "finished": True, "correct": True, "strict": True,
}  # fmt: skip
REPORT = StepReport(6, 24, 12.0, LOGS, DEV, 128, SAMPLE)


def screen(**settings: Any) -> str:
    file = io.StringIO()
    terminal = rich.console.Console(file=file, force_terminal=True, width=110, **settings)
    with LiveView(terminal) as view:
        show_step(view, REPORT)
        view.say("a [bold]line[/bold] that is no markup")
    return file.getvalue()


def test_the_live_view_says_how_the_run_is_doing():
    shown = screen(no_color=True)
    for part in (
        "step 6 of 24   12 s, 36 s left", "1.02   correctness 0.66   format 0.36", "61.0% (50.0%–70.0%)", "▁▅",
        "36 per completion, 9,216 per second", "25% without a gradient", "rollout 50%", "update 50%",
        "reward 1.5, read 4 (hashes), gold 4", "#### 4", "a [bold]line[/bold] that is no markup",
    ):  # fmt: skip
        assert part in shown
    assert "\x1b[31m2+2" not in shown  # what a model writes does not colour the screen


@pytest.mark.parametrize("height", [4, 8, 10, 14, 24, 60])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_on_a_terminal_of_any_size_nothing_of_the_view_stays_behind(height: int, width: int):
    """A view higher than the screen cannot be erased: half of it would stay, once for every step."""
    file, emulated = io.StringIO(newline=""), pyte.HistoryScreen(width, height, history=1000)
    with LiveView(rich.console.Console(file=file, force_terminal=True, width=width, height=height)) as view:
        for step in range(6, 12):
            show_step(view, dataclasses.replace(REPORT, step=step))
            drawn = len(view.screen.render_lines(view.board))
            assert drawn < height
        view.say("over")
    pyte.Stream(emulated).feed(file.getvalue().replace("\n", "\r\n"))
    rows = [*emulated.history.top, *(emulated.buffer[row] for row in range(height))]
    lines = ["".join(row[column].data for column in range(width)).rstrip() for row in rows]
    assert [line for line in lines if line] == ["over"]


def test_a_line_a_step_has_no_control_characters():
    assert (
        step_line(REPORT)
        == "step 6/24  reward 1.02  correct 66.0%  format 72.0%  tokens 36  no-gradient groups 25%  12 s"
    )
    assert step_line(StepReport(6, 24, 12.0, LOGS | {"dev/accuracy": 0.61}, DEV, 128)).endswith("12 s  dev 61.0%")


def test_plain_lines_where_nobody_looks_and_none_where_asked_to_be_quiet(capsys):
    for quiet, expected in ((False, ["hello", step_line(REPORT)]), (True, [])):
        with training_console(quiet) as console:
            console.say("hello")
            show_step(console, REPORT)
        assert capsys.readouterr().out.splitlines() == expected


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch):
    assert "\x1b[36m" in screen()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[36m" not in screen()


def test_a_sparkline_has_a_block_a_number():
    assert sparkline([0.0, 0.5, 0.99, 1.0]) == "▁▅██"
    assert sparkline([]) == ""
