"""Metrics and samples as the trackers store them, read back with their own readers. Nothing leaves this machine."""

import json
import os
import struct
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import GSM8K, QUICKSTART
from helpers.runs import SHORT, rows, run
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.resume import ResumeOptions
from tiny_math_solver.support.console import CollectingConsole, Console
from tiny_math_solver.train import train
from tiny_math_solver.training.trackers import choose_trackers, wandb_defaults

TRACKED = [*SHORT, "--grpo.max_steps", "2", "--evaluation.every", "1"]


def test_tensorboard_has_the_metrics_and_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    result = run(tmp_path / "run", *TRACKED, "--grpo.report_to", "tensorboard")
    events = EventAccumulator(str(tmp_path / "logs"), size_guidance={"tensors": 0})
    events.Reload()
    metrics = rows(result.folder / "metrics.jsonl")
    for name in ("reward", "rewards/correctness_reward/mean", "dev/accuracy"):
        sent = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        assert sent == [(row["step"], pytest.approx(row[name])) for row in metrics]
    texts = events.Tensors("samples/text_summary")
    assert [event.step for event in texts] == [1, 2]
    first = texts[0].tensor_proto.string_val[0].decode()
    assert rows(result.folder / "rollouts.jsonl")[0]["question"] in first


GIVEN = {
    "WANDB_PROJECT": "their project",
    "WANDB_NAME": "their name",
    "WANDB_RUN_ID": "their-id",
    "WANDB_ENTITY": "their-team",
    "WANDB_RUN_GROUP": "their group",
    "WANDB_TAGS": "one,two",
    "WANDB_NOTES": "their notes",
    "WANDB_JOB_TYPE": "their job",
}


@pytest.fixture
def wandb_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of offline runs; nothing else is in W&B's variables."""
    for name in names_in_environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    return tmp_path / "wandb"


def wandb_run(folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The run as W&B has it, and its history; finishes it, and removes its file."""
    import wandb

    wandb.finish()
    wandb.teardown()  # the next run reads the environment anew
    (written,) = folder.glob("offline-run-*/run-*.wandb")
    for _ in range(100):  # finish() returns before its service has written the file
        kinds = {record.WhichOneof("record_type"): record for record in wandb_messages(written)}
        if "exit" in kinds:
            break
        time.sleep(0.1)
    histories = [r.history for r in wandb_messages(written) if r.WhichOneof("record_type") == "history"]
    history = [{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in h.item} for h in histories]
    assert written.name == f"run-{kinds['run'].run.run_id}.wandb"
    written.unlink()
    return kinds["run"].run, history


def wandb_messages(path: Path) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    return [wandb_internal_pb2.Record.FromString(data) for data in wandb_records(path)]  # type: ignore[attr-defined]


def names_in_environment() -> dict[str, str]:
    """W&B's variables, without the one for its own processes."""
    return {name: value for name, value in os.environ.items() if name.startswith("WANDB_") and name != "WANDB_SERVICE"}


def environment(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "environment.json").read_text(encoding="utf-8"))


def test_wandb_offline_has_the_metrics_and_the_samples(tmp_path: Path, wandb_folder: Path):
    before = names_in_environment()
    result = run(tmp_path / "run", *TRACKED, "--grpo.report_to", "wandb")
    assert names_in_environment() == before  # a second run of this process gets names of its own
    stored, history = wandb_run(wandb_folder)
    assert stored.run_id == environment(result.folder)["run_id"]  # a resumed run continues under the same id
    assert (stored.project, stored.display_name) == ("tiny-math-solver", "run")
    sent = [row["train/reward"] for row in history if "train/reward" in row]
    assert sent == pytest.approx([row["reward"] for row in rows(result.folder / "metrics.jsonl")])
    tables = [row for row in history if any(key.startswith("samples") for key in row)]
    assert len(tables) == 2
    (file, *_) = sorted(wandb_folder.glob("offline-run-*/files/media/table/samples_*.table.json"))
    table = json.loads(file.read_text())
    assert table["columns"][0] == "question"
    assert table["data"][0][2] in {row["completion"] for row in rows(result.folder / "rollouts.jsonl")}


def test_wandb_gets_what_its_own_variables_say_also_when_the_run_is_resumed(
    tmp_path: Path, wandb_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """The id was always ours: a sweep's agent lost its runs, and a script could not find the one it had named."""
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    options = (*TRACKED, "--grpo.save_steps", "1", "--grpo.report_to", "wandb")
    result = run(tmp_path / "run", *options, "--grpo.max_steps", "1")
    stored, _ = wandb_run(wandb_folder)
    of_run = {
        "WANDB_PROJECT": stored.project,
        "WANDB_NAME": stored.display_name,
        "WANDB_RUN_ID": stored.run_id,
        "WANDB_ENTITY": stored.entity,
        "WANDB_RUN_GROUP": stored.run_group,
        "WANDB_TAGS": ",".join(stored.tags),
        "WANDB_NOTES": stored.notes,
        "WANDB_JOB_TYPE": stored.job_type,
    }
    assert of_run == GIVEN
    assert environment(result.folder)["run_id"] == "their-id"
    for name in GIVEN:
        monkeypatch.delenv(name)
    resume = ResumeOptions(resume=True, allow=("grpo.max_steps",))
    train(load_config(QUICKSTART, [*options, "--grpo.output_dir", str(result.folder)]), CollectingConsole(), resume)
    again, history = wandb_run(wandb_folder)
    assert again.run_id == "their-id"  # from environment.json
    assert [row["train/global_step"] for row in history if "train/reward" in row] == [2]


@pytest.mark.parametrize(
    ("given", "resumed", "seen"),
    [
        ({}, False, {"ID": "ours", "RESUME": "allow"}),
        ({}, True, {"ID": "ours", "RESUME": "allow"}),
        ({"RUN_ID": "theirs"}, False, {"ID": "theirs", "RESUME": None}),
        ({"RUN_ID": "theirs"}, True, {"ID": "theirs", "RESUME": "allow"}),
        ({"RUN_ID": "theirs", "RESUME": "must"}, True, {"ID": "theirs", "RESUME": "must"}),
        ({"RUN_ID": ""}, False, {"ID": "ours", "RESUME": "allow"}),  # wandb refuses an empty id
        ({"RESUME": "auto"}, True, {"ID": "ours", "RESUME": "auto"}),
        ({"RESUME": "never"}, True, {"ID": None, "RESUME": "never"}),  # a run of its own for each start
        ({"RESUME": "must"}, False, {"ID": None, "RESUME": "must"}),
        ({"RESUME_FROM": "abc?_step=3"}, False, {"ID": None, "RESUME": None}),  # wandb refuses both together
        ({"FORK_FROM": "abc?_step=3"}, True, {"ID": None, "RESUME": None}),
    ],
)
def test_the_id_and_resuming_are_ours_only_where_they_are_open(
    tmp_path: Path,
    wandb_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    resumed: bool,
    seen: dict[str, str | None],
):
    (tmp_path / "environment.json").write_text('{"run_id": "ours"}')
    for name, value in given.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    before = names_in_environment()
    with wandb_defaults(RunFolder(tmp_path), resumed=resumed):
        assert {"ID": os.environ.get("WANDB_RUN_ID"), "RESUME": os.environ.get("WANDB_RESUME")} == seen
        assert (os.environ["WANDB_PROJECT"], os.environ["WANDB_NAME"]) == ("tiny-math-solver", tmp_path.name)
        __import__("wandb").Settings().update_from_env_vars(dict(os.environ))  # wandb takes them together
    assert names_in_environment() == before


@pytest.mark.parametrize(
    ("variables", "report_to", "chosen", "note"),
    [
        ({"WANDB_TOKEN": "secret-token"}, None, ["wandb"], ""),
        ({"WANDB_TOKEN": "secret-token", "WANDB_API_KEY": ""}, None, ["wandb"], ""),
        ({"WANDB_MODE": "dryrun"}, None, ["wandb"], ""),
        ({"WANDB_MODE": "shared", "WANDB_API_KEY": "k"}, None, ["wandb"], ""),
        ({"WANDB_MODE": "disabled", "WANDB_TOKEN": "t"}, None, [], "wandb is off (WANDB_MODE=disabled)"),
        ({"WANDB_MODE": "disabled"}, "wandb", [], "wandb is off (WANDB_MODE=disabled)"),
        ({"WANDB_DISABLED": "true", "WANDB_TOKEN": "t"}, None, [], "wandb is off (WANDB_DISABLED=true)"),
        ({"WANDB_DISABLED": "1", "WANDB_MODE": "offline"}, None, [], "wandb is off (WANDB_DISABLED=1)"),
        ({"WANDB_DISABLED": "YES"}, "wandb", [], "wandb is off (WANDB_DISABLED=YES)"),
        ({"WANDB_DISABLED": "false", "WANDB_TOKEN": "t"}, None, ["wandb"], ""),
        ({"WANDB_DISABLED": "", "WANDB_TOKEN": "t"}, None, ["wandb"], ""),
        ({"WANDB_DISABLED": "1"}, None, [], ""),  # nobody asked for it
        ({"WANDB_DISABLED": "1"}, "[wandb, tensorboard]", ["tensorboard"], "wandb is off (WANDB_DISABLED=1)"),
        ({"WANDB_TOKEN": "t"}, "none", "none", ""),
        ({"WANDB_TOKEN": "t"}, "tensorboard", "tensorboard", ""),
        ({"DISABLE_MLFLOW_INTEGRATION": "TRUE"}, "mlflow", [], "mlflow is off (DISABLE_MLFLOW_INTEGRATION=TRUE)"),
        ({"COMET_MODE": "DISABLED"}, "comet_ml", [], "comet_ml is off (COMET_MODE=DISABLED)"),
        (
            {"SWANLAB_MODE": "disabled", "WANDB_DISABLED": "on"},
            "[swanlab, wandb]",
            [],
            "swanlab is off (SWANLAB_MODE=disabled); wandb is off (WANDB_DISABLED=on)",
        ),
    ],
)
def test_an_off_switch_wins_over_report_to_which_wins_over_a_token(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    report_to: str | None,
    chosen: list[str] | str,
    note: str,
):
    for name in names_in_environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "")  # restored after the test, whatever is set in it
    monkeypatch.setenv("WANDB_MODE", "")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = load_config(GSM8K, ["--grpo.report_to", report_to] if report_to else [])
    choose_trackers(config, Console())
    assert config.grpo["report_to"] == chosen
    assert capsys.readouterr() == ("", f"tiny-math: {note}\n" if note else "")
    assert config.grpo_config.report_to == ([] if chosen == "none" else [chosen] if chosen == "tensorboard" else chosen)


def test_report_to_all_leaves_out_what_is_switched_off(tmp_path: Path, wandb_folder: Path, monkeypatch):
    monkeypatch.setenv("WANDB_DISABLED", "true")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    config = load_config(QUICKSTART, [*SHORT, "--grpo.report_to", "all", "--grpo.output_dir", str(tmp_path / "run")])
    choose_trackers(config, Console())
    train(config, CollectingConsole())
    assert list((tmp_path / "logs").iterdir())
    assert not wandb_folder.exists()


def wandb_records(path: Path) -> Iterator[bytes]:
    """The protobuf messages of a `.wandb` file: LevelDB's log format, in blocks of 32 KiB, after 7 bytes of header."""
    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:  # what is left of a block is too small for a record's head
            place += left
            continue
        size, kind = struct.unpack_from("<HB", data, place + 4)  # after the checksum; kinds: whole, first, middle, last
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            yield parts
            parts = b""


@pytest.mark.skipif(not find_spec("trackio"), reason="trackio is not installed")
def test_trackio_has_the_metrics_and_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import trackio

    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    run(tmp_path / "run", *TRACKED, "--grpo.report_to", "trackio", "--grpo.project", "tests", "--grpo.run_name", "one")
    sent = trackio.SQLiteStorage.get_logs("tests", "one")
    assert [row["train/reward"] for row in sent if "train/reward" in row]
    assert [row for row in sent if "samples" in row]
