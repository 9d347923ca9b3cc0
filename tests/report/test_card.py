"""The card of a run: a picture that says what its records say."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from helpers.made_up_run import write_run
from tiny_math_solver.cli import main
from tiny_math_solver.report.card import LENIENT, SIZE, STRICT, verdict_of


def colours(path: Path) -> set[str]:
    image = Image.open(path)
    assert image.size == SIZE
    found = image.convert("RGB").getcolors(1 << 20)
    assert found
    return {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in found if isinstance(colour, tuple)}


def test_a_card_has_both_curves_and_is_a_png_of_the_usual_size(tmp_path: Path, capsys):
    run = write_run(tmp_path / ("a run with a very long name " * 6))
    assert main(["report", str(run), "--card", str(tmp_path / "card.png")]) == 0
    assert f"card: {tmp_path / 'card.png'}" in capsys.readouterr().out
    assert {LENIENT, STRICT} <= colours(tmp_path / "card.png")


def test_its_words_are_those_of_the_summary(tmp_path: Path):
    summary = json.loads((write_run(tmp_path / "run") / "summary.json").read_text())
    lines = [text for _, _, _, text in verdict_of(summary, "a model", "a run")]
    for line in (
        "greedy accuracy on 4 test problems", "2 fixed, 0 broken; p = 0.5", "no significant gain",
        "strict, after ####: 75.0%", "kinds not trained on: 0.0% to 2.0%",
    ):  # fmt: skip
        assert line in lines


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    unfinished, run = write_run(tmp_path / "unfinished", finished=False), write_run(tmp_path / "run")
    card = ["--card", str(tmp_path / "card.png")]
    assert main(["report", str(unfinished), *card]) == 2
    assert "this run is not finished" in capsys.readouterr().err
    assert main(["report", str(run), str(run), *card]) == 2
    assert "--card shows one run" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["report", str(run), *card]) == 2
    assert "pip install pillow" in capsys.readouterr().err
    assert not (tmp_path / "card.png").exists()
