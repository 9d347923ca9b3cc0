"""Imports point down: the order of the layers, and no two modules that need each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

from helpers.paths import ROOT

PACKAGE = "tiny_math_solver"
LAYERS = (  # from the top; a module may import its own layer and those below
    ("__main__", "cli", "bench", "playground"),
    ("train", "seeds", "export", "harness", "publish"),
    ("preflight",),
    ("training",),
    ("update", "rollouts", "evaluation", "report"),
    ("policy", "rewards"),
    ("grading", "prompts", "problems", "models", "runs"),
    ("config", "hub", "kernels"),
    ("support",),
)
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}


def test_every_module_stands_in_a_layer():
    parts = {name.split(".")[1] for name in modules(ROOT / "src") if "." in name}
    assert parts == set(DEPTH)


def test_no_module_imports_a_layer_above_its_own():
    assert upward(imports(ROOT / "src")) == set()


def test_no_modules_import_each_other():
    assert circles(imports(ROOT / "src")) == []


def test_no_folders_import_each_other():
    assert circles(folders(imports(ROOT / "src"))) == []


def test_what_points_up_or_in_a_circle_is_found(tmp_path: Path):
    write(
        tmp_path,
        {
            "cli/__init__.py": "from tiny_math_solver import train\n",
            "train.py": "import tiny_math_solver.grading.reader\n",
            "grading/__init__.py": "from tiny_math_solver.grading.reader import read\n",
            "grading/reader.py": "from . import numerals\ndef read():\n    from tiny_math_solver.train import train\n",
            "grading/numerals.py": "from tiny_math_solver.grading import read\n",
            "support/errors.py": "if TYPE_CHECKING:\n    from ..config import schema\n",
            "config/schema.py": "import json\n",
            "config/limits.py": "from tiny_math_solver.hub import snapshots\n",
            "hub/snapshots.py": "",
            "hub/retries.py": "from tiny_math_solver.config.schema import Config\n",
        },
    )
    assert upward(imports(tmp_path)) == {"grading.reader → train", "support.errors → config.schema"}
    assert circles(imports(tmp_path)) == [["grading", "grading.numerals", "grading.reader", "train"]]
    assert circles(folders(imports(tmp_path))) == [["config", "hub"], ["grading", "train"]]


def test_a_tree_in_order_is_let_through(tmp_path: Path):
    write(
        tmp_path,
        {
            "cli/__init__.py": "from tiny_math_solver.train import train\nimport train_grpo_is_none_of_ours\n",
            "train.py": "from tiny_math_solver.rollouts import engine, sampling\n",
            "rollouts/__init__.py": "",
            "rollouts/engine.py": "from tiny_math_solver.rollouts.sampling import Sampling\n",
            "rollouts/sampling.py": "from tiny_math_solver.support.errors import UserError\n",
            "support/errors.py": "class UserError(Exception): ...\n",
        },
    )
    assert imports(tmp_path)["tiny_math_solver.train"] == {
        "tiny_math_solver.rollouts.engine",
        "tiny_math_solver.rollouts.sampling",
    }
    assert upward(imports(tmp_path)) == set()
    assert circles(imports(tmp_path)) == []


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def modules(source: Path) -> dict[str, Path]:
    """The modules of the package below `source` by their dotted names; a folder's name is that of its `__init__`."""
    found = {}
    for path in sorted((source / PACKAGE).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: Path) -> dict[str, set[str]]:
    """The modules of the package that each of them imports, within functions and for types as well."""
    known = modules(source)
    return {
        name: {target for node in ast.walk(ast.parse(path.read_text())) for target in targets(node, name, path, known)}
        for name, path in known.items()
    }


def targets(node: ast.AST, name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom):
        origin = node.module or ""
        if node.level:  # relative: one dot is the module's own package
            up = name.split(".")[: -(node.level - (path.name == "__init__.py")) or None]
            origin = ".".join([*up, *filter(None, [node.module])])
        for alias in node.names:  # a module of that package, or something that the package itself holds
            submodule = f"{origin}.{alias.name}"
            if submodule in known or origin in known:
                yield submodule if submodule in known else origin


def upward(graph: dict[str, set[str]]) -> set[str]:
    """The imports that point up, as `module → module`, without the package's name."""
    return {arrow(name, target) for name in graph for target in graph[name] if depth(target) < depth(name)}


def arrow(name: str, target: str) -> str:
    return f"{short(name)} → {short(target)}"


def folders(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same imports between the parts of the package: its folders, and the modules that stand beside them."""
    parts: dict[str, set[str]] = {}
    for name in graph:
        own = ".".join(name.split(".")[:2])
        parts.setdefault(own, set()).update({".".join(target.split(".")[:2]) for target in graph[name]} - {own})
    return parts


def depth(module: str) -> int:
    return DEPTH[module.split(".")[1]] if "." in module else len(LAYERS)  # the package's own `__init__` is the lowest


def short(module: str) -> str:
    return module.removeprefix(f"{PACKAGE}.")


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other by their imports."""
    reached = {name: reachable(graph, name) for name in graph}
    groups = {
        tuple(sorted(short(other) for other in graph if other in reached[name] and name in reached[other]))
        for name in graph
    }
    return sorted(list(group) for group in groups if group)


def reachable(graph: dict[str, set[str]], name: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[name])
    while waiting:
        if (module := waiting.pop()) not in found:
            found.add(module)
            waiting.extend(graph[module])
    return found
