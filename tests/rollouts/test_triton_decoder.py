"""Decoding in Triton, by its interpreter where there is no GPU: the completions are those of the other decoders."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from helpers.gpu_kernels import use_triton
from helpers.models import FAMILIES, adapted, ids, small
from tiny_math_solver.models.load import load_tokenizer
from tiny_math_solver.prompts import Prompt, group_prompts
from tiny_math_solver.rollouts import EngineRollouts, Sampling
from tiny_math_solver.rollouts.triton_decoder import TritonDecoder

PROMPTS = [[5, 9, 13, 6, 7, 8, 30, 31, 32], [40, 41], [50, 51, 52, 53, 54]]
TOKENS = 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter's test: a GPU has its own")
@pytest.mark.parametrize("family", FAMILIES)
def test_completions_are_torchs(family: str, monkeypatch: pytest.MonkeyPatch):
    """Three prompts of two samples in four slots: a slot is used again, and a completion moves to another."""
    model, tokenizer = adapted(small(FAMILIES[family])), load_tokenizer("embedded")

    def completions(sampling: Sampling, **settings: Any) -> Any:
        engine = EngineRollouts(model, tokenizer, 4, **settings)
        prompts: list[Prompt] = group_prompts(PROMPTS)
        return engine.generate(prompts, 2, sampling), engine

    sampling = Sampling(TOKENS, temperature=0.7, seed=1)
    expected, _ = completions(sampling, native=False)
    use_triton(monkeypatch)
    found, engine = completions(sampling)
    assert all(type(decoder) is TritonDecoder for _, decoder in engine._decoders)
    assert ids(found) == ids(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4)
    cut = Sampling(TOKENS, temperature=0.7, top_k=5, seed=1)  # drawn by torch
    assert ids(completions(cut)[0]) == ids(completions(cut, native=False)[0])
