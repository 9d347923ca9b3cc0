"""The kernels by themselves: they compute what torch does, refuse wrong arguments, and can be done without."""

import ctypes
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from ctypes import ArgumentError
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from helpers.attention import GROUPS, exact_attention, inputs, layout
from helpers.runs import SHORT, run
from tiny_math_solver.kernels import Kernels, Recording, compiler, load_kernels
from tiny_math_solver.kernels.bindings import CHECK_VARIABLE
from tiny_math_solver.models.load import load_model
from tiny_math_solver.policy.architecture import GATES
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts import EngineRollouts, Sampling
from tiny_math_solver.rollouts.engine_check import check_against_transformers

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")


@pytest.fixture
def library() -> Kernels:
    found = load_kernels(4, 2, 32, torch.float32)
    assert not isinstance(found, str), found
    return found


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty cache folder, with nothing compiled yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_kernels.cache_clear()
    yield tmp_path / "cache" / "tiny-math-solver"
    load_kernels.cache_clear()


def linear(library: Kernels, x: torch.Tensor, weight: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
    panel, bias = library.panel, torch.linspace(-1, 1, len(weight))
    panels = weight.view(-1, panel, weight.shape[1]).transpose(1, 2).contiguous()
    out = torch.full((len(x), len(weight)), torch.nan)
    library.linear(len(x), x, x.shape[1], panels, bias, add, out, len(weight))
    return out


@needs_compiler
@pytest.mark.parametrize("rows", [1, 2, 5, 11, 12, 13, 25, 40])
def test_products_are_torchs_and_the_same_to_the_bit_in_any_batch(rows: int, library):
    generator = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, 96, generator=generator), torch.randn(128, 96, generator=generator)
    add = torch.randn(rows, 128, generator=generator)
    expected = x.double() @ weight.double().T + torch.linspace(-1, 1, 128)
    whole = linear(library, x, weight)
    assert torch.allclose(whole.double(), expected, atol=1e-5)
    assert torch.allclose(linear(library, x, weight, add).double(), expected + add, atol=1e-5)
    assert torch.equal(linear(library, x[-1:].contiguous(), weight), whole[-1:])


@needs_compiler
@pytest.mark.parametrize("flags", [(), ("-mno-amx-bf16",)], ids=["best", "without tiles"])
@pytest.mark.parametrize("rows", [1, 11, 15, 16, 17, 32, 50, 64, 130, 3000])  # the last in several chunks
def test_products_in_bfloat16_are_torchs_and_the_same_to_the_bit_in_any_batch(
    rows: int, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, *flags))
    library = load_kernels.__wrapped__(4, 2, 32, torch.bfloat16)
    if flags and isinstance(library, str):
        pytest.skip("a compiler that does not know the flag")
    assert isinstance(library, Kernels), library
    if not library.has_bfloat16:
        pytest.skip("a processor that does not multiply bfloat16")
    generator = torch.Generator().manual_seed(rows)
    x, weight, add, bias = (
        torch.randn(*shape, generator=generator).bfloat16() for shape in ((rows, 448), (96, 448), (rows, 96), (96,))
    )
    panels = torch.empty_like(weight)
    library.pack_bfloat16(96, weight, 448, panels)

    def product(x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        out = torch.full((len(x), 96), torch.nan, dtype=torch.bfloat16)
        library.linear_bfloat16(len(x), x, 448, panels, bias, add, out, 96)
        return out

    expected = x.double() @ weight.double().T + bias.double()
    whole = product(x)
    for out, right in ((whole, expected), (product(x, add), expected + add.double())):
        assert ((out.double() - right).abs() <= 0.004 * right.abs() + 1e-3).all()  # half a unit of the last bit
    assert torch.equal(product(x[-1:].contiguous()), whole[-1:])


@needs_compiler
def test_norm_and_gate_are_torchs_far_out_too(library):
    x = torch.randn(7, 256) * torch.logspace(-3, 3, 256)
    weight, out = torch.randn(256), torch.empty(7, 256)
    library.rms_norm(7, x, weight, 1e-6, 256, out)
    assert torch.allclose(out, functional.rms_norm(x, (256,), weight, 1e-6), rtol=1e-5, atol=1e-6)
    x[0, :4] = torch.tensor([200.0, -200.0, 0.0, -90.0])
    gated = torch.empty(7, 128)
    for gate in GATES.values():
        library.gated(7, x, 128, *gate.activation, gated)
        expected = gate.function(x[:, :128].double()) * x[:, 128:]
        assert torch.allclose(gated.double(), expected, rtol=1e-5, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("manner", [(0, 0.0), (1, 0.0), (16, 0.0), (17, 1.5), (75, 0.0), (1000, 0.1)], ids=str)
def test_attention_and_its_gradient_are_torchs(manner: tuple[int, float], dtype: torch.dtype):
    """Windows that end in the prompt, in the completion, on a block and off it; scores far beyond their cap."""
    heads = 4, 2, 32
    library, tokens = load_kernels(*heads, dtype), layout(GROUPS)
    assert not isinstance(library, str)
    qkv, out_grad = inputs(GROUPS, heads, dtype)
    expected = exact_attention(qkv, out_grad, GROUPS, heads, manner)
    out, grad = torch.full_like(out_grad, torch.nan), torch.full_like(qkv, torch.nan)
    log_sum = torch.full((len(qkv), 4), torch.nan)
    library.attention(*tokens.layout, qkv, *manner, out, log_sum)
    library.attention_backward(*tokens.layout, qkv, *manner, out, log_sum, out_grad, grad)
    limits = (1e-5, 1e-5, 1e-5) if dtype == torch.float32 else (1e-2, 1e-5, 1e-2)
    for found, exact, limit in zip((out, log_sum, grad), expected, limits, strict=True):
        assert (found.double() - exact).norm() <= limit * exact.norm()


@needs_compiler
def test_sums_over_tokens_are_torchs(library):
    left, right, out = torch.randn(70, 50), torch.randn(70, 64), torch.ones(50, 64)
    library.add_weight_gradient(70, left, 50, right, 64, out)
    assert torch.allclose(out.double(), left.double().T @ right.double() + 1, atol=1e-5)


@needs_compiler
def test_a_wrong_argument_raises_before_any_memory_is_touched(library):
    x, weight, out = torch.randn(7, 64), torch.ones(64), torch.full((7, 64), torch.nan)
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((7, x.tolist(), weight, 1e-6, 64, out), "rms_norm: x must be a tensor, not list"),
        ((7, x.data_ptr(), weight, 1e-6, 64, out), "rms_norm: x must be a tensor, not int"),
        ((7, None, weight, 1e-6, 64, out), "rms_norm: x must be a tensor, not NoneType"),
        ((7, x, weight.double(), 1e-6, 64, out), "rms_norm: weight is torch.float64 on cpu, not torch.float32 on cpu"),
        (
            (7, x, weight.to("meta"), 1e-6, 64, out),
            "rms_norm: weight is torch.float32 on meta, not torch.float32 on",
        ),
        ((7, torch.randn(64, 7).T, weight, 1e-6, 64, out), "rms_norm: x is not contiguous"),
        ((7.0, x, weight, 1e-6, 64, out), "argument 1"),
        ((7, x, weight, "1e-6", 64, out), "argument 4"),
        ((7, x, weight, 1e-6, 64), "rms_norm takes 6 arguments, not 5"),
        ((7, x, weight, 1e-6, 64, out, out), "rms_norm takes 6 arguments, not 7"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ArgumentError, match=message):
            library.rms_norm(*arguments)
    assert out.isnan().all()
    with pytest.raises(AttributeError, match="there is no kernel rms_normalise"):
        library.rms_normalise(*wrong[0][0])


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Kernels loaded in this test check every call."""
    monkeypatch.setenv(CHECK_VARIABLE, "1")
    load_kernels.cache_clear()
    yield
    load_kernels.cache_clear()


@needs_compiler
def test_the_switch_checks_the_sizes_of_every_call(checked, library):
    x, weight, out = torch.randn(7, 64), torch.ones(64), torch.empty(7, 64)
    library.rms_norm(7, x, weight, 1e-6, 64, out)
    for rows, columns, message in [
        (8, 64, "x has 448 elements, the kernel needs 512"),
        (7, 65, "x has 448 elements, the kernel needs 455"),
    ]:
        with pytest.raises(ArgumentError, match=f"rms_norm: {message}"):
            library.rms_norm(rows, x, weight, 1e-6, columns, out)
    with pytest.raises(ArgumentError, match="gated: out has 447 elements, the kernel needs 448"):
        library.gated(7, torch.empty(7, 128), 64, 1.0, 0.0, torch.empty(447))
    groups = [torch.tensor(values) for values in ([0], [2], [0, 1], [2], [2])]
    with pytest.raises(
        ArgumentError, match="attention: log_sum has 8 elements, the kernel needs 16"
    ):  # 4 tokens of 4 heads
        library.attention(1, *groups, torch.empty(4, 8, 32), 0, 0.0, torch.empty(4, 4, 32), torch.empty(8))


def decode_arguments(library: Kernels, rows: int) -> dict[str, Any]:
    """Arguments of decode_attention for 4 heads and 2 with keys: 3 slots, prompts of 16 tokens, completions of 32."""
    prompt, completion = torch.zeros(2, 3, 2, 16, 32), torch.zeros(2, 3, 2, 32, 32)
    return {
        "rows": rows, "qkv": torch.zeros(3, 8 * 32), "rope_table": torch.zeros(48, 32), "query_norm": None,
        "key_norm": None, "eps": 1e-6, "scale": 1.0, "window": 0, "cap": 0.0, "prompt_place": torch.tensor([0, 0, 2]),
        "prompt_length": torch.tensor([16, 16, 1]), "completion_place": torch.tensor([2, 0, 1]),
        "generated": torch.tensor([1, 32, 7]), "prompt_keys": prompt[0], "prompt_values": prompt[1],
        "prompt_capacity": 16, "completion_keys": completion[0], "completion_values": completion[1],
        "completion_capacity": 32, "out": torch.zeros(3, 4 * 32),
    }  # fmt: skip


@needs_compiler
def test_a_row_of_100_000_tokens_needs_no_large_stack(library):
    """Catches scores on the stack, of which a thread may have half a megabyte: such a row's take one."""
    length, generator = 2**17, torch.Generator().manual_seed(0)
    qkv = torch.randn(8, 32, generator=generator)
    cached = torch.randn(length, 8, 32, generator=generator)
    rope = torch.tensor([1.0, 0.0]).repeat(length + 1, 16)  # turns nothing
    prompts = torch.zeros(2, 1, 2, length, 32)
    arguments = decode_arguments(library, 1) | {
        "qkv": qkv, "rope_table": rope, "prompt_place": torch.tensor([0]), "prompt_length": torch.tensor([length]),
        "completion_place": torch.tensor([0]), "generated": torch.tensor([1]), "prompt_keys": prompts[0],
        "prompt_values": prompts[1], "prompt_capacity": length, "out": torch.zeros(4, 32),
    }  # fmt: skip
    place = arguments["prompt_place"]
    before = threading.stack_size(2**19)
    try:
        with ThreadPoolExecutor(1) as small:
            starts, lengths = torch.tensor([0]), torch.tensor([length])
            small.submit(lambda: library.cache_prompts(1, cached, starts, lengths, place, *prompts, length)).result()
            small.submit(lambda: library.decode_attention(*arguments.values())).result()
    finally:
        threading.stack_size(before)
    own_key, own_value = qkv[4:6], qkv[6:]
    for head in range(4):
        all_keys = torch.cat([cached[:, 4 + head // 2], own_key[head // 2][None]]).double()
        all_values = torch.cat([cached[:, 6 + head // 2], own_value[head // 2][None]]).double()
        expected = (all_keys @ qkv[head].double()).softmax(0) @ all_values
        assert torch.allclose(arguments["out"][head].double(), expected, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("prompt_place", [0, 3, 1], "prompt_place below slots"),
        ("prompt_place", [0, -1, 1], "prompt_place below slots"),
        ("completion_place", [0, 1, 3], "completion_place below slots"),
        ("completion_place", [0, 1, 1], "one completion_place for each row"),
        ("prompt_length", [1, 17, 1], "prompt_length in 1 … prompt_capacity"),
        ("prompt_length", [0, 1, 1], "prompt_length in 1 … prompt_capacity"),
        ("generated", [1, 1, 33], "generated in 1 … completion_capacity"),
        ("generated", [0, 1, 1], "generated in 1 … completion_capacity"),
    ],
)
def test_the_switch_checks_the_contents_of_indices(checked, library, name: str, values: list[int], message: str):
    arguments = decode_arguments(library, 3)
    library.decode_attention(*arguments.values())
    arguments[name] = torch.tensor(values)
    with pytest.raises(ArgumentError, match=f"decode_attention: {message} is not so"):
        library.decode_attention(*arguments.values())
    fewer = arguments | {"rows": 0}
    library.decode_attention(*fewer.values())  # rows that are not running may hold anything


@needs_compiler
def test_the_switch_checks_the_contents_of_every_kernel(checked, library):
    """Each call is right but for one index or size; without the check C++ would read or write beyond a tensor."""
    floats, whole = torch.zeros, torch.tensor
    table, logits, out = floats(48, 32), floats(2, 64), floats(2)
    keys = floats(3, 2, 16, 32)
    drawn = (whole([1]), 1, 5, 5, floats(2, 5, dtype=torch.long), floats(2, 5))
    segments = [whole(values) for values in ([0], [2], [0, 1], [2], [2])]
    state = floats(4, 8, 32), 0, 0.0, floats(4, 4, 32), floats(4, 4)

    def attention(**changed: list[int]) -> tuple[Any, ...]:
        names = ("group_start", "group_length", "group_completions", "completion_start", "completion_length")
        given = dict(zip(names, segments, strict=True)) | {name: whole(values) for name, values in changed.items()}
        return 1, *given.values(), *state

    def cached(length: int, start: int = 0) -> tuple[Any, ...]:
        return 1, floats(17, 8, 32), whole([start]), whole([length])

    one, done = whole([1, 1]), whole([False, False])
    wrong: list[tuple[str, tuple[Any, ...], str]] = [
        ("embed", (2, whole([[3], [64]]), 1, one, floats(64, 32), 32, floats(2, 32)), "tokens below V"),
        ("embed", (2, whole([[3], [6]]), 1, whole([1, 2]), floats(64, 32), 32, floats(2, 32)), "generated in 1 … col"),
        ("cache_prompts", (*cached(9), whole([3]), keys, keys, 16), "places below slots"),
        ("cache_prompts", (*cached(17), whole([0]), keys, keys, 16), "lengths up to capacity"),
        ("cache_prompts", (*cached(9, start=9), whole([0]), keys, keys, 16), "prompts within the tokens"),
        ("draw", (2, logits, whole([0, 2]), 64, 64, 1.0, None, *drawn, one, done), "logits_row below the rows"),
        ("draw", (2, logits, None, 64, 64, 1.0, None, *drawn, whole([1, 5]), done), "generated below columns"),
        ("draw", (2, logits, None, 64, 65, 1.0, None, *drawn, one, done), "V up to stride"),
        ("rotary", (2, floats(2, 8, 32), whole([0, 48]), table, 1.0, False), "positions in the rope_table"),
        ("target_logprobs", (2, logits, 64, 60, 1.0, whole([60, 0]), out), "target below V"),
        ("attention", attention(group_length=[5]), "groups within the tokens"),
        ("attention", attention(completion_start=[3]), "completions within the tokens"),
        ("attention", attention(group_completions=[0, 2]), "group_completions up to completions"),
        ("attention", attention(group_completions=[1, 0]), "group_completions ascending from 0"),
        ("linear", (1, floats(1, 4), 4, floats(8, 4), floats(8), None, floats(1, 8), 8), "N in whole blocks"),
        ("rms_norm", (1, floats(1, 17), floats(17), 1e-6, 17, floats(1, 17)), "C in whole blocks"),
        ("gated", (1, floats(1, 34), 17, 1.0, 0.0, floats(1, 17)), "M in whole blocks"),
        ("add_weight_gradient", (1, floats(1, 4), 4, floats(1, 17), 17, floats(4, 17)), "K in whole blocks"),
    ]
    library.attention(*attention())
    for name, arguments, message in wrong:
        with pytest.raises(ArgumentError, match=f"{name}: {message}"):
            getattr(library, name)(*arguments)


@needs_compiler
def test_a_checked_recording_looks_at_indices_that_an_earlier_call_has_written(checked, library):
    recording, rows = Recording(2, check=True), torch.zeros(2, 8 * 32)
    positions = torch.tensor([0, 47])
    recording.add(library.rotary, rows, positions, torch.zeros(48, 32), 1.0, False)
    recording.replay(2)
    positions[1] = 48
    recording.replay(1)
    with pytest.raises(ArgumentError, match="rotary: positions in the rope_table is not so"):
        recording.replay(2)


@needs_compiler
def test_more_rows_than_recorded_are_refused_without_the_switch_too(library):
    recording = Recording(7)
    recording.add(library.rms_norm, torch.randn(7, 64), torch.ones(64), 1e-6, 64, torch.empty(7, 64))
    with pytest.raises(ArgumentError, match="8 rows in a recording for at most 7"):
        recording.replay(8)


@needs_compiler
def test_the_engine_and_transformers_agree_with_every_call_checked(checked, monkeypatch: pytest.MonkeyPatch):
    loaded = load_model("embedded", dtype="float32")
    prompts = [Prompt([5 + i, *range(20, 40 + 3 * i)], i) for i in range(12)]
    replays: list[int] = []
    check = Recording._check

    def noted(self: Recording, index: int, rows: int) -> None:
        replays.append(rows)
        check(self, index, rows)

    monkeypatch.setattr(Recording, "_check", noted)
    for dtype in (torch.float32, torch.bfloat16):
        rollouts = EngineRollouts(loaded.model.to(dtype), loaded.tokenizer, 5)
        assert rollouts.weights.kernels is not None
        assert rollouts.weights.kernels.check
        assert check_against_transformers(rollouts, prompts).passed
        assert len(rollouts.generate(prompts, 2, Sampling(20))) == 24
    assert max(replays) == 5
    assert len(replays) > 100


@needs_compiler
def test_a_recording_checks_sizes_and_keeps_its_tensors(library):
    recording, out = Recording(7), torch.zeros(7, 64)
    x, weight = torch.randn(7, 64), torch.ones(64)
    with pytest.raises(ArgumentError, match="rms_norm: out has 384 elements, the kernel needs 448"):
        recording.add(library.rms_norm, x, weight, 1e-6, 64, out[:6])
    recording.add(library.rms_norm, x, weight, 1e-6, 64, out)
    expected = functional.rms_norm(x, (64,), weight, 1e-6)
    del x, weight
    rubbish = [torch.full((7, 64), torch.nan) for _ in range(50)] + [torch.full((64,), torch.nan) for _ in range(50)]
    recording.replay(5)
    assert torch.allclose(out[:5], expected[:5], atol=1e-5)
    assert not out[5:].any()
    assert len(rubbish) == 100


@needs_compiler
def test_a_checked_recording_refuses_more_rows_and_memory_that_was_replaced(library):
    recording, x = Recording(7, check=True), torch.nn.Parameter(torch.randn(7, 64))
    recording.add(library.rms_norm, x, torch.ones(64), 1e-6, 64, torch.empty(7, 64))
    recording.replay(7)
    with pytest.raises(ArgumentError, match="8 rows in a recording for at most 7"):
        recording.replay(8)
    x.data = x.data.clone()
    with pytest.raises(ArgumentError, match=r"rms_norm: a tensor of shape \(7, 64\) has moved"):
        recording.replay(7)


@needs_compiler
def test_they_are_compiled_once_and_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    assert isinstance(load_kernels(4, 2, 32, torch.float32), Kernels)
    (kept,) = fresh.iterdir()
    changed = kept.stat().st_mtime_ns
    load_kernels.cache_clear()
    assert isinstance(load_kernels(4, 2, 32, torch.float32), Kernels)
    assert [path.stat().st_mtime_ns for path in fresh.iterdir()] == [changed]
    assert isinstance(load_kernels(4, 2, 32, torch.bfloat16), Kernels)
    assert len(list(fresh.iterdir())) == 2


@needs_compiler
@pytest.mark.parametrize("left", [0, 100, 9000], ids="{} bytes".format)
def test_a_damaged_library_is_compiled_again(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int):
    assert isinstance(load_kernels(4, 2, 32, torch.float32), Kernels)
    (whole,) = fresh.iterdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "after a power failure"))
    damaged = tmp_path / "after a power failure" / fresh.name / whole.name
    damaged.parent.mkdir(mode=0o700, parents=True)
    damaged.write_bytes(whole.read_bytes()[:left])
    load_kernels.cache_clear()
    assert isinstance(load_kernels(4, 2, 32, torch.float32), Kernels)
    assert damaged.stat().st_size == whole.stat().st_size


@needs_compiler
def test_a_cache_folder_that_cannot_be_had_is_done_without(fresh: Path):
    fresh.parent.write_text("a file where the folder should be")
    assert isinstance(load_kernels(4, 2, 32, torch.float32), Kernels)


@needs_compiler
def test_a_cache_folder_that_others_can_write_to_is_not_used(fresh: Path):
    """A library loaded from there runs in this process."""
    fresh.mkdir(parents=True)
    fresh.chmod(0o777)
    assert isinstance(load_kernels(4, 2, 32, torch.float32), Kernels)
    assert list(fresh.iterdir()) == []


def test_without_a_compiler_torch_does_it(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    loaded = load_model("embedded", dtype="float32")
    rollouts = EngineRollouts(loaded.model, loaded.tokenizer)
    assert rollouts.backend == "torch alone: no g++ found"
    (made,) = rollouts.generate([Prompt([5, 6, 7], 0)], 1, Sampling(4, temperature=0))
    assert len(made.completion_ids) in range(1, 5)


VERSION = "#!/bin/sh\n[ $1 = --version ] && exit 0\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f"{VERSION}echo 'no space left' >&2\nexit 1\n", "failed: no space left"),
        (f"{VERSION}exit 1\n", "failed: no message"),
        (  # Apple's clang under the name of g++
            f"{VERSION}echo \"clang: error: unsupported option '-fopenmp'\" >&2\nexit 1\n",
            "failed: clang: error: unsupported option '-fopenmp'",
        ),
        (
            f"{VERSION}echo 'In file included from layers.cpp:3:' >&2\necho 'vectors.h:9: error: no AVX' >&2\nexit 1\n",
            "failed: vectors.h:9: error: no AVX",
        ),
        ("#!/bin/sh\necho 'xcode-select: note: No developer tools were found' >&2\nexit 1\n", "failed: xcode-select: "),
        (f"{VERSION}exit 0\n", "could not be compiled or loaded: "),  # and leaves no library
        (f"{VERSION}[ $1 = -shared ] && echo text >kernels.so\nexit 0\n", "could not be compiled or loaded: "),
    ],
)
def test_a_compiler_that_fails_is_named(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
):
    compiler = tmp_path / "g++"
    compiler.write_text(script)
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = load_kernels(4, 2, 32, torch.float32)
    assert isinstance(found, str)
    assert reason in found
    assert "\n" not in found


@needs_compiler
def test_a_library_without_a_function_is_not_used(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches an AttributeError from a library that was compiled, but not of these sources."""
    fresh.mkdir(parents=True)
    other = fresh / "other.so"
    subprocess.run(["g++", "-shared", "-x", "c++", "/dev/null", "-o", str(other)], check=True)
    monkeypatch.setattr(compiler, "_library", lambda *_: ctypes.CDLL(str(other)))
    found = load_kernels(4, 2, 32, torch.float32)
    assert isinstance(found, str)
    assert found.startswith("the kernels could not be compiled or loaded: ")


def test_a_machine_without_an_openmp_runtime_to_share_has_no_kernels(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    """Windows cannot look a name up in all that is loaded: ctypes.CDLL(None) is a TypeError there."""

    def load(name: str | None) -> Any:
        raise TypeError("LoadLibrary() argument 1 must be str, not None")

    monkeypatch.setattr(compiler.shutil, "which", lambda name: "g++")
    monkeypatch.setattr(compiler.ctypes, "CDLL", load)
    assert load_kernels(4, 2, 32, torch.float32) == "no OpenMP runtime to share with torch"


def test_a_run_without_a_compiler_trains_and_says_so_once(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run(tmp_path / "run", *SHORT)
    assert result.lines.count("torch computes alone, slower than with the compiled kernels: no g++ found") == 1
    assert result.summary["steps"] == 1
    assert any(line.startswith("engine (torch alone: no g++ found): ") for line in result.lines)


def test_a_shape_without_kernels_says_so():
    assert load_kernels(4, 2, 24, torch.float32) == "no kernels for 24 elements per head in float32"
    assert load_kernels(4, 2, 32, torch.float16) == "no kernels for 32 elements per head in float16"
