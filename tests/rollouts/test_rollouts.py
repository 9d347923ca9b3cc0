"""Engine and reference against a plain loop: padding, end tokens, sampling settings, the adapter."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tiny_math_solver.models.load import load_model, load_tokenizer
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import Prompt, PromptFormat, chat_messages, encode_prompt, group_prompts, train_prompts
from tiny_math_solver.rollouts import EngineRollouts, ReferenceRollouts, Rollout, Sampling
from tiny_math_solver.support.errors import UserError

QUESTIONS = ["2+2?", "Ada has 3 kites and finds 14 more. How many kites does she have in all?", "And then?"]
GREEDY = Sampling(max_new_tokens=12, temperature=0)


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path):
    return load_model(str(tiny_model_folder), dtype="float32")


@pytest.fixture(scope="module")
def prompts(loaded) -> list[Prompt]:
    return group_prompts(encode_prompt(loaded.tokenizer, chat_messages(q)) for q in QUESTIONS)


@pytest.fixture(params=[EngineRollouts, ReferenceRollouts], ids=["engine", "reference"])
def kind(request: pytest.FixtureRequest):
    return request.param


def by_hand(model, ids: list[int], steps: int, eos: set[int]) -> list[int]:
    """Greedy decoding without cache, padding or batch."""
    made: list[int] = []
    while len(made) < steps and not (made and made[-1] in eos):
        with torch.no_grad():
            made.append(model(torch.tensor([ids + made])).logits[0, -1].argmax().item())
    return made


def test_greedy_is_argmax_whatever_the_padding_and_the_models_own_settings(kind, loaded, prompts):
    """Catches wrong left padding and a repetition_penalty or top_k leaking in from generation_config.json."""
    assert loaded.model.generation_config.repetition_penalty != 1.0  # the trap is set
    made = kind(loaded.model, loaded.tokenizer).generate(prompts, 1, GREEDY)
    eos = {loaded.tokenizer.eos_token_id, loaded.tokenizer.pad_token_id}
    for rollout, prompt in zip(made, prompts, strict=True):
        assert rollout.prompt_ids == prompt.ids
        assert rollout.completion_ids == by_hand(loaded.model, prompt.ids, 12, eos)
    assert loaded.model.generation_config.repetition_penalty != 1.0  # and stays the model's own afterwards


def test_order_and_groups_survive_batching_by_length(kind, loaded, prompts):
    one = kind(loaded.model, loaded.tokenizer, batch_size=1).generate(prompts, 2, GREEDY)
    many = kind(loaded.model, loaded.tokenizer, batch_size=64).generate(prompts, 2, GREEDY)
    assert [r.completion_ids for r in one] == [r.completion_ids for r in many]
    assert [r.prompt_ids for r in many] == [prompt.ids for prompt in prompts for _ in range(2)]


def test_every_end_token_of_the_model_is_kept_and_ends_the_completion(kind, loaded, prompts):
    """Without its end token a completion counts as truncated, and everything after it is noise."""
    rollouts = kind(loaded.model, loaded.tokenizer)
    assert rollouts.eos_ids == sorted({loaded.tokenizer.eos_token_id, loaded.tokenizer.pad_token_id})
    whole = [r.completion_ids for r in rollouts.generate(prompts, 1, GREEDY)]
    ends = [whole[0][3], whole[1][5]]
    rollouts.eos_ids = sorted(ends)
    for rollout, ids in zip(rollouts.generate(prompts, 1, GREEDY), whole, strict=True):
        end = next((i for i, token in enumerate(ids) if token in ends), None)
        assert rollout.completion_ids == (ids if end is None else ids[: end + 1])
        assert rollout.finished == (end is not None)


def test_logprobs_are_those_of_the_sampled_tokens_at_the_temperature(kind, loaded, prompts):
    sampling = Sampling(max_new_tokens=8, temperature=0.7)
    for rollout in kind(loaded.model, loaded.tokenizer).generate(prompts, 2, sampling, logprobs=True):
        ids = rollout.prompt_ids
        for token, logprob in zip(rollout.completion_ids, rollout.logprobs, strict=True):
            logits = loaded.model(torch.tensor([ids])).logits[0, -1] / 0.7
            assert logprob == pytest.approx(logits.log_softmax(-1)[token].item(), abs=1e-4)
            ids = [*ids, token]


def test_samples_follow_the_policy(kind, loaded, prompts):
    """Chi-square on the first token of 4,000 samples, by the policy's own probabilities."""
    from scipy.stats import chisquare

    model = loaded.model
    sharpened = Sampling(max_new_tokens=1, temperature=0.05, top_k=0, seed=1)
    made = kind(model, loaded.tokenizer, 1000).generate(prompts[:1], 4000, sharpened)
    expected = (model(torch.tensor([prompts[0].ids])).logits[0, -1] / 0.05).softmax(-1).detach()
    counts = torch.bincount(torch.tensor([r.completion_ids[0] for r in made]), minlength=len(expected))
    likely = expected * 4000 >= 5
    seen = [*counts[likely].tolist(), counts[~likely].sum().item()]
    wanted = [*(expected[likely] * 4000).tolist(), expected[~likely].sum().item() * 4000]
    scale = sum(seen) / sum(wanted)
    assert chisquare(seen, [w * scale for w in wanted]).pvalue > 1e-4


def test_an_adapter_changes_the_rollouts_and_its_dropout_does_not(kind, tiny_model_folder: Path, loaded, prompts):
    """The classic silent failure: rollouts that come from the base model while the adapter trains."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear"))
    model.train()
    rollouts = kind(model, loaded.tokenizer)
    before = rollouts.generate(prompts, 1, GREEDY)
    assert before == kind(loaded.model, loaded.tokenizer).generate(prompts, 1, GREEDY)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    after = rollouts.generate(prompts, 1, GREEDY)
    assert after != before
    assert rollouts.generate(prompts, 1, GREEDY) == after  # with dropout active two calls would differ
    assert model.training


def test_the_prompt_is_the_chat_template_and_nothing_else(loaded):
    system = "Show your work."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "2+2?"}]
    assert chat_messages("2+2?", system) == messages
    tokenizer = loaded.tokenizer
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert encode_prompt(tokenizer, messages) == expected
    assert tokenizer.decode(expected).endswith("<|im_start|>assistant\n")


def test_prompts_without_groups_of_their_own_get_one_for_each_that_is_distinct():
    """A problem that occurs twice in a file must not be sampled twice with the same draws."""
    assert group_prompts([[5, 6], [7], [5, 6]]) == [Prompt([5, 6], 0), Prompt([7], 1), Prompt([5, 6], 0)]


def test_a_tokenizer_without_chat_template_is_refused(tiny_model_folder: Path):
    tokenizer = load_tokenizer(str(tiny_model_folder))
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        encode_prompt(tokenizer, chat_messages("2+2?"))


def test_long_prompts_are_dropped_whole(loaded):
    problems = [Problem(str(i), "word " * i, "", "1") for i in (1, 50, 2)]
    limit = len(encode_prompt(loaded.tokenizer, chat_messages("word " * 2)))
    kept, prompts = train_prompts(loaded.tokenizer, problems, PromptFormat(), limit)
    assert [p.id for p in kept] == ["1", "2"]
    assert [p.ids for p in prompts] == [encode_prompt(loaded.tokenizer, chat_messages(p.question)) for p in kept]


def test_groups_are_numbered_by_the_length_of_their_prompt(loaded):
    problems = [Problem(str(i), "word " * i, "", "1") for i in (30, 1, 2, 1)]
    _, prompts = train_prompts(loaded.tokenizer, problems, PromptFormat(), 1000)
    assert [p.group for p in prompts] == [2, 0, 1, 0]  # two problems with one prompt count their samples together


@pytest.mark.parametrize(("kind", "tokens"), [(EngineRollouts, 12), (EngineRollouts, 0), (ReferenceRollouts, 12)])
def test_every_completion_is_told_with_its_place(kind, tokens: int, loaded, prompts):
    told: dict[int, Rollout] = {}

    def on_done(index: int, rollout: Rollout) -> None:
        assert index not in told
        told[index] = rollout

    rollouts = kind(loaded.model, loaded.tokenizer, batch_size=2)
    made = rollouts.generate(prompts, 3, Sampling(tokens, temperature=1.0, seed=3), logprobs=True, on_done=on_done)
    assert [told[index] for index in range(len(made))] == made
    assert len(made) == 9


def test_a_seed_means_the_same_samples_in_any_batch_and_by_either(loaded, prompts):
    """Whoever asks for a part, in whatever order, with whatever else. Catches draws in the order of the rows."""
    sampling = Sampling(max_new_tokens=24, temperature=1.0, seed=3)
    engine, reference = (
        kind(loaded.model, loaded.tokenizer, batch_size=size)
        for kind, size in ((EngineRollouts, 128), (ReferenceRollouts, 5))
    )
    whole = [rollout.completion_ids for rollout in engine.generate(prompts, 4, sampling)]
    for rollouts in (engine, reference):
        for order in (list(range(len(prompts))), list(reversed(range(len(prompts) // 2)))):
            found = rollouts.generate([prompts[place] for place in order], 4, sampling)
            assert [rollout.completion_ids for rollout in found] == [
                whole[4 * place + number] for place in order for number in range(4)
            ]
        later = [Prompt(prompt.ids, prompt.group, first=2) for prompt in prompts]
        assert [rollout.completion_ids for rollout in rollouts.generate(later, 2, sampling)] == [
            ids for place in range(len(prompts)) for ids in whole[4 * place + 2 : 4 * place + 4]
        ]


def test_where_transformers_draws_two_parts_of_a_batch_are_not_drawn_alike(loaded, prompts):
    """Settings that the engine does not know. Two processes with one seed would answer with the same luck."""
    sampling = Sampling(max_new_tokens=8, temperature=1.5, seed=3, extra={"typical_p": 0.999})
    rollouts = ReferenceRollouts(loaded.model, loaded.tokenizer)
    first, second = ([Prompt(prompts[0].ids, 0, first=number)] for number in (0, 4))
    one, again, other = (
        [rollout.completion_ids for rollout in rollouts.generate(part, 4, sampling)] for part in (first, first, second)
    )
    assert one == again
    assert one != other
