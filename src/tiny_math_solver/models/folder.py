"""Checks of a model folder before it is loaded, and of the model afterwards.

transformers and PEFT invent what is missing: random weights for tensors that a file lacks, an empty tokenizer, an
adapter that does nothing. They also run code that comes with a model, if allowed to. Neither happens here.
"""

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tiny_math_solver.hub.snapshots import hub_errors
from tiny_math_solver.models.quantized import stored_tensors
from tiny_math_solver.support.errors import UserError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WRITERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")  # suffixes of the architectures that generate text
MOST_LAYERS = 1000  # layers are built one by one before anything can be compared with the weights
VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken")


def check_model_folder(folder: Path) -> None:
    """Raise UserError for a folder that is not a complete causal language model, or cannot do without its own code."""
    config = read_json(folder / "config.json")
    check_code(folder)
    architectures = config.get("architectures") or []
    if isinstance(architectures, list) and architectures and not any(str(a).endswith(WRITERS) for a in architectures):
        raise UserError(f"{folder}: a {architectures[0]} does not generate text; use a causal language model")
    if isinstance(layers := config.get("num_hidden_layers"), int) and layers > MOST_LAYERS:
        raise UserError(f"{folder / 'config.json'}: num_hidden_layers = {layers}, over the limit of {MOST_LAYERS}")
    _check_weights(folder)
    if not _has_vocabulary(folder):
        raise UserError(f"{folder}: no tokenizer.json and no other vocabulary; save the tokenizer with the model")


def check_code(folder: Path) -> None:
    """Raise UserError for a model or a tokenizer that only its own code could load.

    Code that comes with a model is never run. Beside a class that transformers has, its `auto_map` is left alone.
    """
    for name, is_native in (("config.json", _is_native_model), ("tokenizer_config.json", _is_native_tokenizer)):
        if _has_auto_map(folder / name) and not is_native(folder):
            raise UserError(
                f"{folder / name}: auto_map wants to run code that comes with the model, which is never done; "
                "use a model whose architecture is part of transformers"
            )


def ignored_code(folder: Path) -> str:
    """A sentence about code that comes with a model and is not run; empty if there is none."""
    names = [name for name in ("config.json", "tokenizer_config.json") if _has_auto_map(folder / name)]
    if not names:
        return ""
    return f"auto_map in {' and '.join(names)} is ignored: transformers' own classes are used, no code of {folder} runs"


def check_kind(name: str, config: Any) -> None:
    """Raise UserError if transformers has no causal language model for a config, or cannot read its weights here."""
    from transformers import AutoModelForCausalLM

    if config.is_encoder_decoder:
        raise UserError(f"model {name}: {config.model_type} is an encoder-decoder; use a causal language model")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UserError(
            f"model {name}: transformers has no causal language model for {config.model_type}; use a text model"
        )
    if _is_of_bitsandbytes(config) and find_spec("bitsandbytes") is None:
        raise UserError(
            f"model {name}: its weights are quantised by bitsandbytes, which is not installed; use the model that it "
            "was made from, which an adapter fits as well (model.name with model.adapter, or --base)"
        )


def _is_of_bitsandbytes(config: Any) -> bool:
    packed = getattr(config, "quantization_config", None) or {}
    packed = packed if isinstance(packed, dict) else packed.to_dict()
    method = str(packed.get("quant_method", ""))
    return method.endswith("bitsandbytes") or bool(packed.get("load_in_4bit") or packed.get("load_in_8bit"))


def has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer_config.json").is_file() and _has_vocabulary(folder)


def _has_vocabulary(folder: Path) -> bool:
    return any(file.is_file() for pattern in VOCABULARIES for file in folder.glob(pattern))


def check_shapes(folder: Path, config: Any) -> None:
    """Raise UserError if the weights do not have the shapes that `config` describes; loads nothing, takes no memory.

    transformers compares shapes too, but only after it has allocated every tensor that config.json describes.
    """
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    if getattr(config, "quantization_config", None):  # packed weights have other shapes
        if _is_of_bitsandbytes(config) and not _has_packed(folder):
            raise UserError(
                f"{folder}: config.json says that bitsandbytes has quantised the weights, and it has not: take its "
                "quantization_config away (model.quantization quantises a model for a run)"
            )
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    described = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    stored = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (it is no mapping)
                shape = file.get_slice(name).get_shape()
                stored += math.prod(shape)
                if described.get(name, shape) != shape:
                    raise UserError(f"{path}: {name} has the shape {shape}, config.json makes it {described[name]}")
    parameters = sum(weight.numel() for weight in model.parameters())
    if parameters > 2 * stored:
        raise UserError(
            f"{folder}: config.json describes {parameters:,} parameters, its weights are {stored:,} numbers"
        )


def _has_packed(folder: Path) -> bool:
    """Whether some weight of a folder is stored in integers."""
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            if any(file.get_slice(name).get_dtype() in ("U8", "I8") for name in file.keys()):  # noqa: SIM118
                return True
    return False


def check_loaded(name: str, model: Any, report: dict[str, Any]) -> None:
    """Raise UserError if part of a model did not come from its file, or is not finite.

    `report` is the loading info that transformers returns with `output_loading_info`.
    """
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"model {name}: its weights lack {some_of(missing)}, which config.json describes")
    if surplus := sorted(key for key in report["unexpected_keys"] if ".layers." in key):
        raise UserError(f"model {name}: config.json has no place for {some_of(surplus)} of its weights")
    weights = ((key, part) for key, weight in model.named_parameters() for part in stored_tensors(weight))
    if broken := [key for key, weight in weights if not is_finite(weight)]:
        raise UserError(f"model {name}: NaN or infinity in {some_of(broken)}: its weights are damaged")


@contextmanager
def load_errors(what: str, revision: str | None = None) -> Iterator[None]:
    """Turn whatever a library raises while it loads `what` from a damaged folder into a UserError.

    Its warnings are silenced: missing weights are checked for afterwards.
    """
    with hub_errors(what, revision), warnings.catch_warnings(action="ignore"):
        try:
            yield
        except (OSError, ValueError, UserError):
            raise
        except Exception as error:
            text = " ".join(str(error).split())
            if "ignore_mismatched_sizes" in text:
                text = "the shapes of its weights are not those that config.json gives"
            elif not isinstance(error, RuntimeError):
                text = f"{type(error).__name__}: {text}"
            raise ValueError(text if len(text) <= 300 else text[:299] + "…") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a model's JSON file. Raises UserError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _has_auto_map(path: Path) -> bool:
    return path.is_file() and bool(read_json(path).get("auto_map"))


def _is_native_model(folder: Path) -> bool:
    """True if transformers has the type and the classes that config.json names."""
    import transformers

    config = read_json(folder / "config.json")
    architectures = config.get("architectures") or []
    return config.get("model_type") in transformers.CONFIG_MAPPING and all(
        hasattr(transformers, str(name)) for name in architectures
    )


def _is_native_tokenizer(folder: Path) -> bool:
    """True if transformers has the class that tokenizer_config.json names, or chooses one by the model's type."""
    import transformers

    named = read_json(folder / "tokenizer_config.json").get("tokenizer_class")
    if named is None:
        return (folder / "config.json").is_file() and _is_native_model(folder)
    return hasattr(transformers, str(named))


def _check_weights(folder: Path) -> None:
    if (folder / WEIGHTS).is_file():
        return
    if (folder / INDEX).is_file():
        shards = read_json(folder / INDEX).get("weight_map")
        if (
            not isinstance(shards, dict)
            or not shards
            or not isinstance(read_json(folder / INDEX).get("metadata"), dict)
        ):
            raise UserError(f"{folder / INDEX}: no weight_map and metadata, so it is not the index of a model")
        for shard in sorted({str(shard) for shard in shards.values()}):
            if "/" in shard or not (folder / shard).is_file():
                raise UserError(f"{folder / INDEX} names {shard}, which is not in this folder")
        return
    pickle = next((file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern)), None)
    why = f"{pickle} is a pickle, which may run code and is not loaded" if pickle else "the weights are missing"
    raise UserError(f"{folder}: no {WEIGHTS}: {why}")


def is_finite(weight: torch.Tensor) -> bool:
    """True if all of a tensor is finite; by its extremes, which NaN propagates to: 30 times faster than isfinite."""
    return not weight.numel() or all(bool(extreme.isfinite()) for extreme in weight.detach().aminmax())


def some_of(keys: list[str]) -> str:
    """The first of `keys`, and the number of the others."""
    return keys[0] + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
