"""A Hub dataset, or a folder like one: its name as a setting writes it, its subsets, its splits and their files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tiny_math_solver.hub.snapshots import hub_errors, snapshot
from tiny_math_solver.support.errors import UserError

Purpose = Literal["train", "test", "evaluation"]
# The splits taken for a purpose if none is named, the first that there is. `datasets` calls dev and val validation.
USUAL_SPLITS: dict[Purpose, tuple[str, ...]] = {
    "train": ("train",),
    "test": ("test", "validation"),
    "evaluation": ("test", "validation"),
}


@dataclass(frozen=True)
class DatasetName:
    """A dataset as a setting names it: `name:subset:split@revision`, of which only the name is needed."""

    name: str
    subset: str | None = None
    split: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "DatasetName":
        rest, _, revision = text.removeprefix("https://huggingface.co/datasets/").partition("@")
        name, subset, split = (part or None for part in (*rest.split(":", 2), "", "")[:3])
        return cls(name or "", subset, split, revision or None)


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split of a dataset, in their order."""

    folder: Path
    subset: str
    split: str
    files: list[Path]


def hub_split(dataset: DatasetName, purpose: Purpose) -> SplitFiles:
    """The files of one split of a Hub dataset at its revision, downloaded if they are not in the cache."""
    folder = snapshot("dataset", dataset.name, dataset.revision)
    return folder_split(folder, replace(dataset, revision=folder.name), purpose)


def folder_split(folder: Path, dataset: DatasetName, purpose: Purpose) -> SplitFiles:
    """The files of one split in a folder that is laid out as Hub datasets are.

    Without a subset the only one is taken, else the one that the dataset marks as its default, else `main`; without a
    split the usual one for the purpose. Raises UserError, with those that there are, where this leaves a choice.
    """
    from datasets import get_dataset_config_names, get_dataset_default_config_name, load_dataset_builder

    with hub_errors(f"dataset {dataset.name}", dataset.revision):
        subsets = get_dataset_config_names(str(folder))
        default = get_dataset_default_config_name(str(folder))
        subset = _subset(dataset, subsets, default or "main")
        files: Any = load_dataset_builder(str(folder), subset).config.data_files
    splits = {str(split): [Path(file) for file in files[split]] for split in files}
    split = _split(dataset, subset if len(subsets) > 1 else "", list(splits), purpose)
    return SplitFiles(folder, subset, split, splits[split])


def _subset(dataset: DatasetName, subsets: Sequence[str], default: str) -> str:
    if dataset.subset is not None:
        if dataset.subset in subsets:
            return dataset.subset
        raise UserError(f"{dataset.name} has no subset {dataset.subset!r}; it has {_listed(subsets)}")
    if len(subsets) == 1:
        return subsets[0]
    if default in subsets:
        return default
    raise UserError(
        f"{dataset.name} has several subsets ({_listed(subsets)}): name one, as in {dataset.name}:{subsets[0]}"
    )


def _split(dataset: DatasetName, subset: str, splits: Sequence[str], purpose: Purpose) -> str:
    if dataset.split is not None:
        if dataset.split in splits:
            return dataset.split
        raise UserError(f"{dataset.name} has no split {dataset.split!r}; it has {_listed(splits)}")
    for usual in USUAL_SPLITS[purpose]:
        if usual in splits:
            return usual
    if purpose == "evaluation" and len(splits) == 1:  # the dataset was named for this
        return splits[0]
    wanted = "train" if purpose == "train" else "test"
    raise MissingSplitError(
        f"{dataset.name} has no {wanted} split; it has {_listed(splits)}: to use that, name it, as in "
        f"{dataset.name}:{subset}:{splits[0]}"
    )


class MissingSplitError(UserError):
    """The dataset has no split for the purpose, and none was named."""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(re.sub(r"[\x00-\x1f\x7f]", "?", name) for name in names[:12])
    return f"{shown}, …" if len(names) > 12 else shown or "none"
