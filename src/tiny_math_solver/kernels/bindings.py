"""The kernels as Python functions: the type and size of every argument is declared once, in SIGNATURES.

    kernels.rms_norm(rows, x, weight, eps, C, out)
    recording.add(kernels.rms_norm, x, weight, eps, C, out)      the same call, made by recording.replay(rows)

Tensors are passed as tensors, sizes as int and factors as float. A tensor of another dtype or device, one that is not
contiguous, or any other object raises ctypes.ArgumentError before C++ sees an address. A recording also checks the
sizes of the tensors when a call is added.

For debugging, TINY_MATH_CHECK_KERNELS=1 in the environment checks at every call, recorded or not, the sizes of all
tensors and the indices in them (contents.py), and of a recorded one that the tensors are where they were.
"""

import ctypes
import math
import os
from collections.abc import Callable, Mapping, Sequence
from ctypes import ArgumentError, c_bool, c_float, c_long, c_void_p
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tiny_math_solver.kernels.contents import check_contents

CHECK_VARIABLE = "TINY_MATH_CHECK_KERNELS"


@dataclass(frozen=True)
class TensorArgument:
    """A contiguous tensor on the CPU with at least the elements of `shape`.

    A dimension is a number, the name of a size among the call's arguments or the model's (H, KV, D, QKV = H + 2 KV), or
    `name+1`. A first dimension that is none of these is inferred from the first tensor that has it.
    """

    dtype: torch.dtype | None  # None: the library's
    shape: tuple[int | str, ...]
    optional: bool = False
    name: str = ""

    def from_param(self, value: Any) -> c_void_p:
        """The address of the tensor; ctypes calls this for every argument."""
        if value is None and self.optional:
            return c_void_p(None)
        if not isinstance(value, Tensor):
            raise ArgumentError(f"{self.name} must be a tensor, not {type(value).__name__}")
        if value.dtype != self.dtype or not value.is_cpu:
            raise ArgumentError(f"{self.name} is {value.dtype} on {value.device}, not {self.dtype} on cpu")
        if not value.is_contiguous():
            raise ArgumentError(f"{self.name} is not contiguous: shape {tuple(value.shape)}, strides {value.stride()}")
        return c_void_p(value.data_ptr())

    def check_size(self, value: Tensor, sizes: dict[str, int]) -> None:
        """Raise ArgumentError if the kernel would read or write beyond the tensor."""
        first, inner = self.shape[0], math.prod(_size(dim, sizes) for dim in self.shape[1:])
        if isinstance(first, str) and first.partition("+")[0] not in sizes:
            sizes[first] = value.numel() // inner
        elements = _size(first, sizes) * inner
        if value.numel() < elements:
            raise ArgumentError(f"{self.name} has {value.numel()} elements, the kernel needs {elements}")


def _size(dimension: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(dimension, int):
        return dimension
    name, _, more = dimension.partition("+")
    return sizes[name] + int(more or 0)


def _scalar(*shape: int | str) -> TensorArgument:
    """Activations, weights or caches, in the library's dtype."""
    return TensorArgument(None, shape)


def _float32(*shape: int | str) -> TensorArgument:
    return TensorArgument(torch.float32, shape)


def _int64(*shape: int | str) -> TensorArgument:
    return TensorArgument(torch.int64, shape)


def _bool(*shape: int | str) -> TensorArgument:
    return TensorArgument(torch.bool, shape)


def _optional(argument: TensorArgument) -> TensorArgument:
    return replace(argument, optional=True)


def _signature(**arguments: Any) -> dict[str, Any]:
    return arguments


_GROUPS = _signature(
    groups=c_long, group_start=_int64("groups"), group_length=_int64("groups"), group_completions=_int64("groups+1"),
    completion_start=_int64("completions"), completion_length=_int64("completions"),
)  # fmt: skip

# The arguments of every function, in the order of its C++ declaration, which explains them.
SIGNATURES: dict[str, dict[str, Any]] = {
    # layers.cpp
    "linear": _signature(
        rows=c_long, x=_float32("rows", "K"), K=c_long, panels=_float32("N", "K"), bias=_float32("N"),
        add=_optional(_float32("rows", "N")), out=_float32("rows", "N"), N=c_long,
    ),
    "rms_norm": _signature(
        rows=c_long, x=_scalar("rows", "C"), weight=_float32("C"), eps=c_float, C=c_long, out=_scalar("rows", "C"),
    ),
    "gated": _signature(
        rows=c_long, gate_up=_scalar("rows", 2, "M"), M=c_long, linear=c_float, cubic=c_float, out=_scalar("rows", "M"),
    ),
    # bfloat16.cpp
    "linear_bfloat16": _signature(
        rows=c_long, x=_scalar("rows", "K"), K=c_long, panels=_scalar("N", "K"), bias=_scalar("N"),
        add=_optional(_scalar("rows", "N")), out=_scalar("rows", "N"), N=c_long,
    ),
    "pack_bfloat16": _signature(N=c_long, weight=_scalar("N", "K"), K=c_long, panels=_scalar("N", "K")),
    # decode.cpp
    "embed": _signature(
        rows=c_long, tokens=_int64("rows", "columns"), columns=c_long, generated=_int64("rows"),
        embedding=_scalar("V", "C"), C=c_long, x=_scalar("rows", "C"),
    ),
    "cache_prompts": _signature(
        prompts=c_long, qkv=_scalar("tokens", "QKV", "D"), starts=_int64("prompts"), lengths=_int64("prompts"),
        places=_int64("prompts"),
        keys=_scalar("slots", "KV", "capacity", "D"), values=_scalar("slots", "KV", "capacity", "D"), capacity=c_long,
    ),
    "decode_attention": _signature(
        rows=c_long, qkv=_scalar("rows", "QKV", "D"), rope_table=_float32("positions", "D"),
        query_norm=_optional(_float32("D")), key_norm=_optional(_float32("D")), eps=c_float, scale=c_float,
        window=c_long, cap=c_float, prompt_place=_int64("rows"), prompt_length=_int64("rows"),
        completion_place=_int64("rows"), generated=_int64("rows"),
        prompt_keys=_scalar("slots", "KV", "prompt_capacity", "D"),
        prompt_values=_scalar("slots", "KV", "prompt_capacity", "D"), prompt_capacity=c_long,
        completion_keys=_scalar("slots", "KV", "completion_capacity", "D"),
        completion_values=_scalar("slots", "KV", "completion_capacity", "D"), completion_capacity=c_long,
        out=_scalar("rows", "H", "D"),
    ),
    "draw": _signature(
        rows=c_long, logits=_scalar("logits_rows", "stride"), logits_row=_optional(_int64("rows")), stride=c_long,
        V=c_long, sharpness=c_float, uniform=_optional(_float32("rows", "columns")), eos=_int64("eos_count"),
        eos_count=c_long, limit=c_long, columns=c_long, tokens=_int64("rows", "columns"),
        logprobs=_float32("rows", "columns"), generated=_int64("rows"), done=_bool("rows"),
    ),
    # update.cpp
    "add_weight_gradient": _signature(
        T=c_long, left=_float32("T", "N"), N=c_long, right=_float32("T", "K"), K=c_long, out=_float32("N", "K"),
    ),
    "rms_norm_backward": _signature(
        rows=c_long, x=_scalar("rows", "C"), weight=_float32("C"), eps=c_float, C=c_long,
        out_gradient=_scalar("rows", "C"), add=c_bool, gradient=_scalar("rows", "C"),
    ),
    "gated_backward": _signature(
        rows=c_long, gate_up=_scalar("rows", 2, "M"), M=c_long, linear=c_float, cubic=c_float,
        out_gradient=_scalar("rows", "M"), gradient=_scalar("rows", 2, "M"),
    ),
    "rotary": _signature(
        rows=c_long, qkv=_scalar("rows", "QKV", "D"), positions=_int64("rows"), rope_table=_float32("table", "D"),
        scale=c_float, backward=c_bool,
    ),
    "target_logprobs": _signature(
        rows=c_long, logits=_scalar("rows", "stride"), stride=c_long, V=c_long, sharpness=c_float,
        target=_int64("rows"), logprob=_float32("rows"),
    ),
    # update_attention.cpp
    "attention": _GROUPS | _signature(
        qkv=_scalar("tokens", "QKV", "D"), window=c_long, cap=c_float, out=_scalar("tokens", "H", "D"),
        log_sum=_float32("tokens", "H"),
    ),
    "attention_backward": _GROUPS | _signature(
        qkv=_scalar("tokens", "QKV", "D"), window=c_long, cap=c_float, out=_scalar("tokens", "H", "D"),
        log_sum=_float32("tokens", "H"), out_gradient=_scalar("tokens", "H", "D"),
        gradient=_scalar("tokens", "QKV", "D"),
    ),
}  # fmt: skip
OF_BFLOAT16 = ("linear_bfloat16", "pack_bfloat16")  # compiled where the processor has such products


class Kernels:
    """The functions of a compiled library, as attributes.

    `panel` is the number of weight columns that are stored together, `block` that of cached tokens. `has_bfloat16`
    says if there are products in bfloat16 (bfloat16.cpp). `check` is True if TINY_MATH_CHECK_KERNELS was set when the
    kernels were loaded.
    """

    panel: int
    block: int
    has_bfloat16: bool

    def __init__(self, library: ctypes.CDLL, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype):
        self.check = os.environ.get(CHECK_VARIABLE, "0") not in ("", "0")
        self.panel, self.block = library.panel_columns(), library.block_tokens()
        self.has_bfloat16 = bool(library.has_bfloat16())
        model = {"H": heads, "KV": kv_heads, "QKV": heads + 2 * kv_heads, "D": head_dim}
        model |= {"PANEL": self.panel, "LANES": self.block}
        self._functions = {
            name: Kernel(library, name, signature, model, dtype, self.check)
            for name, signature in SIGNATURES.items()
            if self.has_bfloat16 or name not in OF_BFLOAT16
        }

    def __getattr__(self, name: str) -> "Kernel":
        try:
            return self.__dict__["_functions"][name]
        except KeyError:
            raise AttributeError(f"there is no kernel {name}") from None


class Kernel:
    """One function of the library; called with the arguments of its signature."""

    def __init__(
        self,
        library: ctypes.CDLL,
        name: str,
        signature: Mapping[str, Any],
        model: Mapping[str, int],
        dtype: torch.dtype,
        check: bool,
    ):
        self.name, self.model, self.check = name, model, check
        self.arguments: dict[str, Any] = {
            argument: replace(kind, name=f"{name}: {argument}", dtype=kind.dtype or dtype)
            if isinstance(kind, TensorArgument)
            else kind
            for argument, kind in signature.items()
        }
        self._function = library[name]
        self._function.argtypes, self._function.restype = list(self.arguments.values()), None
        self.unchecked = library[name]  # a second function object without argtypes: takes the result of `converted`
        self.unchecked.restype = None

    def __call__(self, *values: Any) -> None:
        if self.check:
            self.check_call(values)
        elif len(values) != len(self.arguments):  # ctypes accepts more than declared
            raise ArgumentError(f"{self.name} takes {len(self.arguments)} arguments, not {len(values)}")
        self._function(*values)

    def converted(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """All arguments but the first, converted for `unchecked`."""
        kinds = list(self.arguments.values())[1:]
        return tuple(kind.from_param(value) for kind, value in zip(kinds, values, strict=True))

    def check_call(self, values: Sequence[Any]) -> None:
        """Raise ArgumentError if a tensor, or an index in it, does not fit the sizes of this call."""
        sizes = self.check_sizes(values)
        check_contents(self.name, sizes | dict(zip(self.arguments, values, strict=True)))

    def check_sizes(self, values: Sequence[Any]) -> dict[str, int]:
        """The sizes of this call by name. Raises ArgumentError if a tensor does not fit them."""
        if len(values) != len(self.arguments):
            raise ArgumentError(f"{self.name} takes {len(self.arguments)} arguments, not {len(values)}")
        named = list(zip(self.arguments.values(), values, self.arguments, strict=True))
        sizes = dict(self.model)
        sizes |= {name: value for kind, value, name in named if kind is c_long}
        for kind, value, _ in named:
            if isinstance(kind, TensorArgument) and value is not None:
                kind.from_param(value)
                kind.check_size(value, sizes)
        return sizes


class Recording:
    """Calls with arguments that are converted once, replayed for any number of rows up to `rows`.

    The recording keeps the memory of its tensors allocated. If a parameter gets other memory, it still reads the old
    one, so a caller that records parameters has to compare their addresses and record again.
    """

    def __init__(self, rows: int, check: bool = False):
        self.rows, self.check = rows, check
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._memory: list[Tensor] = []
        self._recorded: list[tuple[Kernel, tuple[Any, ...], list[int]] | None] = []  # the call and its addresses

    def add(self, kernel: Kernel, *values: Any) -> None:
        """Record a call; `values` are its arguments after the number of rows."""
        kernel.check_sizes((self.rows, *values))
        self._calls.append((kernel.unchecked, kernel.converted(values)))
        tensors = [value for value in values if isinstance(value, Tensor)]
        self._memory += [tensor.detach() for tensor in tensors]  # shared, and kept if the tensor gets another
        self._recorded.append((kernel, values, [tensor.data_ptr() for tensor in tensors]))

    def add_function(self, function: Callable[[int], Any]) -> None:
        """Record a Python function of the number of rows."""
        self._calls.append((lambda count: function(count.value), ()))
        self._recorded.append(None)

    def replay(self, rows: int) -> None:
        if not 0 <= rows <= self.rows:
            raise ArgumentError(f"{rows} rows in a recording for at most {self.rows}")
        count = c_long(rows)
        for index, (function, arguments) in enumerate(self._calls):
            if self.check:
                self._check(index, rows)
            function(count, *arguments)

    def _check(self, index: int, rows: int) -> None:
        """Raise ArgumentError if a tensor of a recorded call is not as it was, or holds an index out of range."""
        if (recorded := self._recorded[index]) is None:
            return
        kernel, values, addresses = recorded
        tensors = [value for value in values if isinstance(value, Tensor)]
        for tensor, address in zip(tensors, addresses, strict=True):
            if tensor.data_ptr() != address:
                what = f"{kernel.name}: a tensor of shape {tuple(tensor.shape)}"
                raise ArgumentError(f"{what} has moved since it was recorded")
        kernel.check_call((rows, *values))
