"""notebooks/quickstart.ipynb: how it is committed, and what its reader sees once it has run."""

import base64
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from helpers.paths import QUICKSTART, ROOT
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.runs.records import read_jsonl

NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cell_named(notebook: Any, name: str) -> Any:
    return next(cell for cell in notebook.cells if cell.id == name)


def printed(cell: Any, stream: str = "stdout") -> str:
    """What a cell has printed, without the carriage returns of a terminal."""
    texts = (output.text for output in cell.outputs if output.output_type == "stream" and output.name == stream)
    return "".join(texts).replace("\r", "")


def shown(cell: Any, kind: str) -> Any:
    """The content of this kind in a cell's only rich output."""
    (output,) = [output for output in cell.outputs if output.output_type != "stream"]
    return output.data[kind]


# -- As committed ------------------------------------------------------------------------------------------------


def test_it_is_committed_without_outputs_and_with_the_metadata_of_no_machine(notebook: Any) -> None:
    """Clear all outputs before a commit; an editor's or kernel's own metadata would change with every save."""
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor, notebook.metadata) == (4, 5, METADATA)
    for cell in notebook.cells:
        assert cell.metadata == {}, cell.id
        assert "attachments" not in cell, cell.id
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.id
    assert NOTEBOOK.stat().st_size < 40_000


def test_its_code_compiles(notebook: Any) -> None:
    manager = TransformerManager()  # what a notebook makes of ! and %
    for cell in code_cells(notebook):
        compile(manager.transform_cell(cell.source), cell.id, "exec")


def test_it_names_no_folder_of_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.~])/(?:home|root|tmp|work|Users|content|kaggle|teamspace)\b|[A-Z]:\\\\", text)


def test_its_configuration_is_the_quickstart(notebook: Any, tmp_path: Path) -> None:
    first, _, text = cell_named(notebook, "configuration").source.partition("\n")
    assert first == "%%writefile checkpoint/quickstart.yaml"
    (tmp_path / "quickstart.yaml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "quickstart.yaml") == load_config(QUICKSTART)


# -- As run ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_runs_and_shows_what_the_run_recorded(
    notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = tmp_path / "reader"
    folder.mkdir()
    execute(notebook, folder)

    run = folder / "checkpoint" / "quickstart"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["before"]["accuracy"] < 0.15
    assert summary["after"]["accuracy"] >= 0.90
    for cell in code_cells(notebook):
        assert printed(cell, "stderr") == "", cell.id
    assert printed(cell_named(notebook, "install")) == "", "it installs where the package is"
    check_training(printed(cell_named(notebook, "train")))
    check_results(notebook, summary)
    check_curves(shown(cell_named(notebook, "curves"), "application/vnd.plotly.v1+json"), summary, run)
    check_group(cell_named(notebook, "group"), run)
    check_answers(notebook, run)


def execute(notebook: Any, folder: Path) -> None:
    """Run all cells in `folder`. An error of a cell has the lines of the training with it, which raises none."""
    client = NotebookClient(notebook, timeout=220, resources={"metadata": {"path": str(folder)}})
    try:
        client.execute(env=dict(os.environ))
    except CellExecutionError as error:
        error.add_note(printed(cell_named(notebook, "train")))
        raise


def check_training(lines: str) -> None:
    """A line a step, and nothing that only a terminal understands."""
    assert "\x1b" not in lines
    assert re.findall(r"^step (\d+)/24  reward \d", lines, re.MULTILINE) == [str(step) for step in range(1, 25)]
    assert lines.count("verdict: ") == 1


def check_results(notebook: Any, summary: dict[str, Any]) -> None:
    table = re.findall(r"<td>(.*?)</td>", shown(cell_named(notebook, "results"), "text/html"))
    (low, high), after = summary["after"]["ci95"], summary["after"]
    assert len(table) == 4 * 5
    assert table[5:9] == [
        f"{after['correct']} of 500",
        f"{after['accuracy']:.1%}",
        f"{low:.1%} to {high:.1%}",
        f"{after['strict_accuracy']:.1%}",
    ]
    paired = summary["paired"]
    assert re.findall(r": (\d+)$", printed(cell_named(notebook, "paired")), re.MULTILINE) == [
        str(paired["fixed"]),
        str(paired["broken"]),
    ]
    assert f"p = {paired['p_value']:.1g}" in printed(cell_named(notebook, "paired"))


def check_curves(figure: Any, summary: dict[str, Any], run: Path) -> None:
    """The curves are those of the records, each in a panel of its own kind."""
    rows = list(read_jsonl(run / "metrics.jsonl"))
    dev, right, marked, dead, length = (numbers(trace["y"]) for trace in figure["data"])
    assert dev == pytest.approx([point["accuracy"] for point in summary["dev"]])
    assert right == pytest.approx([row["rewards/correctness_reward/mean"] for row in rows])
    assert max(marked) == pytest.approx(1.0, abs=0.02), "a share of the solutions, not the reward"
    assert dead == pytest.approx([row["frac_reward_zero_std"] for row in rows])
    assert length == pytest.approx([row["completions/mean_length"] for row in rows])
    assert [trace["xaxis"] for trace in figure["data"]] == ["x", "x2", "x2", "x2", "x3"]


def numbers(values: Any) -> list[float]:
    """The values of a trace, which plotly may have packed."""
    if isinstance(values, dict):
        values = np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"]).tolist()
    return [float(value) for value in values]


def check_group(cell: Any, run: Path) -> None:
    """All solutions of one problem in full, and advantages that can be computed from their rewards."""
    cells = re.findall(r"<td[^>]*>(.*?)</td>", shown(cell, "text/html"), re.DOTALL)
    rows = [cells[start : start + 6] for start in range(0, len(cells), 6)]
    assert len(rows) == 8
    assert len({row[3] for row in rows}) >= 3, "rewards that differ"
    for _, correctness, form, reward, advantage, computed in rows:
        assert float(correctness) + float(form) == float(reward)
        assert float(computed) == pytest.approx(float(advantage), abs=0.011)
    question = printed(cell).partition(" (answer: ")[0]
    group = [row for row in read_jsonl(run / "rollouts.jsonl") if (row["step"], row["question"]) == (1, question)]
    texts = [escaped(row["completion"]) for row in group]
    assert Counter(row[0] for row in rows) == Counter(texts)


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def check_answers(notebook: Any, run: Path) -> None:
    """A problem that training fixed; and another one asked of the model before training, after it, and in a vote."""
    question, before, after = re.split(r"\n+(?:before|after):\n", printed(cell_named(notebook, "example")).strip())
    for when, answer in (("before", before), ("after", after)):
        rows = [row for row in read_jsonl(run / f"eval/{when}.jsonl") if row["sample"] is None]
        (row,) = [row for row in rows if f"{row['question']} (answer: {row['gold']})" == question]
        assert (row["completion"].strip(), row["correct"]) == (answer, when == "after")

    asked = printed(cell_named(notebook, "ask")).strip()
    _, before, after, vote = re.split(r"\n+(?:before:\n|after:\n|vote: )", asked)
    assert "<<" not in before, "the untrained model guesses"
    assert "<<" in after, "the trained one works step by step"
    assert re.search(r"\d wins with \d votes of 8|tie with", vote)
