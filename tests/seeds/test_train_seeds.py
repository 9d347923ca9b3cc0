"""Several seeds in one folder: what is kept, what is trained, what is refused. Runs are made up, but processes."""

import json
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.made_up_run import write_run
from helpers.paths import QUICKSTART
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.seeds import train_seeds
from tiny_math_solver.seeds.folder import SeedsFolder
from tiny_math_solver.seeds.train_seeds import TrainSeeds
from tiny_math_solver.support.console import CollectingConsole
from tiny_math_solver.support.errors import StoppedError, UserError

# in the place of `tiny-math train`: takes the run that was made for the seed to the output folder, and its exit code
CHILD = """
import shutil, sys, time
from pathlib import Path
made = Path(sys.argv[1])
typed = dict(zip(sys.argv[2::2], sys.argv[3::2]))
source = made / typed["--grpo.seed"]
print("tiny-math: the last words of", typed["--grpo.seed"])
with (made / "started").open("a", encoding="utf-8") as file:
    file.write(" ".join(sys.argv[2:]) + "\\n")
if (made / f"{typed['--grpo.seed']}.late").exists():
    time.sleep(2)
if source.exists():
    shutil.copytree(source, typed["--grpo.output_dir"], dirs_exist_ok=True)
code = made / f"{typed['--grpo.seed']}.code"
sys.exit(int(code.read_text()) if code.exists() else 0)
"""


class Bench:
    """Makes runs of four test problems, of which one was right before, and has them trained."""

    def __init__(self, folder: Path):
        self.out, self.made = folder / "out", folder / "made"
        self.made.mkdir()
        self.folder = SeedsFolder.beside(self.out).path
        self.overrides = ["--grpo.output_dir", str(self.out), "--grpo.seed", "7"]

    def make(self, seed: int, after_right: int = 3, finished: bool = True, code: int = 0, **changes: Any) -> None:
        """The run of a seed, and the exit code of the process that trains it."""
        run = write_run(self.made / f"{seed}", finished=finished, after_right=after_right)
        config = load_config(QUICKSTART, self.overrides).with_grpo(seed=seed, **changes)
        (run / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        if finished:
            summary = json.loads((run / "summary.json").read_text()) | {"best_reward": 1.5}
            (run / "summary.json").write_text(json.dumps(summary))
        (self.made / f"{seed}.code").write_text(f"{code}")

    def train(self, seeds: Sequence[int], *overrides: str, **options: Any) -> dict[str, Any]:
        self.console = CollectingConsole()
        typed = [*self.overrides, *overrides]
        return TrainSeeds(lambda: load_config(QUICKSTART, typed), typed, seeds, self.console, **options).run()

    def started(self) -> list[str]:
        """The seeds of the processes that were started."""
        return [line.split("--grpo.seed ")[-1].split()[0] for line in self.commands()]

    def commands(self) -> list[str]:
        file = self.made / "started"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr(
        train_seeds, "train_command", lambda arguments: [sys.executable, "-c", CHILD, str(made.made), *arguments]
    )
    return made


def test_seeds_are_trained_once_and_more_of_them_join(bench: Bench):
    """Catches seeds that are trained again, and a verdict that forgets the earlier ones."""
    for seed, right in ((7, 3), (8, 4), (9, 2)):
        bench.make(seed, right)
    record = bench.train([7, 8])
    assert [row["after"] for row in record["runs"]] == [0.75, 1.0]
    assert record["verdict"]["gain"] == pytest.approx((0.5 + 0.75) / 2)
    log = bench.folder / "seed-7.log"
    assert bench.console.lines[0] == f"seed 7, 1 of 2: see {log}"
    assert log.read_text() == "tiny-math: the last words of 7\n"
    assert bench.console.lines[1].startswith("seed 7: 25.0% → 75.0%, fixed 2, broken 0, p = 0.5 (")
    assert bench.console.lines[2].startswith("seed 8, 2 of 2, ")
    record = bench.train([7, 8, 9])
    assert bench.started() == ["7", "8", "9"]
    assert bench.console.lines[:2] == [
        "seed 7: 25.0% → 75.0%, fixed 2, broken 0, p = 0.5 (finished earlier)",
        "seed 8: 25.0% → 100.0%, fixed 3, broken 0, p = 0.25 (finished earlier)",
    ]
    assert [row["seed"] for row in record["runs"]] == [7, 8, 9]
    assert json.loads((bench.folder / "seeds.json").read_text()) == record
    assert (record["failed"], record["unfinished"]) == ([], [])
    page = (bench.folder / "report.html").read_text(encoding="utf-8")
    assert "<title>out-seeds</title>" in page


def test_seeds_that_are_not_asked_for_are_not_counted_and_said(bench: Bench):
    for seed in (7, 8):
        bench.make(seed)
    bench.train([7, 8])
    record = bench.train([8])
    assert [row["seed"] for row in record["runs"]] == [8]
    assert bench.console.lines[0] == f"not asked for, and not counted: seed 7 in {bench.folder}"


def test_another_configuration_moves_the_seeds_aside(bench: Bench):
    """Catches a verdict over runs of two configurations; the folder of the output and the seed may differ."""
    bench.make(7)
    bench.train([7])
    bench.make(7, learning_rate=0.002)
    bench.train([7], "--grpo.learning_rate", "2e-3")
    assert bench.console.lines[:2] == [
        f"the seeds in {bench.folder} have another configuration (grpo.learning_rate: 0.001 → 0.002)",
        f"the earlier seeds in {bench.folder} are now in {bench.folder}.1",
    ]
    assert bench.started() == ["7", "7"]
    assert (bench.folder.with_name("out-seeds.1") / "seeds.json").is_file()
    bench.train([7], "--grpo.learning_rate", "2e-3", fresh=True)
    assert bench.console.lines[0] == f"the earlier seeds in {bench.folder} are now in {bench.folder}.2"


def test_a_seed_that_fails_is_named_and_tried_again(bench: Bench):
    """Catches a failure that ends the others, or that no line mentions."""
    bench.make(7)
    bench.make(8, finished=False, code=3)
    bench.make(9)
    record = bench.train([7, 8, 9])
    assert record["failed"] == [{"seed": 8, "exit_code": 3, "why": "refused, or stopped by a guard (exit code 3)"}]
    assert [row["seed"] for row in record["runs"]] == [7, 9]
    assert "seed 8: no result, refused, or stopped by a guard (exit code 3): the last words of 8" in bench.console.lines
    bench.make(8)
    record = bench.train([7, 8, 9])
    assert bench.started() == ["7", "8", "9", "8"]
    assert (record["failed"], len(record["runs"])) == ([], 3)


def test_a_run_that_learned_nothing_counts_with_its_gain(bench: Bench):
    bench.make(7, after_right=1, code=3)
    summary = bench.made / "7" / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"best_reward": 0.0}))
    record = bench.train([7])
    assert (record["runs"][0]["gain"], record["runs"][0]["earned"], record["failed"]) == (0.0, False, [])
    assert "no completion earned a reward" in bench.console.lines[1]


@pytest.mark.parametrize("code", [2, 3, 1])
def test_where_no_run_can_start_the_command_ends_and_leaves_nothing(bench: Bench, code: int):
    """Catches five failures for one bad setting, and a folder that is left; only a crash leaves its log."""
    (bench.made / "7.code").write_text(f"{code}")
    with pytest.raises(StoppedError, match="no seed could be started: the last words of 7") as stopped:
        bench.train([7, 8])
    assert stopped.value.exit_code == code
    assert bench.started() == ["7"]
    assert bench.folder.exists() == (code == 1)


@pytest.mark.parametrize("code", [2, 137, 1])
def test_a_configuration_that_cannot_start_leaves_earlier_seeds_where_they_were(bench: Bench, code: int):
    """Catches five good seeds that are aside, and would all be trained anew, for one bad setting."""
    bench.make(7)
    bench.train([7])
    log = (bench.folder / "seed-7.log").read_text()
    (bench.made / "7.code").write_text(f"{code}")
    shutil.rmtree(bench.made / "7")
    if code == 137:
        (bench.made / "7").mkdir()  # killed when it had made its folder
    with pytest.raises(StoppedError, match="no seed could be started: the last words of 7"):
        bench.train([7], "--grpo.learning_rate", "0.5")
    assert f"the earlier seeds are back in {bench.folder}" in bench.console.lines
    assert not bench.folder.with_name("out-seeds.1").exists()
    rest = bench.folder.with_name("out-seeds.2")
    assert rest.exists() == (code == 1)
    if code == 1:
        assert (rest / "seed-7.log").read_text() == "tiny-math: the last words of 7\n"
        assert bench.console.lines[-1] == f"the log of the failure is in {rest}"
    assert (bench.folder / "seed-7.log").read_text() == log
    assert [row["seed"] for row in bench.train([7])["runs"]] == [7]
    assert bench.started() == ["7", "7"]


def test_an_edit_before_the_first_run_puts_earlier_seeds_back(bench: Bench):
    """Catches seeds that stay aside where another error than a refused run has kept the first from starting."""
    bench.make(7)
    bench.train([7])
    rates = iter(["2e-3", "3e-3"])

    def load() -> Any:
        return load_config(QUICKSTART, [*bench.overrides, "--grpo.learning_rate", next(rates)])

    with pytest.raises(UserError, match="changed while its seeds were being trained"):
        TrainSeeds(load, bench.overrides, [7], CollectingConsole()).run()
    assert [path.name for path in bench.folder.parent.glob("out-seeds*")] == ["out-seeds"]
    bench.train([7])
    assert bench.started() == ["7"]


def test_a_run_on_one_gpu_may_fail_before_that_on_the_other_has_begun(bench: Bench):
    """Catches healthy runs that are stopped because the first one found its GPU taken."""
    (bench.made / "7.code").write_text("2")
    bench.make(8)
    (bench.made / "8.late").write_text("")
    record = bench.train([7, 8], gpus=["0", "1"])
    assert [row["seed"] for row in record["runs"]] == [8]
    assert [row["seed"] for row in record["failed"]] == [7]


def test_where_the_runs_of_all_gpus_fail_the_command_ends_once_and_leaves_nothing(bench: Bench):
    """Catches a withdrawal under a run that is still at work, and one that never comes."""
    for seed in (7, 8):
        (bench.made / f"{seed}.code").write_text("2")
    (bench.made / "8.late").write_text("")
    with pytest.raises(StoppedError, match="no seed could be started: the last words of 8"):
        bench.train([7, 8], gpus=["0", "1"])
    assert "seed 7: no result, stopped by an error (exit code 2): the last words of 7" in bench.console.lines
    assert not bench.folder.exists()


def test_a_run_of_another_command_that_is_yet_to_begin_keeps_its_folder(bench: Bench):
    """Catches seeds.json withdrawn under a run that a killed command has left, whose folder no command takes then."""
    (bench.made / "7.code").write_text("2")
    folder, is_locked = bench.folder / "seed-8", threading.Event()

    def other() -> None:
        folder.mkdir(parents=True)
        (bench.folder / "seeds.json").write_text("{}")
        with RunFolder(folder).locked():
            is_locked.set()
            time.sleep(2)
            shutil.copytree(bench.made / "8", folder, dirs_exist_ok=True)

    bench.make(8)
    thread = threading.Thread(target=other)
    thread.start()
    is_locked.wait()
    record = bench.train([7, 8])
    thread.join()
    assert [row["seed"] for row in record["runs"]] == [8]
    assert [row["seed"] for row in record["failed"]] == [7]


def test_a_folder_of_something_else_is_refused(bench: Bench):
    bench.folder.mkdir()
    (bench.folder / "config.yaml").write_text("grpo: {}\n")  # an ordinary run
    with pytest.raises(UserError, match="out-seeds: exists and is not a folder of tiny-math seeds"):
        bench.train([7])
    assert [path.name for path in bench.folder.iterdir()] == ["config.yaml"]
    assert bench.commands() == []


def test_two_commands_on_one_folder_are_refused(bench: Bench):
    bench.make(7)
    bench.train([7])
    with SeedsFolder(bench.folder).locked(), pytest.raises(UserError, match="another run is at work in this folder"):
        bench.train([7])


def test_seeds_are_not_moved_aside_under_a_run_at_work(bench: Bench):
    bench.make(7)
    bench.train([7])
    with RunFolder(bench.folder / "seed-7").locked(), pytest.raises(UserError, match="seed-7: its run is still at"):
        bench.train([7], "--grpo.learning_rate", "2e-3")
    assert not bench.folder.with_name("out-seeds.1").exists()


def test_a_run_that_another_command_finishes_meanwhile_is_counted_and_not_repeated(bench: Bench):
    """Catches a run left over from a killed command that is waited for, then moved aside and trained once more."""
    for seed in (7, 8):
        bench.make(seed)
    bench.train([8])
    folder, is_locked = bench.folder / "seed-7", threading.Event()

    def other() -> None:
        folder.mkdir()
        with RunFolder(folder).locked():
            is_locked.set()
            time.sleep(1)
            shutil.copytree(bench.made / "7", folder, dirs_exist_ok=True)

    thread = threading.Thread(target=other)
    thread.start()
    is_locked.wait()
    record = bench.train([7, 8])
    thread.join()
    assert bench.started() == ["8"]
    assert [row["seed"] for row in record["runs"]] == [7, 8]
    assert "seed 7: its run, started by another command, is still at work; waiting for its end" in bench.console.lines
    assert "seed 7: 25.0% → 75.0%, fixed 2, broken 0, p = 0.5 (by another command)" in bench.console.lines


def test_a_configuration_that_changes_in_between_is_refused(bench: Bench, tmp_path: Path):
    """Catches seeds of two configurations after an edit of the file, hours into the first."""
    for seed in (7, 8):
        bench.make(seed)
    typed = [*bench.overrides]
    rates = iter(["1e-3", "1e-3", "2e-3"])

    def load() -> Any:
        return load_config(QUICKSTART, [*typed, "--grpo.learning_rate", next(rates)])

    with pytest.raises(UserError, match="changed while its seeds were being trained"):
        TrainSeeds(load, typed, [7, 8], CollectingConsole()).run()
    assert bench.started() == ["7"]


def test_all_seeds_are_asked_on_the_same_day(bench: Bench):
    """Catches prompts with another date after midnight, where the chat template puts in today's."""
    for seed in (7, 8):
        bench.make(seed)
        config = load_config(QUICKSTART, [*bench.overrides, "--grpo.seed", f"{seed}", "--prompt.date", "2026-01-31"])
        (bench.made / f"{seed}" / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    bench.train([7, 8])
    first, second = bench.commands()
    assert "--prompt.date" not in first
    assert second.endswith("--prompt.date 2026-01-31")
    bench.train([7, 8])  # the date is no change of the configuration
    assert len(bench.commands()) == 2


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("summary.json", "{}", r"seed-7: its records are damaged \('best_reward'\)"),
        ("summary.json", "{", "summary.json: damaged, not a JSON object"),
        ("eval/after.jsonl", "", "have other problems"),
        ("eval/before.jsonl", '{"id": 1}\n', "its records are damaged"),
    ],
)
def test_damaged_records_are_named(bench: Bench, name: str, content: str, expected: str):
    bench.make(7)
    bench.train([7])
    (bench.folder / "seed-7" / name).write_text(content)
    with pytest.raises(UserError, match=expected):
        bench.train([7])


def test_other_test_problems_are_refused(bench: Bench):
    for seed in (7, 8):
        bench.make(seed)
    for when in ("before", "after"):
        file = bench.made / "8" / "eval" / f"{when}.jsonl"
        file.write_text(file.read_text().replace('"id": "p', '"id": "q'))
    with pytest.raises(UserError, match="tested on different problems"):
        bench.train([7, 8])


@pytest.mark.parametrize(
    ("out", "expected"),
    [("runs/a", "runs/a-seeds"), ("runs/a/", "runs/a-seeds"), ("a.b", "a.b-seeds")],
)
def test_the_folder_stands_beside_that_of_an_ordinary_run(out: str, expected: str):
    assert SeedsFolder.beside(Path(out)).path == Path(expected)


def test_a_folder_without_a_name_has_none_for_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert SeedsFolder.beside(Path(".")).path == tmp_path.with_name(f"{tmp_path.name}-seeds")
    with pytest.raises(UserError, match="has no name"):
        SeedsFolder.beside(Path("/"))


def test_the_model_to_start_from_is_not_moved_aside(bench: Bench):
    """Catches a run from one of the seeds' own adapters, which would move that out of its sight."""
    bench.make(7)
    bench.train([7])
    (bench.folder / "seed-7" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="lies in"):
        bench.train([7], "--model.adapter", str(bench.folder / "seed-7"))
