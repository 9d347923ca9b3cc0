"""A YAML file as a tree of values, with the line of each key.

Numbers and words are read as in YAML 1.2. Refused on purpose: aliases (ten lines of them can expand to gigabytes),
tags, deep nesting, and repeated keys, of which YAML would keep the last.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.files import require_file, sibling

LARGEST_FILE = 200_000  # bytes
DEEPEST = 20  # levels of nested sections and lists


@dataclass(frozen=True)
class Comment:
    """A comment behind the unquoted text of `key`, which may have been meant as a part of it."""

    key: str  # dotted: prompt.system
    line: int
    text: str  # from the number sign on


def read_tree(path: Path) -> tuple[dict[str, Any], dict[str, int], list[Comment]]:
    """The file's sections, the line of every section (`grpo`) and key (`grpo.beta`), comments behind unquoted texts.

    Raises UserError naming file and line if the file cannot be read or is not a configuration.
    """
    text = _read_text(path)
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        tree = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        hint = _quoting_hint(error.problem or "", text.splitlines()[:line])
        raise UserError(f"{path}:{line}: not valid YAML: {_on_one_line(error.problem)}{hint}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date or number
        raise UserError(f"{path}: not valid YAML: {_on_one_line(error)}") from None
    if tree is None:
        return {}, {}, []
    if not isinstance(tree, dict) or not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: expected sections (model, problems, …) at the top level")
    lines: dict[str, int] = {}
    for section, body in root.value:
        lines[str(section.value)] = section.start_mark.line + 1
        for key, _ in body.value if isinstance(body, yaml.MappingNode) else []:
            lines[f"{section.value}.{key.value}"] = key.start_mark.line + 1
    return {str(k): v for k, v in tree.items()}, lines, list(_comments(root, text, ""))


def read_value(text: str) -> Any:
    """A value as YAML reads it. Raises ValueError if it is not valid YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(_on_one_line(error)) from None


def _comments(node: yaml.Node, text: str, key: str) -> Iterator[Comment]:
    """The comments behind unquoted texts in `node`, or in place of them, on the line on which such a text ends."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _comments(value, text, f"{key}.{name.value}" if key else str(name.value))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _comments(value, text, key)
    elif isinstance(node, yaml.ScalarNode) and not node.style and (not node.value or node.tag.endswith(":str")):
        behind = re.compile(r"[ \t]+(#.*)").match(text, node.end_mark.index)
        if behind:
            yield Comment(key, node.end_mark.line + 1, behind[1].rstrip())


def _quoting_hint(problem: str, lines: list[str]) -> str:
    """The remedy where an unquoted text with ` #` or `: ` in it makes a file invalid; `lines` end at the error."""
    value = r"^\s*[\w.-]+:\s+[^\s'\"|>#\[&*!].*"
    goes_on = "<scalar>" in problem or "expected ':'" in problem  # with a line after the comment
    if goes_on and any(re.match(rf"{value}\s#", line) for line in lines[-2:]):
        return "; a number sign after a space begins a comment: put such a text in quotes"
    if lines and re.match(r"^\s*[\w.-]+:\s+([*&!@%`]|- )", lines[-1]):
        return "; put a text that begins with a sign in quotes"
    if "mapping values" in problem and lines and re.match(rf"{value}:(\s|$)", lines[-1]):
        return "; put a text with a colon in it in quotes"
    return ""


def dump(tree: dict[str, Any]) -> str:
    """`tree` as YAML that reads back as itself."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; expected a YAML file")
        if path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".parquet"):
            raise UserError(f"{path}: expected a YAML file; tiny-math init {path} writes one for a file of problems")
        if not path.exists():
            raise UserError(f"no such config file: {path}{_meant(path)}")
        require_file(path, "config file")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise UserError(f"{path}: over {LARGEST_FILE:,} bytes: too large for a configuration")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _meant(path: Path) -> str:
    """`; did you mean configs/quickstart.yaml?` where that is a file of nearly that name."""
    places = (path.with_name(f"{path.name}.yaml"), Path("configs", path.name), Path("configs", f"{path.name}.yaml"))
    close = next((place for place in places if place.is_file()), None)
    if close:
        return f"; did you mean {close}?"
    return sibling(path, [".yaml", ".yml"]) or sibling(Path("configs", path.name), [".yaml", ".yml"])


def _on_one_line(message: object) -> str:
    return " ".join(str(message).split())


class _Loader(yaml.SafeLoader):
    """SafeLoader that, like YAML 1.2, reads 2e-3 as a number and on/off/yes/no and dates as words."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._refuse("aliases (*name) are not supported; write the value out", event)
        if event.tag is not None:
            self._refuse(f"tags ({event.tag}) are not supported", event)
        if self.depth == DEEPEST:
            self._refuse(f"nested more than {DEEPEST} deep", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    self._refuse(f"the key {key.value} is repeated", key)
                keys.add(key.value)
        return super().construct_mapping(node, deep)

    def _refuse(self, problem: str, at: Any) -> NoReturn:
        raise yaml.MarkedYAMLError(None, None, problem, at.start_mark)


_REPLACED = ("bool", "float", "timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false|True|False)$"), list("tfTF"))
_FLOAT = re.compile(r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf)$|\.nan$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes the texts which only `_Loader` would take for a number: 2e-3."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
