"""Kernels and bytes of a GPU's decode step and of an update pass, counted without a GPU: ours, and torch's alone.

Models of one and of two layers at full width are traced on the CPU; the difference is a layer. Every torch operator
that makes no view counts as a kernel that reads its inputs and writes its outputs. Our own kernels are not computed:
they count from their arguments, as often as they go over them. Matrix products and attention count as kernels, but not
with their bytes: weights, keys and values have to be moved in any case.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tiny_math_solver.bench.rollouts import qwen_shaped
from tiny_math_solver.policy import linear
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.rollouts.decoder import Decoder
from tiny_math_solver.rollouts.sampling import Sampling
from tiny_math_solver.rollouts.torch_decoder import TorchDecoder
from tiny_math_solver.update.merged_scorer import MergedScorer
from tiny_math_solver.update.passes import Batch
from tiny_math_solver.update.torch_scorer import TorchScorer

LAYERS = 24
ROWS, PROMPT, COMPLETION, SAMPLES = 64, 100, 256, 8  # of the traced step and pass
UNMOVED = ("mm", "addmm", "bmm", "baddbmm", "linear", "_scaled_dot_product", "_flash_attention", "_efficient_attention")
PICKED = ("index", "gather", "embedding", "index_select")  # read what they pick, not all
PUT = ("index_put_", "_index_put_impl_", "scatter_", "index_add_", "scatter_add_", "embedding_dense_backward")
FREE = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach", "lift_fresh", "alias")


@dataclass
class Traffic:
    """Kernels launched, and the bytes they read and write beside those of matrix products and attention."""

    kernels: int = 0
    bytes: int = 0

    def add(self, count: int) -> None:
        self.kernels, self.bytes = self.kernels + 1, self.bytes + count


def trace(rows: int = ROWS) -> dict[str, Any]:
    """`{"decode", "update"}`, each with `{"ours", "torch"}`: kernels, and bytes a row or a token, of all layers."""
    counted = {
        "decode": {"torch": _decode(TorchDecoder, rows), "ours": _decode(None, rows)},
        "update": {"torch": _update(own=False), "ours": _update(own=True)},
    }
    units = {"decode": rows, "update": SAMPLES * (PROMPT + COMPLETION)}
    return {
        part: {side: {"kernels": total.kernels, "bytes": total.bytes / units[part]} for side, total in sides.items()}
        for part, sides in counted.items()
    }


def _all_layers(traced: Callable[[int], Traffic]) -> Traffic:
    """What `LAYERS` layers take, from what one and two take."""
    one, two = traced(1), traced(2)
    return Traffic(*(a + (LAYERS - 1) * (b - a) for a, b in ((one.kernels, two.kernels), (one.bytes, two.bytes))))


def _decode(kind: type[Decoder] | None, rows: int) -> Traffic:
    def traced(layers: int) -> Traffic:
        model, sampling = qwen_shaped(layers), Sampling(COMPLETION, temperature=0.7)
        with torch.inference_mode(), own_kernels(kind is None) as traffic:
            weights = PolicyWeights(model, native=kind is None)
            decoder = (kind or _triton_decoder())(weights, sampling, [0], rows, PROMPT)
            decoder.prompt_length.fill_(PROMPT)
            with _Counted(traffic):
                if isinstance(decoder, TorchDecoder):
                    decoder._step(rows, PROMPT + COMPLETION // 2)
                else:
                    decoder._advance(rows)
        return traffic

    return _all_layers(traced)


def _update(own: bool) -> Traffic:
    def traced(layers: int) -> Traffic:
        model: Any = get_peft_model(qwen_shaped(layers), LoraConfig(r=16, target_modules="all-linear"))
        with own_kernels(own) as traffic:
            scorer: Any
            if own:
                scorer = MergedScorer(PolicyWeights(model), 0.7)
            else:
                scorer = TorchScorer(model.get_base_model(), 0.7, ExitStack, torch.bfloat16)
            scorer.begin()
            with _Counted(traffic):
                scorer.logprobs(_rows()).sum().backward()
        return traffic

    return _all_layers(traced)


def _rows() -> Batch:
    ids = torch.randint(0, 1000, (SAMPLES, PROMPT + COMPLETION))
    ids[:, :PROMPT] = ids[0, :PROMPT]
    mask = torch.ones_like(ids)
    return {
        "prompt_ids": ids[:, :PROMPT], "prompt_mask": mask[:, :PROMPT], "completion_ids": ids[:, PROMPT:],
        "completion_mask": mask[:, PROMPT:], "group": torch.zeros(SAMPLES, dtype=torch.long),
    }  # fmt: skip


def _triton_decoder() -> type[Decoder]:
    from tiny_math_solver.rollouts.triton_decoder import TritonDecoder

    return TritonDecoder


class _Counted(TorchDispatchMode):
    """Counts torch's operators."""

    def __init__(self, traffic: Traffic):
        super().__init__()
        self.traffic = traffic

    def __enter__(self) -> Any:
        self._norm = mock.patch.object(functional, "rms_norm", self._rms_norm)
        self._norm.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._norm.stop()
        super().__exit__(*error)

    def _rms_norm(self, x: Tensor, shape: Any, weight: Tensor, eps: float) -> Tensor:
        """One kernel on a GPU; torch composes it of several on a CPU."""
        self.traffic.add(_bytes(x, weight, x))
        return torch.empty_like(x)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name, schema = function.overloadpacket.__name__, function._schema
        is_view = any(returned.alias_info and not returned.alias_info.is_write for returned in schema.returns)
        if not is_view and name not in FREE:
            self.traffic.add(0 if name.startswith(UNMOVED) else self._moved(name, [args, kwargs], out))
        return out

    def _moved(self, name: str, given: Any, out: Any) -> int:
        inputs, outputs = ([leaf for leaf in tree_leaves(part) if isinstance(leaf, Tensor)] for part in (given, out))
        if name in PICKED:
            return 2 * _bytes(*outputs) + _bytes(*inputs[1:])
        if name in PUT:
            return 2 * _bytes(*inputs[1:])
        if name in ("copy_", "_to_copy", "clone"):
            return _bytes(inputs[-1]) + _bytes(*outputs)
        if name in ("fill_", "zero_"):
            return _bytes(*outputs)
        return _bytes(*inputs) + _bytes(*outputs)


@contextmanager
def own_kernels(used: bool) -> Iterator[Traffic]:
    """Have new policies compute as on a GPU, by torch or by our own kernels there, which only count."""
    traffic = Traffic()
    with ExitStack() as patches:

        def replace(holder: Any, name: str, function: Any) -> None:
            patches.enter_context(mock.patch.object(holder, name, function))

        replace(linear, "_has_onednn", lambda dtype, device: False)
        if used:
            replace(PolicyWeights, "_load_operators", PolicyWeights._load_gpu_operators)
            for (holder, name), moved in _own_kernels().items():
                counted = partial(_count, traffic, moved)
                replace(holder, name, staticmethod(counted) if isinstance(holder, type) else counted)
        yield traffic


def _count(traffic: Traffic, moved: Callable[..., int | tuple[int, ...]], *args: Any) -> None:
    bytes_of = moved(*args)
    for count in bytes_of if isinstance(bytes_of, tuple) else (bytes_of,):
        traffic.add(count)


def _own_kernels() -> dict[tuple[Any, str], Callable[..., int | tuple[int, ...]]]:
    """The bytes that each of our kernels for a GPU reads and writes; of several, each one's."""
    from tiny_math_solver.kernels.gpu import attention, decode
    from tiny_math_solver.kernels.gpu.operators import TritonOperators, rows

    return {
        (TritonOperators, "try_out"): lambda *args: (),  # no part of a step
        (TritonOperators, "rms_norm"): lambda x, weight, eps, out: _bytes(x, weight, out),
        (TritonOperators, "rms_norm_backward"): lambda x, weight, eps, out_grad, add, grad: _bytes(
            x, weight, out_grad, *[grad] * (1 + add)
        ),
        (TritonOperators, "gated"): lambda gate_up, act, out: _bytes(gate_up, out),
        (TritonOperators, "gated_backward"): lambda gate_up, act, out_grad, grad: _bytes(gate_up, out_grad, grad),
        (TritonOperators, "target_logprobs"): lambda logits, *rest: 3 * _bytes(logits),
        (rows, "rotary"): lambda qkv, *rest: 2 * _bytes(qkv),
        (attention, "attention"): lambda *args: 0,
        (attention, "attention_backward"): lambda *args: (0, 0),  # queries, then keys and values
        (decode, "embed"): lambda tokens, generated, embedding, x: 2 * _bytes(x),
        (decode, "decode_attention"): lambda *args: 0,
        (decode, "draw"): lambda logits, *rest: 2 * _bytes(logits),
    }


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)
