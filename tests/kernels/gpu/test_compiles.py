"""Every kernel compiles, without a GPU, for cards that people have, within the shared memory that these give."""

import json
import os
import subprocess
import sys

import pytest

COMPILE = """
import json, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tiny_math_solver.kernels.gpu import attention, decode, rows

dtype, capability, dim = getattr(torch, sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
NAMES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
TYPES = {"h": NAMES[dtype], "f": "*fp32", "i": "*i64", "w": "*i32", "b": "*i1", "n": "i32", "x": "fp32"}
tile, warps, stages = attention.tile_shape(dim, dtype)
HEADS = {"HEADS": 14, "KV_HEADS": 2, "D": dim}
TILE = {"WINDOW": 512, "CAP": 50.0, **HEADS, "BLOCK_D": dim, "BLOCK_M": tile, "BLOCK_N": tile, "PRECISION": "ieee"}
DECODE = {"CAP": 50.0, "HAS_NORMS": True, "QUERIES": 7, "KV_HEADS": 2, "D": dim, "ROWS": 16, "BLOCK_D": dim}
AS_TILES = {"num_warps": warps, "num_stages": stages}
KERNELS = [  # the types of the arguments in order, the constants behind them, and options
    (rows._rms_norm, "hfhxn", {"BLOCK": 1024}, {}),
    (rows._rms_norm_backward, "hfhhxn", {"ADD": True, "BLOCK": 1024}, {}),
    (rows._gated, "hhnxx", {"BLOCK": 1024}, {}),
    (rows._gated_backward, "hhhnxx", {"BLOCK": 1024}, {}),
    (rows._rotary, "hifxnnn", {"BACKWARD": True, "D": dim, "BLOCK": 16 * dim}, {}),
    (rows._target_logprobs, "hifxnnn", {"BLOCK": rows.LOGITS_BLOCK}, {}),
    (attention._forward, "hhfww", TILE, AS_TILES),
    (attention._backward_queries, "hhfhfhww", TILE, AS_TILES),
    (attention._backward_keys, "hfhfhww", TILE, AS_TILES),
    (decode._embed, "iihhnn", {"BLOCK": 1024}, {}),
    *((decode._decode_attention, "hfffxxiiiihhhhhnnn", {**DECODE, "BLOCK_N": block}, options)
      for options in (decode.key_tiles(16, dim, dtype), decode.key_tiles(1024, dim, dtype))
      for block in [options.pop("BLOCK_N")]),
    (decode._cache_prompts, "hiiihhn", {**HEADS, "BLOCK_D": dim, "BLOCK_N": decode.PROMPT_TILE}, {}),
    *((decode._draw, "hifiifibxnnnnn", {"GREEDY": greedy, "BY_INDEX": greedy, "BLOCK": block,
       "PART": decode.LOGITS_PART}, options)
      for greedy, options in ((False, decode.logits_blocks(16)), (True, decode.logits_blocks(1024)))
      for block in [options.pop("BLOCK")]),
]
found = {}
for kernel, kinds, constants, options in KERNELS:
    names = kernel.arg_names
    assert len(names) == len(kinds) + len(constants), kernel.__name__
    signature = {name: TYPES[kind] for name, kind in zip(names, kinds)}
    pointers = {(names.index(name),): [["tt.divisibility", 16]] for name in signature if signature[name][0] == "*"}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, pointers)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    found[kernel.__name__] = max(compiled.metadata.shared, found.get(kernel.__name__, 0))
print(json.dumps(found))
"""
LEAST_SHARED = 99 << 10  # bytes that a block may have on the smallest cards of each generation since Ampere


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "capability", "dim"),
    [("bfloat16", 80, 128), ("float16", 89, 64), ("float32", 89, 64), ("bfloat16", 90, 64), ("bfloat16", 120, 256)],
)
def test_for_a_card(dtype: str, capability: int, dim: int):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, dtype, str(capability), str(dim)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shared = json.loads(done.stdout)
    assert len(shared) == 13
    assert max(shared.values()) <= LEAST_SHARED, shared
