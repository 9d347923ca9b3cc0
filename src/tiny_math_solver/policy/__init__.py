"""The policy as rollouts and update compute it: one merged copy of its weights, and one forward pass.

    architecture.py   what is known of a model's family, as data
    weights.py        base plus adapter, merged afresh before every use
    linear.py         its projections, in the memory layout that their products want
    ragged.py         tokens side by side without padding, each group's prompt once
    forward.py        a layer, forward: what prefill and update share

Imported by rollouts/ and update/. Shapes: `N` tokens, `C` hidden size, `M` MLP size, `V` vocabulary; `H` heads, `KV` of
them with keys and values, `D` elements each; qkv is `[N, (H + 2 KV) · D]`.
"""
