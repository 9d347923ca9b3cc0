"""The kernels as Python functions: the type and the size of every argument, declared once.

    kernels.norm(rows, x, weight, eps, C, out)           a call
    recording.add(kernels.norm, x, weight, eps, C, out)  the same without `rows`; recording.replay(rows) makes it

Tensors are passed as tensors: another dtype or device, gaps between elements, or anything that is not a tensor raises
ctypes.ArgumentError before C++ sees an address. A recording also checks sizes when a call is added. With the
environment variable TINY_MATH_CHECK_KERNELS=1 every call checks the sizes of its tensors, and every replay that the
tensors still lie where they were recorded.
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

CHECK_VARIABLE = "TINY_MATH_CHECK_KERNELS"


@dataclass(frozen=True)
class TensorArgument:
    """A tensor on the CPU without gaps, of at least `shape`.

    Dimensions are numbers, names of the call's sizes or of the model's, `name+1`; a first dimension that nobody names
    is that of the first tensor that has it.
    """

    dtype: torch.dtype | None  # None: that of the library's activations
    shape: tuple[int | str, ...]
    optional: bool = False
    name: str = ""

    def from_param(self, value: Any) -> c_void_p:
        """The address, for ctypes."""
        if value is None and self.optional:
            return c_void_p(None)
        if not isinstance(value, Tensor):
            raise ArgumentError(f"{self.name} is no tensor but {type(value).__name__}")
        if value.dtype != self.dtype or not value.is_cpu:
            raise ArgumentError(f"{self.name} is {value.dtype} on {value.device}, not {self.dtype} on cpu")
        if not value.is_contiguous():
            raise ArgumentError(f"{self.name} has gaps: shape {tuple(value.shape)}, strides {value.stride()}")
        return c_void_p(value.data_ptr())

    def check_size(self, value: Tensor, sizes: dict[str, int]) -> None:
        """Raise ArgumentError if `value` is smaller than the kernel will read or write."""
        first, inner = self.shape[0], math.prod(_size(dim, sizes) for dim in self.shape[1:])
        if isinstance(first, str) and first.partition("+")[0] not in sizes:
            sizes[first] = value.numel() // inner
        elements = _size(first, sizes) * inner
        if value.numel() < elements:
            raise ArgumentError(f"{self.name} has {value.numel()} elements, not {elements}")


def _size(dimension: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(dimension, int):
        return dimension
    name, _, more = dimension.partition("+")
    return sizes[name] + int(more or 0)


def _number(*shape: int | str) -> TensorArgument:
    """An activation, a weight or a part of the cache, in the library's dtype."""
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


# The arguments of every function in the order of its C++ declaration, where they are explained.
SIGNATURES: dict[str, dict[str, Any]] = {
    # layers.cpp
    "linear": _signature(
        rows=c_long, x=_float32("rows", "K"), K=c_long, panels=_float32("N", "K"), bias=_float32("N"),
        add=_optional(_float32("rows", "N")), out=_float32("rows", "N"), N=c_long,
    ),
    "norm": _signature(
        rows=c_long, x=_number("rows", "C"), weight=_number("C"), eps=c_float, C=c_long, out=_number("rows", "C"),
    ),
    "gate": _signature(rows=c_long, gate_up=_number("rows", 2, "M"), M=c_long, out=_number("rows", "M")),
    # decode.cpp
    "embed": _signature(
        rows=c_long, tokens=_int64("rows", "columns"), columns=c_long, made=_int64("rows"),
        embedding=_number("V", "C"), C=c_long, x=_number("rows", "C"),
    ),
    "keep_prompts": _signature(
        prompts=c_long, length=c_long, key=_number("prompts", "length", "KV", "D"),
        value=_number("prompts", "length", "KV", "D"), groups=_int64("prompts"),
        keys=_number("slots", "KV", "capacity", "D"), values=_number("slots", "KV", "capacity", "D"), capacity=c_long,
    ),
    "attend": _signature(
        rows=c_long, qkv=_number("rows", "QKV", "D"), turns=_float32("positions", "D"),
        query_norm=_optional(_number("D")), key_norm=_optional(_number("D")), eps=c_float, scale=c_float,
        group=_int64("rows"), prompt_length=_int64("rows"), cache=_int64("rows"), made=_int64("rows"),
        prompt_keys=_number("slots", "KV", "prompt_capacity", "D"),
        prompt_values=_number("slots", "KV", "prompt_capacity", "D"), prompt_capacity=c_long,
        own_keys=_number("slots", "KV", "own_capacity", "D"), own_values=_number("slots", "KV", "own_capacity", "D"),
        own_capacity=c_long, out=_number("rows", "H", "D"),
    ),
    "draw": _signature(
        rows=c_long, logits=_number("sources", "stride"), source=_optional(_int64("rows")), stride=c_long, V=c_long,
        sharpness=c_float, uniform=_optional(_float32("rows", "columns")), eos=_int64("eos_count"), eos_count=c_long,
        limit=c_long, columns=c_long, tokens=_int64("rows", "columns"), logprobs=_float32("rows", "columns"),
        made=_int64("rows"), done=_bool("rows"),
    ),
}  # fmt: skip

_GROUPS = _signature(
    groups=c_long, group_start=_int64("groups"), group_length=_int64("groups"), group_rows=_int64("groups+1"),
    row_start=_int64("completions"), row_length=_int64("completions"),
)  # fmt: skip

# Those of update.cpp, which is in float32 alone.
UPDATE_SIGNATURES: dict[str, dict[str, Any]] = {
    "add_product": _signature(
        T=c_long, left=_float32("T", "N"), N=c_long, right=_float32("T", "K"), K=c_long, out=_float32("N", "K"),
    ),
    "norm_backward": _signature(
        rows=c_long, x=_float32("rows", "C"), weight=_float32("C"), eps=c_float, C=c_long,
        before=_float32("rows", "C"), add=c_bool, slope=_float32("rows", "C"),
    ),
    "gate_backward": _signature(
        rows=c_long, gate_up=_float32("rows", 2, "M"), M=c_long, before=_float32("rows", "M"),
        slope=_float32("rows", 2, "M"),
    ),
    "turn": _signature(
        rows=c_long, qkv=_float32("rows", "QKV", "D"), positions=_int64("rows"), turns=_float32("table", "D"),
        scale=c_float, back=c_bool,
    ),
    "choose": _signature(
        rows=c_long, logits=_float32("rows", "stride"), stride=c_long, V=c_long, sharpness=c_float,
        target=_int64("rows"), logprob=_float32("rows"),
    ),
    "attention": _GROUPS | _signature(
        qkv=_float32("tokens", "QKV", "D"), out=_float32("tokens", "H", "D"), log_sum=_float32("tokens", "H"),
    ),
    "attention_backward": _GROUPS | _signature(
        qkv=_float32("tokens", "QKV", "D"), out=_float32("tokens", "H", "D"), log_sum=_float32("tokens", "H"),
        before=_float32("tokens", "H", "D"), slopes=_float32("tokens", "QKV", "D"),
    ),
}  # fmt: skip


class Kernels:
    """The functions of a library as attributes; `panel` columns of a weight and `block` tokens of a cache lie together.

    `check` is on where the environment asks for it, when the kernels are loaded.
    """

    panel: int
    block: int

    def __init__(self, library: ctypes.CDLL, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype):
        self.check = os.environ.get(CHECK_VARIABLE, "0") not in ("", "0")
        self.panel, self.block = library.panel_columns(), library.block_tokens()
        model = {"H": heads, "KV": kv_heads, "QKV": heads + 2 * kv_heads, "D": head_dim}
        signatures = SIGNATURES | (UPDATE_SIGNATURES if dtype == torch.float32 else {})
        self._functions = {
            name: Kernel(library, name, signature, model, dtype, self.check) for name, signature in signatures.items()
        }

    def __getattr__(self, name: str) -> "Kernel":
        try:
            return self.__dict__["_functions"][name]
        except KeyError:
            raise AttributeError(f"there is no kernel {name}") from None


class Kernel:
    """One function of the library."""

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
        self.unchecked = library[name]  # takes what `converted` returns, as it is
        self.unchecked.restype = None

    def __call__(self, *values: Any) -> None:
        if self.check:
            self.check_sizes(values)
        elif len(values) != len(self.arguments):  # ctypes lets more pass
            raise ArgumentError(f"{self.name} takes {len(self.arguments)} arguments, not {len(values)}")
        self._function(*values)

    def converted(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """All arguments but the first, as ctypes passes them on."""
        kinds = list(self.arguments.values())[1:]
        return tuple(kind.from_param(value) for kind, value in zip(kinds, values, strict=True))

    def check_sizes(self, values: Sequence[Any]) -> None:
        """Raise ArgumentError if a tensor is smaller than the sizes of this call."""
        if len(values) != len(self.arguments):
            raise ArgumentError(f"{self.name} takes {len(self.arguments)} arguments, not {len(values)}")
        named = list(zip(self.arguments.values(), values, self.arguments, strict=True))
        sizes = dict(self.model)
        sizes |= {name: getattr(value, "value", value) for kind, value, name in named if kind is c_long}
        for kind, value, _ in named:
            if isinstance(kind, TensorArgument) and value is not None:
                kind.from_param(value)
                kind.check_size(value, sizes)


class Recording:
    """Calls whose arguments were converted once, replayed for any number of rows up to `rows`.

    The memory of the tensors stays allocated as long as the recording. A parameter whose memory is replaced leaves the
    recording with the old values: whoever records parameters compares their addresses before replaying.
    """

    def __init__(self, rows: int, check: bool = False):
        self.rows, self.check = rows, check
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._memory: list[Tensor] = []
        self._tensors: list[tuple[str, Tensor, int]] = []  # where it was recorded

    def add(self, kernel: Kernel, *values: Any) -> None:
        """Record a call; `values` are its arguments after the number of rows."""
        kernel.check_sizes((self.rows, *values))
        self._calls.append((kernel.unchecked, kernel.converted(values)))
        for value in values:
            if isinstance(value, Tensor):
                self._memory.append(value.detach())  # holds the memory even where the tensor is given another
                self._tensors.append((kernel.name, value, value.data_ptr()))

    def add_function(self, function: Callable[[int], None]) -> None:
        """Record a Python function of the number of rows."""
        self._calls.append((lambda count: function(count.value), ()))

    def replay(self, rows: int) -> None:
        if self.check:
            self._check(rows)
        count = c_long(rows)
        for function, arguments in self._calls:
            function(count, *arguments)

    def _check(self, rows: int) -> None:
        if not 0 <= rows <= self.rows:
            raise ArgumentError(f"{rows} rows of a recording for {self.rows}")
        for name, tensor, address in self._tensors:
            if tensor.data_ptr() != address:
                raise ArgumentError(f"{name}: a tensor of shape {tuple(tensor.shape)} has moved since it was recorded")


def at(tensor: Tensor | None) -> Tensor | None:
    """The tensor itself, which kernels take."""
    return tensor
