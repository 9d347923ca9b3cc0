"""What trackers are sent, read back with their own readers. Nothing leaves this machine."""

import json
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.runs import SHORT, rows, run

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


def test_wandb_offline_has_the_metrics_and_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import wandb
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_RUN_ID", "other")  # set by the run, and to be taken back after this test
    result = run(tmp_path / "run", *TRACKED, "--grpo.report_to", "wandb")
    wandb.teardown()  # after finish() alone its service still holds the records: it writes them when it closes
    (written,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    run_id = json.loads((result.folder / "environment.json").read_text())["run_id"]
    assert written.name == f"run-{run_id}.wandb"  # by which a resumed run finds itself again
    history = []
    for data in wandb_records(written):
        record = wandb_internal_pb2.Record.FromString(data)  # type: ignore[attr-defined]  # made on import
        if record.WhichOneof("record_type") == "history":
            history.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
    sent = [row["train/reward"] for row in history if "train/reward" in row]
    assert sent == pytest.approx([row["reward"] for row in rows(result.folder / "metrics.jsonl")])
    tables = [row for row in history if any(key.startswith("samples") for key in row)]
    assert len(tables) == 2
    (file, *_) = sorted((tmp_path / "wandb").glob("offline-run-*/files/media/table/samples_*.table.json"))
    table = json.loads(file.read_text())
    assert table["columns"][0] == "question"
    assert table["data"][0][2] in {row["completion"] for row in rows(result.folder / "rollouts.jsonl")}


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
