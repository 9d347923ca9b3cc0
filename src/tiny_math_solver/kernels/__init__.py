"""The operators of a decode step and of the update: on a CPU in C++, compiled for the processor and a model's shape.

    vectors.h      number types and SIMD arithmetic          attention.h    what decoding and the update share of it
    layers.cpp     linear, RMSNorm, gated activation         decode.cpp     attention from a cache, the draw
    bfloat16.cpp   linear in bfloat16                        update.cpp     gradients, rotation, log-probabilities
                                                             update_attention.cpp   the update's attention
    compiler.py    sources → a shared library, kept in the user's cache folder
    bindings.py    the arguments of every function, and recorded calls
    contents.py    the range of every index, for debugging
    operators.py   what the update asks for, of these or of their twins on a GPU
    gpu/           the latter, in Triton

The compiler is looked for when the first engine is made; without one or without Triton, or for a shape that the kernels
do not cover, torch computes alone.
"""

from tiny_math_solver.kernels.bindings import Kernel, Kernels, Recording
from tiny_math_solver.kernels.compiler import LARGEST_PANEL, load_kernels
from tiny_math_solver.kernels.operators import Activation, CompiledOperators, Manner, Operators, load_gpu_operators

__all__ = [
    "LARGEST_PANEL",
    "Activation",
    "CompiledOperators",
    "Kernel",
    "Kernels",
    "Manner",
    "Operators",
    "Recording",
    "load_gpu_operators",
    "load_kernels",
]
