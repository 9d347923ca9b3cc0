"""The console of a training run: a live view on a terminal, one line per step anywhere else."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import rich.console
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tiny_math_solver.config.rewards import DEFAULT, FORMAT_REWARD, RewardNames
from tiny_math_solver.runs.records import RolloutRow, total_reward
from tiny_math_solver.support.console import Console, QuietConsole, printable
from tiny_math_solver.support.progress import Advance, make_bar
from tiny_math_solver.training.step_metrics import STEP_PARTS

BLOCKS = "▁▂▃▄▅▆▇█"
SAMPLE_EVERY = 4  # steps for which a completion stays on screen, long enough to read it
SAMPLE_LINES = 8
PART_STYLES = dict(zip(STEP_PARTS, ("cyan", "yellow", "magenta", "green", "red"), strict=True))


@dataclass(frozen=True)
class StepReport:
    """A finished step: `logs` as in metrics.jsonl, dev evaluations so far, and one of its completions."""

    step: int
    steps: int
    seconds: float  # since training began
    logs: dict[str, float]
    dev: list[dict[str, float]]
    completions: int  # of this step
    sample: RolloutRow | None = None
    names: RewardNames = DEFAULT


def step_line(report: StepReport) -> str:
    """One step as one line, easy to grep."""
    logs, names = report.logs, report.names
    parts = [
        f"step {report.step}/{report.steps}",
        f"reward {logs['reward']:.2f}",
        f"correct {logs[names.right]:.1%}",
        *([f"format {logs[names.marked] / FORMAT_REWARD:.1%}"] if names.marked else []),
        f"tokens {logs['completions/mean_length']:.0f}",
        f"no-gradient groups {logs['frac_reward_zero_std']:.0%}",
        f"{report.seconds:.0f} s",
    ]
    if "dev/accuracy" in logs:
        parts.append(f"dev {logs['dev/accuracy']:.1%}")
    return "  ".join(parts)


def training_console(quiet: bool, is_verbose: bool = False) -> Console:
    """A live view on a terminal, plain lines into a file or pipe, nothing if asked to be quiet."""
    if quiet:
        return QuietConsole()
    screen = rich.console.Console(file=sys.stdout, highlight=False)
    is_live = screen.is_terminal and not screen.is_dumb_terminal
    return LiveView(screen, is_verbose=is_verbose) if is_live else Console(is_verbose=is_verbose)


def show_step(console: Console, report: StepReport) -> None:
    """Update the live view, or print a line where there is none."""
    if isinstance(console, LiveView):
        console.show(report)
    else:
        console.say(step_line(report))


class LiveView(Console):
    """Lines scroll by above; below them stands a board with the state of the run."""

    def __init__(self, screen: rich.console.Console, *, is_verbose: bool = False):
        super().__init__(is_verbose=is_verbose)
        self.screen = screen
        self.live = Live(console=screen, auto_refresh=False, transient=True)
        self.board: Any = Text()
        self.sample: RolloutRow | None = None
        self.shown_at = -SAMPLE_EVERY

    def write(self, text: str, end: str) -> None:
        self.screen.print(Text(text), end=end)

    @contextlib.contextmanager
    def progress(self, text: str, total: int | None = None) -> Iterator[Advance]:
        bar = make_bar(self.screen, auto_refresh=False)
        task = bar.add_task(text, total=total)

        def advance(done: int) -> None:
            bar.update(task, completed=done)
            self.attempt(lambda: self.live.update(bar, refresh=True))

        advance(0)
        try:
            yield advance
        finally:
            self.attempt(lambda: self.live.update(self.board, refresh=True))

    def show(self, report: StepReport) -> None:
        if report.sample and report.step - self.shown_at >= SAMPLE_EVERY:
            self.sample, self.shown_at = report.sample, report.step
        board = _board(report)
        whole = Group(board, _sample(self.sample)) if self.sample else board
        line = Text(step_line(report), no_wrap=True, overflow="ellipsis")
        self.board = next((each for each in (whole, board) if self._fits(each)), line)
        self.attempt(lambda: self.live.update(self.board, refresh=True))

    def _fits(self, board: Any) -> bool:
        """True if the terminal has room for `board` and a line above it: what is higher cannot be erased."""
        return len(self.screen.render_lines(board)) < self.screen.height

    def __enter__(self) -> Self:
        self.attempt(self.live.start)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.attempt(self.live.stop)


def _board(report: StepReport) -> Panel:
    logs, left = report.logs, (report.steps - report.step) * report.seconds / max(1, report.step)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    grid.add_row("reward", f"{logs['reward']:.2f}   " + "   ".join(_rewards(logs)))
    if report.dev:
        last = report.dev[-1]
        grid.add_row(
            "dev",
            f"{last['accuracy']:.1%} ({last['low']:.1%}–{last['high']:.1%}), strict {last['strict_accuracy']:.1%}   "
            + sparkline([point["accuracy"] for point in report.dev]),
        )
    rollout = logs.get("time/rollout", 0.0) + logs.get("time/reward", 0.0)  # a GPU decodes while others are graded
    speed = f", {report.completions * logs['completions/mean_length'] / rollout:,.0f} per second" if rollout else ""
    grid.add_row("tokens", f"{logs['completions/mean_length']:.0f} per completion{speed}")
    grid.add_row("groups", f"{logs['frac_reward_zero_std']:.0%} without a gradient")
    grid.add_row("time", _shares({part: logs.get(f"time/{part}", 0.0) for part in PART_STYLES}))
    title = f"step {report.step} of {report.steps}   {report.seconds:.0f} s, {left:.0f} s left"
    return Panel(grid, title=title, title_align="left")


def _rewards(logs: dict[str, float]) -> list[str]:
    names = [name.split("/")[1] for name in logs if name.startswith("rewards/") and name.endswith("/mean")]
    return [f"{name.removesuffix('_reward')} {logs[f'rewards/{name}/mean']:.2f}" for name in names]


def _shares(seconds: dict[str, float]) -> Text:
    """The time of a step by part, as a bar and in words."""
    total, text = sum(seconds.values()) or 1.0, Text()
    for part, spent in seconds.items():
        text.append("█" * round(20 * spent / total), style=PART_STYLES[part])
    for part, spent in seconds.items():
        text.append(f"  {part} {spent / total:.0%}", style=PART_STYLES[part])
    return text


def _sample(row: RolloutRow) -> Panel:
    lines = printable(row["completion"]).splitlines()
    text = "\n".join([*lines[:SAMPLE_LINES], *(["…"] if len(lines) > SAMPLE_LINES else [])])
    paid = total_reward(row)
    found = f"read {row['answer']} ({row['how']})" if row["answer"] is not None else "no answer found"
    head = Text(row["question"] + "\n\n", style="dim")
    return Panel(
        Group(head, Text(text)), title=f"a completion: reward {paid:g}, {found}, gold {row['gold']}", title_align="left"
    )


def sparkline(shares: list[float]) -> str:
    """Numbers in [0, 1] as a row of blocks, one per number."""
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int(share * len(BLOCKS)))] for share in shares)
