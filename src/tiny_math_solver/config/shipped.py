"""What needs no download: the models that are shipped, and the problems that are generated."""

from pathlib import Path
from typing import NamedTuple

from tiny_math_solver.config.sections import EMBEDDED, ProblemsSection

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
