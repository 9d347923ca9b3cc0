"""The lock on a run folder, on the folder itself and, as on Windows, on a file beside it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from tiny_math_solver.runs import lock
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support.errors import UserError

IN_USE = "another run is at work in this folder"
HOLDER = """
import sys, time
from pathlib import Path
from tiny_math_solver.runs import lock
lock.IS_WINDOWS = sys.argv[2] == "beside"
held = lock.take_lock(Path(sys.argv[1]))
print("held" if held else "refused", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["itself", "beside"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(lock, "IS_WINDOWS", request.param == "beside")
    return request.param


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path: Path, kind: str):
    folder = tmp_path / "run"
    first, second = RunFolder(folder), RunFolder(folder)
    with first.locked(), second.locked():
        first.create()
        with pytest.raises(UserError, match=IN_USE):
            second.create()
    with second.locked(), pytest.raises(UserError, match=IN_USE), first.locked():
        pass
    assert list(folder.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"run", ".run.lock"}


def test_the_lock_ends_with_its_process(tmp_path: Path, kind: str):
    """Catches a marker that outlives a killed run: the folder would be refused for ever."""
    folder = tmp_path / "run"
    folder.mkdir()
    variables = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), kind], env=variables, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=IN_USE), RunFolder(folder).locked():
        pass
    holder.kill()
    holder.communicate()
    with RunFolder(folder).locked():
        pass


def test_an_earlier_run_is_moved_aside_while_its_folder_is_locked(tmp_path: Path, kind: str):
    """On Windows an open file within the folder would keep it from being renamed."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("a: 1\n", encoding="utf-8")
    run = RunFolder(folder)
    with run.locked():
        run.create()
        run.write_text("config.yaml", "a: 2\n")
        with pytest.raises(UserError, match=IN_USE), RunFolder(folder).locked():
            pass
    assert (tmp_path / "run.1" / "config.yaml").read_text(encoding="utf-8") == "a: 1\n"
    assert (folder / "config.yaml").read_text(encoding="utf-8") == "a: 2\n"


def test_folders_that_stayed_empty_are_removed(tmp_path: Path, kind: str):
    run = RunFolder(tmp_path / "a" / "b")
    with run.left_as_found():
        run.path.mkdir(parents=True)
    assert not run.path.exists()
    if kind == "itself":
        assert list(tmp_path.iterdir()) == []


def test_a_file_beside_is_found_by_another_spelling_of_the_path(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    with RunFolder(Path("run")).locked(), pytest.raises(UserError, match=IN_USE), RunFolder(tmp_path / "run").locked():
        pass
