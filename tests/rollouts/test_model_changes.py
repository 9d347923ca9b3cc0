"""Whatever happens to a model after its engine was made, the engine decodes as a fresh one does.

A recorded step points to memory. If it were not made anew, or did not own what it points to, it would read the old
policy, or memory that now holds something else: rollouts of garbage, without a word.
"""

import gc
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from peft import LoraConfig
from torch import nn

from helpers.models import FAMILIES, adapted, ids, small
from tiny_math_solver.models.ends import causal_lm
from tiny_math_solver.models.load import load_tokenizer
from tiny_math_solver.policy import weights as policy_weights
from tiny_math_solver.policy.linear import UnsupportedModelError, merged_weight
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts import EngineRollouts, Sampling
from tiny_math_solver.rollouts.engine_check import check_against_transformers

GREEDY = Sampling(max_new_tokens=20, temperature=0)
PROMPTS = [Prompt([5 + i, *range(20, 26 + i)], i) for i in range(10)]
Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("embedded")


@pytest.fixture(params=[True, False], ids=["kernels", "torch"])
def engine(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    if request.param and not shutil.which("g++"):
        pytest.skip("no compiler")
    return lambda model: EngineRollouts(model, tokenizer, 4, request.param)


def other(weight: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(weight.numel())
    return weight + 0.1 * torch.randn(weight.shape, generator=generator).to(weight)


def rubbish() -> list[torch.Tensor]:
    """Fill memory that was freed, so that whoever still reads it is found out."""
    gc.collect()
    return [torch.full((size,), torch.nan) for size in (64, 96, 64 * 64, 64 * 96, 1030 * 64) for _ in range(40)]


# -- The changes ------------------------------------------------------------------------------------------------------


def moved(model: Any) -> None:
    """As `.to(device)` does, and with it accelerate when it prepares a model."""
    for parameter in model.parameters():
        parameter.data = other(parameter.data)


def moved_and_freed(model: Any) -> None:
    """The storage itself goes, whoever else keeps it."""
    for parameter in model.parameters():
        old, parameter.data = parameter.data, other(parameter.data)
        old.untyped_storage().resize_(0)


def replaced(model: Any) -> None:
    for module in causal_lm(model).modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(other(parameter.data), parameter.requires_grad))


def replaced_embedding_module(model: Any) -> None:
    inner, new = causal_lm(model), nn.Embedding(1030, 64)
    new.weight.data = other(inner.model.embed_tokens.weight.data)
    inner.model.embed_tokens = new


def replaced_layer(model: Any) -> None:
    layers = causal_lm(model).model.layers
    layers[1].self_attn, layers[2].self_attn = layers[2].self_attn, layers[1].self_attn
    layers[0].mlp = layers[1].mlp
    layers[2].input_layernorm = layers[0].post_attention_layernorm


def written_through_data(model: Any) -> None:
    """Autograd does not count these writes, and the memory stays: only the numbers tell."""
    for parameter in model.parameters():
        parameter.data.copy_(other(parameter.data))


def rows_swapped_through_data(model: Any) -> None:
    down = causal_lm(model).model.layers[1].mlp.down_proj
    getattr(down, "base_layer", down).weight.data.copy_(down.weight.data.flip(0))


def loaded(model: Any) -> None:
    model.load_state_dict({name: other(weight) for name, weight in model.state_dict().items()})


def loaded_by_assignment(model: Any) -> None:
    model.load_state_dict({name: other(weight) for name, weight in model.state_dict().items()}, assign=True)


def tied(model: Any) -> None:
    causal_lm(model).lm_head.weight = causal_lm(model).model.embed_tokens.weight


def untied(model: Any) -> None:
    head = causal_lm(model).lm_head
    head.weight = nn.Parameter(other(head.weight.data), requires_grad=head.weight.requires_grad)


def cast(model: Any) -> None:
    written_through_data(model)
    model.to(torch.bfloat16)


def cast_and_back(model: Any) -> None:
    written_through_data(model)
    model.to(torch.bfloat16)
    model.to(torch.float32)


def prepared(model: Any) -> None:
    """Mixed precision patches `forward` and moves; the policy stays."""
    written_through_data(model)
    Accelerator(cpu=True).prepare_model(model)


def more_tokens(model: Any) -> None:
    written_through_data(model)
    causal_lm(model).resize_token_embeddings(1100, mean_resizing=False)


def fewer_tokens(model: Any) -> None:
    written_through_data(model)
    causal_lm(model).resize_token_embeddings(1000, mean_resizing=False)


def other_rotation(model: Any) -> None:
    rotary = causal_lm(model).model.rotary_emb
    rotary.inv_freq = rotary.inv_freq * 0.5


def rotation_written_to(model: Any) -> None:
    causal_lm(model).model.rotary_emb.inv_freq.mul_(1.5)


def trained(model: Any) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = other(torch.zeros_like(parameter))
    torch.optim.AdamW(parameters, lr=0.05, fused=True).step()


def trained_on(model: Any) -> None:
    trained(model.requires_grad_(True))


CHANGES: tuple[Change, ...] = (
    moved, moved_and_freed, replaced, replaced_embedding_module, replaced_layer, written_through_data,
    rows_swapped_through_data, loaded, loaded_by_assignment, untied, cast, cast_and_back, prepared, more_tokens,
    fewer_tokens, other_rotation, rotation_written_to, trained_on,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _forget_the_accelerator() -> Iterator[None]:
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def is_changed_as_a_fresh_engine(engine: Any, model: Any, change: Change, sampling: Sampling = GREEDY) -> None:
    rollouts = engine(model)
    before = ids(rollouts.generate(PROMPTS, 1, sampling))
    change(model)
    kept = rubbish()
    after = ids(rollouts.generate(PROMPTS, 1, sampling))
    assert after == ids(engine(model).generate(PROMPTS, 1, sampling)) != before
    assert check_against_transformers(rollouts, PROMPTS).passed
    assert kept


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "phi3"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_model_is_decoded_as_by_a_fresh_engine(change: Change, family: str, engine):
    model: Any = small(FAMILIES[family]).requires_grad_(False)
    is_changed_as_a_fresh_engine(engine, model, change)


def test_an_output_layer_that_is_tied_later_is_followed(engine):
    is_changed_as_a_fresh_engine(engine, small(FAMILIES["qwen2"]).requires_grad_(False), tied)


# -- Adapters -----------------------------------------------------------------------------------------------------


def merged(model: Any) -> None:
    model.merge_adapter()


def merged_and_unmerged(model: Any) -> None:
    written_through_data(model)
    model.merge_adapter()
    model.unmerge_adapter()


def unloaded(model: Any) -> None:
    model.unload()


def second_adapter(model: Any) -> None:
    model.add_adapter("other", LoraConfig(r=4, target_modules=["up_proj", "o_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "other"])


def switched_adapter(model: Any) -> None:
    model.add_adapter("other", LoraConfig(r=4, target_modules=["up_proj", "o_proj"], init_lora_weights=False))
    model.set_adapter("other")


def deleted_adapter(model: Any) -> None:
    second_adapter(model)
    model.delete_adapter("default")


def switched_off(model: Any) -> None:
    model.base_model.disable_adapter_layers()


def scaled(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(0.25)


def loaded_adapter(model: Any) -> None:
    state = {name: other(weight) for name, weight in model.state_dict().items() if "lora_" in name}
    model.load_state_dict(state, strict=False, assign=True)


ADAPTER_CHANGES: tuple[Change, ...] = (
    merged_and_unmerged, unloaded, second_adapter, switched_adapter, deleted_adapter, switched_off, loaded_adapter,
    scaled, trained, moved, replaced, written_through_data, more_tokens, prepared,
)  # fmt: skip


@pytest.mark.parametrize("change", ADAPTER_CHANGES, ids=lambda change: change.__name__)
def test_an_adapted_model_is_followed(change: Change, engine):
    is_changed_as_a_fresh_engine(engine, adapted(small(FAMILIES["qwen2"]), r=8), change)


@pytest.mark.parametrize("unload", [False, True], ids=["kept", "unloaded"])
def test_a_merge_changes_nothing(unload: bool, engine):
    """The base weights get other numbers at the same place, and the adapter is not to be added once more."""
    model = adapted(small(FAMILIES["qwen2"]), r=8)
    rollouts = engine(model)
    before = ids(rollouts.generate(PROMPTS, 1, GREEDY))
    if unload:
        model.merge_and_unload()
    else:
        model.merge_adapter()
    assert ids(rollouts.generate(PROMPTS, 1, GREEDY)) == before
    assert check_against_transformers(rollouts, PROMPTS).passed


def test_an_adapter_that_was_merged_into_the_base_is_seen(engine):
    """PEFT merges through `.data`: same address, same version, other numbers."""
    model: Any = small(FAMILIES["qwen2"]).requires_grad_(False)
    is_changed_as_a_fresh_engine(engine, model, lambda model: adapted(model, r=8).merge_and_unload())


def test_a_policy_that_has_not_changed_is_not_merged_again(engine, monkeypatch: pytest.MonkeyPatch):
    """The update asks for the policy that the rollouts have just merged."""
    model = adapted(small(FAMILIES["qwen2"]), r=8)
    weights, merges = engine(model).weights, []

    def noted(module: Any) -> torch.Tensor:
        merges.append(module)
        return merged_weight(module)

    monkeypatch.setattr(policy_weights, "merged_weight", noted)
    weights.sync()
    assert not merges
    model.base_model.model.model.layers[1].mlp.down_proj.lora_B["default"].weight.data[3, 2] += 0.5
    weights.sync()
    assert merges == [model.base_model.model.model.layers[1].mlp.down_proj]


def test_an_adapter_of_the_embedding_that_comes_later_is_refused(engine):
    model: Any = small(FAMILIES["qwen2"])
    rollouts = engine(model)
    rollouts.generate(PROMPTS, 1, GREEDY)
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"]))
    with pytest.raises(UnsupportedModelError, match="an embedding that is Embedding"):
        rollouts.generate(PROMPTS, 1, GREEDY)


# -- Memory -------------------------------------------------------------------------------------------------------


def test_a_model_without_memory_is_refused(engine):
    model: Any = small(FAMILIES["qwen2"]).requires_grad_(False)
    rollouts = engine(model)
    rollouts.generate(PROMPTS, 1, GREEDY)
    model.model.norm.weight.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="the model's weights are not in memory"):
        rollouts.generate(PROMPTS, 1, GREEDY)
    rollouts = engine(small(FAMILIES["qwen2"]))
    rollouts.model.to("meta")
    with pytest.raises(RuntimeError, match="the model's weights are not in memory"):
        rollouts.generate(PROMPTS, 1, GREEDY)


def test_a_stream_goes_on_with_its_policy_and_never_reads_freed_memory(engine):
    model: Any = small(FAMILIES["qwen2"]).requires_grad_(False)
    rollouts, prompt = engine(model), PROMPTS[3]
    (whole,) = ids(rollouts.generate([prompt], 1, GREEDY))
    stream = rollouts.stream(prompt.ids, GREEDY)
    pieces = [next(stream), next(stream)]
    replaced(model)
    kept = rubbish()
    pieces += stream
    assert [token for piece in pieces for token in piece] == whole
    stream = rollouts.stream(prompt.ids, GREEDY)
    next(stream)
    model.model.embed_tokens.weight.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="embedding was freed while completions were under way"):
        next(stream)
    assert kept


def test_a_stream_is_not_disturbed_by_what_is_generated_meanwhile(engine):
    model: Any = small(FAMILIES["qwen2"]).requires_grad_(False)
    rollouts = engine(model)
    expected = ids(rollouts.generate(PROMPTS[:2], 1, GREEDY))
    one, two = (rollouts.stream(prompt.ids, GREEDY) for prompt in PROMPTS[:2])
    made: list[list[int]] = [[], []]
    made[0] += next(one)
    made[1] += next(two)
    assert ids(rollouts.generate(PROMPTS[:2], 1, GREEDY)) == expected
    for index, stream in enumerate((one, two)):
        made[index] += [token for piece in stream for token in piece]
    assert made == expected
    assert len(rollouts._decoders) == 1
    stream = rollouts.stream(PROMPTS[0].ids, GREEDY)
    next(stream)
    model.resize_token_embeddings(1100, mean_resizing=False)
    rollouts.weights.sync()
    with pytest.raises(RuntimeError, match="another form while a completion was under way"):
        next(stream)


def test_larger_caches_make_other_recordings(engine):
    model: Any = small(FAMILIES["qwen2"]).requires_grad_(False)
    rollouts = engine(model)
    rollouts.generate(PROMPTS[:1], 1, GREEDY)
    long = [Prompt([7, *range(30, 30 + 30 * i)], i) for i in range(1, 7)]
    for prompts in (PROMPTS[:3], long, PROMPTS, long[:1]):
        assert ids(rollouts.generate(prompts, 1, GREEDY)) == ids(engine(model).generate(prompts, 1, GREEDY))


def test_more_tokens_to_draw_than_embeddings_are_refused(engine):
    """A kernel would look up the embedding of a token behind the last one."""
    model: Any = small(FAMILIES["qwen2"])
    model.lm_head = nn.Linear(64, 1100, bias=False)
    with pytest.raises(UnsupportedModelError, match="draws tokens without an embedding"):
        engine(model)
