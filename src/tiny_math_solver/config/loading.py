"""A YAML file and `--section.key value` overrides become a Config, with every key and value checked.

Precedence: defaults < file < command line.
"""

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tiny_math_solver.config.fields import known_fields
from tiny_math_solver.config.limits import checked, nearest, shown
from tiny_math_solver.config.schema import GRPO_DEFAULTS, LORA_DEFAULTS, Config
from tiny_math_solver.config.yaml_file import read_tree, read_value
from tiny_math_solver.hub.datasets import DatasetName
from tiny_math_solver.hub.snapshots import pinned
from tiny_math_solver.support import processes
from tiny_math_solver.support.errors import UserError

MOST_COMPLETIONS = 10**6  # in a generation batch: more is a slip of the finger


class Places:
    """The place where each key was written, for messages: `file:line`, or the option on the command line."""

    def __init__(self, file: Path, lines: dict[str, int]):
        self.file = str(file)
        self.places = {key: f"{file}:{line}" for key, line in lines.items()}

    def of(self, key: str) -> str:
        """The place of a section or dotted key; the file itself for what is written nowhere."""
        return self.places.get(key, self.file)


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply `--section.key value` overrides, check every key and value.

    Raises UserError naming file and line (or the option), the key, and the nearest known key if it is unknown.
    """
    path = Path(path)
    tree, lines = read_tree(path)
    places = Places(path, lines)
    for key, value in parse_overrides(overrides or []):
        section, _, name = key.partition(".")
        if tree.get(section) is None:
            tree[section] = {}
        if not isinstance(tree[section], dict):
            raise UserError(f"{places.of(section)}: {section} must be a section of keys")
        tree[section][name] = value
        places.places[key] = f"--{key}"
    config = _build(_checked_values(tree, places), places)
    config.model.revision = pinned(config.model.name, config.model.revision)
    config.problems.revision = pinned(DatasetName.parse(config.problems.source).name, config.problems.revision)
    _check_batch(config, places)
    _check_lora(config, places)
    return config


def parse_overrides(arguments: list[str]) -> list[tuple[str, Any]]:
    """`["--grpo.learning_rate", "2e-3"]` → `[("grpo.learning_rate", 0.002)]`; `--key=value` works too."""
    pairs = []
    rest = list(arguments)
    while rest:
        key, equals, text = rest.pop(0).partition("=")  # the value after = may be a secret: it is in no message
        if not key.startswith("--") or "." not in key:
            raise UserError(f"unknown argument {key!r}; overrides look like --grpo.learning_rate 2e-3")
        if not equals:
            if not rest or re.match(r"--\w+\.", rest[0]):
                raise UserError(f"{key} has no value; write {key} VALUE")
            text = rest.pop(0)
        section, _, name = key[2:].partition(".")
        try:
            pairs.append((f"{section}.{name.replace('-', '_')}", read_value(text)))
        except ValueError:
            raise UserError(f"{key}: cannot read the value{shown(key, text).removeprefix(' =')} as YAML") from None
    return pairs


def _checked_values(tree: dict[str, Any], places: Places) -> dict[str, dict[str, Any]]:
    """The sections of a file with every value checked; those of the libraries with our defaults."""
    values: dict[str, dict[str, Any]] = {"lora": {}, "grpo": {}}
    for section, given in tree.items():
        if section not in Config.model_fields:
            close = nearest(section, list(Config.model_fields))
            hint = f"did you mean {close}?" if close else "known keys: tiny-math fields"
            raise UserError(f"{places.of(section)}: unknown key {section}; {hint}")
        if not isinstance(given, dict | None):
            raise UserError(f"{places.of(section)}: {section} must be a section of keys")
        values[section] = {key: _checked_value(section, key, value, places) for key, value in (given or {}).items()}
    return {**values, "grpo": {**GRPO_DEFAULTS, **values["grpo"]}, "lora": {**LORA_DEFAULTS, **values["lora"]}}


def _checked_value(section: str, key: Any, value: Any, places: Places) -> Any:
    name, known = f"{section}.{key}", known_fields(section)
    if key not in known:
        close = nearest(str(key), list(known))
        hint = f"did you mean {section}.{close}?" if close else f"known keys: tiny-math fields {section}"
        raise UserError(f"{places.of(name)}: unknown key {name}; {hint}")
    try:
        return checked(name, known[key][0], value)
    except ValueError as error:
        raise UserError(f"{places.of(name)}: {name}{shown(name, value)}: {error}") from None


def _build(values: dict[str, dict[str, Any]], places: Places) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"][:2])
        raise UserError(f"{places.of(key)}: {key}{shown(key, problem['input'])}: {problem['msg']}") from None


def _check_lora(config: Config, places: Places) -> None:
    """Raise UserError where PEFT refuses fields that do not go together."""
    try:
        _ = config.lora_config
    except Exception as error:  # PEFT raises whatever comes up for values it does not check
        raise UserError(f"{places.of('lora')}: lora: {' '.join(str(error).split())}") from None


def _check_batch(config: Config, places: Places) -> None:
    """Raise UserError where TRL would refuse the batch later and less clearly: groups must be whole, of 2 or more."""
    for key in ("output_dir", "max_completion_length"):
        if config.grpo[key] is None:
            raise UserError(f"{places.of(f'grpo.{key}')}: grpo.{key} must be set")
    if config.grpo["temperature"] <= 0:
        raise UserError(f"{places.of('grpo.temperature')}: grpo.temperature must be above 0 to get samples that differ")
    samples, total = config.grpo["num_generations"], config.generation_batch
    where = places.of("grpo.num_generations")
    if samples is None or samples < 2:
        raise UserError(f"{where}: grpo.num_generations = {samples}: GRPO compares samples of a problem; set 2 or more")
    if total < 1 or total % samples:
        fits = max(samples, round(total / samples) * samples)
        raise UserError(
            f"{where}: {_batch_equation(config)}, not a multiple of num_generations {samples}; make it {fits}"
        )
    if total > MOST_COMPLETIONS:
        raise UserError(f"{where}: {_batch_equation(config)}; over {MOST_COMPLETIONS:,} at once is not supported")


def _batch_equation(config: Config) -> str:
    """The size of a generation batch as a product of the fields it comes from."""
    if config.grpo.get("generation_batch_size"):
        return f"generation_batch_size = {config.generation_batch} completions"
    repeats = "steps_per_generation" if config.grpo.get("steps_per_generation") else "gradient_accumulation_steps"
    factors = [f"{config.grpo[key]} {key}" for key in ("per_device_train_batch_size", repeats)]
    factors += [f"{processes.count()} processes"] * (processes.count() > 1)
    return f"{' × '.join(factors)} = {config.generation_batch} completions"
