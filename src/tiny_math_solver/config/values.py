"""A value of the configuration: converted to the type of its field, and held to its limits."""

import difflib
import json
import math
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError

from tiny_math_solver.config.limits import BOUNDS, CHECKS, CHOICES, REFUSED

JSON_FILES = ("grpo.accelerator_config", "grpo.deepspeed", "grpo.fsdp_config")  # a mapping, or the name of a JSON file


def checked(key: str, kind: Any, value: Any) -> Any:
    """`value` converted to type `kind`. Raises ValueError with a message that does not repeat the value."""
    if value and key in REFUSED:
        raise ValueError(REFUSED[key])
    if isinstance(value, bool) and not admits(kind, bool) and (admits(kind, int) or admits(kind, float)):
        raise ValueError("expected a number")
    value = _as_trl_takes_it(key, value)
    _check_text(key, kind, value)
    _check_leaves(value)
    if isinstance(value, str) and (choices := CHOICES.get(key) or _members(kind)):
        _check_choice(value, choices)
    if isinstance(value, str) and admits(kind, dict):
        value = _mapping(key, value)
    bounded: Any = Annotated[kind, Field(**BOUNDS[key])] if key in BOUNDS else kind
    try:
        result = TypeAdapter(bounded).validate_python(value)
    except ValidationError as error:
        raise ValueError(" or: ".join(dict.fromkeys(problem["msg"] for problem in error.errors()[:3]))) from None
    _check_leaves(result)  # text such as "nan" may have become a number
    if key in CHECKS:
        CHECKS[key](result)
    return result


def shown(key: str, value: Any) -> str:
    """` = value` for a message, cut to 80 characters; empty for secrets, lists and mappings."""
    if isinstance(value, (dict, list)):
        return ""
    if re.search("token|secret|password|api_?key", key, re.IGNORECASE) and (isinstance(value, str) or key[-1:] != "s"):
        return ""  # a number such as max_tokens is no secret
    text = repr(value)
    return f" = {text if len(text) <= 80 else text[:77] + '…'}"


def nearest(word: str, known: list[str]) -> str | None:
    """The name in `known` that `word` probably means."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.5)), None)


def _check_choice(value: Any, choices: tuple[Any, ...]) -> None:
    if value in choices:
        return
    if len(choices) > 8 and (close := nearest(value, list(choices))):
        raise ValueError(f"did you mean {close}?")
    raise ValueError(f"choose {' or '.join(choices)}" if len(choices) <= 12 else f"choose {', '.join(choices[:12])}, …")


def _check_text(key: str, kind: Any, value: Any) -> None:
    if isinstance(value, str) or kind not in (str, str | None) or (value is None and kind is not str):
        return
    if key in CHOICES:
        _check_choice(value, CHOICES[key])
    raise ValueError("expected a text; " + ('"" is the empty one' if value is None else "put it in quotes"))


def _as_trl_takes_it(key: str, value: Any) -> Any:
    """`value` with TRL's second names of a choice replaced by the first."""
    if key == "grpo.scale_rewards" and str(value).lower() in ("true", "false"):
        return "group" if str(value).lower() == "true" else "none"
    return value


def _mapping(key: str, value: str) -> Any:
    """The mapping that text stands for: transformers reads JSON, and for some fields a file name, which stays."""
    if not value.startswith("{"):
        if key not in JSON_FILES:
            raise ValueError("expected a section of keys")
        if not Path(value).is_file():
            raise ValueError("no such file")
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None


def admits(kind: Any, wanted: type) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(admits(part, wanted) for part in get_args(kind))
    return kind is Any or wanted in (kind, get_origin(kind))


def _members(kind: Any) -> tuple[str, ...]:
    """The values that a field may have if one of its types is an enumeration."""
    for part in (kind, *get_args(kind)):
        if isinstance(part, type) and issubclass(part, Enum):
            return tuple(str(member.value) for member in part)
    return ()


def _check_leaves(value: Any) -> None:
    for leaf in _leaves(value):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise ValueError("expected a finite number")
        if isinstance(leaf, str) and re.search("[\0\ud800-\udfff]", leaf):
            raise ValueError("contains a character that cannot be written to a file")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(key)
            yield from _leaves(part)
    elif isinstance(value, (list, tuple, set)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value
