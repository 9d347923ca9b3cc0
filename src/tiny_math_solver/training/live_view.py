"""What a training run prints while it goes on: a live view on a terminal, a line a step anywhere else."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tiny_math_solver.grading.rewards import FORMAT_REWARD
from tiny_math_solver.support.redaction import without_secrets

BLOCKS = "▁▂▃▄▅▆▇█"
SAMPLE_EVERY = 4  # steps between completions shown, long enough to read one
SAMPLE_LINES = 8
PARTS = {"rollout": "cyan", "reward": "yellow", "update": "magenta", "evaluation": "green"}  # of a step


@dataclass(frozen=True)
class News:
    """A step that is over: `logs` as in metrics.jsonl, dev evaluations so far, and one completion of it."""

    step: int
    steps: int
    seconds: float  # since training began
    logs: dict[str, float]
    dev: list[dict[str, float]]
    completions: int  # of this step
    sample: dict[str, Any] | None = None  # a row of rollouts.jsonl


def line(news: News) -> str:
    """A step as one line to grep in."""
    logs = news.logs
    parts = [
        f"step {news.step}/{news.steps}",
        f"reward {logs['reward']:.2f}",
        f"correct {logs['rewards/correctness_reward/mean']:.1%}",
        f"format {logs['rewards/format_reward/mean'] / FORMAT_REWARD:.1%}",
        f"tokens {logs['completions/mean_length']:.0f}",
        f"no-gradient groups {logs['frac_reward_zero_std']:.0%}",
        f"{news.seconds:.0f} s",
    ]
    if "dev/accuracy" in logs:
        parts.append(f"dev {logs['dev/accuracy']:.1%}")
    return "  ".join(parts)


class Output:
    """Where a run prints: `say` a line, `show` a step. A context, since a live view has to give the screen back."""

    def __init__(self, write: Callable[[str], Any]):
        self.write = write
        self.gone = False  # the terminal was closed, or what read the pipe has ended: a run goes on without

    def say(self, text: str) -> None:
        self.attempt(lambda: self.write(without_secrets(text)))

    def show(self, news: News) -> None:
        self.say(line(news))

    def attempt(self, printing: Callable[[], Any]) -> None:
        if not self.gone:
            try:
                printing()
            except OSError:
                self.gone = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        pass


def output(quiet: bool) -> Output:
    """A live view where somebody looks, plain lines into a file or pipe, nothing where asked to be quiet."""
    if quiet:
        return Output(lambda _: None)
    console = Console(file=sys.stdout, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console)
    return Output(lambda text: print(text, flush=True))


class LiveView(Output):
    """Lines scroll by above; below them stands how the run is doing."""

    def __init__(self, console: Console):
        super().__init__(lambda text: console.print(Text(text)))
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.sample: dict[str, Any] | None = None
        self.shown_at = -SAMPLE_EVERY

    def show(self, news: News) -> None:
        if news.sample and news.step - self.shown_at >= SAMPLE_EVERY:
            self.sample, self.shown_at = news.sample, news.step
        parts: list[Any] = [_board(news)]
        if self.sample:
            parts.append(_sample(self.sample))
        self.attempt(lambda: self.live.update(Group(*parts), refresh=True))

    def __enter__(self) -> Self:
        self.attempt(self.live.start)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.attempt(self.live.stop)


def _board(news: News) -> Panel:
    logs, left = news.logs, (news.steps - news.step) * news.seconds / max(1, news.step)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    grid.add_row("reward", f"{logs['reward']:.2f}   " + "   ".join(_rewards(logs)))
    if news.dev:
        last = news.dev[-1]
        grid.add_row(
            "dev",
            f"{last['accuracy']:.1%} ({last['low']:.1%}–{last['high']:.1%}), strict {last['strict_accuracy']:.1%}   "
            + sparkline([point["accuracy"] for point in news.dev]),
        )
    rollout = logs.get("time/rollout", 0.0)
    speed = f", {news.completions * logs['completions/mean_length'] / rollout:,.0f} a second" if rollout else ""
    grid.add_row("tokens", f"{logs['completions/mean_length']:.0f} a completion{speed}")
    grid.add_row("groups", f"{logs['frac_reward_zero_std']:.0%} without a gradient")
    grid.add_row("time", _shares({part: logs.get(f"time/{part}", 0.0) for part in PARTS}))
    title = f"step {news.step} of {news.steps}   {news.seconds:.0f} s, {left:.0f} s left"
    return Panel(grid, title=title, title_align="left")


def _rewards(logs: dict[str, float]) -> list[str]:
    names = [name.split("/")[1] for name in logs if name.startswith("rewards/") and name.endswith("/mean")]
    return [f"{name.removesuffix('_reward')} {logs[f'rewards/{name}/mean']:.2f}" for name in names]


def _shares(seconds: dict[str, float]) -> Text:
    """Where a step's time went, as a bar and in words."""
    total, text = sum(seconds.values()) or 1.0, Text()
    for part, spent in seconds.items():
        text.append("█" * round(20 * spent / total), style=PARTS[part])
    for part, spent in seconds.items():
        text.append(f"  {part} {spent / total:.0%}", style=PARTS[part])
    return text


def _sample(row: dict[str, Any]) -> Panel:
    lines = printable(row["completion"]).splitlines()
    text = "\n".join([*lines[:SAMPLE_LINES], *(["…"] if len(lines) > SAMPLE_LINES else [])])
    paid = sum(row["rewards"].values())
    found = f"read {row['answer']} ({row['how']})" if row["answer"] is not None else "no answer found"
    head = Text(row["question"] + "\n\n", style="dim")
    return Panel(
        Group(head, Text(text)), title=f"a completion: reward {paid:g}, {found}, gold {row['gold']}", title_align="left"
    )


def printable(text: str) -> str:
    """Text that cannot move the cursor or colour the screen, whatever a model writes."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def sparkline(shares: list[float]) -> str:
    """Numbers in [0, 1] as a row of blocks, a block each."""
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int(share * len(BLOCKS)))] for share in shares)
