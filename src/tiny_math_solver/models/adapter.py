"""LoRA adapters as plain PEFT folders: saving, loading, and a check that all of one was loaded."""

import json
import os
from pathlib import Path
from typing import Any, Protocol

from tiny_math_solver.config.shipped import SHIPPED_MODELS, shipped_name
from tiny_math_solver.hub.snapshots import snapshot
from tiny_math_solver.models.ends import save_ends
from tiny_math_solver.models.folder import WEIGHTS, is_finite, load_errors, read_json, some_of
from tiny_math_solver.support.errors import UserError

ADAPTER_CONFIG, ADAPTER_WEIGHTS, WHOLE_WEIGHTS = "adapter_config.json", "adapter_model.safetensors", WEIGHTS
TRAINED = "default"  # PEFT's name for the adapter that is trained; TRL puts the reference of the KL term beside it


class Joins(Protocol):
    """Saves an adapter that is trained on `model` joined with one that was merged into the base."""

    def save_joined(self, model: Any, folder: Path) -> None: ...


def save_adapter(model: Any, tokenizer: Any, folder: Path, merged: Joins | None = None) -> None:
    """Write the adapter that is trained on `model` as plain PEFT, with its tokenizer."""
    if merged:
        merged.save_joined(model, folder)
    else:
        model.save_pretrained(folder, selected_adapters=[TRAINED])
    _order_modules(folder / ADAPTER_CONFIG)
    tokenizer.save_pretrained(folder)
    save_ends(model, tokenizer, folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card template


def save_whole(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model of which all weights are trained, with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_ends(model, tokenizer, folder)


def _order_modules(config: Path) -> None:
    """Sort the names that PEFT writes in the order of a set, so that the same adapter is the same file."""
    content = json.loads(config.read_text(encoding="utf-8"))
    if isinstance(content["target_modules"], list):
        content["target_modules"].sort()
    config.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8", newline="\n")


def load_adapter(model: Any, folder: Path, config: Any = None) -> Any:
    """A PeftModel of `model` with the adapter in `folder`; with a LoraConfig as `config` the adapter can be trained.

    Raises UserError for a folder that is no adapter's, or damaged.
    """
    from peft import PeftModel

    check_adapter_files(folder)
    with load_errors(f"adapter {folder}"):
        model = PeftModel.from_pretrained(model, str(folder), config=config, is_trainable=config is not None)
    _check_loaded(folder, model)
    return model


def is_adapter(folder: Path) -> bool:
    return os.path.isfile(folder / ADAPTER_CONFIG)  # False for a name that no file can have, unlike Path.is_file


def check_adapter_files(folder: Path) -> None:
    """Raise UserError for a folder that is no adapter's, or lacks its weights."""
    if not is_adapter(folder):
        raise UserError(f"{folder}: no {ADAPTER_CONFIG}, so it is not an adapter folder")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        is_pickle = (folder / "adapter_model.bin").is_file()
        why = "adapter_model.bin is a pickle, which may run code and is not loaded" if is_pickle else "nothing to load"
        raise UserError(f"{folder}: no {ADAPTER_WEIGHTS}: {why}")


def adapter_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of the adapter with this name, local or in the Hub cache, where it is afterwards; None for a model."""
    folder = Path(name).expanduser()
    if is_hub_name(name):
        folder = snapshot("model", name, revision)
    return folder if is_adapter(folder) else None


def is_hub_name(name: str) -> bool:
    """True for what can only be a repository on the Hub, not a file or folder, there or missing."""
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or os.path.exists(Path(name).expanduser())
    return bool(name) and name not in SHIPPED_MODELS and not is_path


def refuse_tied(model: Any, config: Any) -> None:
    """Raise UserError if a LoraConfig trains an embedding that is the output layer as well.

    An adapter on one of the two would leave the other as it is, and merging would change both.
    """
    from peft.tuners.tuners_utils import check_target_module_exists

    if not getattr(model.config, "tie_word_embeddings", False) or config.ensure_weight_tying:
        return
    shared = (model.get_input_embeddings(), model.get_output_embeddings())
    is_listed = config.target_modules != "all-linear"  # which never means these two
    for name in [name for name, module in model.named_modules() if any(module is one for one in shared)]:
        saved = any(f".{name}".endswith(f".{wanted}") for wanted in config.modules_to_save or ())
        if saved or (is_listed and check_target_module_exists(config, name)):
            raise UserError(
                f"lora.{'modules_to_save' if saved else 'target_modules'}: {name} shares its weight between input and "
                "output in this model (tie_word_embeddings), so it cannot be trained; leave it out (all-linear means "
                "every layer but these)"
            )


def base_of_adapter(folder: Path) -> tuple[str, str | None]:
    """`(base name, revision)` that an adapter was trained on."""
    path = folder / ADAPTER_CONFIG
    if not is_adapter(folder):
        raise UserError(f"{folder}: no {ADAPTER_CONFIG}, so it is not an adapter folder")
    settings = read_json(path)
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(base, str) or not isinstance(revision, str | None):
        raise UserError(f"{path}: cannot tell the base model: base_model_name_or_path = {base!r}")
    return shipped_name(base) or base, revision


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
