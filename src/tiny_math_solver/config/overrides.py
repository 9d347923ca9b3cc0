"""`--section.key value` on the command line: texts as they are typed, all other values as YAML reads them."""

import re
from typing import Any

from tiny_math_solver.config.fields import known_fields
from tiny_math_solver.config.other_layouts import counterpart
from tiny_math_solver.config.schema import Config
from tiny_math_solver.config.values import admits, shown
from tiny_math_solver.config.yaml_file import read_value
from tiny_math_solver.support.errors import UserError

NO_ADAPTER = "--lora"  # the only section that may be null


def parse_overrides(arguments: list[str]) -> list[tuple[str, Any]]:
    """`["--grpo.learning_rate", "2e-3"]` → `[("grpo.learning_rate", 0.002)]`; `--key=value` works too.

    For a field of text the argument is the text, and `null` unsets one that may be unset; others are read as YAML.
    """
    pairs = []
    rest = list(arguments)
    while rest:
        key, equals, text = rest.pop(0).partition("=")  # the value after = may be a secret: it is in no message
        if key == NO_ADAPTER and (text if equals else (rest or [""])[0]) == "null":
            pairs.append(("lora", None))
            rest = rest if equals else rest[1:]
            continue
        if not key.startswith("--") or "." not in key:
            hint = counterpart(key.lstrip("-").replace("-", "_")) if key.startswith("--") else ""
            raise UserError(
                f"unknown argument {key!r}; {hint + '; ' * bool(hint)}overrides look like --grpo.learning_rate 2e-3"
            )
        if not equals:
            if not rest or is_override(rest[0]):
                raise UserError(f"{key} has no value; write {key} VALUE")
            text = rest.pop(0)
        section, _, name = key[2:].partition(".")
        name, dot, inner = name.partition(".")
        name = f"{name.replace('-', '_')}{dot}{inner}"
        try:
            pairs.append((f"{section}.{name}", _argument(field_type(section, name), text)))
        except ValueError:
            raise UserError(f"{key}: cannot read the value{shown(key, text).removeprefix(' =')} as YAML") from None
    return pairs


def is_override(argument: str) -> bool:
    """True for `--section.key` and `--section.key=value`; the key may be one within a mapping, `--grpo.some.key`."""
    return bool(re.fullmatch(rf"--\w+(\.[\w-]+)+(=.*)?|{NO_ADAPTER}(=.*)?", argument, re.DOTALL))


def field_type(section: str, name: str) -> Any:
    """The type of a field; Any for one that does not exist."""
    known = known_fields(section) if section in Config.model_fields else {}
    return known[name][0] if name in known else Any


def _argument(kind: Any, text: str) -> Any:
    """The value that `text` on the command line gives a field of type `kind`."""
    if kind is str or (kind == (str | None) and text != "null"):
        return text
    if kind is Any or not admits(kind, str):
        return read_value(text)
    try:
        value = read_value(text)
    except ValueError:
        return text
    if isinstance(value, str):
        return value if text[:1] in ("'", '"') else text
    return value if value is None or admits(kind, type(value)) else text
