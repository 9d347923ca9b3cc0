"""LoRA adapters as plain PEFT folders: saving, loading, and a check that all of one was loaded."""

import os
from pathlib import Path
from typing import Any

from tiny_math_solver.config.schema import EMBEDDED
from tiny_math_solver.models.ends import save_ends
from tiny_math_solver.models.folder import is_finite, load_errors, read_json, some_of
from tiny_math_solver.support.errors import UserError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the adapter on `model` as plain PEFT, with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_ends(model, tokenizer, folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card template


def load_adapter(model: Any, folder: Path) -> Any:
    """A PeftModel of `model` with the adapter in `folder`. Raises UserError for a folder that is none, or damaged."""
    from peft import PeftModel

    base_of_adapter(folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        is_pickle = (folder / "adapter_model.bin").is_file()
        why = "adapter_model.bin is a pickle, which may run code and is not loaded" if is_pickle else "nothing to load"
        raise UserError(f"{folder}: no {ADAPTER_WEIGHTS}: {why}")
    with load_errors(f"adapter {folder}"):
        model = PeftModel.from_pretrained(model, str(folder))
    _check_loaded(folder, model)
    return model


def is_adapter(folder: Path) -> bool:
    return os.path.isfile(folder / ADAPTER_CONFIG)  # False for a name that no file can have, unlike Path.is_file


def base_of_adapter(folder: Path) -> tuple[str, str | None]:
    """`(base name, revision)` that an adapter was trained on."""
    path = folder / ADAPTER_CONFIG
    if not is_adapter(folder):
        raise UserError(f"{folder}: no {ADAPTER_CONFIG}, so it is not an adapter folder")
    settings = read_json(path)
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(base, str) or not isinstance(revision, str | None):
        raise UserError(f"{path}: cannot tell the base model: base_model_name_or_path = {base!r}")
    if Path(base).parts[-2:] == ("tiny_math_solver", EMBEDDED):
        base = EMBEDDED  # this package may be installed elsewhere than where the adapter was trained
    return base, revision


def _check_loaded(folder: Path, model: Any) -> None:
    """Raise UserError if the adapter on `model` is not what its file holds: PEFT only warns."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        stored = set(file.keys())
    described = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if missing := sorted(described - stored):
        raise UserError(f"adapter {folder}: its weights lack {some_of(missing)}, which {ADAPTER_CONFIG} describes")
    if surplus := sorted(key for key in stored - described if "lora_" in key):
        raise UserError(f"adapter {folder}: {ADAPTER_CONFIG} has no place for {some_of(surplus)} of its weights")
    if broken := [key for key, weight in model.named_parameters() if "lora_" in key and not is_finite(weight)]:
        raise UserError(f"adapter {folder}: NaN or infinity in {some_of(broken)}: its weights are damaged")
