"""README, docs and notebooks against the code: values, names, links and file names that have gone stale."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.paths import GSM8K, QUICKSTART, ROOT
from tiny_math_solver.cli import COMMANDS
from tiny_math_solver.config.fields import known_fields
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.schema import Config
from tiny_math_solver.grading.rewards import CORRECTNESS_REWARD, FORMAT_REWARD

README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs").glob("*.md")), ROOT / "notebooks/quickstart.ipynb"]
PACKAGE = ROOT / "src" / "tiny_math_solver"
OWN_FILES = ("rewards.py", "rules.py", "judge.py", "file.py")  # of a user, in examples
NOT_SET = "–"  # in a cell of the table of settings


@pytest.fixture(params=PAGES, ids=[page.name for page in PAGES])
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_the_readme_is_short_enough_to_be_read():
    assert len(README.splitlines()) <= 150


def test_the_readme_says_how_tiny_math_gets_on_the_path_before_it_uses_it():
    before, activated, _ = README.partition("source .venv/bin/activate")
    assert activated
    assert not re.search(r"(?<!\.venv/bin/)\btiny-math\b", before)


def test_the_words_of_grpo_are_explained_before_they_are_used():
    explained = README.index("**GRPO in one paragraph**")
    for word in ("rollout", "group", "advantage", "adapter", "greedy", "dev", "strict", "lenient"):
        first = re.search(rf"\b{word}\b", README, re.IGNORECASE)
        assert first, word
        assert first.start() > explained, word


# -- The table of settings --------------------------------------------------------------------------------------


def settings_table() -> dict[str, tuple[str, str]]:
    """`{setting: (value of the GSM8K configuration, value of the quickstart)}`, one entry for each name in a row."""
    found = {}
    section = README.partition("## Configuration")[2].partition("\n## ")[0]
    for row in re.findall(r"^\| (`.+)\|$", section, re.MULTILINE):
        names, gsm8k, quickstart, _ = (cell.strip() for cell in row.split("|"))
        keys = re.findall(r"`([\w.]+)`", names)
        for key, one, other in zip(keys, values_of(gsm8k), values_of(quickstart), strict=True):
            name = f"{keys[0].partition('.')[0]}{key}" if key.startswith(".") else key
            found[name] = one, other
    return found


def values_of(cell: str) -> list[str]:
    return [value.strip().strip("`") for value in cell.split(", ")]


def value(config: Config, name: str) -> Any:
    section, key = name.split(".")
    part = getattr(config, section)
    return part.get(key, NOT_SET) if isinstance(part, dict) else getattr(part, key)


@pytest.mark.parametrize(("column", "path"), [(0, GSM8K), (1, QUICKSTART)], ids=["gsm8k", "quickstart"])
def test_the_table_of_settings_shows_what_the_configurations_resolve_to(column: int, path: Path):
    config, table = load_config(path), {name: values[column] for name, values in settings_table().items()}
    assert table.pop("correctness_reward") == f"{CORRECTNESS_REWARD} / 0.0"
    assert table.pop("format_reward") == f"{FORMAT_REWARD} / 0.0"
    assert len(table) >= 15
    assert {name: shown for name, shown in table.items() if reads(shown) != value(config, name)} == {}


def reads(shown: str) -> Any:
    """The value that a cell of the table shows: `1e-3` is a number, which it is not in YAML."""
    if shown in ("all", "what fits"):
        return None
    try:
        return float(shown) if re.search(r"[.e]", shown) else int(shown)
    except ValueError:
        return shown


# -- Names ------------------------------------------------------------------------------------------------------


def text_of(path: Path) -> str:
    """A page as Markdown; a notebook's cells one below the other, its code in blocks."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n".join(source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells)


def code_of(path: Path) -> Iterator[str]:
    """Everything in a page that is set as code: spans and blocks."""
    text = text_of(path)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    yield from (re.sub(r"\s#.*", "", block) for block in blocks)
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def test_every_setting_that_is_named_exists(page: Path):
    sections = "|".join(Config.model_fields)
    for code in code_of(page):
        for section, key in re.findall(rf"(?<![\w./])(?:--)?({sections})\.([a-z]\w*)(?!\w*[/(])", code):
            if key not in ("py", "md", "jsonl"):
                assert key in known_fields(section), f"{page.name}: {section}.{key}"


def test_every_command_that_is_named_exists(page: Path):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for code in code_of(page):
        for command in re.findall(r"\btiny-math ([a-z]+)\b", code):
            assert command in COMMANDS, f"{page.name}: tiny-math {command}"
        for target in re.findall(r"(?:^|\n)make ([\w-]+)", code):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_every_command_is_in_the_table_of_commands():
    section = README.partition("## Commands")[2].partition("\n## ")[0]
    named = {span.split()[0] for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for span in spans(row)}
    assert named - {"tiny-math"} == set(COMMANDS)


def spans(row: str) -> list[str]:
    return re.findall(r"`([^`]+)`", row)


def test_every_source_file_that_is_named_exists(page: Path):
    ours = {path.name for folder in ("src", "tests", "scripts", "configs") for path in (ROOT / folder).rglob("*.*")}
    written = re.findall(r"^%%writefile (.+)$", text_of(page), re.MULTILINE)  # by a notebook itself
    for code in code_of(page):
        for name in re.findall(r"[\w/.-]+\.(?:py|sh|yaml)\b", code):
            if name in written:
                continue
            if "/" in name:
                assert any((place / name).exists() for place in (ROOT, PACKAGE, page.parent)), f"{page.name}: {name}"
            else:
                assert name in ours | {"setup_lightning.sh", "config.yaml", "mine.yaml", *OWN_FILES}, (
                    f"{page.name}: {name}"
                )


def test_every_link_leads_somewhere(page: Path):
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    links = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_citation_has_the_version_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
