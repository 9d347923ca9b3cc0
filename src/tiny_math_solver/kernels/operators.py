"""What the update's passes compute with: one set of operators for the compiled kernels, one in Triton (gpu/).

Shapes: `N` tokens, `C` hidden size, `M` MLP size, `V` vocabulary; qkv is `[N, (H + 2 KV) · D]`. Tensors are contiguous.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tiny_math_solver.kernels.bindings import Kernels
from tiny_math_solver.support.out_of_memory import is_out_of_memory


class Activation(NamedTuple):
    """That of a gate: `g · σ(linear · g + cubic · g³)`."""

    linear: float = 1.0
    cubic: float = 0.0


class Manner(NamedTuple):
    """How a layer's tokens attend."""

    window: int = 0  # to so many tokens, the last of them themselves; 0 for all before them
    cap: float = 0.0  # scores s become cap · tanh(s / cap); 0 for s themselves


class Operators(Protocol):
    """The operators of a layer, forward and backward, for one model. A gradient is that of the loss."""

    def work(self, layout: tuple[Any, ...]) -> Any:
        """What `attention` needs to know of `RaggedTokens.layout`, made once a pass."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
        """`out` `[N, C]` = RMSNorm of `x`, times `weight` `[C]`."""

    def rms_norm_backward(
        self, x: Tensor, weight: Tensor, eps: float, out_grad: Tensor, add: bool, x_grad: Tensor
    ) -> None:
        """`x_grad` `[N, C]` = (with `add` +=) the gradient of `x`, from that of its norm."""

    def gated(self, gate_up: Tensor, act: Activation, out: Tensor) -> None:
        """`out` `[N, M]` = act(gate) · up, of `gate_up` `[N, 2 M]`."""

    def gated_backward(self, gate_up: Tensor, act: Activation, out_grad: Tensor, grad: Tensor) -> None:
        """`grad` = the gradient of `gate_up`, whose memory it may be."""

    def rotary(self, qkv: Tensor, positions: Tensor, rope_table: Tensor, scale: float, backward: bool) -> None:
        """Rotate queries and keys by their positions `[N]`, in place, and scale the queries; `backward` its gradient.

        `rope_table` `[·, D]` holds cosine and sine of each pair of neighbours.
        """

    def attention(self, work: Any, qkv: Tensor, manner: Manner, out: Tensor, log_sum: Tensor) -> None:
        """`out` `[N, H · D]` = causal attention over the rotated qkv; float32 `log_sum` `[N, H]` = log Σ e^score."""

    def attention_backward(
        self, work: Any, qkv: Tensor, manner: Manner, out: Tensor, log_sum: Tensor, out_grad: Tensor, qkv_grad: Tensor
    ) -> None:
        """`qkv_grad` = the gradient of the rotated qkv."""

    def target_logprobs(
        self, logits: Tensor, vocabulary: int, temperature: float, targets: Tensor, logprobs: Tensor
    ) -> None:
        """`logprobs` `[N]` of `targets` `[N]`; their gradient by the logits `[N, ≥ V]` replaces these."""


class CompiledOperators:
    """The compiled kernels for a CPU. Implements `Operators`."""

    def __init__(self, kernels: Kernels):
        self.kernels = kernels

    def work(self, layout: tuple[Any, ...]) -> Any:
        return layout

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
        self.kernels.rms_norm(len(x), x, weight, eps, x.shape[1], out)

    def rms_norm_backward(
        self, x: Tensor, weight: Tensor, eps: float, out_grad: Tensor, add: bool, x_grad: Tensor
    ) -> None:
        self.kernels.rms_norm_backward(len(x), x, weight, eps, x.shape[1], out_grad, add, x_grad)

    def gated(self, gate_up: Tensor, act: Activation, out: Tensor) -> None:
        self.kernels.gated(len(gate_up), gate_up, out.shape[1], *act, out)

    def gated_backward(self, gate_up: Tensor, act: Activation, out_grad: Tensor, grad: Tensor) -> None:
        self.kernels.gated_backward(len(gate_up), gate_up, out_grad.shape[1], *act, out_grad, grad)

    def rotary(self, qkv: Tensor, positions: Tensor, rope_table: Tensor, scale: float, backward: bool) -> None:
        self.kernels.rotary(len(qkv), qkv, positions, rope_table, scale, backward)

    def attention(self, work: Any, qkv: Tensor, manner: Manner, out: Tensor, log_sum: Tensor) -> None:
        self.kernels.attention(*work, qkv, *manner, out, log_sum)

    def attention_backward(
        self, work: Any, qkv: Tensor, manner: Manner, out: Tensor, log_sum: Tensor, out_grad: Tensor, qkv_grad: Tensor
    ) -> None:
        self.kernels.attention_backward(*work, qkv, *manner, out, log_sum, out_grad, qkv_grad)

    def target_logprobs(
        self, logits: Tensor, vocabulary: int, temperature: float, targets: Tensor, logprobs: Tensor
    ) -> None:
        self.kernels.target_logprobs(
            len(logits), logits, logits.shape[1], vocabulary, 1 / temperature, targets, logprobs
        )


def load_gpu_operators(heads: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Operators | str:
    """Those in Triton for a model with `heads` `(H, KV, D)`, or the reason why there are none."""
    try:
        from tiny_math_solver.kernels.gpu.operators import TritonOperators
    except ImportError as error:
        return f"Triton cannot be loaded: {error}"
    operators = TritonOperators(heads, dtype, device)
    if reason := operators.unsupported():
        return reason
    try:
        operators.try_out()
    except Exception as error:  # of the compilers and drivers that Triton calls, which raise what they like
        if is_out_of_memory(error):
            raise
        lines = str(error).strip().splitlines()
        return f"Triton does not work here: {lines[-1] if lines else type(error).__name__}"
    return operators
