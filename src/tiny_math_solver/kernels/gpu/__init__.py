"""The same operators on a GPU, in Triton, which compiles them for the card when they are first used.

    rows.py        norms, gates, rotation and log-probabilities, a program per row
    attention.py   the update's attention over ragged tokens
    decode.py      a decode step's attention from the caches, and the draw

With TRITON_INTERPRET=1 in the environment Triton computes them on a CPU instead, which tests use.
"""
