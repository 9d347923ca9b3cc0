"""A run's records as they may leave this machine: without secrets, and of every local path the name alone."""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tiny_math_solver.config.yaml_file import dump
from tiny_math_solver.problems.files import FILE_SUFFIXES
from tiny_math_solver.report import page, room_for_data
from tiny_math_solver.report.contents import data_of
from tiny_math_solver.report.records import RunRecords
from tiny_math_solver.runs.records import CONFIG, read_config
from tiny_math_solver.support.redaction import HIDDEN, NAMES, secret_values, without_secrets

SHORTEST = 5  # characters of a path that is looked for in a text: a shorter one stands in too many
AS_WRITTEN = {"prompt.system", "grpo.generation_kwargs", "grpo.chat_template_kwargs"}  # texts, not paths
TOKEN = re.compile(r"\b(?:hf_|sk-|gh[opsu]_|github_pat_|glpat-|wandb_v1_|xox[abp]-|AKIA)[A-Za-z0-9_-]{16,}")
QUERY = re.compile(r"([?&][\w-]*(?:token|key|secret|passw\w*|signature|credential)[\w-]*=)[^&\s'\"]+", re.IGNORECASE)
KEY = re.compile(r"(?<![\w@-])[0-9a-f]{40}(?![\w-])")  # as W&B's are; commits look like it, but follow an @
HOME = re.compile(r"(?:(?<!\w)/(?:home|Users)|\b[A-Za-z]:[\\/]+Users)[\\/]+[^\s\\/'\"]+")
# not what follows a word, a bracket or the address of a host: a/b/c, (1+2)/3/4, https://host/path
ABSOLUTE = re.compile(
    r"(?<![\w.:/\\)\]}>-])(?:~|[A-Za-z]:)?(?:[\\/]+[^\s\\/'\"`,;:()<>|]+)+[\\/]+([^\s\\/'\"`,;()<>|]+)"
)


class Shareable:
    """Takes secrets and local paths out of what the run in `folder` recorded; `secrets` are hidden as well."""

    def __init__(self, folder: Path, secrets: Sequence[str] = ()):
        self._config = read_config(folder) or {}
        self.secrets = sorted({*filter(None, secrets), *secret_values()}, key=len, reverse=True)
        paths = {str(folder), str(folder.absolute()), str(folder.resolve())}
        for key, value in _leaves(self._config):
            if key not in AS_WRITTEN and isinstance(value, str) and is_local(value):
                paths |= {value, str(Path(value).expanduser().absolute())}
        known = {path: name_of(path) for path in paths if len(_parts(path)) > 1}
        known |= {f"{Path.cwd()}/": "", str(Path.home()): "~"}
        longest_first = sorted(known.items(), key=lambda item: -len(item[0]))
        self.known = {path: name for path, name in longest_first if len(path) >= SHORTEST}

    def words(self, text: str) -> str:
        """What somebody said, a model or a prompt: without secrets, and otherwise as it is."""
        return QUERY.sub(rf"\1{HIDDEN}", TOKEN.sub(HIDDEN, without_secrets(text, self.secrets)))

    def text(self, text: str) -> str:
        """What was recorded about a run: without secrets and local paths."""
        for path, name in self.known.items():
            text = text.replace(path, name)
        return self.words(ABSOLUTE.sub(r"\1", HOME.sub("~", text)))

    def tree(self, value: Any) -> Any:
        """JSON with `text` of every string in it."""
        return mapped(value, self.text)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, whose local paths are names, and whose values called token, key or password are hidden."""

        def shared(value: Any, key: str) -> Any:
            if isinstance(value, dict):
                return {name: shared(each, f"{key}.{name}".lstrip(".")) for name, each in value.items()}
            if isinstance(value, list):
                return [shared(each, key) for each in value]
            if not isinstance(value, str):
                return value
            if value and NAMES.search(key.rpartition(".")[2]):
                return HIDDEN
            if not key.endswith("revision"):
                value = KEY.sub(HIDDEN, value)
            if any(key == whole or key.startswith(f"{whole}.") for whole in AS_WRITTEN):
                return self.words(value)
            return self.words(name_of(value) if is_local(value) else value)

        return shared(self._config, "")

    @property
    def config_text(self) -> str:
        return dump(self.config)


class SharedRecords(RunRecords):
    """The records of a run whose figures may leave this machine."""

    def __init__(self, folder: Path, shareable: Shareable):
        super().__init__(folder)
        self.shareable = shareable

    def figures(self, runs: int = 1) -> dict[str, Any]:
        config = self.shareable.config_text
        found: dict[str, Any] = self.shareable.tree(super().figures(runs))
        found["config"] = config
        found["hashes"][CONFIG] = hashlib.sha256(config.encode()).hexdigest()
        if found["environment"]:
            found["environment"]["command"] = []  # its arguments may be anything
        return found


def shared_page(folder: Path, shareable: Shareable) -> str:
    """The page of a run as it may leave this machine."""
    data = data_of([SharedRecords(folder, shareable)], room_for_data())
    return page(mapped(data, shareable.words))


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """JSON with every string in it, keys included, changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {mapped(key, change): mapped(each, change) for key, each in value.items()}
    return [mapped(each, change) for each in value] if isinstance(value, list | tuple) else value


def is_local(value: str) -> bool:
    """True for what names a file or folder of this machine, or of the one that a run was made on."""
    path = re.sub(r":[A-Za-z_]\w*$", "", value)  # of a function in a file
    looks_so = value.startswith((".", "/", "~")) or bool(re.match(r"[A-Za-z]:[\\/]", value)) or "\\" in value
    return "\n" not in value and (looks_so or path.lower().endswith((*FILE_SUFFIXES, ".py", ".jinja")))


def name_of(path: str) -> str:
    """The last part of a path, of whichever system."""
    return _parts(path)[-1] if _parts(path) else path


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[\\/]+", path) if part not in ("", ".", "~")]


def _leaves(tree: Any, key: str = "") -> list[tuple[str, Any]]:
    """The values in a configuration, each with its dotted name."""
    if isinstance(tree, dict):
        return [leaf for name, value in tree.items() for leaf in _leaves(value, f"{key}.{name}".lstrip("."))]
    if isinstance(tree, list):
        return [leaf for value in tree for leaf in _leaves(value, key)]
    return [(key, tree)]
