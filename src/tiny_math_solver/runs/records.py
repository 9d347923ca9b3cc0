"""The files of a run folder that other programs read: the types of their rows, and reading them.

Their fields may grow, not change. `summary.json` and the rows of `eval/*.jsonl` belong to the evaluation.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from tiny_math_solver.config.schema import Config
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.redaction import without_secrets

CONFIG, ENVIRONMENT, SUMMARY, FORECAST = "config.yaml", "environment.json", "summary.json", "forecast.json"
METRICS, ROLLOUTS, EVENTS = "metrics.jsonl", "rollouts.jsonl", "events.jsonl"
GROWING = (METRICS, ROLLOUTS, EVENTS)  # appended to while the run trains

# fields of a configuration that do not affect what is learned; the passes do by rounding
IGNORED = ("grpo.output_dir", "grpo.report_to", "grpo.run_name", "grpo.disable_tqdm", "update.tokens_per_pass")
ABSENT = "not set"  # stands for the value of a field that is not recorded

MetricsRow = dict[str, Any]  # `step`, `seconds` of training so far, and every metric logged by name; None if not finite


class RolloutRow(TypedDict):
    """One completion of training, a line of rollouts.jsonl."""

    step: int
    id: str  # of the problem
    question: str
    gold: str
    completion: str
    answer: str | None  # the number read from the completion
    how: str  # it was found: `hashes`, `phrase`, …
    rewards: dict[str, float | None]  # by the name of the reward function; null: it did not apply
    advantage: float
    tokens: int  # of the completion
    finished: bool  # False if the length limit cut it off
    correct: bool  # lenient: the number may stand anywhere
    strict: bool  # it stands where the prompt asks for it: after ####, unless another format is rewarded
    used: NotRequired[bool]  # False if it was not passed to the update; absent: it was


def total_reward(row: Mapping[str, Any]) -> float:
    """The sum of a completion's rewards, each with the weight 1."""
    return sum(value or 0.0 for value in row["rewards"].values())


class EventRow(TypedDict):
    """One warning, resumption, fallback or rescue, a line of events.jsonl."""

    step: int
    name: str
    text: str
    undone: NotRequired[list[int]]  # of a rescue: the first and the last step that were undone
    back_to: NotRequired[int]  # the step after which the state was taken that the run went back to
    changed: NotRequired[dict[str, Any]]  # settings from there on, by their dotted names


def read_config(folder: Path) -> dict[str, Any] | None:
    """The resolved configuration of the run in `folder`, or None if there is none."""
    import yaml

    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: holds no configuration")
    return tree


def as_recorded(config: Config) -> dict[str, Any]:
    """A configuration as config.yaml records it, without secrets."""
    import yaml

    return yaml.safe_load(without_secrets(config.to_yaml()))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, none if it does not exist; a last line without its end is still being written.

    Raises UserError naming file and line where one is no JSON object.
    """
    return (row for _, row in read_jsonl_from(path))


def read_jsonl_from(path: Path, place: int = 0, lines: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row of a JSONL file from the byte `place` on, which `lines` lines precede, with the place of its first byte.

    Raises UserError as `read_jsonl` does.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(place)
        for number, line in enumerate(file, lines + 1):
            if line.endswith(b"\n"):
                yield place, _json_object(line.decode("utf-8", errors="replace"), f"{path}:{number}")
            place += len(line)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if it cannot be read or holds anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return _json_object(text, str(path))


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{where}: damaged, not a JSON object")
    return value
