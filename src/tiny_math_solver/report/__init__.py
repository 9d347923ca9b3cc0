"""Records → one offline HTML page of less than PAGE_BYTES, however long the run.

records.py    a run folder → its figures; with rollouts.py and samples.py, which read rollouts.jsonl as it grows,
              curves.py, diagnose.py (failures, waste) and training_problems.py (pass rates)
contents.py   the data of the page; texts.py and preference.py: which texts are shown where not all can be
packing.py    compressed data
page/         the page, which unpacks them, draws itself with plotly and shows what a model wrote as text only
card.py       verdict and curve as a picture
watch.py      the page of a run that is still going on, served to this machine
"""

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from tiny_math_solver.report.contents import data_of
from tiny_math_solver.report.packing import as_json, packed
from tiny_math_solver.report.records import RunRecords
from tiny_math_solver.support.files import write_whole

REPORT = "report.html"  # in the run folder
PAGE_BYTES = 8_000_000
SPARE_BYTES = 50_000  # of a page, for its title
SCRIPTS = (
    "elements", "list", "rescues", "verdict", "curves", "problems", "failures", "training", "rollouts", "setup",
    "unpack", "main",
)  # fmt: skip


def write_report(folders: list[Path], out: Path, seeds: dict[str, Any] | None = None) -> None:
    """Write the page of one run, or of several side by side; of `seeds`, with the one verdict over them at its top.

    `seeds` is the content of seeds.json with a `title`. Raises UserError if a folder is not a run folder.
    """
    write_whole(out, page(page_data(folders, seeds=seeds)))


def page_data(folders: list[Path], room: int | None = None, seeds: dict[str, Any] | None = None) -> dict[str, Any]:
    """The data of the page of `folders`, of at most `room` bytes when packed (default: what the page has left).

    Raises UserError if one is no run folder, or a damaged one.
    """
    return data_of([RunRecords(folder) for folder in folders], room or room_for_data(), seeds)


@cache
def room_for_data() -> int:
    """Bytes that a page of PAGE_BYTES has left for its packed data."""
    return PAGE_BYTES - SPARE_BYTES - len(page({"title": ""}).encode())


def page(data: dict[str, Any]) -> str:
    """The page as HTML, scripts, styles and data included."""
    from jinja2 import Environment
    from markupsafe import Markup

    template = Environment(autoescape=True).from_string(_file("page.html.jinja"))
    return template.render(
        title=data["title"],
        css=Markup(_file("page.css")),
        js=Markup("\n".join(_file(f"{name}.js") for name in SCRIPTS)),
        plotly=_plotly(),
        data=packed(as_json(data)),
    )


def script_data(data: Any) -> Any:
    """JSON for a `<script>` element, without "<", so that nothing in it can end the element."""
    from markupsafe import Markup

    return Markup(json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"))


def _file(name: str) -> str:
    return (resources.files(__name__) / "page" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return packed(get_plotlyjs().encode(), level=9)
