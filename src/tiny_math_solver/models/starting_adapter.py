"""A LoRA adapter to start from: trained further, or merged into its base under a fresh adapter.

A run on a merged base still ends in one plain adapter of the original base. Both updates are sums of outer products,
`s₁ B₁A₁ + s₂ B₂A₂ = s₂ [s₁/s₂ B₁  B₂] [A₁; A₂]`, so the two are joined by placing their matrices side by side.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tiny_math_solver.config.sections import ModelSection
from tiny_math_solver.config.shipped import SHIPPED_MODELS, shipped_name
from tiny_math_solver.hub.snapshots import pinned
from tiny_math_solver.models.adapter import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    TRAINED,
    adapter_folder,
    check_adapter_files,
    load_adapter,
)
from tiny_math_solver.models.folder import load_errors, read_json
from tiny_math_solver.models.load import load_base, locate, stored_dtype
from tiny_math_solver.support.errors import UserError

PREFIX = "base_model.model."  # of a module's name in an adapter's file
MERGED_FIRST = "tiny-math merge ADAPTER FOLDER, then model.name FOLDER"


@dataclass(frozen=True)
class StartingAdapter:
    """The adapter in `folder`, which was configured as `name`; `is_merged` says how it is used.

    `other_base` is the base that it was trained on by its own account, if another one is configured.
    """

    name: str
    folder: Path
    config: Any  # its LoraConfig
    is_merged: bool
    other_base: str = ""

    @property
    def fingerprint(self) -> str:
        """A hash of the weights, by which it is known whether a resumed run starts from the same ones."""
        return hashlib.sha256((self.folder / ADAPTER_WEIGHTS).read_bytes()).hexdigest()

    @property
    def line(self) -> str:
        name = f"{self.name} (of {self.other_base}, as it says)" if self.other_base else self.name
        if self.is_merged:
            return f"starts from adapter {name}, merged into the base under a new one"
        targets = self.config.target_modules
        listed = targets if isinstance(targets, str) else ", ".join(sorted(targets or ()))
        return (
            f"trains adapter {name} on: its r={self.config.r}, alpha={self.config.lora_alpha} and target modules "
            f"({listed}) stand, not those of section lora"
        )


@dataclass(frozen=True)
class LoraUpdate:
    """The update `scale · B A` of one weight: `a` `[r, in]`, `b` `[out, r]`."""

    a: Tensor
    b: Tensor
    scale: float


def starting_adapter(model: ModelSection) -> tuple[ModelSection, StartingAdapter | None]:
    """The model section with the base's own name, and the adapter to start from if it names one in either field.

    Both are in the Hub cache afterwards. Raises UserError for an adapter that cannot be trained on as configured.
    """
    as_model = adapter_folder(model.name, model.revision)
    if as_model is None and model.adapter is None:
        return model, None
    if as_model and model.adapter is not None:
        raise UserError(
            f"model.name {model.name} is an adapter, and model.adapter {model.adapter} another one: name a base model"
        )
    name = model.adapter or model.name
    folder = as_model or adapter_folder(name)
    if folder is None:
        raise UserError(f"model.adapter {name}: no {ADAPTER_CONFIG}, so it is not an adapter")
    check_adapter_files(folder)
    config, is_merged = _lora_config(folder), model.adapter_use == "merge"
    if as_model is None and "name" in model.model_fields_set:
        base, revision, own = model.name, model.revision, config.base_model_name_or_path
        found = StartingAdapter(name, folder, config, is_merged, "" if not own or _is_same(own, base) else own)
    else:
        base, revision, _ = locate(str(folder))
        found = StartingAdapter(name, folder, config, is_merged)
    if found.is_merged and (flaw := beyond_plain_lora(found.config)):
        raise UserError(f"{name}: an adapter with {flaw} cannot be merged by model.adapter_use; {MERGED_FIRST}")
    changes = {"name": base, "revision": pinned(base, revision), "adapter": name}
    return model.model_copy(update=changes), found


def continued(model: Any, adapter: StartingAdapter, revision: str | None, dropout: float) -> Any:
    """A PeftModel of a base at `revision` with the adapter to be trained on.

    Dropout is a matter of training, not of the adapter, so it is the configured one.
    """
    config = adapter.config
    config.lora_dropout, config.inference_mode = dropout, False
    config.base_model_name_or_path, config.revision = model.name_or_path, revision
    return load_adapter(model, adapter.folder, config)


class MergedAdapter:
    """An adapter that was merged into its base; the one trained on top is saved joined with it."""

    def __init__(self, updates: dict[str, LoraUpdate]):
        self.updates = updates  # by the name of their module

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(update.a.numel() + update.b.numel() for update in self.updates.values())

    def save_joined(self, model: Any, folder: Path) -> None:
        """Write the merged and the trained adapter of `model` as one plain adapter of the original base."""
        from safetensors.torch import save_file

        trained = _updates(model)
        weights: dict[str, Tensor] = {}
        ranks: dict[str, int] = {}
        alphas: dict[str, float] = {}
        for name in sorted({*self.updates, *trained}):
            parts = [part[name] for part in (self.updates, trained) if name in part]
            scale = parts[-1].scale
            a = torch.cat([part.a for part in parts])
            b = torch.cat([part.b if part is parts[-1] else part.b * (part.scale / scale) for part in parts], 1)
            weights |= {f"{PREFIX}{name}.lora_A.weight": a, f"{PREFIX}{name}.lora_B.weight": b}
            ranks[name], alphas[name] = len(a), scale * len(a)
        save_file(weights, folder / ADAPTER_WEIGHTS, {"format": "pt"})
        _joined_config(model, ranks, alphas).save_pretrained(folder)

    def trained_part(self, model: Any, joined: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of the trained adapter alone, out of those of `save_joined`."""
        trained: dict[str, Tensor] = {}
        for name, update in _updates(model).items():
            rank = len(update.a)
            a, b = (f"{PREFIX}{name}.lora_{part}.weight" for part in "AB")
            trained |= {a: joined[a][-rank:].contiguous(), b: joined[b][:, -rank:].contiguous()}
        return trained


def merged(section: ModelSection, adapter: StartingAdapter, device: str) -> tuple[Any, MergedAdapter]:
    """The base on `device` with the adapter merged into it.

    Each weight is summed in float32 as it is stored, and rounded to the model's dtype once.
    """
    model = load_base(section.name, section.revision, section.dtype, device)
    stored = stored_dtype(section.name, section.revision)
    is_exact = model.dtype in (torch.float32, stored)  # else the stored weights were rounded already
    exact = model if is_exact else load_base(section.name, section.revision, str(stored).split(".")[1], "cpu")
    adapted = load_adapter(exact, adapter.folder)
    updates = _updates(adapted)
    layers: dict[str, Any] = dict(adapted.get_base_model().named_modules())
    with torch.no_grad():
        sums = {name: layers[name].get_delta_weight(TRAINED).float() for name in updates}
        for name, delta in sums.items():
            delta.add_(layers[name].get_base_layer().weight)
        adapted.unload()
        for name, summed in sums.items():
            model.get_submodule(name).weight.copy_(summed)
    return model, MergedAdapter(updates)


def beyond_plain_lora(config: Any) -> str:
    """The feature of a LoraConfig that is more than an update `B A` of some weights; empty if there is none."""
    flaws = {
        "use_dora": config.use_dora,
        "bias": config.bias != "none",
        "modules_to_save": config.modules_to_save,
        "lora_bias": config.lora_bias,
        "target_parameters": config.target_parameters,
        "trainable_token_indices": config.trainable_token_indices,
        "layer_replication": config.layer_replication,
        # such as pissa, which changes the base too
        f"init_lora_weights {config.init_lora_weights}": config.init_lora_weights not in (True, False, "gaussian"),
    }
    return next((name for name, is_there in flaws.items() if is_there), "")


def _is_same(name: str, other: str) -> bool:
    """True for one name of a model, and for two paths of one folder."""
    if other in SHIPPED_MODELS:
        return shipped_name(name) == other
    return name == other or Path(name).expanduser().resolve() == Path(other).expanduser().resolve()


def _lora_config(folder: Path) -> Any:
    """The adapter's LoraConfig. Raises UserError for an adapter of another kind."""
    from peft import PeftConfig

    kind = read_json(folder / ADAPTER_CONFIG).get("peft_type")
    if kind != "LORA":
        raise UserError(f"{folder}: an adapter of the kind {kind}; only LoRA adapters can be trained on")
    with load_errors(f"adapter {folder}"):
        return PeftConfig.from_pretrained(str(folder))


def _updates(model: Any) -> dict[str, LoraUpdate]:
    """The updates of a PeftModel's trained adapter, in float32 on the CPU. Raises UserError where it is more."""
    from peft.tuners.lora import LoraLayer
    from transformers.pytorch_utils import Conv1D

    found = {}
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            base = layer.get_base_layer()
            is_plain = isinstance(base, nn.Linear | Conv1D) and base.weight.is_floating_point()
            if TRAINED not in layer.lora_A or not is_plain:
                kind = type(base).__name__
                raise UserError(f"an adapter of {name}, a {kind}, cannot be merged so; {MERGED_FIRST}")
            pair: list[Any] = [layer.lora_A[TRAINED], layer.lora_B[TRAINED]]
            a, b = (part.weight.detach().float().cpu() for part in pair)
            found[name] = LoraUpdate(a, b, layer.scaling[TRAINED])
    return found


def _joined_config(model: Any, ranks: dict[str, int], alphas: dict[str, float]) -> Any:
    """A LoraConfig of these ranks and alphas by module."""
    from peft import LoraConfig

    own = model.peft_config[TRAINED]
    r, alpha = Counter(ranks.values()).most_common(1)[0][0], Counter(alphas.values()).most_common(1)[0][0]
    settings: dict[str, Any] = {  # a scale need not be a whole alpha over the rank
        "lora_alpha": _whole(alpha),
        "alpha_pattern": {name: _whole(value) for name, value in alphas.items() if value != alpha},
    }
    return LoraConfig(
        r=r,
        rank_pattern={name: rank for name, rank in ranks.items() if rank != r},
        target_modules=_shortened(list(ranks), model.get_base_model()),
        task_type=own.task_type,
        base_model_name_or_path=own.base_model_name_or_path,
        revision=own.revision,
        inference_mode=True,
        **settings,
    )


def _shortened(names: list[str], base: Any) -> list[str]:
    """The last parts of modules' names, if no other module ends so; else the whole names."""
    last = {name.rpartition(".")[2] for name in names}
    ending_so = {name for name, _ in base.named_modules() if name.rpartition(".")[2] in last}
    return sorted(last) if ending_so == set(names) else names


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number
