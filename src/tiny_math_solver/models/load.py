"""Models and their tokenizers, loaded by name: a shipped one's, a Hub name, a model folder or an adapter folder."""

import os
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from tiny_math_solver.config.shipped import SHIPPED_MODELS
from tiny_math_solver.hub.snapshots import snapshot, stay_offline
from tiny_math_solver.models.adapter import (
    adapter_folder,
    base_of_adapter,
    check_adapter_files,
    is_hub_name,
    load_adapter,
)
from tiny_math_solver.models.ends import end_with_turn, load_ends
from tiny_math_solver.models.folder import (
    check_code,
    check_kind,
    check_loaded,
    check_model_folder,
    check_shapes,
    has_tokenizer,
    ignored_code,
    load_errors,
)
from tiny_math_solver.models.quantized import dequantized, is_quantized, quantization_config, settle
from tiny_math_solver.runs.records import read_config
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.device import default_device, dtype_note, resolve_dtype
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

    A quantised base, and the one that a run quantised for its adapter, is dequantised: the same policy.

    Raises UserError for a name that is neither a folder nor a Hub repository, and for a damaged folder.
    """
    base, revision, folder = locate(name, revision, adapter)
    model = load_base(base, revision, dtype, device, trained_on(folder) if folder else None)
    if any(map(is_quantized, model.modules())):
        model = dequantized(model, model.dtype)
    tokenizer = load_tokenizer(base, revision, folder)
    if folder is not None:
        model = load_adapter(model, folder)
        load_ends(model, folder)
    with load_errors(f"model {name}"):  # end tokens and templates of damaged files may be anything
        added_end = end_with_turn(model, tokenizer)
    return LoadedModel(name, model.eval(), tokenizer, added_end)


def trained_on(folder: Path) -> str | None:
    """The quantisation of the base that the run in an adapter's folder trained on; None without one."""
    config = read_config(folder) or {}
    return (config.get("model") or {}).get("quantization")


def locate(
    name: str, revision: str | None = None, adapter: str | Path | None = None
) -> tuple[str, str | None, Path | None]:
    """`(base, revision, adapter folder)` of a name; what comes from the Hub is in the cache afterwards.

    Raises UserError if there is no such model, or no longer the one that an adapter was trained on.
    """
    if adapter is not None:
        given = adapter_folder(str(adapter)) or Path(adapter)
        check_adapter_files(given)
        resolve(name, revision)
        return name, revision, given
    folder = adapter_folder(name, revision)
    if folder is not None:
        name, revision = base_of_adapter(folder)
        if not (name in SHIPPED_MODELS or is_hub_name(name) or os.path.isdir(Path(name).expanduser())):
            raise UserError(
                f"no such model folder: {name}, which adapter {folder} was trained on; say where its base is: "
                "eval, solve and play BASE --adapter ADAPTER, merge --base BASE, train --model.name BASE "
                "--model.adapter ADAPTER"
            )
    resolve(name, revision)
    return name, revision, folder


def load_base(
    name: str,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    quantization: str | None = None,
) -> Any:
    """The bare transformers model on `device` (by default a GPU if there is one), in `dtype`.

    With `quantization` the weights of its layers are held in fewer bits.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    device = device or default_device()
    source, revision = resolve(name, revision)
    folder = Path(source) if os.path.isdir(source) else snapshot("model", source, revision)
    logging.disable_progress_bar()  # of reading and writing weights, which takes seconds; downloads have had theirs
    stay_offline()
    options: dict[str, Any] = {"revision": revision, "local_files_only": True, "trust_remote_code": False}
    for text in filter(None, (ignored_code(folder), dtype_note(dtype, device))):
        _note_once(f"model {name}: {text}")
    with load_errors(f"model {name}", revision):
        config = AutoConfig.from_pretrained(source, **options)
        check_kind(name, config)
        check_shapes(folder, config)
        resolved = resolve_dtype(dtype, device, dtype_of(config))
        is_packed = getattr(config, "quantization_config", None) is not None
        if quantization and is_packed:
            raise UserError(f"model {name} is quantised already: drop model.quantization")
        if quantization:
            options["quantization_config"] = quantization_config(quantization, resolved)
        if quantization or is_packed:
            options["device_map"] = {"": device}  # they cannot all be moved later
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=resolved,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    model, report = loaded
    check_loaded(name, model, report)
    return settle(model) if "device_map" in options else model.to(device)


def load_tokenizer(name: str, revision: str | None = None, adapter: Path | None = None) -> Any:
    """The tokenizer of model `name`, or the one in the folder of its adapter, whose chat template may be another.

    It may have more entries than the model's embedding: prompts with such a token are refused where they are used.
    """
    from transformers import AutoTokenizer

    source, revision = resolve(name, revision)
    options: dict[str, Any] = {"revision": revision, "local_files_only": True, "trust_remote_code": False}
    own = adapter if adapter and has_tokenizer(adapter) else None
    with load_errors(f"tokenizer {own or name}", revision):
        if own:
            check_code(own)
            tokenizer = AutoTokenizer.from_pretrained(str(own), local_files_only=True, trust_remote_code=False)
        else:
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
    rows, eos = embedding_rows(name, revision), tokenizer.eos_token_id
    if eos is None:
        raise UserError(f"tokenizer {name} has no end-of-sequence token: completions could not end")
    if eos >= rows:
        raise UserError(
            f"tokenizer {name}: its end of sequence {tokenizer.eos_token!r} has id {eos}, the model's embedding "
            f"{rows} rows: they do not belong together"
        )
    if len(tokenizer) > rows:
        _note_once(
            f"tokenizer {name} has {len(tokenizer)} entries, the model's embedding {rows} rows: "
            "a prompt with one of the others is refused"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def embedding_rows(name: str, revision: str | None = None) -> int:
    """The number of token ids that a model has embeddings for, according to its config."""
    from transformers import AutoConfig

    source, revision = resolve(name, revision)
    with load_errors(f"model {name}", revision):
        config = AutoConfig.from_pretrained(
            source, revision=revision, local_files_only=True, trust_remote_code=False
        ).get_text_config()
        return config.vocab_size


def resolve(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """`(name or folder for from_pretrained, commit)`; a Hub model is in the cache afterwards.

    Raises UserError for a folder that is missing or not a model, and for a Hub name that cannot be downloaded.
    """
    if shipped := SHIPPED_MODELS.get(name):
        return str(resources.files("tiny_math_solver").joinpath(shipped.folder)), None
    if not name:
        raise UserError("the model's name is empty")
    path = Path(name).expanduser()
    if os.path.isdir(path):
        if not (path / "config.json").is_file():
            raise UserError(f"{name}: no config.json in this folder, so it is not a model folder")
        check_model_folder(path)
        return str(path), None
    if path.exists():
        raise UserError(f"{name} is a file: name the folder with config.json, tokenizer and .safetensors")
    if not is_hub_name(name):
        raise UserError(f"no such model folder: {name}")
    folder = snapshot("model", name, revision)
    check_model_folder(folder)
    return name, folder.name


def stored_dtype(name: str, revision: str | None = None) -> torch.dtype:
    """The dtype that a model's weights are stored in, according to its config."""
    from transformers import AutoConfig

    source, revision = resolve(name, revision)
    with load_errors(f"model {name}", revision):
        config = AutoConfig.from_pretrained(source, revision=revision, local_files_only=True, trust_remote_code=False)
    return dtype_of(config)


def dtype_of(config: Any) -> torch.dtype:
    """The dtype that a transformers config names, float32 if it names none."""
    dtype = getattr(config, "dtype", None)
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32


@cache
def _note_once(text: str) -> None:
    """A note in the terminal, once a process: a model is loaded several times in a run."""
    Console().note(text)
