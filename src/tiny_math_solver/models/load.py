"""Models and their tokenizers, loaded by name: `embedded`, a Hub name, a model folder or an adapter folder."""

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from tiny_math_solver.config.schema import EMBEDDED
from tiny_math_solver.hub.snapshots import snapshot, stay_offline
from tiny_math_solver.models.adapter import base_of_adapter, is_adapter, load_adapter
from tiny_math_solver.models.ends import end_with_turn, load_ends
from tiny_math_solver.models.folder import check_loaded, check_model_folder, check_shapes, load_errors
from tiny_math_solver.support.device import default_device, resolve_dtype
from tiny_math_solver.support.errors import UserError


@dataclass(frozen=True)
class LoadedModel:
    name: str
    model: Any  # transformers causal language model, or a PeftModel around one
    tokenizer: Any
    added_end: str = ""  # the token that also ends completions because the chat template closes a turn with it


def load_model(
    name: str,
    *,
    adapter: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
) -> LoadedModel:
    """A model for inference, with its adapter if there is one; an adapter folder as `name` brings its own base.

    Raises UserError for a name that is neither a folder nor a Hub repository, and for a damaged folder.
    """
    base, revision, adapter = locate(name, revision, adapter)
    model = load_base(base, revision, dtype, device)
    tokenizer = load_tokenizer(base, revision)
    if adapter is not None:
        model = load_adapter(model, Path(adapter))
        load_ends(model, Path(adapter))
    with load_errors(f"model {name}"):  # end tokens and templates of damaged files may be anything
        added_end = end_with_turn(model, tokenizer)
    return LoadedModel(name, model.eval(), tokenizer, added_end)


def locate(
    name: str, revision: str | None = None, adapter: str | Path | None = None
) -> tuple[str, str | None, str | Path | None]:
    """`(base, revision, adapter)` of a name; a Hub base is in the cache afterwards."""
    if adapter is None and is_adapter(Path(name)):
        adapter = name
        name, revision = base_of_adapter(Path(adapter))
    resolve(name, revision)
    return name, revision, adapter


def load_base(name: str, revision: str | None = None, dtype: str = "auto", device: str | None = None) -> Any:
    """The bare transformers model on `device` (by default a GPU if there is one), in `dtype`."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # of reading and writing weights, which takes seconds
    device = device or default_device()
    source, revision = resolve(name, revision)
    folder = Path(source) if os.path.isdir(source) else snapshot("model", source, revision)
    stay_offline()
    options: dict[str, Any] = {"revision": revision, "local_files_only": True, "trust_remote_code": False}
    with load_errors(f"model {name}", revision):
        check_shapes(folder, AutoConfig.from_pretrained(source, **options))
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=resolve_dtype(dtype, device), use_safetensors=True, output_loading_info=True, **options
        )
    model, report = loaded
    check_loaded(name, model, report)
    return model.to(device)


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    from transformers import AutoConfig, AutoTokenizer

    source, revision = resolve(name, revision)
    options: dict[str, Any] = {"revision": revision, "local_files_only": True, "trust_remote_code": False}
    with load_errors(f"tokenizer {name}", revision):
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        rows = AutoConfig.from_pretrained(source, **options).get_text_config().vocab_size
    if len(tokenizer) > rows:  # a kernel would read past the end of the embedding
        raise UserError(
            f"tokenizer {name} has {len(tokenizer)} tokens, its model's embedding {rows}: they do not belong together"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"tokenizer {name} has no end-of-sequence token: completions could not end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def resolve(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """`(name or folder for from_pretrained, commit)`; a Hub model is in the cache afterwards.

    Raises UserError for a folder that is missing or not a model, and for a Hub name that cannot be downloaded.
    """
    if name == EMBEDDED:
        return str(resources.files("tiny_math_solver") / "embedded"), None
    if not name:
        raise UserError("the model's name is empty")
    path = Path(name).expanduser()
    if os.path.isdir(path):
        if not (path / "config.json").is_file():
            raise UserError(f"{name}: no config.json in this folder, so it is not a model folder")
        check_model_folder(path)
        return str(path), None
    if os.path.exists(path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"no such model folder: {name}")
    folder = snapshot("model", name, revision)
    check_model_folder(folder)
    return name, folder.name


def stored_dtype(name: str, revision: str | None = None) -> torch.dtype:
    """The dtype that a model's weights are stored in, according to its config."""
    from transformers import AutoConfig

    source, revision = resolve(name, revision)
    with load_errors(f"model {name}", revision):
        dtype = AutoConfig.from_pretrained(
            source, revision=revision, local_files_only=True, trust_remote_code=False
        ).dtype
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32
