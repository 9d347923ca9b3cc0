"""Configurations that are found without a checkout."""

from importlib import metadata
from pathlib import Path

import pytest

from helpers.paths import QUICKSTART, ROOT
from tiny_math_solver.cli import main
from tiny_math_solver.config import shipped
from tiny_math_solver.config.shipped import shipped_config


@pytest.mark.parametrize("name", ["configs/quickstart.yaml", "quickstart.yaml"])
def test_a_shipped_configuration_is_found_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert shipped_config(Path(name)).samefile(QUICKSTART)


def test_a_file_of_ones_own_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/quickstart.yaml").write_text("model: {}\n")
    assert shipped_config(Path("configs/quickstart.yaml")) == Path("configs/quickstart.yaml")


@pytest.mark.parametrize("name", ["other/quickstart.yaml", "/configs/quickstart.yaml", "configs/mine.yaml", "a" * 300])
def test_another_path_is_taken_at_its_word(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A typing error in a folder's name must not train something else."""
    monkeypatch.chdir(tmp_path)
    assert shipped_config(Path(name)) == Path(name)


def test_an_installation_has_the_configurations_where_pip_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = tmp_path / "share/tiny-math-solver/configs/quickstart.yaml"
    place.parent.mkdir(parents=True)
    place.write_text("")
    site = tmp_path / "lib/site-packages"
    info = site / "tiny_math_solver-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-math-solver\nVersion: 1\n")
    (info / "RECORD").write_text(
        "tiny_math_solver/__init__.py,,\n../../share/tiny-math-solver/configs/quickstart.yaml,,\n"
    )
    installed = next(iter(metadata.Distribution.discover(path=[str(site)])))
    monkeypatch.setattr(shipped.metadata, "distribution", lambda name: installed)
    monkeypatch.setattr(shipped, "__file__", str(site / "tiny_math_solver/config/shipped.py"))
    monkeypatch.chdir(tmp_path)
    assert shipped_config(Path("configs/quickstart.yaml")).samefile(place)
    assert shipped_config(Path("configs/other.yaml")) == Path("configs/other.yaml")


def test_quickstart_trains_the_shipped_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--dry-run", "--grpo.max_steps", "3"]) == 0
    out = capsys.readouterr().out
    assert "model: embedded, LoRA r=16 alpha=32" in out
    assert "3 steps in all: 384 completions" in out
    assert main(["quickstart", "configs/quickstart.yaml"]) == 2


def test_the_release_has_every_configuration():
    """What pyproject.toml ships by a pattern is all of them."""
    assert [path.name for path in shipped._configs()] == sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
