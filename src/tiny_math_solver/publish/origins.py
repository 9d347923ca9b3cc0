"""Where the base model and the problems of a run come from, as far as the run and the Hub cache tell."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_math_solver.config.sections import EMBEDDED, ProblemsSection
from tiny_math_solver.config.shipped import COUNTDOWN, SHIPPED_MODELS
from tiny_math_solver.hub.datasets import DatasetName
from tiny_math_solver.hub.snapshots import PINNED_REVISIONS, Kind, pinned
from tiny_math_solver.models.adapter import base_of_adapter, is_adapter
from tiny_math_solver.problems.splits import named_test_source
from tiny_math_solver.publish.shared import is_local, name_of

HUB = "https://huggingface.co/"
REPOSITORY = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
GENERATED = {EMBEDDED: "generated word problems", COUNTDOWN: "generated countdown problems"}
LICENCES = {"Qwen/Qwen2.5-0.5B-Instruct": "apache-2.0", "openai/gsm8k": "mit"}  # of the pinned commits
OWN_LICENCE = "apache-2.0"  # of what this package ships and generates


@dataclass(frozen=True)
class Origin:
    """A base model or a set of problems: shipped with this package, on the Hub, or local."""

    kind: Kind
    name: str
    revision: str | None = None
    subset: str | None = None
    is_shipped: bool = False
    is_on_hub: bool = False
    licence: str | None = None  # None: not stated where we looked

    @property
    def words(self) -> str:
        """A short description."""
        if self.is_shipped:
            return GENERATED.get(self.name, self.name) if self.kind == "dataset" else f"the shipped model `{self.name}`"
        return f"{self.name}, {self.subset}" if self.subset else self.name

    @property
    def link(self) -> str:
        """The description in Markdown."""
        if self.is_on_hub:
            path = "datasets/" * (self.kind == "dataset") + self.name
            return f"[{self.words}]({HUB}{path})"
        if self.is_shipped:
            return self.words
        return f"`{self.name}`, {'a local file' if self.kind == 'dataset' else 'a local model folder'}"

    @property
    def revision_words(self) -> str:
        if self.is_on_hub:
            return f"commit `{self.revision}`" if self.revision else "main branch (commit not recorded)"
        return "shipped with Tiny-Math-Solver" if self.is_shipped else "of which no more is recorded than the name"

    @property
    def licence_words(self) -> str:
        return self.licence or "not stated in what was at hand"


def base_of(folder: Path, config: dict[str, Any]) -> Origin:
    """The base model of the run in `folder`."""
    section = config.get("model") or {}
    name, revision = section.get("name", ""), section.get("revision")
    if is_adapter(folder):
        name, revision = base_of_adapter(folder)
    if name in SHIPPED_MODELS:
        return Origin("model", name, is_shipped=True, licence=OWN_LICENCE)
    if is_local(name) or not REPOSITORY.fullmatch(name) or Path(name).is_dir():
        return Origin("model", name_of(name), licence=_licence_in(Path(name).expanduser() / "README.md"))
    revision = pinned(name, revision)
    return Origin("model", name, revision, is_on_hub=True, licence=_licence_on_hub("model", name, revision))


def train_set_of(section: ProblemsSection) -> Origin:
    return _problems(section.source, section.subset, section.revision)


def test_set_of(section: ProblemsSection) -> Origin:
    """Where the test problems come from: a source of their own, else the one of the others."""
    if section.test_source is None:
        return train_set_of(section)
    source = named_test_source(section)
    return _problems(source.name, source.subset, source.revision)


def _problems(source: str, subset: str | None, revision: str | None) -> Origin:
    named = DatasetName.parse(source)
    if named.name in GENERATED:
        return Origin("dataset", named.name, is_shipped=True, licence=OWN_LICENCE)
    if is_local(source) or not REPOSITORY.fullmatch(named.name) or "://" in source.removeprefix(HUB):
        return Origin("dataset", name_of(source.partition("?")[0]))
    commit = pinned(named.name, named.revision or revision)
    licence = _licence_on_hub("dataset", named.name, commit)
    return Origin("dataset", named.name, commit, named.subset or subset, is_on_hub=True, licence=licence)


def _licence_on_hub(kind: Kind, name: str, revision: str | None) -> str | None:
    """The licence that the card in the Hub cache states, or the one of a pinned commit."""
    from huggingface_hub import try_to_load_from_cache

    if name in LICENCES and revision == PINNED_REVISIONS[name]:
        return LICENCES[name]
    card = try_to_load_from_cache(name, "README.md", repo_type=kind, revision=revision)
    return _licence_in(Path(card)) if isinstance(card, str) else None


def _licence_in(card: Path) -> str | None:
    """The licence that the metadata of a card states."""
    from huggingface_hub.repocard import metadata_load

    try:
        stated = (metadata_load(card) or {}).get("license") if card.is_file() else None
    except Exception:  # of a card that is none, whatever its YAML raises
        return None
    return stated if isinstance(stated, str) else None
