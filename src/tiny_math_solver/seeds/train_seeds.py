"""Several seeds of one configuration: what is there is kept, the rest is trained, and one verdict is given over all."""

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_math_solver.config.schema import Config
from tiny_math_solver.evaluation.over_seeds import SeedResult, failed_line, seed_line, verdict_over
from tiny_math_solver.report import REPORT, write_report
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.resume import listed
from tiny_math_solver.seeds.folder import SEEDS, SeedsFolder
from tiny_math_solver.seeds.runs import SeedRuns, SignalledError, train_command
from tiny_math_solver.support.console import Console, printable
from tiny_math_solver.support.errors import EXIT_BAD_INPUT, EXIT_LEARNED_NOTHING, StoppedError, UserError
from tiny_math_solver.support.progress import about, in_words
from tiny_math_solver.training.plan import refuse_own_output

CODES = {  # of runs that ended without a result
    EXIT_BAD_INPUT: "stopped by an error",
    EXIT_LEARNED_NOTHING: "refused, or stopped by a guard",
    128 + 9: "killed, perhaps for want of memory",
}
LAST_WORDS = 300  # characters of the line that a failed run ended with


@dataclass
class TrainSeeds:
    """Trains `seeds` of a configuration as `tiny-math train ARGUMENTS` does, and gives the verdict over them.

    `load` reads the configuration, again before each run: it must not change in between. With two or more `gpus` there
    is a run on each. With `on_terminal` a run has the terminal to itself, else it prints into its log. `fresh` moves
    what is there aside, and trains all anew.
    """

    load: Callable[[], Config]
    arguments: Sequence[str]
    seeds: Sequence[int]
    console: Console
    gpus: Sequence[str] = ()
    on_terminal: bool = False
    fresh: bool = False
    failed: dict[int, int] = field(default_factory=dict)  # exit code by seed
    _aside: Path | None = None  # where earlier seeds have been moved
    _under_way: set[int] = field(default_factory=set)  # seeds whose run was started and has not ended
    _missing: list[int] = field(default_factory=list)
    _began: dict[int, float] = field(default_factory=dict)
    _took: list[float] = field(default_factory=list)  # seconds of each run that has ended

    def __post_init__(self) -> None:
        self.config = self.load()
        self.folder = SeedsFolder.beside(self.config.output_dir)

    def run(self) -> dict[str, Any]:
        """Train what is missing; returns the content of seeds.json.

        Raises UserError for bad input, and StoppedError if a signal stopped it or if not even one run could start.
        """
        refuse_own_output(self.config.with_grpo(output_dir=str(self.folder.path)))
        self.folder.check()
        with self.folder.left_as_found(), self.folder.locked():
            self._open()
            self._missing = [seed for seed in self.seeds if self._is_missing(seed)]
            runs = SeedRuns(
                self._command,
                self._log,
                self.folder.is_at_work,
                lambda seed: self.folder.result(seed) is not None,
                self._on_start,
                self._on_end,
                self.gpus,
            )
            try:
                runs.run(self._missing)
            except (SignalledError, StoppedError, UserError) as error:  # every run has ended
                stopped = self._stopped(error.number) if isinstance(error, SignalledError) else error
                if not self._has_begun():
                    self._withdraw()
                raise stopped from None
            record = self._write()
            begun = set(self.folder.begun())
            if shown := [self.folder.run_of(seed) for seed in self.seeds if seed in begun]:
                write_report(shown, self.folder.path / REPORT, {"title": self.folder.path.absolute().name, **record})
            return record

    def _open(self) -> None:
        """Go on in the folder that is there, or make it; one of another configuration is moved aside."""
        folder = self.folder
        changes = folder.changes(self.config) if folder.holds_run and not self.fresh else {}
        if changes:
            self.console.say(f"the seeds in {folder.path} have another configuration ({listed(changes)})")
        if self.fresh or changes or not folder.holds_run:
            if at_work := [seed for seed in folder.begun() if folder.is_at_work(seed)]:
                raise UserError(f"{folder.run_of(at_work[0])}: its run is still at work; stop it, or wait for its end")
            self._aside = folder.create()
        if self._aside:
            self.console.say(f"the earlier seeds in {folder.path} are now in {self._aside}")
        self._write()  # first: it makes the folder one of seeds
        if others := sorted(set(folder.begun()) - set(self.seeds)):
            self.console.say(f"not asked for, and not counted: seed {', '.join(map(str, others))} in {folder.path}")

    def _is_missing(self, seed: int) -> bool:
        result = self.folder.result(seed)
        if result is not None:
            self.console.say(f"{seed_line(result.row())} (finished earlier)")
        elif self.folder.is_at_work(seed):
            self.console.say(f"seed {seed}: its run, started by another command, is still at work; waiting for its end")
        return result is None

    # -- One run ------------------------------------------------------------------------------------------------

    def _command(self, seed: int) -> list[str]:
        date = None if self.config.prompt.date else self.folder.date()  # all seeds ask on the same day
        own = ["--grpo.seed", str(seed), "--grpo.output_dir", str(self.folder.run_of(seed))]
        return train_command([*self.arguments, *own, *(["--prompt.date", date] if date else [])])

    def _log(self, seed: int) -> Path | None:
        return None if self.on_terminal else self.folder.log_of(seed)

    def _on_start(self, seed: int) -> None:
        if self.load() != self.config:
            raise UserError("the configuration was changed while its seeds were being trained: undo the change")
        words = f"seed {seed}, {list(self.seeds).index(seed) + 1} of {len(self.seeds)}"
        if RunFolder(self.folder.run_of(seed)).holds_run:
            words += ", resumed"
        if self._took:
            left = len(self._missing) - len(self._took)
            words += f", {about(left / max(1, len(self.gpus)) * sum(self._took) / len(self._took))} to go"
        self.console.say(words + (f": see {self._log(seed)}" if self._log(seed) else ""))
        self._began[seed] = time.monotonic()
        self._under_way.add(seed)

    def _on_end(self, seed: int, code: int) -> None:
        self._under_way.discard(seed)
        result, seconds = self.folder.result(seed), "by another command"
        if seed in self._began:
            self._took.append(time.monotonic() - self._began[seed])
            seconds = in_words(self._took[-1])
        if result is None:
            self.failed[seed] = code if code >= 0 else 128 - code
            if not self._under_way and not self._has_begun():  # on another GPU a run may yet begin
                raise StoppedError(f"no seed could be started{self._last_words(seed)}", self.failed[seed])
            self.console.say(f"{failed_line(self._failure(seed))}{self._last_words(seed)}")
        else:
            self.console.say(f"{seed_line(result.row())} ({seconds})")
        self._write()

    def _has_begun(self) -> bool:
        return bool(self.folder.begun()) or any(map(self.folder.is_at_work, self.seeds))

    def _withdraw(self) -> None:
        """Remove what this command has written where not even one run has begun, and put earlier seeds back."""
        if CODES.keys() >= set(self.failed.values()):  # else a log may have a traceback
            for seed in self.seeds:
                self.folder.log_of(seed).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it is not there, or not empty
                    self.folder.run_of(seed).rmdir()
            (self.folder.path / SEEDS).unlink(missing_ok=True)
        if self._aside:
            rest = self.folder.put_back(self._aside)
            self.console.say(f"the earlier seeds are back in {self.folder.path}")
            if rest:
                self.console.say(f"the log of the failure is in {rest}")

    def _last_words(self, seed: int) -> str:
        """The last line that a run has printed; empty if that is on the terminal."""
        log = self._log(seed)
        if log is None or not log.is_file():
            return ""
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f": {printable(last.strip().removeprefix('tiny-math: '))[:LAST_WORDS]}"

    # -- The verdict --------------------------------------------------------------------------------------------

    def _write(self) -> dict[str, Any]:
        """Write seeds.json with what there is so far."""
        results = [result for seed in self.seeds if (result := self.folder.result(seed)) is not None]
        found = {result.seed for result in results}
        failed = [seed for seed in self.seeds if seed in self.failed and seed not in found]
        record = {
            "seeds": list(self.seeds),
            "verdict": self._verdict(results) or None,
            "runs": [result.row() for result in results],
            "failed": [self._failure(seed) for seed in failed],
            "unfinished": [seed for seed in self.seeds if seed not in found and seed not in failed],
        }
        self.folder.write_json(SEEDS, record)
        return record

    def _verdict(self, results: Sequence[SeedResult]) -> dict[str, Any]:
        try:
            return verdict_over(results)
        except ValueError:
            raise UserError(
                f"{self.folder.path}: its seeds were tested on different problems, so the files of the problems have "
                "changed; --no-resume trains all seeds anew"
            ) from None

    def _failure(self, seed: int) -> dict[str, Any]:
        code = self.failed[seed]
        return {"seed": seed, "exit_code": code, "why": f"{CODES.get(code, 'failed')} (exit code {code})"}

    def _stopped(self, number: int) -> StoppedError:
        done = sum(self.folder.result(seed) is not None for seed in self.seeds)
        name = signal.Signals(number).name
        return StoppedError(
            f"{name}: stopped with {done} of {len(self.seeds)} seeds finished; the same command goes on",
            128 + number,
        )
