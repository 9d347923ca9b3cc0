"""What comes with this package: models, generated problems and configurations."""

import os
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from tiny_math_solver.config.sections import EMBEDDED, ProblemsSection

CONFIGS = "configs"  # the folder of configurations
COUNTDOWN = "countdown"  # names the generated problems in which numbers have to reach a target


class ShippedModel(NamedTuple):
    """A model in `folder` of this package, pretrained on the generated problems of source `problems`."""

    folder: str
    problems: str
    max_new_tokens: int  # as in its configuration


SHIPPED_MODELS = {
    EMBEDDED: ShippedModel("embedded", EMBEDDED, 112),  # configs/quickstart.yaml
    "embedded-countdown": ShippedModel("embedded/countdown", COUNTDOWN, 224),  # configs/countdown.yaml
}


def shipped_config(path: Path) -> Path:
    """The configuration that `path` names: itself or, where it is not there, the shipped one of that name.

    `configs/quickstart.yaml` is thus found without a checkout too.
    """
    if os.path.exists(path) or path.parent.name not in ("", CONFIGS) or path.is_absolute():  # of any length
        return path
    return next((found for found in _configs() if found.name == path.name), path)


def _configs() -> list[Path]:
    """The shipped configurations, of the checkout that this package lies in or where pip has put them."""
    beside = Path(__file__).parents[3] / CONFIGS
    if beside.with_name("pyproject.toml").is_file():
        return sorted(beside.glob("*.yaml"))
    installed = metadata.distribution("tiny-math-solver").files or []
    return [Path(str(file.locate())) for file in installed if file.match(f"{CONFIGS}/*.yaml")]


def kind_of(problems: ProblemsSection) -> str:
    """The kind of answers that problems have: what is configured, else that of their source."""
    return problems.answer_kind or kind_of_source(problems.source) or "number"


def kind_of_source(source: str | None) -> str | None:
    """The kind of answers of a generated source, `embedded:dev` or `countdown`; None for any other."""
    return {EMBEDDED: "number", COUNTDOWN: COUNTDOWN}.get((source or "").partition(":")[0])


def shipped_name(base: str) -> str | None:
    """The name of the shipped model that `base` names, by itself or by its folder in this or another installation."""
    if base in SHIPPED_MODELS:
        return base
    path = Path(base).as_posix()
    found = (name for name, model in SHIPPED_MODELS.items() if path.endswith(f"/tiny_math_solver/{model.folder}"))
    return next(found, None)
