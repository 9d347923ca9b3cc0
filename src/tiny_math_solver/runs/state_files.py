"""Training state on disk: a tree of numbers as JSON, its tensors as safetensors, and no pickle."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.files import write_text

TENSOR = "tensor:"  # in the JSON, before the name of a tensor in the safetensors file


def save_tree(stem: Path, tree: Any) -> None:
    """Write dicts, lists, numbers, text and tensors as `<stem>.json` and `<stem>.safetensors`; tuples become lists.

    Raises UserError for anything else: state that cannot be written must not be lost silently.
    """
    tensors: dict[str, Tensor] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[name := str(len(tensors))] = value.detach().cpu().contiguous().clone()
            return f"{TENSOR}{name}"
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(part) for part in value]
        return value

    try:
        text = json.dumps(plain(tree))
    except TypeError as error:
        raise UserError(f"a checkpoint cannot hold this run's state ({error}): choose another grpo.optim") from None
    save_file(tensors, stem.with_suffix(".safetensors"))
    write_text(stem.with_suffix(".json"), text)


def load_tree(stem: Path) -> Any:
    """The tree that `save_tree` wrote, its tensors on the CPU. Raises UserError if it cannot be read."""
    try:
        # copies: the file stays mapped for as long as its tensors live, and Windows does not delete a mapped file
        tensors = {name: tensor.clone() for name, tensor in load_file(stem.with_suffix(".safetensors")).items()}
        tree = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{stem}: cannot be read ({error})") from None

    def whole(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(TENSOR):
            return tensors[value.removeprefix(TENSOR)]
        if isinstance(value, dict):
            return {key: whole(part) for key, part in value.items()}
        return [whole(part) for part in value] if isinstance(value, list) else value

    return whole(tree)
