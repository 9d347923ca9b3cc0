"""The engine: the same tokens as transformers, in any batch, for every family it supports."""

import shutil
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, GPT2Config, Qwen3Config

from helpers.models import FAMILIES, adapted, ids, small
from tiny_math_solver.models.load import load_model
from tiny_math_solver.policy.linear import UnsupportedModelError
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.prompts import Prompt, chat_messages, encode_prompt, group_prompts
from tiny_math_solver.rollouts import EngineRollouts, ReferenceRollouts, Sampling, make_rollouts
from tiny_math_solver.rollouts.decoder import Decoder
from tiny_math_solver.rollouts.engine_check import check_against_transformers
from tiny_math_solver.rollouts.sampling import uniforms
from tiny_math_solver.support.console import CollectingConsole

GREEDY = Sampling(max_new_tokens=96, temperature=0)


@pytest.fixture(scope="module")
def loaded():
    return load_model("embedded", dtype="float32")


@pytest.fixture(params=[True, False], ids=["native", "torch"])
def engine(request: pytest.FixtureRequest) -> Any:
    """A factory of engines, once with our kernels and once with torch alone."""
    if request.param and not shutil.which("g++"):
        pytest.skip("no compiler")

    def make(model: Any, tokenizer: Any, batch_size: int = 128, native: bool = request.param) -> EngineRollouts:
        made = EngineRollouts(model, tokenizer, batch_size, native)
        assert (made.weights.kernels is not None) == native
        return made

    return make


@pytest.fixture(scope="module")
def prompts(loaded) -> list[Prompt]:
    """Prompts of very different lengths: some ask two or three problems at once."""
    problems = [p.question for p in embedded_problems("test", 200)]
    texts = [" ".join(problems[i : i + 1 + (i % 7 == 0) + (i % 13 == 0)]) for i in range(200)]
    return group_prompts(encode_prompt(loaded.tokenizer, chat_messages(text)) for text in texts)


@pytest.fixture(scope="module")
def expected(loaded, prompts) -> list[list[int]]:
    """The greedy completions of all prompts by transformers."""
    return ids(ReferenceRollouts(loaded.model, loaded.tokenizer, 200).generate(prompts, 1, GREEDY))


def test_greedy_is_transformers_token_for_token(engine, loaded, prompts, expected):
    """200 prompts of mixed length, all at once and through few slots, so that rows leave, move and are replaced."""
    lengths = [len(p.ids) for p in prompts]
    assert max(lengths) > 2 * min(lengths)
    for slots in (200, 24, 3):
        assert ids(engine(loaded.model, loaded.tokenizer, slots).generate(prompts, 1, GREEDY)) == expected


def test_a_seed_means_the_same_completions_whatever_the_batch(engine, loaded, prompts):
    sampling = Sampling(max_new_tokens=96, seed=5)
    whole = engine(loaded.model, loaded.tokenizer, 256).generate(prompts[:40], 4, sampling)
    few = engine(loaded.model, loaded.tokenizer, 11).generate(prompts[:40], 4, sampling)
    assert ids(few) == ids(whole)
    alone = engine(loaded.model, loaded.tokenizer).generate(prompts[7:8], 4, sampling)
    assert ids(alone) == ids(whole)[28:32]
    repeated = [p for p in prompts[:40] for _ in range(4)]  # as TRL asks for them
    assert ids(engine(loaded.model, loaded.tokenizer).generate(repeated, 1, sampling)) == ids(whole)
    assert len({tuple(r) for r in ids(whole)[28:32]}) > 1
    other = Sampling(max_new_tokens=96, seed=6)
    assert ids(engine(loaded.model, loaded.tokenizer).generate(prompts[:40], 4, other)) != ids(whole)


def test_a_group_is_prefilled_once_and_its_samples_are_counted_through(
    engine, loaded, prompts, monkeypatch: pytest.MonkeyPatch
):
    """Draws and prefill depend on the group that a prompt carries, not on its token ids."""
    prefilled: list[int] = []
    admit = Decoder.admit

    def counted(self: Any, first: int, prompts: list[list[int]], *rest: Any) -> None:
        prefilled.append(len(prompts))
        admit(self, first, prompts, *rest)

    monkeypatch.setattr(Decoder, "admit", counted)
    sampling = Sampling(max_new_tokens=48, seed=5)
    a, b = prompts[7], prompts[8]
    whole = ids(engine(loaded.model, loaded.tokenizer).generate([a, b], 4, sampling))
    assert prefilled.pop() == 2
    mixed = ids(engine(loaded.model, loaded.tokenizer).generate([a, b, a, b], 2, sampling))
    assert prefilled.pop() == 2
    assert mixed == [*whole[:2], *whole[4:6], *whole[2:4], *whole[6:]]
    twins = ids(engine(loaded.model, loaded.tokenizer).generate([a, Prompt(a.ids, a.group + 1)], 4, sampling))
    assert prefilled.pop() == 2
    assert twins == [*whole[:4], *whole[:4]]
    with pytest.raises(ValueError, match="group 7 has two different prompts"):
        engine(loaded.model, loaded.tokenizer).generate([a, Prompt(b.ids, 7)], 1, sampling)


def test_many_waiting_rows_go_through_few_slots(engine, loaded, prompts):
    """A slot that is reused must keep nothing of its earlier completion."""
    short = Sampling(max_new_tokens=24, seed=1)
    slow = ids(engine(loaded.model, loaded.tokenizer, 160).generate(prompts[:160], 1, short))
    assert ids(engine(loaded.model, loaded.tokenizer, 5).generate(prompts[:160], 1, short)) == slow


def test_logprobs_are_those_of_a_plain_forward_pass(engine, loaded, prompts):
    sampling = Sampling(max_new_tokens=48, temperature=0.8, seed=2)
    rollouts = engine(loaded.model, loaded.tokenizer, 32).generate(prompts[:60], 1, sampling)
    reference = ReferenceRollouts(loaded.model, loaded.tokenizer)
    scores = reference._logprobs(loaded.model, [p.ids for p in prompts[:60]], ids(rollouts), sampling)
    gaps = [abs(a - b) for r, s in zip(rollouts, scores, strict=True) for a, b in zip(r.logprobs, s, strict=True)]
    assert max(gaps) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_decodes_as_transformers_does(family: str, engine, loaded, prompts):
    model = small(FAMILIES[family])
    settings = Sampling(max_new_tokens=40, temperature=0)
    got = engine(model, loaded.tokenizer, 7).generate(prompts[:24], 1, settings)
    assert ids(got) == ids(ReferenceRollouts(model, loaded.tokenizer).generate(prompts[:24], 1, settings))
    assert len({tuple(r) for r in ids(got)}) > 12  # and not all the same


def test_a_shape_that_the_kernels_do_not_cover_is_left_to_torch(loaded, prompts):
    model = small(Qwen3Config(head_dim=24))
    rollouts = EngineRollouts(model, loaded.tokenizer)
    assert rollouts.weights.kernels is None
    settings = Sampling(max_new_tokens=20, temperature=0)
    expected = ReferenceRollouts(model, loaded.tokenizer).generate(prompts[:10], 1, settings)
    assert ids(rollouts.generate(prompts[:10], 1, settings)) == ids(expected)


def test_bfloat16_is_as_near_to_transformers_as_rounding_allows(engine, loaded, prompts):
    """Products and caches are in bfloat16, sums in float32: a wrong layout or block would give far larger gaps."""
    rollouts = engine(small(FAMILIES["qwen2"]).to(torch.bfloat16), loaded.tokenizer, 32)
    made = rollouts.generate(prompts[:40], 1, Sampling(max_new_tokens=40, seed=1))
    exact = ReferenceRollouts(small(FAMILIES["qwen2"]), loaded.tokenizer)
    scores = exact._logprobs(exact.model, [p.ids for p in prompts[:40]], ids(made), Sampling(40))
    flat = [torch.tensor([score for row in rows for score in row]) for rows in ([r.logprobs for r in made], scores)]
    gaps = (flat[0] - flat[1]).abs()
    assert len(gaps) > 1000
    assert gaps.mean() < 0.05
    assert check_against_transformers(rollouts, prompts).passed


def test_another_architecture_falls_back_and_says_so(loaded):
    model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=1000))
    console = CollectingConsole()
    assert isinstance(make_rollouts(model, loaded.tokenizer, console=console), ReferenceRollouts)
    assert console.lines == [
        "rollouts by transformers' generate, many times slower: the engine does not support architecture gpt2"
    ]
    penalised = Sampling(8, repetition_penalty=1.1)
    assert isinstance(
        make_rollouts(loaded.model, loaded.tokenizer, sampling=penalised, console=console), ReferenceRollouts
    )
    assert isinstance(make_rollouts(loaded.model, loaded.tokenizer, console=console), EngineRollouts)


def test_the_engine_check_passes_here_and_fails_where_something_is_wrong(engine, loaded, prompts):
    """Each of these is a real mistake of some engine: it must be found before the first step."""
    rollouts = engine(loaded.model, loaded.tokenizer)
    check = check_against_transformers(rollouts, prompts)
    assert check.passed
    assert check.tokens >= 32
    assert check.gap < 1e-5

    def broken(harm: Any) -> bool:
        rollouts = engine(loaded.model, loaded.tokenizer)
        harm(rollouts.weights)
        return not check_against_transformers(rollouts, prompts).passed

    def later(name: str, change: Any) -> Any:
        """Apply `change` to what method `name` returns or leaves behind."""

        def harm(weights: Any) -> None:
            method = getattr(weights, name)
            setattr(weights, name, lambda *args: change(weights, method(*args)))

        return harm

    assert broken(later("_turns", lambda _, made: made.conj().resolve_conj()))
    assert broken(later("_turns", lambda _, made: made.roll(1, -2)))
    assert broken(later("sync", lambda w, _: w.layers[0].query_key_value.bias.zero_()))
    assert broken(later("sync", lambda w, _: w.layers[3].down.weight.mul_(1.001)))
    assert broken(later("sync", lambda w, _: setattr(w, "final_norm", torch.ones_like(w.final_norm))))


# -- Weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"r": 8}, {"r": 8, "use_rslora": True}], ids=["plain", "rslora"])
def test_an_adapter_is_merged_as_peft_applies_it(settings: dict[str, Any], engine, loaded, prompts):
    model = adapted(load_model("embedded", dtype="float32").model, **settings)
    got = engine(model, loaded.tokenizer).generate(prompts[:50], 1, GREEDY)
    assert ids(got) == ids(ReferenceRollouts(model, loaded.tokenizer).generate(prompts[:50], 1, GREEDY))
    with model.disable_adapter():
        base = engine(model, loaded.tokenizer).generate(prompts[:50], 1, GREEDY)
    assert ids(base) == ids(engine(loaded.model, loaded.tokenizer).generate(prompts[:50], 1, GREEDY)) != ids(got)


def test_rollouts_are_never_those_of_an_earlier_policy(engine, loaded, prompts):
    """Whichever way the adapter changes: by the optimizer, a loaded state, or a write that autograd does not count."""
    model = adapted(load_model("embedded", dtype="float32").model, r=8)
    rollouts = engine(model, loaded.tokenizer)
    weights = [p for name, p in model.named_parameters() if "lora_B" in name]

    def optimizer_step() -> None:
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        torch.optim.AdamW(weights, lr=0.05).step()

    def write_data() -> None:
        for weight in weights:
            weight.data.mul_(-1)

    def load_state() -> None:
        model.load_state_dict({k: v * 0.1 for k, v in model.state_dict().items() if "lora_B" in k}, strict=False)

    for change in (optimizer_step, write_data, load_state):
        before = ids(rollouts.generate(prompts[:30], 1, GREEDY))
        change()
        after = ids(rollouts.generate(prompts[:30], 1, GREEDY))
        assert after == ids(ReferenceRollouts(model, loaded.tokenizer).generate(prompts[:30], 1, GREEDY)) != before


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_parameters_that_move_are_followed(trained: bool, engine, loaded, prompts):
    """Recorded steps hold addresses of the embedding and the norms: they must not read the old memory."""
    model: Any = small(FAMILIES["qwen3"]).requires_grad_(trained)
    settings = Sampling(max_new_tokens=24, temperature=0)
    rollouts, reference = engine(model, loaded.tokenizer, 8), ReferenceRollouts(model, loaded.tokenizer)
    parameters, generator = list(model.parameters()), torch.Generator().manual_seed(0)

    def changed(weight: torch.Tensor) -> torch.Tensor:
        return weight + 0.05 * torch.randn(weight.shape, generator=generator)

    def move() -> None:  # as model.to(…) does
        for p in parameters:
            p.data = changed(p.data)

    def move_twice() -> None:
        """The second copy may be allocated where the parameters were at first."""
        for p in parameters:
            p.data = p.data.clone()
        for p in parameters:
            p.data = changed(p.data)

    def clone() -> None:
        for p in parameters:
            old, p.data = p.data, changed(p.data)
            old.fill_(torch.nan)  # must not be read

    def load() -> None:
        model.load_state_dict({name: changed(weight) for name, weight in model.state_dict().items()})

    def replace() -> None:
        """Every parameter becomes another object."""
        state = {name: changed(weight) for name, weight in model.state_dict().items()}
        model.load_state_dict(state, assign=True)
        model.requires_grad_(trained)

    for change in (move, load, clone, move_twice, move_twice, replace):
        before = ids(rollouts.generate(prompts[:12], 1, settings))
        change()
        expected = ids(reference.generate(prompts[:12], 1, settings))
        assert ids(rollouts.generate(prompts[:12], 1, settings)) == expected != before


def test_an_adapter_put_on_and_taken_off_later_is_seen(engine, loaded, prompts):
    model = load_model("embedded", dtype="float32").model
    rollouts = engine(model, loaded.tokenizer)
    base = ids(rollouts.generate(prompts[:20], 1, GREEDY))
    with_adapter = adapted(model, r=8)
    expected = ids(ReferenceRollouts(with_adapter, loaded.tokenizer).generate(prompts[:20], 1, GREEDY))
    assert ids(rollouts.generate(prompts[:20], 1, GREEDY)) == expected != base
    with_adapter.unload()
    assert ids(rollouts.generate(prompts[:20], 1, GREEDY)) == base


def test_biases_that_are_trained_are_seen_whatever_the_optimizer(engine, loaded, prompts):
    """Autograd does not count the writes of a fused optimizer, which moves biases without an adapter too."""
    model = get_peft_model(
        load_model("embedded", dtype="float32").model, LoraConfig(r=4, target_modules=["up_proj"], bias="all")
    )
    rollouts = engine(model, loaded.tokenizer)
    before = ids(rollouts.generate(prompts[:20], 1, GREEDY))
    biases = [p for name, p in model.named_parameters() if p.requires_grad and "bias" in name]
    for bias in biases:
        bias.grad = torch.randn_like(bias)
    torch.optim.AdamW(biases, lr=0.5, fused=True).step()
    expected = ids(ReferenceRollouts(model, loaded.tokenizer).generate(prompts[:20], 1, GREEDY))
    assert ids(rollouts.generate(prompts[:20], 1, GREEDY)) == expected != before


def test_an_adapter_of_the_embedding_is_refused(engine, loaded):
    """Its update starts at zero, so no comparison before the first step would show that it is left out."""
    model = get_peft_model(
        load_model("embedded", dtype="float32").model, LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"])
    )
    with pytest.raises(UnsupportedModelError, match="an embedding that is Embedding"):
        engine(model, loaded.tokenizer)


def test_a_decoder_that_memory_keeps_small_is_kept(engine, loaded, prompts, monkeypatch: pytest.MonkeyPatch):
    rollouts = engine(loaded.model, loaded.tokenizer, 128)
    monkeypatch.setattr(rollouts, "_cache_budget", lambda: 2_000_000)
    expected = ids(engine(loaded.model, loaded.tokenizer, 128).generate(prompts[:60], 1, GREEDY))
    for _ in range(2):
        assert ids(rollouts.generate(prompts[:60], 1, GREEDY)) == expected
        ((_, decoder),) = rollouts._decoders
        assert decoder.slots < 40
    assert ids(rollouts.generate(prompts[:60], 1, GREEDY)) == expected
    assert rollouts._decoders[0][1] is decoder


def test_graph_sized_batches_are_safe_with_one_new_token(loaded, prompts):
    """On a GPU slots beyond the running ones are stepped repeatedly too: they must not run out of columns."""
    rollouts = EngineRollouts(loaded.model, loaded.tokenizer, 64, native=False)
    with torch.inference_mode():
        decoder: Any = rollouts._decoder(64, 128, Sampling(max_new_tokens=1, temperature=0))
        decoder.admit(0, [p.ids for p in prompts[:5]], [0, 1, 2, 3, 4], None)
        for _ in range(8):
            decoder._step(64, 128)
    assert decoder.generated[:5].tolist() == [1] * 5


def test_a_thousand_updates_leave_the_base_as_it_was(engine):
    """Merging into the base and unmerging drifts: in bfloat16 by a quarter of a weight after a hundred times."""
    model = adapted(small(FAMILIES["qwen2"]).to(torch.bfloat16), r=4)
    base = {name: p.clone() for name, p in model.named_parameters() if "lora" not in name}
    weights = engine(model, load_model("embedded").tokenizer).weights
    x = torch.randn(5, 64).to(torch.bfloat16)
    first = weights.layers[0].gate_up(x)
    for step in range(1000):
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(weight, 0.01 * (step % 7))
        weights.sync()
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters() if name in base)
    assert weights.version == 1001
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.zero_()
    weights.sync()
    plain = engine(model.unload(), load_model("embedded").tokenizer).weights
    assert torch.equal(weights.layers[0].gate_up(x), plain.layers[0].gate_up(x))
    assert not torch.equal(first, plain.layers[0].gate_up(x))


# -- Draws ------------------------------------------------------------------------------------------------------


@pytest.fixture
def draws(engine, loaded) -> Any:
    """`(logits [B, V], uniform [B], sampling)` → tokens and their log-probabilities, as an engine's decoder draws."""

    def drawn(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        decoder = engine(loaded.model, loaded.tokenizer)._decoder(128, 4, sampling)
        decoder.weights.logits.rows, parts = logits.shape[1], []
        for some, at_random in zip(logits.split(128), uniform.split(128), strict=True):
            count = len(some)
            decoder.generated[:count], decoder.done[:count], decoder.uniform[:count, 0] = 0, False, at_random
            decoder._draw(some.contiguous(), 0, count)
            parts.append((decoder.tokens[:count, 0].clone(), decoder.logprobs[:count, 0].clone()))
        return torch.cat([tokens for tokens, _ in parts]), torch.cat([scores for _, scores in parts])

    return drawn


def frequencies(draws: Any, logits: torch.Tensor, sampling: Sampling, count: int = 20000) -> torch.Tensor:
    uniform = torch.from_numpy(uniforms([1, 2], 0, 9, count))
    tokens, _ = draws(logits.expand(count, -1).clone(), uniform, sampling)
    return torch.bincount(tokens, minlength=len(logits))


@pytest.mark.parametrize("size", [1000, 1024, 33])
def test_draws_follow_the_probabilities(size: int, draws):
    logits = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 2
    expected = (logits / 0.7).softmax(-1).double() * 20000
    counts = frequencies(draws, logits, Sampling(1, temperature=0.7))
    likely = expected >= 5
    seen = [*counts[likely].tolist(), counts[~likely].sum().item()]
    wanted = [*expected[likely].tolist(), max(expected[~likely].sum().item(), 1e-9)]
    assert chisquare(seen, [w * sum(seen) / sum(wanted) for w in wanted]).pvalue > 1e-3


def test_top_k_top_p_and_min_p_cut_where_they_should(draws):
    logits = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]).log()[torch.tensor([3, 0, 4, 1, 2])]
    likely = [1, 3, 4, 0, 2]  # tokens in the order of their probability

    def kept(**settings: Any) -> set[int]:
        return set(frequencies(draws, logits, Sampling(1, **settings)).nonzero()[:, 0].tolist())

    assert kept() == set(likely)
    assert kept(top_k=2) == set(likely[:2])
    assert kept(top_p=0.69) == set(likely[:2])
    assert kept(top_p=0.71) == set(likely[:3])
    assert kept(top_p=0.01) == set(likely[:1])
    assert kept(top_k=3, top_p=0.83) == set(likely[:3])  # top-p of what top-k has left: 0.5, 0.7 of 0.85
    assert kept(top_k=3, top_p=0.82) == set(likely[:2])
    assert kept(min_p=0.25) == set(likely[:3])


def test_the_ends_of_the_unit_interval_draw_possible_tokens(draws):
    """A uniform of 0 must not draw an impossible token, nor one just below 1 run past the end."""
    logits = torch.full((4, 70), -torch.inf)
    logits[:, 40:45] = 0.0
    uniform = torch.tensor([0.0, 1 - 2**-24, 0.5, 0.2])
    tokens, logprobs = draws(logits, uniform, Sampling(1))
    assert tokens.tolist() == [40, 44, 42, 41]
    assert logprobs.exp().tolist() == pytest.approx([0.2] * 4)


def test_the_likeliest_token_is_the_first_of_equals(draws):
    logits = torch.zeros(3, 70)
    logits[0, [17, 69]] = logits[1, 69] = 2.0
    tokens, logprobs = draws(logits, torch.zeros(3), Sampling(1, temperature=0))
    assert tokens.tolist() == [17, 69, 0]
    assert logprobs.tolist() == pytest.approx(logits.log_softmax(-1).amax(-1).tolist(), abs=1e-5)
