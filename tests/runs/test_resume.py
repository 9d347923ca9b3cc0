"""A run that was interrupted ends as if it had not been: same adapter byte for byte, same metrics, same records."""

import contextlib
import hashlib
import json
import os
import pickle
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from helpers.paths import QUICKSTART
from helpers.power_cut import power_cut, timeless, timeless_summary
from helpers.runs import rows
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.runs.checkpoints import checkpoints, damage
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.resume import ResumeOptions, differences, starting_point
from tiny_math_solver.support.console import CollectingConsole
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.train import train
from tiny_math_solver.training.plan import prepare

SHORT = [
    "--problems.train", "24", "--problems.test", "8", "--problems.dev", "8", "--evaluation.every", "2",
    "--evaluation.samples", "2", "--evaluation.sampled_problems", "4", "--grpo.save_steps", "1",
    "--grpo.gradient_accumulation_steps", "2", "--grpo.per_device_train_batch_size", "16",
    "--update.tokens_per_pass", "512",  # the preflight tries a whole pass
]  # fmt: skip
ADAPTER = "adapter_model.safetensors"


def run(folder: Path, *overrides: str, options: ResumeOptions = ResumeOptions()) -> SimpleNamespace:  # noqa: B008  frozen
    console = CollectingConsole()
    outcome = train(load_config(QUICKSTART, [*SHORT, *overrides, "--grpo.output_dir", str(folder)]), console, options)
    return SimpleNamespace(folder=folder, lines=console.lines, summary=outcome.summary)


def interrupted(folder: Path, step: int, *overrides: str, options: ResumeOptions = ResumeOptions()) -> None:  # noqa: B008  frozen
    """A run that ends within optimizer step `step` + 1."""
    with power_cut(step):
        run(folder, *overrides, options=options)


def same(one: Path, other: Path) -> None:
    weights = ADAPTER if (one / ADAPTER).is_file() else "model.safetensors"
    assert (one / weights).read_bytes() == (other / weights).read_bytes()
    assert timeless(one / "metrics.jsonl") == timeless(other / "metrics.jsonl")
    assert (one / "rollouts.jsonl").read_text() == (other / "rollouts.jsonl").read_text()
    assert sorted(p.name for p in (one / "eval").iterdir()) == sorted(p.name for p in (other / "eval").iterdir())
    for name in ("before.jsonl", "after.jsonl", "after-unseen.jsonl"):
        assert (one / "eval" / name).read_text() == (other / "eval" / name).read_text()
    assert timeless_summary(one) == timeless_summary(other)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["--lora.lora_dropout", "0.2", "--grpo.lr_scheduler_type", "cosine"],  # draws of torch's own
        ["--grpo.num_iterations", "2", "--grpo.steps_per_generation", "4"],  # a batch is learned from four times
        ["--grpo.logging_steps", "3", "--grpo.beta", "0.05"],
        ["--update.own_passes", "false", "--rollouts.native", "false"],
        ["--problems.train", "9", "--grpo.steps_per_generation", "3"],  # steps that span two passes
        ["--problems.sampling", "adaptive"],
        ["--rollouts.replace_dead", "2"],
        ["--update.share", "0.5"],
        ["--lora", "null", "--grpo.learning_rate", "1e-4"],
        [
            "--problems.sampling",
            "adaptive",
            "--rollouts.replace_dead",
            "1",
            "--update.share",
            "0.5",
            "--grpo.num_iterations",
            "2",
            "--grpo.steps_per_generation",
            "4",
        ],
    ],
    ids=[
        "plain",
        "dropout",
        "reused batches",
        "sparse log",
        "trl's micro-batches",
        "across epochs",
        "adaptive sampling",
        "dead groups replaced",
        "a share of the rows",
        "all weights",
        "all three, reused batches",
    ],
)
def test_a_resumed_run_ends_as_one_straight_through(tmp_path: Path, overrides: list[str]):
    """Seven steps reach the second pass over the problems, whose order is another.

    Catches a sampler that starts over, lost random states, a lost generation batch, optimizer moments that start at
    zero, records written twice.
    """
    small = ["--grpo.per_device_train_batch_size", "8", "--grpo.max_completion_length", "32", "--problems.train", "12"]
    overrides = [*small, *overrides, "--grpo.max_steps", "7"]
    straight = run(tmp_path / "straight", *overrides)
    folder = tmp_path / "cut"
    interrupted(folder, 3, *overrides)
    interrupted(folder, 4, *overrides)
    interrupted(folder, 6, *overrides)
    resumed = run(folder, *overrides)
    assert f"step 6: resumed: from {folder / 'checkpoint-6'}" in resumed.lines
    same(straight.folder, folder)
    assert not (tmp_path / "cut.1").exists()


# -- Where a run begins -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run cut off after step 4 of 5, and the same run without the interruption."""
    folder = tmp_path_factory.mktemp("stopped")
    options = ["--grpo.max_steps", "5", "--grpo.save_total_limit", "3"]
    straight = run(folder / "straight", *options)
    interrupted(folder / "cut", 4, *options)
    return SimpleNamespace(folder=folder / "cut", options=options, straight=straight.folder)


@pytest.fixture
def cut(stopped: SimpleNamespace, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped.folder, tmp_path / "cut"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_another_number_of_processes_does_not_go_on_amid_a_batch_of_trls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """TRL's micro-batches belong to the processes that sampled them; refused before a file is touched."""
    options = ["--grpo.steps_per_generation", "4", "--grpo.max_steps", "4", "--update.own_passes", "false"]
    interrupted(tmp_path / "run", 3, *options)
    config = load_config(QUICKSTART, [*SHORT, *options, "--grpo.output_dir", str(tmp_path / "run")])
    fingerprint = prepare(config).plan.fingerprint
    before = contents(tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UserError,
        match=r"amid a generation batch, .*micro-batches; .* as before \(torchrun --nproc_per_node 1\)",
    ):
        starting_point(RunFolder(tmp_path / "run"), config, fingerprint, ResumeOptions(), CollectingConsole())
    assert contents(tmp_path / "run") == before


def test_a_batch_changed_by_hand_is_taken_as_it_is(cut: Path, stopped: SimpleNamespace):
    """Catches a resume that undoes what --allow has permitted."""
    by_hand = [*stopped.options, "--grpo.gradient_accumulation_steps", "4"]
    config = load_config(QUICKSTART, [*SHORT, *by_hand, "--grpo.output_dir", str(cut)])
    options = ResumeOptions(resume=True, allow=("grpo.gradient_accumulation_steps",))
    start = starting_point(RunFolder(cut), config, prepare(config).plan.fingerprint, options, CollectingConsole())
    assert (start.checkpoint, start.batch) == (cut / "checkpoint-4", {})


def test_a_state_that_cannot_be_read_is_refused_before_the_verdict_is_deleted(
    cut: Path, stopped: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
):
    before = contents(cut)

    def fail(stem: Path) -> None:
        raise UserError(f"{stem}: cannot be read")

    monkeypatch.setattr("tiny_math_solver.training.checkpointing.load_tree", fail)
    with pytest.raises(UserError, match="state: cannot be read"):
        run(cut, *stopped.options)
    assert contents(cut) == before


def test_another_configuration_is_refused_with_what_differs(cut: Path, stopped: SimpleNamespace):
    before = contents(cut)
    changed = [*stopped.options, "--grpo.learning_rate", "5e-4", "--grpo.max_steps", "6"]
    with pytest.raises(
        UserError,
        match=r"learning_rate: 0.001 → 0.0005, grpo.max_steps: 5 → 6\); to resume it with these changes, add --allow",
    ):
        run(cut, *changed, options=ResumeOptions(resume=True))
    with pytest.raises(
        UserError,
        match=r"grpo.learning_rate: 0.001 → 0.0005\); to resume it with these changes, add --allow grpo.learn",
    ):
        run(cut, *changed, options=ResumeOptions(resume=True, allow=("grpo.max_steps",)))
    with pytest.raises(UserError, match=r"holds a run with lora.r: 16 → 8, which cannot change within a run"):
        run(cut, *stopped.options, "--lora.r", "8", options=ResumeOptions(resume=True, allow=("lora",)))
    assert contents(cut) == before


def test_a_change_that_is_meant_goes_on(cut: Path, stopped: SimpleNamespace):
    longer = run(
        cut, *stopped.options, "--grpo.max_steps", "7", options=ResumeOptions(resume=True, allow=("grpo.max_steps",))
    )
    assert longer.summary["steps"] == 7
    assert timeless(cut / "metrics.jsonl")[:4] == timeless(stopped.straight / "metrics.jsonl")[:4]
    assert "max_steps: 7" in (cut / "config.yaml").read_text()


def test_a_finished_run_can_be_made_longer(stopped: SimpleNamespace, tmp_path: Path):
    """It samples as if it had been that long from the start; only dev was evaluated once more, at its first end."""
    folder = shutil.copytree(stopped.straight, tmp_path / "run")
    longer = [*stopped.options, "--grpo.max_steps", "7"]
    run(folder, *longer, options=ResumeOptions(resume=True, allow=("grpo.max_steps",)))
    straight = run(tmp_path / "straight", *longer).folder
    assert (folder / "rollouts.jsonl").read_text() == (straight / "rollouts.jsonl").read_text()
    assert json.loads((folder / "summary.json").read_text())["steps"] == 7


def test_a_learning_rate_that_was_changed_on_purpose_is_used(cut: Path, stopped: SimpleNamespace):
    """The checkpoint has the old one, in the optimizer and in the schedule."""
    changed = ["--grpo.learning_rate", "2e-4", "--grpo.weight_decay", "0.1"]
    run(cut, *stopped.options, *changed, options=ResumeOptions(resume=True, allow=("grpo",)))
    assert [row["learning_rate"] for row in rows(cut / "metrics.jsonl")] == pytest.approx([1e-3] * 4 + [2e-4])


def test_without_resume_another_configuration_begins_anew_and_loses_nothing(cut: Path, stopped: SimpleNamespace):
    before = contents(cut)
    result = run(cut, *stopped.options, "--grpo.max_steps", "1")
    assert any("another configuration (grpo.max_steps: 5 → 1) and will be moved aside" in line for line in result.lines)
    assert contents(cut.with_name("cut.1")) == before


def test_to_begin_anew_can_be_asked_for(cut: Path, stopped: SimpleNamespace):
    before = contents(cut)
    run(cut, *stopped.options, "--problems.test", "4", options=ResumeOptions(resume=False))
    assert contents(cut.with_name("cut.1")) == before


def test_a_finished_run_is_shown_again_by_resume_and_moved_aside_without(stopped: SimpleNamespace, tmp_path: Path):
    folder = shutil.copytree(stopped.straight, tmp_path / "done")
    before = contents(folder)
    again = run(folder, *stopped.options, options=ResumeOptions(resume=True))
    assert again.summary == json.loads(before["summary.json"])
    assert {**contents(folder), "report.html": b""} == {**before, "report.html": b""}
    assert run(folder, *stopped.options, "--grpo.max_steps", "1").summary["steps"] == 1
    assert (tmp_path / "done.1" / "summary.json").read_bytes() == before["summary.json"]


def test_resume_without_a_run_says_so_and_writes_nothing(tmp_path: Path):
    with pytest.raises(UserError, match="no run there to resume"):
        run(tmp_path / "nothing", options=ResumeOptions(resume=True))
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_checkpoint_yet_begins_anew(cut: Path, stopped: SimpleNamespace):
    for checkpoint in cut.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    result = run(cut, *stopped.options, options=ResumeOptions(resume=True))
    assert f"no checkpoint in {cut} yet: starting from the beginning" in result.lines
    same(stopped.straight, cut)


def test_the_problems_must_be_the_same(cut: Path, stopped: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    """The numbers in the config are the same: only the problems themselves tell."""
    from tiny_math_solver.problems.generated import SOURCES

    real = SOURCES["embedded"]
    others = real._replace(make=lambda split, count, seed: real.make(split, count, seed + 1))
    monkeypatch.setitem(SOURCES, "embedded", others)
    with pytest.raises(UserError, match="the problems are not those it was trained on"):
        run(cut, *stopped.options, options=ResumeOptions(resume=True))


def test_two_runs_do_not_share_a_folder(cut: Path, stopped: SimpleNamespace):
    before = contents(cut)
    with RunFolder(cut).locked(), pytest.raises(UserError, match="another run is at work in this folder"):
        run(cut, *stopped.options)
    assert contents(cut) == before
    run(cut, *stopped.options)  # the lock goes with its holder


def test_a_run_that_has_come_into_being_meanwhile_is_left_alone(tmp_path: Path):
    """Two simultaneous starts both see no folder; the second would move the first one's aside while it writes."""
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with first.locked(), second.locked():
        first.create()
        with pytest.raises(UserError, match="another run is at work"):
            second.create()
        first.write_text("config.yaml", "a: 1\n")
        with pytest.raises(UserError, match="another run is at work"):
            second.create()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("kind", ["empty", "link to an empty one", "only hidden files"])
def test_a_folder_with_nothing_of_a_run_in_it_takes_one(tmp_path: Path, kind: str):
    """Made by a job script or a mount: a lock taken twice on the same folder conflicted with itself."""
    folder = tmp_path / "run"
    (tmp_path / "real" if "link" in kind else folder).mkdir()
    if "link" in kind:
        folder.symlink_to(tmp_path / "real")
    if "hidden" in kind:
        (folder / ".nfs0001").write_text("not ours")
    result = run(folder, "--grpo.max_steps", "1")
    assert result.summary["steps"] == 1
    assert damage(folder / "checkpoint-1") == ""
    hidden = [".nfs0001"] if "hidden" in kind else []
    assert [path.name for path in folder.rglob(".*")] == hidden  # nothing of the lock is left behind
    assert folder.is_symlink() == ("link" in kind)
    assert not (tmp_path / "run.1").exists()


def test_a_second_start_in_an_empty_folder_is_refused(tmp_path: Path):
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    with first.locked():
        with pytest.raises(UserError, match="another run is at work"), second.locked():
            pass
        first.create()
        with pytest.raises(UserError, match="another run is at work"), second.locked():
            pass
        first.write_text("config.yaml", "a: 1\n")
    assert contents(tmp_path) == {"config.yaml": b"a: 1\n"}
    with second.locked():  # the lock went with its holder
        pass


def test_the_lock_goes_to_a_folder_that_was_removed_and_made_anew(tmp_path: Path):
    """Somebody cleans up while the model loads: the lock must not stay with the folder that is gone."""
    folder = tmp_path / "run"
    folder.mkdir()
    first = RunFolder(folder)
    with first.locked():
        folder.rmdir()
        first.create()
        with pytest.raises(UserError, match="another run is at work"), RunFolder(folder).locked():
            pass


def test_the_lock_goes_to_the_new_folder_when_an_earlier_run_is_moved_aside(tmp_path: Path):
    folder, aside = tmp_path / "run", tmp_path / "run.1"
    folder.mkdir()
    (folder / "config.yaml").write_text("earlier: run")
    first = RunFolder(folder)
    with first.locked():
        first.create()
        assert contents(aside) == {"config.yaml": b"earlier: run"}
        with pytest.raises(UserError, match="another run is at work"), RunFolder(folder).locked():
            pass
        with RunFolder(aside).locked():  # which may be gone on with
            pass
    assert contents(folder) == {}


def test_an_empty_folder_in_which_a_run_has_begun_is_not_removed(tmp_path: Path):
    """Another start that saw no folder makes one for a moment, and takes it away if it is still empty."""
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with first.locked(), second.left_as_found():
        first.create()
    assert (tmp_path / "run").is_dir()
    (tmp_path / "run").rmdir()
    with second.left_as_found():
        (tmp_path / "run").mkdir()
    assert not (tmp_path / "run").exists()


def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path):
    script = (
        "import sys, time; from pathlib import Path; from tiny_math_solver.runs.folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked(): print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match="another run is at work"), RunFolder(tmp_path).locked():
        pass
    holder.kill()
    holder.wait()
    run = RunFolder(tmp_path)
    with run.locked():
        run.create()
    assert contents(tmp_path) == {}


# -- Damage -----------------------------------------------------------------------------------------------------


def test_every_damage_to_every_file_of_a_checkpoint_is_seen(cut: Path):
    """A flipped bit at the start, in the middle or at the end; a file cut short; a file that is gone."""
    checkpoint = max(cut.glob("checkpoint-*"))
    assert damage(checkpoint) == ""
    files = [p for p in checkpoint.rglob("*") if p.is_file()]
    assert len(files) >= 10
    for file in files:
        whole = file.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert damage(checkpoint), (file.name, place)
        file.write_bytes(whole[: len(whole) // 2])
        assert damage(checkpoint), (file.name, "cut short")
        file.unlink()
        assert damage(checkpoint), (file.name, "gone")
        file.write_bytes(whole)
        assert damage(checkpoint) == ""


def test_every_bit_of_the_list_of_hashes_counts(cut: Path):
    checkpoint = max(cut.glob("checkpoint-*"))
    sums = (checkpoint / "SHA256SUMS").read_bytes()
    for place in range(0, len(sums), 7):
        for bit in (1, 128):
            (checkpoint / "SHA256SUMS").write_bytes(sums[:place] + bytes([sums[place] ^ bit]) + sums[place + 1 :])
            assert damage(checkpoint), (place, bit)


@pytest.mark.parametrize("name", ["state.safetensors", "adapter_model.safetensors", "SHA256SUMS", "process-0.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(cut: Path, stopped: SimpleNamespace, name: str):
    file = max(cut.glob("checkpoint-*")) / name
    file.write_bytes(file.read_bytes()[:-3])
    result = run(cut, *stopped.options)
    assert any(line.startswith(f"{file.parent} is damaged") for line in result.lines)
    assert f"step 3: resumed: from {cut / 'checkpoint-3'}" in result.lines
    same(stopped.straight, cut)


def test_a_checkpoint_of_another_version_is_refused_before_anything_is_touched(cut: Path, stopped: SimpleNamespace):
    """Its records would be cut back first, and its parts be missed afterwards."""
    for checkpoint in cut.glob("checkpoint-*"):
        state = json.loads((checkpoint / "state.json").read_text())
        del state["format"]
        (checkpoint / "state.json").write_text(json.dumps(state))
        sums = [line.split("  ") for line in (checkpoint / "SHA256SUMS").read_text().splitlines()]
        (checkpoint / "SHA256SUMS").write_text(
            "".join(f"{hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()}  {name}\n" for _, name in sums)
        )
        assert damage(checkpoint) == ""
    before = {file: file.read_bytes() for file in cut.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="checkpoint-4: was written by another version of this package"):
        run(cut, *stopped.options)
    assert {file: file.read_bytes() for file in cut.rglob("*") if file.is_file()} == before
    run(cut, *stopped.options, options=ResumeOptions(resume=False))
    same(stopped.straight, cut)
    assert (cut.with_name(f"{cut.name}.1") / "checkpoint-4").is_dir()


def test_a_new_checkpoint_is_not_deleted_for_a_damaged_one(cut: Path, stopped: SimpleNamespace):
    """With one checkpoint to keep, a damaged one with a higher number would count as the newest."""
    (cut / "checkpoint-4" / "state.json").write_text("{}")
    interrupted(cut, 4, *stopped.options, "--grpo.save_total_limit", "1",
                options=ResumeOptions(resume=True, allow=("grpo.save_total_limit",)))  # fmt: skip
    assert damage(cut / "checkpoint-4") == ""
    assert (cut / "checkpoint-4.damaged").is_dir()


def test_files_that_are_not_ours_stay_as_they_are(cut: Path, stopped: SimpleNamespace):
    own = {"mine.jsonl": '{"a": 1}\n', "eval/dev-mine.jsonl": "{}\n", "checkpoint-2/notes.txt": "look at this one"}
    for name, text in own.items():
        (cut / name).parent.mkdir(exist_ok=True)
        (cut / name).write_text(text)
    (cut / "checkpoint-77").write_text("a file")
    run(cut, *stopped.options, "--grpo.save_total_limit", "3")
    for name in ("mine.jsonl", "eval/dev-mine.jsonl"):
        assert (cut / name).read_text() == own[name]
    assert (cut / "checkpoint-77").read_text() == "a file"
    assert not (cut / "notes.txt").exists()


def test_an_adapter_at_the_top_that_was_deleted_or_damaged_is_restored(cut: Path, stopped: SimpleNamespace):
    (cut / ADAPTER).write_bytes(b"nonsense")
    (cut / "adapter_config.json").unlink()
    for leftover in (".part-123", "checkpoint-x"):
        (cut / leftover).mkdir()
        (cut / leftover / "half").write_text("written")
    run(cut, *stopped.options)
    same(stopped.straight, cut)
    assert not (cut / ".part-123").exists()
    assert (cut / "checkpoint-x" / "half").exists()  # not ours


def test_records_that_were_deleted_stop_nothing(cut: Path, stopped: SimpleNamespace):
    for name in ("rollouts.jsonl", "metrics.jsonl"):
        (cut / name).unlink()
    run(cut, *stopped.options)
    assert (cut / ADAPTER).read_bytes() == (stopped.straight / ADAPTER).read_bytes()


def test_no_pickle_is_in_a_run_folder_and_none_is_read(cut: Path, stopped: SimpleNamespace):
    endings = {p.suffix for p in stopped.straight.rglob("*") if p.is_file()}
    assert endings <= {".json", ".jsonl", ".safetensors", ".yaml", ".html", ".jinja", ""}, endings
    for file in cut.glob("checkpoint-*/*.safetensors"):
        file.with_suffix(".bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
        for name in ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"):  # which the Trainer would load
            (file.parent / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle, "load", _never)
        patch.setattr(torch, "load", _never)
        result = run(cut, *stopped.options)
    assert any("resumed" in line for line in result.lines)
    same(stopped.straight, cut)


def _never(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a pickle was read")


# -- Disks that fail --------------------------------------------------------------------------------------------


def at_step(step: int, action: Callable[[], Any]) -> pytest.MonkeyPatch:
    """Have `action` happen in optimizer step `step`; undo it by `.undo()`."""
    patch, training_step = pytest.MonkeyPatch(), GRPOTrainer.training_step
    done: list[bool] = []

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step - 1 and not done:
            done.append(True)
            action()
        return training_step(self, *args, **kwargs)

    patch.setattr(GRPOTrainer, "training_step", watched)
    return patch


def after_the_fault(folder: Path, stopped: SimpleNamespace, message: str, error: UserError) -> None:
    """The message names the fault, earlier checkpoints are intact, and the finished run is the same as without it."""
    assert message in str(error)
    assert "\n" not in str(error)
    assert [damage(path) for _, path in checkpoints(folder)] == ["", ""]
    run(folder, *stopped.options)
    same(stopped.straight, folder)


def test_a_file_that_may_not_grow(tmp_path: Path, stopped: SimpleNamespace):
    """The limit on file sizes stands for a quota: state.safetensors has 1.3 MB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    patch = at_step(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard)))
    try:
        with pytest.raises(UserError) as caught:
            run(tmp_path / "run", *stopped.options)
    finally:
        patch.undo()
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after_the_fault(tmp_path / "run", stopped, "cannot be written (", caught.value)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 96 MB; skipped where this user may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "none", place], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_fills_up(small_disk: Path, stopped: SimpleNamespace):
    def fill() -> None:
        with contextlib.suppress(OSError), (small_disk / "other").open("wb") as file:
            while True:
                file.write(bytes(100_000))

    patch = at_step(3, fill)
    try:
        with pytest.raises(UserError) as caught:
            run(small_disk / "run", *stopped.options)
        (small_disk / "other").unlink()
        patch.undo()
        after_the_fault(small_disk / "run", stopped, "No space left on device", caught.value)
    finally:
        patch.undo()


def test_a_disk_that_turns_read_only(small_disk: Path, stopped: SimpleNamespace):
    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", small_disk], check=True)

    patch = at_step(3, lambda: remount("ro"))
    try:
        with pytest.raises(UserError) as caught:
            run(small_disk / "run", *stopped.options)
        with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\)"):
            run(small_disk / "run", *stopped.options)
    finally:
        patch.undo()
        remount("rw")
    after_the_fault(small_disk / "run", stopped, "Read-only file system", caught.value)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(small_disk: Path, stopped: SimpleNamespace):
    (small_disk / "other").write_bytes(bytes(70_000_000))
    with pytest.raises(UserError, match=r"71 MB to be written at most, 31 MB free in .*; make room, lower grpo"):
        run(small_disk / "run", *stopped.options)
    assert [path.name for path in small_disk.iterdir()] == ["other"]


# -- Signals ----------------------------------------------------------------------------------------------------


def started(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tiny_math_solver.cli", "train", str(QUICKSTART), *SHORT, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*command, "--grpo.output_dir", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment, preexec_fn=listen,
    )  # fmt: skip


def listen() -> None:
    """Restore the default signal handlers: `nohup` and `&` in a script ignore signals, and children inherit that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_finishes_and_saves_the_step(tmp_path: Path, number: signal.Signals):
    folder = tmp_path / "run"
    process = started(folder, "--grpo.max_steps", "500", "--grpo.save_steps", "400", "--evaluation.every", "400")
    assert process.stdout
    for line in process.stdout:
        if line.startswith("step 3/"):
            process.send_signal(number)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    steps = [row["step"] for row in rows(folder / "metrics.jsonl")]
    assert f"{number.name}: stopped after step {steps[-1]} of 500" in err
    assert "Traceback" not in err
    assert f"{folder}/checkpoint-{steps[-1]}: the same command resumes from there" in err
    assert damage(folder / f"checkpoint-{steps[-1]}") == ""


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(tmp_path: Path):
    process = started(tmp_path / "run", "--grpo.max_steps", "500", "--evaluation.every", "400")
    assert process.stdout
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    process.send_signal(signal.SIGSTOP)  # so that both are there before the step is over
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert "stopped at once; the same command resumes from the last checkpoint, if there is one" in err


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_the_run_in_good_order(tmp_path: Path):
    """On a real terminal, whose other end goes away: every print fails from then on, and SIGHUP comes."""
    command = [sys.executable, "-m", "tiny_math_solver.cli", "train", str(QUICKSTART), *SHORT,
               "--grpo.max_steps", "500", "--evaluation.every", "400", "--grpo.save_steps", "400",
               "--grpo.output_dir", str(tmp_path / "run")]  # fmt: skip
    process, terminal = pty.fork()
    if not process:
        listen()
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(command[0], command)
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    last = rows(tmp_path / "run" / "metrics.jsonl")[-1]["step"]
    assert last < 500
    assert damage(tmp_path / "run" / f"checkpoint-{last}") == ""


def test_a_field_that_an_earlier_version_did_not_know_counts_as_its_default():
    """Catches a run that cannot be resumed because this version has one more setting than the one that began it."""
    old = {"prompt": {"system": "", "max_tokens": 128}, "grpo": {"seed": 1}}
    new: dict[str, dict[str, Any]] = {
        "prompt": {"system": "", "max_tokens": 128, "date": None},
        "grpo": {"seed": 1},
        "guards": {"stop": True},
    }
    assert dict(differences(old, new)) == {}
    new["prompt"]["date"], new["grpo"]["beta"] = "2026-01-31", 0.04
    assert dict(differences(old, new)) == {"prompt.date": "None → 2026-01-31", "grpo.beta": "not set → 0.04"}


def test_passes_of_another_size_are_no_difference():
    assert dict(differences({"update": {"tokens_per_pass": 4096}}, {"update": {"tokens_per_pass": None}})) == {}


@pytest.mark.parametrize(("first", "second"), [("true", "false"), ("false", "true")])
def test_a_run_goes_on_where_the_other_kind_of_update_is_chosen(tmp_path: Path, first: str, second: str):
    """As after memory ran out. What waits to be learned from is sampled again; the count of the batches goes on."""
    options = ["--grpo.steps_per_generation", "4", "--grpo.max_steps", "4"]
    interrupted(tmp_path / "run", 3, *options, "--update.own_passes", first)
    allow = ResumeOptions(resume=True, allow=("update.own_passes",))
    result = run(tmp_path / "run", *options, "--update.own_passes", second, options=allow)
    assert any("resumed: from" in line for line in result.lines)
    assert [row["step"] for row in timeless(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4]
