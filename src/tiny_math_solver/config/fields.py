"""Every field that can be configured, with its type, default and line of help."""

import re
from dataclasses import fields as dataclass_fields
from functools import cache
from typing import Any, get_type_hints

from tiny_math_solver.config.schema import Config
from tiny_math_solver.config.sections import GRPO_DEFAULTS, LORA_DEFAULTS


@cache  # reading the libraries' docstrings takes a moment
def known_fields(section: str) -> dict[str, tuple[Any, Any, str]]:
    """`{name: (type, default, one line of help)}` of a section, also of the libraries' own."""
    if section in ("grpo", "lora"):
        cls, defaults = _library_class(section)
        hints = get_type_hints(cls)
        helps = _docstring_helps(cls)
        return {
            f.name: (
                hints[f.name],
                defaults.get(f.name, f.default if not callable(f.default_factory) else f.default_factory()),
                " ".join(str(f.metadata.get("help") or helps.get(f.name, "")).split()),
            )
            for f in dataclass_fields(cls)
            if f.init
        }
    annotation: Any = Config.model_fields[section].annotation
    return {name: (f.annotation, f.default, f.description or "") for name, f in annotation.model_fields.items()}


def _library_class(section: str) -> tuple[Any, dict[str, Any]]:
    if section == "grpo":
        from trl import GRPOConfig

        return GRPOConfig, GRPO_DEFAULTS
    from peft import LoraConfig

    return LoraConfig, LORA_DEFAULTS


def _docstring_helps(cls: Any) -> dict[str, str]:
    """First lines of the `name (`type`): text` entries that TRL keeps in its class docstrings."""
    entries = re.findall(r"^ +(\w+) \(`.*?\):\n +(.+)$", cls.__doc__ or "", re.MULTILINE)
    return dict(entries)
