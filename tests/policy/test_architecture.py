"""The description of a family: read as transformers reads the config, and nothing in it is without effect."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from helpers.models import CONFIGS, FULL, SLIDING, WINDOW, adapted, small
from helpers.scoring import batch_of, scored
from tiny_math_solver.kernels import Manner
from tiny_math_solver.models.load import load_tokenizer
from tiny_math_solver.policy import weights as policy_weights
from tiny_math_solver.policy.architecture import GATES, NO_ROPE, Architecture, Names, architecture
from tiny_math_solver.policy.linear import UnsupportedModelError
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts import EngineRollouts
from tiny_math_solver.rollouts.engine_check import check_against_transformers
from tiny_math_solver.update.merged_scorer import MergedScorer
from tiny_math_solver.update.torch_scorer import TorchScorer

OF_LENGTH = ", whose angles do not depend on the position alone"
HEADS_OF_16: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 4096,
}  # fmt: skip


def described(family: str) -> Architecture:
    return architecture(CONFIGS[family]())


def test_families_are_read_as_transformers_reads_them():
    gemma2 = architecture(transformers.Gemma2Config())
    assert gemma2.manners[:3] == (Manner(4096, 50.0), Manner(0, 50.0), Manner(4096, 50.0))
    assert (gemma2.logits_cap, gemma2.query_scale, gemma2.norm_offset) == (30.0, 1 / 16, 1.0)
    assert gemma2.embedding_scale == 2304**0.5
    gemma3 = architecture(transformers.Gemma3TextConfig(attn_logit_softcapping=7.0))  # which transformers ignores
    assert gemma3.manners[4:7] == (Manner(4096), Manner(), Manner(4096))
    assert gemma3.ropes[4:7] == (SLIDING, FULL, SLIDING)
    assert gemma3.rotations == (SLIDING, FULL)
    assert architecture(transformers.SmolLM3Config()).ropes[2:5] == ("", NO_ROPE, "")
    assert set(architecture(transformers.Phi3Config(sliding_window=2047)).manners) == {Manner(2047)}
    assert set(architecture(transformers.MistralConfig(sliding_window=None)).manners) == {Manner()}
    qwen = architecture(transformers.Qwen2Config(use_sliding_window=True, sliding_window=5, max_window_layers=28))
    assert qwen.manners[27:29] == (Manner(), Manner(5))
    # keys that a model does not look at
    stray: dict[str, Any] = {"sliding_window": 8, "layer_types": [SLIDING] * 32, "final_logit_softcapping": 5.0}
    assert architecture(transformers.LlamaConfig(**stray)) == architecture(transformers.LlamaConfig())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (transformers.GPT2Config(), "architecture gpt2"),
        (transformers.MixtralConfig(), "architecture mixtral"),
        (transformers.Gemma3nTextConfig(), "architecture gemma3n_text"),
        (transformers.LlamaConfig(hidden_act="gelu"), "activation gelu"),
        (transformers.Gemma2Config(hidden_activation="gelu"), "activation gelu"),
        (transformers.Gemma3TextConfig(use_bidirectional_attention=True), "attention to later tokens"),
        (transformers.Phi3Config(**HEADS_OF_16, rope_parameters=LONGROPE), f"rope type longrope{OF_LENGTH}"),
        (
            transformers.LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            f"rope type dynamic{OF_LENGTH}",
        ),
        (
            transformers.Qwen3Config(num_hidden_layers=2, layer_types=[FULL, "chunked_attention"]),
            "layers of type chunked_attention",
        ),
    ],
)  # fmt: skip
def test_what_the_engine_does_not_compute_is_refused_with_the_reason(config: Any, reason: str):
    with pytest.raises(UnsupportedModelError) as error:
        architecture(config)
    assert str(error.value) == reason


# -- Each part of the description shows -----------------------------------------------------------------------------


def with_window(window: int) -> Callable[[Architecture], dict[str, Any]]:
    return lambda a: {"manners": tuple(Manner(window if m.window else 0, m.cap) for m in a.manners)}


MISTAKES: list[tuple[str, str, Callable[[Architecture], dict[str, Any]]]] = [
    *((family, "no window", with_window(0)) for family in ("qwen2-window", "mistral", "phi3", "gemma2", "gemma3")),
    *((family, "a window of one more", with_window(WINDOW + 1)) for family in ("mistral", "gemma3")),
    *((family, "a window of one less", with_window(WINDOW - 1)) for family in ("qwen2-window", "phi3")),
    ("gemma3", "windows in other layers", lambda a: {"manners": a.manners[1:] + a.manners[:1]}),
    ("gemma2", "scores not capped", lambda a: {"manners": tuple(Manner(m.window) for m in a.manners)}),
    ("gemma2", "logits not capped", lambda a: {"logits_cap": 0.0}),
    ("gemma2", "another scale of the scores", lambda a: {"query_scale": a.head_dim**-0.5}),
    ("gemma3", "another scale of the scores", lambda a: {"query_scale": a.head_dim**-0.5}),
    ("gemma2", "an embedding that is not scaled", lambda a: {"embedding_scale": 1.0}),
    ("gemma3", "norms that multiply by w", lambda a: {"norm_offset": 0.0}),
    ("gemma3", "another activation", lambda a: {"gate": GATES["silu"]}),
    ("gemma3", "rotations of other layers", lambda a: {"ropes": a.ropes[1:] + a.ropes[:1]}),
    ("smollm3", "a rotation in every layer", lambda a: {"ropes": ("",) * len(a.ropes)}),
    ("gemma2", "norms exchanged", lambda a: {"names": replace(
        a.names, mlp_norm=a.names.mlp_out_norm, mlp_out_norm=a.names.mlp_norm)}),
    ("gemma2", "no norms behind", lambda a: {"names": Names()}),
]  # fmt: skip
PROMPTS = [Prompt([5 + i, *range(20, 26 + 5 * i)], i) for i in range(6)]


@pytest.mark.parametrize("native", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize(("family", "mistake", "change"), MISTAKES, ids=lambda x: x if isinstance(x, str) else "")
def test_a_mistake_in_the_description_shows(
    family: str, mistake: str, change: Any, native: bool, monkeypatch: pytest.MonkeyPatch
):
    """So the comparisons of rollouts and of the gradient with transformers depend on every part of it."""
    if native and not shutil.which("g++"):
        pytest.skip("no compiler")
    model, tokenizer = small(CONFIGS[family]()), load_tokenizer("embedded")
    assert check_against_transformers(EngineRollouts(model, tokenizer, 4, native), PROMPTS).passed
    monkeypatch.setattr(policy_weights, "architecture", lambda config: mistaken(config, change))
    assert not check_against_transformers(EngineRollouts(model, tokenizer, 4, native), PROMPTS).passed, mistake
    if native:
        model = adapted(model, r=4)
        exact = scored(TorchScorer(model.get_base_model(), 1.0, nullcontext, torch.float32), model, batch_of(0))
        found = scored(MergedScorer(PolicyWeights(model), 1.0), model, batch_of(0))
        for of_exact, of_found in zip(exact, found, strict=True):
            assert (of_exact - of_found).abs().max() / of_exact.abs().max() > 1e-3, mistake


def mistaken(config: Any, change: Callable[[Architecture], dict[str, Any]]) -> Architecture:
    right = architecture(config)
    return replace(right, **change(right))


def test_pairs_of_a_partial_rotation_are_found(monkeypatch: pytest.MonkeyPatch):
    """Row i turns with row i + 4 of the first eight; with i + 8 of all sixteen it would be another model."""
    model, tokenizer = small(CONFIGS["phi3"]()), load_tokenizer("embedded")
    engine = EngineRollouts(model, tokenizer, 4)
    weights = engine.weights
    assert weights.pair_order.tolist() == [0, 4, 1, 5, 2, 6, 3, 7, *range(8, 16)]
    rows = torch.arange(3 * 16 * 5).view(3 * 16, 5)
    assert torch.equal(weights.unpaired(weights.paired(rows)), rows)
    assert torch.equal(weights.unpaired(weights.paired(rows).T.contiguous(), 1), rows.T)
    assert check_against_transformers(engine, PROMPTS).passed
    monkeypatch.setattr(PolicyWeights, "_rotary_rows", lambda self: self.head_dim)
    assert not check_against_transformers(EngineRollouts(model, tokenizer, 4), PROMPTS).passed
