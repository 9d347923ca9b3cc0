"""pyproject.toml declares what the package imports, not only what its dependencies happen to bring along."""

import ast
import re
import sys
import tomllib
from pathlib import Path

from helpers.paths import ROOT

DISTRIBUTIONS = {"yaml": "pyyaml", "PIL": "pillow"}  # of modules that are named otherwise
OURS = {"tiny_math_solver", "reward_func", "train_grpo"}
ELSEWHERE = {"vllm"}  # in a Python of its own, which --vllm-python names


def imported(file: Path) -> set[str]:
    """The top-level modules that a file imports, anywhere in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
    return {name.partition(".")[0] for name in names}


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    lines = [*project["dependencies"], *extras]
    declared = {re.split(r"[^\w-]", line)[0].lower().replace("-", "_") for line in lines}
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    assert len(files) > 50
    used = {DISTRIBUTIONS.get(name, name) for file in files for name in imported(file) - sys.stdlib_module_names - OURS}
    assert used - ELSEWHERE <= declared, sorted(used - ELSEWHERE - declared)
    assert {"torch", "filelock", "psutil", "pyyaml"} <= used
