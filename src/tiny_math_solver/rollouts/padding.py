"""Rows padded on the left, as transformers' generate and TRL's micro-batches pass them through a model.

The engine and the update's own passes do without padding on that side.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from tiny_math_solver.models.ends import causal_lm
from tiny_math_solver.support.errors import UserError

TOKENS, PADDING = 12, 5  # of the row that is tried
# The largest mean difference of logits, in standard deviations, that rounding explains; ignored padding gives 0.2 and
# more in small random models.
LIMITS = {torch.float32: 0.01, torch.bfloat16: 0.15, torch.float16: 0.05}


def check_padding(model: Any) -> None:
    """Raise UserError if a model cannot take a row of ids, or gives a padded row other logits than the row alone."""
    inner = causal_lm(model)
    kind = f"model type {inner.config.model_type}"
    row = torch.arange(TOKENS, device=inner.device)[None] % inner.config.get_text_config().vocab_size
    ids, mask = (torch.cat([value.new_zeros(1, PADDING), value], 1) for value in (row, torch.ones_like(row)))
    settings: dict[str, Any] = {"position_ids": positions(mask)} if _takes_positions(inner) else {}
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            alone = inner(input_ids=row).logits.float()
            padded = inner(input_ids=ids, attention_mask=mask, **settings).logits[:, PADDING:].float()
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise UserError(
            f"{kind}: a pass through the model fails ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
            "if it has an adapter, other lora.target_modules may do"
        ) from error
    finally:
        model.train(was_training)
    gap = (padded - alone).abs().mean() / alone.std()
    if gap > LIMITS[inner.dtype]:
        raise UserError(f"{kind} is not supported: padding in front of a prompt changes what it says")


def number_positions(model: Any) -> None:
    """Count positions from the first token that is no padding, wherever `model` is called without positions.

    generate does so; TRL's scoring does not, so that a model with learned positions would see others in the update.
    """
    if not _takes_positions(causal_lm(model)):
        return

    def number(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim == 2 and kwargs.get("position_ids") is None:
            kwargs["position_ids"] = positions(mask)
        return args, kwargs

    model.register_forward_pre_hook(number, with_kwargs=True)


def positions(mask: Tensor) -> Tensor:
    """Positions `[B, T]` of tokens under an attention mask `[B, T]`; 0 at padding."""
    return (mask.cumsum(-1) - 1).clamp_(min=0)


def _takes_positions(inner: Any) -> bool:
    return "position_ids" in inspect.signature(inner.forward).parameters
