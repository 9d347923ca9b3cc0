"""Log-probabilities by the model's own modules and autograd, on any device, without keeping the logits.

Shapes: `B` rows, `T` tokens, `N` scored tokens, `C` hidden size, `V` vocabulary.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tiny_math_solver.policy.architecture import capped_with_derivative, logits_cap
from tiny_math_solver.update.passes import Batch
from tiny_math_solver.update.scorer import whole_rows

LOGITS_TOKENS, LOGITS_BYTES = 2048, 1 << 28  # projected onto the vocabulary at once, in float32
FLOAT32_BYTES = 4
BACKWARD_SHARE = 1.05  # of the kept activations, with those of the backward pass; measured on a CPU


class TorchScorer:
    """Scores with the transformers model `model` and its adapter. Implements `Scorer`."""

    by_group = False
    nbytes = step_bytes = 0

    def __init__(
        self,
        model: Any,
        temperature: float,
        autocast: Callable[[], AbstractContextManager[Any]],
        dtype: torch.dtype,
        *,
        is_checkpointed: bool = False,
    ):
        self.model, self.temperature, self.autocast = model, temperature, autocast
        self.dtype, self.is_checkpointed = dtype, is_checkpointed

    def begin(self) -> None:
        """Nothing to take over: the model is the policy."""

    def logprobs(self, batch: Batch) -> Tensor:
        ids, mask, completion = whole_rows(batch)
        return self.logprobs_of(self.model, ids, mask, completion)

    def logprobs_of(self, model: Any, ids: Tensor, mask: Tensor, completion: int) -> Tensor:
        """The same under another model, such as the reference of the KL term."""
        with self.autocast():
            return completion_logprobs(model, ids, mask, completion, self.temperature)

    def finish(self) -> None:
        """Nothing to do: autograd has left the gradient in the parameters."""

    def pass_bytes(self, tokens: int) -> int:
        with self.autocast():
            is_autocast = torch.is_autocast_enabled(self.model.device.type)
        return torch_pass_bytes(
            self.model.config,
            self.dtype,
            tokens,
            tokens,
            is_checkpointed=self.is_checkpointed,
            is_autocast=is_autocast,
        )


def torch_pass_bytes(
    config: Any, dtype: torch.dtype, tokens: int, scored: int, *, is_checkpointed: bool, is_autocast: bool = False
) -> int:
    """Bytes of a pass in `dtype`: activations of `tokens` tokens, logits of `scored` tokens.

    With gradient checkpointing one layer's activations are there at a time, and the input of each.
    """
    text, size = config.get_text_config(), dtype.itemsize
    kept = tokens * kept_bytes(config, dtype, is_autocast=is_autocast)
    inputs = tokens * model_sizes(config)[0] * size * text.num_hidden_layers
    layers = kept + inputs if is_checkpointed else kept * text.num_hidden_layers
    copies = 3 if logits_cap(config) else 2  # and one, and the derivative of a cap
    logits = min(scored, logits_tokens(text.vocab_size)) * text.vocab_size * copies * FLOAT32_BYTES
    return round(BACKWARD_SHARE * layers) + logits


def kept_bytes(config: Any, dtype: torch.dtype, *, is_autocast: bool = False) -> int:
    """Bytes of a token that autograd keeps of one layer whose projections have float32 adapters.

    A norm computes in float32 and keeps its input so. An adapter casts its input to float32, and under autocast back:
    in another dtype than float32 each of the seven keeps a copy of its own.
    """
    width, gate, heads, head_dim, kv_heads = model_sizes(config)
    attention, keys = heads * head_dim, kv_heads * head_dim
    if dtype == torch.float32:
        adapters = (2 * width + attention + gate) * FLOAT32_BYTES
    else:
        adapters = (5 * width + attention + gate) * (dtype.itemsize if is_autocast else FLOAT32_BYTES)
    return 2 * width * FLOAT32_BYTES + adapters + (2 * attention + 2 * keys + 3 * gate) * dtype.itemsize


def logits_tokens(vocabulary: int) -> int:
    """Completion tokens whose logits exist at once."""
    return max(1, min(LOGITS_TOKENS, LOGITS_BYTES // (vocabulary * FLOAT32_BYTES)))


def model_sizes(config: Any) -> tuple[int, int, int, int, int]:
    """`(hidden size, MLP size, heads, head dimension, key-value heads)` of a transformers config.

    Of a model that also sees or hears they are those of its text part, of experts those that a token passes through.
    Where the sizes differ from layer to layer the largest one counts; a model without attention has one head.
    """
    text = config.get_text_config()

    def size(name: str) -> int:
        value = getattr(text, name, None) or 0
        return max(value) if isinstance(value, list | tuple) else value

    width, heads = size("hidden_size"), size("num_attention_heads") or 1
    experts = size("num_experts_per_tok") * size("moe_intermediate_size") + size("shared_expert_intermediate_size")
    gate = max(size("intermediate_size") or 4 * width, experts)
    return width, gate, heads, size("head_dim") or width // heads, size("num_key_value_heads") or heads


def completion_logprobs(model: Any, ids: Tensor, mask: Tensor, completion: int, temperature: float) -> Tensor:
    """Log-probabilities `[B, completion]` of the last `completion` tokens of each row of ids `[B, T]`; 0 at padding.

    `model` is a transformers causal language model. Rows are moved to the left edge: with the padding behind
    them, plain causal attention needs no mask.
    """
    size = mask.shape[1]
    prompt = mask[:, : size - completion].sum(1)
    columns = torch.arange(size, device=ids.device)
    # the column that each column of the packed row comes from: skip the padding in front of the prompt
    source = (columns + (size - completion - prompt)[:, None]).clamp_(max=size - 1)
    longest = int((prompt + mask[:, size - completion :].sum(1)).max())
    packed = ids.gather(1, source)[:, :longest]
    hidden = model.model(input_ids=packed, use_cache=False).last_hidden_state
    scored = mask[:, size - completion :].bool()
    row, offset = scored.nonzero(as_tuple=True)
    position = prompt[row] + offset
    head = model.get_output_embeddings()
    given = (
        hidden[row, position - 1],
        head.weight,
        head.bias,
        packed[row, position],
        temperature,
        logits_cap(model.config),
    )
    is_trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in head.parameters())
    logprobs = _logprobs_in_parts(*given) if is_trained else ChosenLogProb.apply(*given)
    return hidden.new_zeros(scored.shape, dtype=torch.float32).masked_scatter(scored, logprobs)


def _logprobs_in_parts(
    x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, temperature: float, cap: float
) -> Tensor:
    """What `ChosenLogProb` computes, with a gradient for weight and bias too: the logits are computed twice."""

    def part(x: Tensor, target: Tensor) -> Tensor:
        logits = functional.linear(x, weight, bias).float()
        logits = cap * torch.tanh(logits / cap) if cap else logits
        scores = logits / temperature if temperature != 1 else logits
        return scores.gather(1, target[:, None])[:, 0] - scores.logsumexp(-1)

    size = logits_tokens(len(weight))
    pieces = zip(x.split(size), target.split(size), strict=True)
    return torch.cat([checkpoint(part, *piece, use_reentrant=False) for piece in pieces])


class ChosenLogProb(torch.autograd.Function):
    """`log softmax(c(x Wᵀ) / temperature)[target]` `[N]` without keeping the logits of more than a few tokens.

    `c` is `cap_` with `cap`, of slope `c'`. The gradient with respect to `x` is linear in the incoming one: `(c' ·
    (one-hot(target) - p)) W / temperature` times it. So it is computed in the forward pass, while the logits are there.
    `W` `[V, C]` and the bias must be frozen.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, temperature: float, cap: float = 0.0
    ) -> Tensor:
        x_grad = torch.empty_like(x) if x.requires_grad else None
        logprobs = torch.empty(len(x), dtype=torch.float32, device=x.device)
        size = logits_tokens(len(weight))
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            logits = functional.linear(x[part], weight, bias)
            derivative = capped_with_derivative(logits, cap)
            logits = logits.float()
            if temperature != 1:
                logits /= temperature
            chosen = target[part, None]
            normaliser = logits.logsumexp(-1, keepdim=True)
            logprobs[part] = (logits.gather(1, chosen) - normaliser)[:, 0]
            if x_grad is not None:
                logits_grad = logits.sub_(normaliser).exp_().neg_()
                logits_grad.scatter_add_(1, chosen, torch.ones_like(logprobs[part, None]))
                if derivative is not None:
                    logits_grad *= derivative
                x_grad[part] = logits_grad.to(weight.dtype) @ weight / temperature
        if x_grad is not None:
            ctx.save_for_backward(x_grad)
        return logprobs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x_grad,) = ctx.saved_tensors
        return gradients[0][:, None].to(x_grad.dtype) * x_grad, None, None, None, None, None
