"""A YAML file and `--section.key value` overrides become a Config, with every key and value checked.

Precedence: defaults < file < command line.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tiny_math_solver.config.fields import known_fields
from tiny_math_solver.config.generation_kwargs import check_generation_kwargs, stop_strings
from tiny_math_solver.config.limits import CHOICES
from tiny_math_solver.config.other_layouts import SECTIONS, counterpart, flat_layout
from tiny_math_solver.config.overrides import field_type, parse_overrides
from tiny_math_solver.config.rewards import SHIPPED
from tiny_math_solver.config.schema import Config
from tiny_math_solver.config.sections import ANSWER_KINDS, GRPO_DEFAULTS, LORA_DEFAULTS
from tiny_math_solver.config.shipped import shipped_config
from tiny_math_solver.config.values import checked, nearest, shown
from tiny_math_solver.config.yaml_file import Comment, read_tree
from tiny_math_solver.hub.datasets import DatasetName
from tiny_math_solver.hub.snapshots import pinned
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError

MOST_COMPLETIONS = 10**6  # in a generation batch: more is a slip of the finger
FREE_TEXT = ("prompt.system",)  # prose, in which a number sign is more often text than the start of a comment


class Places:
    """The place where each key was written, for messages: `file:line`, or the option on the command line."""

    def __init__(self, file: Path, lines: dict[str, int]):
        self.file = str(file)
        self.places = {key: f"{file}:{line}" for key, line in lines.items()}

    def of(self, key: str) -> str:
        """The place of a section or dotted key; the file itself for what is written nowhere."""
        return self.places.get(key, self.file)


def load_config(path: str | Path, overrides: list[str] | None = None, console: Console | None = None) -> Config:
    """Read a YAML file, apply `--section.key value` overrides, check every key and value.

    A shipped configuration is found by its name too. With a `console`, comments that may have been meant as text and
    PEFT's warnings are noted there. Raises UserError naming file and line (or the option), the key, and for unknown
    keys what does the same or is nearest.
    """
    path = shipped_config(Path(path))
    tree, lines, comments = read_tree(path)
    places = Places(path, lines)
    if isinstance(tree.get("rewards"), list):  # the short form of rewards.use
        tree["rewards"] = {"use": tree["rewards"]}
    for key, value in parse_overrides(overrides or []):
        section, _, name = key.partition(".")
        if not name:
            tree[section] = value
            continue
        if tree.get(section) is None:
            tree[section] = {}
        if not isinstance(tree[section], dict):
            raise UserError(f"{places.of(section)}: {section} must be a section of keys")
        outer, _, inner = name.partition(".")
        if outer and inner:
            name, value = outer, {**_mapping_of(tree[section].get(outer), key), inner: value}
        tree[section][name] = value
        places.places[key] = f"--{key}"
    _refuse_unknown(tree, places)
    for comment in comments:
        if console and _cuts_text(comment):
            console.note(
                f"{path}:{comment.line}: the text of {comment.key} ends before {comment.text!r}, which YAML takes for "
                "a comment; to keep it, put the whole value in quotes"
            )
    config = _build(_checked_values(tree, places), places)
    config.model.revision = pinned(config.model.name, config.model.revision)
    config.problems.revision = pinned(DatasetName.parse(config.problems.source).name, config.problems.revision)
    _check_rewards(config, places)
    _check_batch(config, places)
    _check_lora(config, places, console)
    _check_generation(config, places)
    return config


def _mapping_of(value: Any, key: str) -> dict[str, Any]:
    """The keys of a setting to which the option `--key` adds one."""
    if not isinstance(value, dict | None):
        raise UserError(f"--{key}: {key.rpartition('.')[0]} is no section of keys")
    return value or {}


def _cuts_text(comment: Comment) -> bool:
    """True if a comment may have been meant as part of a text.

    In prose every comment may; behind other text, one whose number sign has no space after it, as in `#1` or `####`.
    """
    if comment.key in FREE_TEXT:
        return True
    section, _, name = comment.key.partition(".")
    name, _, inner = name.partition(".")
    is_text = bool(inner) or field_type(section, name) in (str, str | None)
    return is_text and comment.key not in CHOICES and not comment.text.startswith(("# ", "#\t"))


def _refuse_unknown(tree: dict[str, Any], places: Places) -> None:
    """Raise UserError naming every unknown section and key, each with what to write instead."""
    sections = [section for section in tree if section not in Config.model_fields]
    if flat := flat_layout([section for section in sections if not isinstance(tree[section], dict)]):
        raise UserError(f"{places.of(sections[0])}: {flat}")
    problems = []
    for section in sections:
        close = SECTIONS.get(section) or nearest(section.lower(), list(Config.model_fields))
        hint = f"did you mean {close}?" if close else "known keys: tiny-math fields"
        problems.append(f"{places.of(section)}: unknown key {section}; {hint}")
    for section, given in tree.items():
        keys = given if isinstance(given, dict) and section not in sections else ()
        problems += [
            f"{places.of(f'{section}.{key}')}: unknown key {section}.{key}; {_hint(section, key)}"
            for key in keys
            if key not in known_fields(section)
        ]
    if problems:
        raise UserError(" · ".join(problems))


def _hint(section: str, key: Any) -> str:
    """A few words on what to write for an unknown key of a section."""
    known = known_fields(section)
    if other := counterpart(str(key)):
        return other
    close = nearest(str(key), list(known))
    return f"did you mean {section}.{close}?" if close else f"known keys: tiny-math fields {section}"


def _checked_values(tree: dict[str, Any], places: Places) -> dict[str, Any]:
    """The sections of a file with every value checked; those of the libraries with our defaults.

    A section `lora` that is null, or has nothing in it, stays null: no adapter.
    """
    values: dict[str, dict[str, Any]] = {"lora": {}, "grpo": {}}
    for section, given in tree.items():
        if not isinstance(given, dict | None):
            raise UserError(f"{places.of(section)}: {section} must be a section of keys")
        values[section] = {key: _checked_value(section, key, value, places) for key, value in (given or {}).items()}
    lora = None if tree.get("lora", {}) is None else {**LORA_DEFAULTS, **values["lora"]}
    return {**values, "grpo": {**GRPO_DEFAULTS, **values["grpo"]}, "lora": lora}


def _checked_value(section: str, key: Any, value: Any, places: Places) -> Any:
    name = f"{section}.{key}"
    try:
        return checked(name, field_type(section, key), value)
    except ValueError as error:
        raise UserError(f"{places.of(name)}: {name}{shown(name, value)}: {error}") from None


def _build(values: dict[str, Any], places: Places) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"][:2])
        raise UserError(f"{places.of(key)}: {key}{shown(key, problem['input'])}: {problem['msg']}") from None


def _check_rewards(config: Config, places: Places) -> None:
    """Raise UserError for rewards that are unknown, there twice, or do not go with the measure and the weights."""
    section, where = config.rewards, f"{places.of('rewards.use')}: rewards.use"
    if not section.use:
        raise UserError(f"{where}: nothing would be learned without a reward")
    for name in section.use:
        if name not in SHIPPED and ":" not in name:
            raise UserError(f"{where}: no reward is called {name!r}; {_instead_of(name, list(SHIPPED))}")
        if section.use.count(name) > 1:
            raise UserError(f"{where}: {name} is there twice; grpo.reward_weights makes it count more")
    if section.measure is not None and section.measure not in section.use:
        raise UserError(
            f"{places.of('rewards.measure')}: rewards.measure {section.measure!r} is not among the rewards "
            f"({', '.join(section.use)})"
        )
    weights = config.grpo.get("reward_weights")
    if weights is not None and len(weights) != len(section.use):
        raise UserError(
            f"{places.of('grpo.reward_weights')}: grpo.reward_weights has {len(weights)} numbers for the "
            f"{len(section.use)} rewards ({', '.join(section.use)})"
        )
    kind = config.answer_kind
    if kind not in ANSWER_KINDS and ":" not in kind:
        instead = _instead_of(kind, list(ANSWER_KINDS))
        raise UserError(f"{places.of('problems.answer_kind')}: problems.answer_kind = {kind!r}: {instead}")


def _instead_of(name: str, shipped: list[str]) -> str:
    """What to write in place of an unknown name: a shipped one, or a function of the user's."""
    close = nearest(name, shipped)
    hint = f"did you mean {close}?" if close else f"choose from {', '.join(shipped)}"
    return f"{hint}, or name a function as file.py:function"


def _check_lora(config: Config, places: Places, console: Console | None) -> None:
    """Note what PEFT warns of. Raises UserError where it refuses fields that do not go together.

    Without an adapter nothing but the untrained model could be the reference of a KL term, or be started from.
    """
    if config.model.adapter and config.model.quantization:
        raise UserError(
            f"{places.of('model.quantization')}: model.quantization starts a new adapter; drop model.adapter"
        )
    needing = {
        "grpo.beta": config.grpo.get("beta"),
        "model.adapter": config.model.adapter,
        "model.quantization": config.model.quantization,
    }
    for key, is_set in needing.items():
        if config.trains_all and is_set:
            raise UserError(f"{places.of(key)}: {key} needs an adapter, which lora null does without")
    try:
        notes = config.lora_notes()
    except Exception as error:  # PEFT raises whatever comes up for values it does not check
        raise UserError(f"{places.of('lora')}: lora: {' '.join(str(error).split())}") from None
    for note in notes:
        if console:
            console.note(f"{places.of('lora')}: lora: {note}")


def _check_generation(config: Config, places: Places) -> None:
    """Raise UserError for generation_kwargs that not every rollout can honour; vLLM knows others."""
    grpo, where = config.grpo, f"{places.of('grpo.generation_kwargs')}: grpo.generation_kwargs"
    if grpo.get("use_vllm"):
        return
    try:
        check_generation_kwargs(grpo.get("generation_kwargs"))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    if stop_strings(grpo.get("generation_kwargs")):
        if grpo.get("mask_truncated_completions"):
            raise UserError(
                f"{where}: stop_strings end completions without the end token by which "
                "grpo.mask_truncated_completions tells that they are whole; drop one of the two"
            )
        if grpo.get("use_transformers_continuous_batching"):
            raise UserError(
                f"{where}: stop_strings need the rollouts of this package; drop "
                "grpo.use_transformers_continuous_batching"
            )


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
            f"{where}: {_batch_equation(config)}, not a multiple of num_generations {samples}; choose a batch of "
            f"{fits}, or other num_generations"
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
