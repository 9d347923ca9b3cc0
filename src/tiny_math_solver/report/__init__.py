"""Records → one offline HTML page.

records.py    a run folder → the page's data, as JSON     diagnose.py   failures, dead groups, waste
page/         the page, which draws itself from that JSON with plotly and shows what a model wrote as text only
watch.py      the page of a run that is still going on, served to this machine
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from tiny_math_solver.report.records import compare, run_data
from tiny_math_solver.support.files import write_whole

REPORT = "report.html"  # in the run folder
SCRIPTS = ("elements", "verdict", "curves", "problems", "failures", "rollouts", "setup", "main")


def write_report(folders: list[Path], out: Path) -> None:
    """Write the page of one run, or of several side by side. Raises UserError if a folder is not a run folder."""
    write_whole(out, page(page_data(folders)))


def page_data(folders: list[Path]) -> dict[str, Any]:
    """The data of the page of `folders`, as plain JSON."""
    runs = [run_data(folder) for folder in folders]
    unfinished = [run["name"] for run in runs if run["summary"] is None]
    return {
        "title": " · ".join(run["name"] for run in runs),
        "state": f"not finished: {', '.join(unfinished)}" if unfinished else "",
        "runs": runs,
        "comparisons": compare(runs),
    }


def page(data: dict[str, Any]) -> str:
    """The page as HTML, scripts, styles and data included."""
    from jinja2 import Environment
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    def file(name: str) -> str:
        return (resources.files(__name__) / "page" / name).read_text(encoding="utf-8")

    template = Environment(autoescape=True).from_string(file("page.html.jinja"))
    return template.render(
        title=data["title"],
        css=Markup(file("page.css")),
        js=Markup("\n".join(file(f"{name}.js") for name in SCRIPTS)),
        plotly=Markup(get_plotlyjs()),
        data=script_data(data),
    )


def script_data(data: Any) -> Any:
    """JSON for a `<script>` element, without "<", so that nothing in it can end the element."""
    from markupsafe import Markup

    return Markup(json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"))
