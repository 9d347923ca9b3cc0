"""The engine on a CUDA GPU: graphs, half precision, and steps that do not wait for the host."""

from typing import Any

import pytest
import torch

from helpers.models import FAMILIES, adapted, ids, small
from tiny_math_solver.models.load import load_model
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.prompts import Prompt, chat_messages, encode_prompt, group_prompts
from tiny_math_solver.rollouts import EngineRollouts, ReferenceRollouts, Sampling
from tiny_math_solver.rollouts.engine_check import check_against_transformers
from tiny_math_solver.rollouts.torch_decoder import TorchDecoder
from tiny_math_solver.rollouts.triton_decoder import TritonDecoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]
GREEDY = Sampling(max_new_tokens=96, temperature=0)


@pytest.fixture(params=[True, False], ids=["triton", "torch"])
def native(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def loaded():
    return load_model("embedded", dtype="float32", device="cuda")


@pytest.fixture(scope="module")
def prompts(loaded) -> list[Prompt]:
    problems = [p.question for p in embedded_problems("test", 200)]
    texts = [" ".join(problems[i : i + 1 + (i % 7 == 0) + (i % 13 == 0)]) for i in range(200)]
    return group_prompts(encode_prompt(loaded.tokenizer, chat_messages(text)) for text in texts)


def test_greedy_is_transformers_token_for_token(loaded, prompts, native: bool):
    expected = ids(ReferenceRollouts(loaded.model, loaded.tokenizer, 200).generate(prompts, 1, GREEDY))
    for slots in (200, 24, 3):
        rollouts = EngineRollouts(loaded.model, loaded.tokenizer, slots, native=native)
        assert rollouts.backend == ("Triton in CUDA graphs" if native else "torch alone in CUDA graphs: not asked for")
        assert ids(rollouts.generate(prompts, 1, GREEDY)) == expected


def test_a_seed_means_the_same_completions_whatever_the_batch(loaded, prompts, native: bool):
    sampling = Sampling(max_new_tokens=64, seed=5)
    whole = EngineRollouts(loaded.model, loaded.tokenizer, 256, native=native).generate(prompts[:40], 4, sampling)
    few = EngineRollouts(loaded.model, loaded.tokenizer, 11, native=native).generate(prompts[:40], 4, sampling)
    same = sum(a == b for a, b in zip(ids(few), ids(whole), strict=True))
    assert same >= 0.97 * len(whole)  # products of other shapes round otherwise, and a draw may fall on an edge


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_passes_the_engine_check(family: str, dtype: torch.dtype, loaded, prompts, native: bool):
    rollouts = EngineRollouts(small(FAMILIES[family]).to("cuda", dtype), loaded.tokenizer, native=native)
    check = check_against_transformers(rollouts, prompts)
    assert check.passed, check


def test_graphs_see_the_adapter_as_it_is(prompts, native: bool):
    """A graph holds addresses: if merged weights were allocated anew, it would go on with the old policy."""
    loaded = load_model("embedded", dtype="float32", device="cuda")
    model: Any = adapted(loaded.model, r=8)
    rollouts = EngineRollouts(model, loaded.tokenizer, native=native)
    before = ids(rollouts.generate(prompts[:30], 1, GREEDY))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.mul_(-1)
    after = ids(rollouts.generate(prompts[:30], 1, GREEDY))
    assert after == ids(ReferenceRollouts(model, loaded.tokenizer).generate(prompts[:30], 1, GREEDY)) != before


def test_graphs_follow_parameters_that_move(prompts, native: bool):
    """A graph holds the addresses of the embedding and the norms too."""
    loaded = load_model("embedded", dtype="float32", device="cuda")
    rollouts = EngineRollouts(loaded.model, loaded.tokenizer, native=native)
    before = ids(rollouts.generate(prompts[:30], 1, GREEDY))
    torch.manual_seed(0)
    for weight in loaded.model.parameters():
        old, weight.data = weight.data, weight.data + 0.3 * weight.data.std() * torch.randn_like(weight.data)
        old.fill_(torch.nan)
    after = ids(rollouts.generate(prompts[:30], 1, GREEDY))
    assert after == ids(ReferenceRollouts(loaded.model, loaded.tokenizer).generate(prompts[:30], 1, GREEDY)) != before


def replaced(model: Any) -> None:
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(weight.data * 1.1, requires_grad=False))


def written_through_data(model: Any) -> None:
    for weight in model.parameters():
        weight.data.mul_(1.1)


def more_tokens(model: Any) -> None:
    written_through_data(model)
    model.resize_token_embeddings(1100, mean_resizing=False)


def other_rotation(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(1.5)


def cast(model: Any) -> None:
    model.to(torch.bfloat16)


def to_the_cpu_and_back(model: Any) -> None:
    model.to("cpu")
    written_through_data(model)
    model.to("cuda")


@pytest.mark.parametrize(
    "change", [replaced, written_through_data, more_tokens, other_rotation, cast, to_the_cpu_and_back]
)
def test_graphs_follow_a_model_that_changes(change: Any, loaded, prompts, native: bool):
    """A graph that was captured before holds addresses of buffers, of the embedding and of the rotation."""
    model: Any = small(FAMILIES["qwen2"]).to("cuda").requires_grad_(False)
    rollouts = EngineRollouts(model, loaded.tokenizer, native=native)
    before = ids(rollouts.generate(prompts[:30], 1, GREEDY))
    change(model)
    rubbish = [torch.full((64, 64), torch.nan, device="cuda") for _ in range(200)]
    after = ids(rollouts.generate(prompts[:30], 1, GREEDY))
    assert (
        after == ids(EngineRollouts(model, loaded.tokenizer, native=native).generate(prompts[:30], 1, GREEDY)) != before
    )
    assert check_against_transformers(rollouts, prompts).passed
    assert len(rubbish) == 200


def test_a_stream_never_replays_a_graph_on_freed_memory(loaded, prompts, native: bool):
    model: Any = small(FAMILIES["qwen2"]).to("cuda").requires_grad_(False)
    stream = EngineRollouts(model, loaded.tokenizer, native=native).stream(prompts[0].ids, GREEDY)
    next(stream)
    model.model.embed_tokens.weight.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="embedding was freed while completions were under way"):
        next(stream)


def test_no_step_waits_for_the_host(loaded, prompts, native: bool):
    rollouts = EngineRollouts(loaded.model, loaded.tokenizer, native=native)
    rollouts.generate(prompts[:8], 4, GREEDY)
    ((_, decoder),) = rollouts._decoders
    assert isinstance(decoder, TritonDecoder if native else TorchDecoder)
    with torch.inference_mode():
        decoder.admit(0, [p.ids for p in prompts[:8]], list(range(8)), None)
        decoder.step(8)  # captures where this size was not met yet
        captured = len(decoder.graphs.graphs)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(decoder.sync_every):
                decoder.step(8)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(decoder.graphs.graphs) == captured


def test_one_token_is_enough(loaded, prompts, native: bool):
    """Slots beyond the running ones are stepped too: they must not run out of columns."""
    one = Sampling(max_new_tokens=1, temperature=0)
    expected = ids(ReferenceRollouts(loaded.model, loaded.tokenizer).generate(prompts[:37], 1, one))
    assert ids(EngineRollouts(loaded.model, loaded.tokenizer, native=native).generate(prompts[:37], 1, one)) == expected
