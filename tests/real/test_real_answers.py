"""A pretrained 0.5B model on GSM8K's own questions: prompts, decoding and grading. Marker `real`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.models import ids
from helpers.real_models import QWEN, real_model
from tiny_math_solver.config.sections import GSM8K_SYSTEM_PROMPT
from tiny_math_solver.evaluation.evaluate import Evaluation, EvaluationRecord, evaluate
from tiny_math_solver.models.load import LoadedModel, load_model
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.sources import read_file
from tiny_math_solver.prompts import Prompt, PromptFormat, encode_prompt, group_prompts
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import EngineRollouts, ReferenceRollouts, Sampling

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]
FORMAT = PromptFormat(GSM8K_SYSTEM_PROMPT)
PROBLEMS, LONGEST = 64, 512
QUESTIONS = [
    "Nora has 12 boxes with 15 pens each and gives away 37 pens. How many pens does she have left?",
    "A ticket costs $14. Paul buys 9 tickets and pays with $200. How much change does he get?",
    "Kate reads 26 pages on Monday and twice as many on Tuesday. How many pages does she read in all?",
]


@pytest.fixture(scope="module")
def qwen() -> LoadedModel:
    return load_model(str(real_model(QWEN)), dtype="float32")


@pytest.fixture(scope="module")
def engine(qwen: LoadedModel) -> EngineRollouts:
    return EngineRollouts(qwen.model, qwen.tokenizer, batch_size=64)


@pytest.fixture(scope="module")
def prompts(qwen: LoadedModel) -> list[Prompt]:
    return group_prompts(encode_prompt(qwen.tokenizer, FORMAT.messages(question), FORMAT) for question in QUESTIONS)


# -- The prompt -------------------------------------------------------------------------------------------------


def test_the_models_own_template_gets_our_system_prompt_and_ends_where_its_turn_begins(qwen, prompts):
    """Catches Qwen's default system prompt beside ours, a template that is not applied, and numbers kept whole."""
    assert qwen.tokenizer.decode(prompts[0].ids) == (
        f"<|im_start|>system\n{GSM8K_SYSTEM_PROMPT}<|im_end|>\n"
        f"<|im_start|>user\n{QUESTIONS[0]}<|im_end|>\n<|im_start|>assistant\n"
    )
    tokens = [qwen.tokenizer.decode(token) for token in prompts[0].ids]
    assert "".join(tokens).count("12 boxes") == 1
    assert not [token for token in tokens if len(token.strip()) > 1 and token.strip().isdigit()]


# -- generation_config.json -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [EngineRollouts, ReferenceRollouts], ids=["engine", "reference"])
@pytest.mark.parametrize("temperature", [0.0, 0.7], ids=["greedy", "sampled"])
def test_the_models_generation_settings_reach_neither_evaluation_nor_rollouts(
    qwen: LoadedModel, prompts: list[Prompt], kind: Any, temperature: float
):
    """Catches a repetition_penalty of 1.1, top_k or top_p of generation_config.json that shapes completions."""
    own, sampling = qwen.model.generation_config, Sampling(32, temperature)
    assert (own.repetition_penalty, own.top_k, own.top_p) == (1.1, 20, 0.8)
    rollouts = kind(qwen.model, qwen.tokenizer)
    with_settings = ids(rollouts.generate(prompts, 2, sampling))
    try:
        own.repetition_penalty, own.top_k, own.top_p = 1.0, None, None
        without = ids(rollouts.generate(prompts, 2, sampling))
    finally:
        own.repetition_penalty, own.top_k, own.top_p = 1.1, 20, 0.8
    assert with_settings == without


def test_with_the_models_generation_settings_the_answers_would_be_others(qwen, engine, prompts):
    """Catches a comparison that cannot fail: the penalty does change what this model says."""
    ours = ids(engine.generate(prompts, 1, Sampling(64, temperature=0)))
    assert [generate(qwen, prompt, 64, repetition_penalty=1.0) for prompt in prompts] == ours
    leaked = [generate(qwen, prompt, 64) for prompt in prompts]
    assert sum(one != other for one, other in zip(leaked, ours, strict=True)) >= 2


def test_sampled_log_probabilities_are_those_of_the_whole_distribution(qwen, engine, prompts):
    """Catches a top-k, top-p or penalty inside the draw: log-probabilities of what is left would be larger."""
    for rollout in engine.generate(prompts, 2, Sampling(40, temperature=0.7)):
        with torch.inference_mode():
            logits = qwen.model(torch.tensor([rollout.prompt_ids + rollout.completion_ids])).logits[0]
        expected = (logits[len(rollout.prompt_ids) - 1 : -1].float() / 0.7).log_softmax(-1)
        chosen = expected.gather(1, torch.tensor(rollout.completion_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(rollout.logprobs), chosen, atol=1e-3, rtol=0)


def generate(qwen: LoadedModel, prompt: Prompt, tokens: int, **settings: Any) -> list[int]:
    """Greedy tokens of a plain call of transformers' `generate`, which takes the rest from generation_config.json."""
    given = torch.tensor([prompt.ids])
    with torch.inference_mode():
        made = qwen.model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=tokens, do_sample=False, **settings
        )
    return made[0, len(prompt.ids) :].tolist()


# -- Answers to GSM8K -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problems(gsm8k_folder: Path) -> list[Problem]:
    return read_file(gsm8k_folder / "test.jsonl")[:PROBLEMS]


@pytest.fixture(scope="module")
def answers(engine: EngineRollouts, problems: list[Problem]) -> Evaluation:
    """The model's greedy answers, which takes minutes."""
    return evaluate(engine, problems, prompt=FORMAT, max_new_tokens=LONGEST, grader=Grader())


def test_as_many_gsm8k_answers_are_right_as_were_measured(answers: Evaluation):
    """Catches a fault of prompt, decoding, reading or comparing that moves the accuracy of a real model.

    17 of 64 were right on an Intel processor. Another processor sums in another order, which lets one of two tokens as
    good as equal win; in a long answer that happens now and then, and turns few answers from right to wrong or back.
    """
    right = sum(record.correct for record in answers.greedy)
    assert 15 <= right <= 19
    assert sum(record.strict for record in answers.greedy) <= 2  # untrained, it hardly ever writes ####
    assert sum(record.finished for record in answers.greedy) >= 0.8 * PROBLEMS


def test_answers_are_read_where_the_model_states_them(answers: Evaluation):
    """Catches a reader that takes another number of the working, or none, in what a real model writes."""
    assert sum(record.answer is not None for record in answers.greedy) >= 0.85 * PROBLEMS
    right = [record for record in answers.greedy if record.correct]
    assert all(stated_last(record) for record in right)


def stated_last(record: EvaluationRecord) -> bool:
    """True if the answer's digits stand in the last third of the completion."""
    assert record.answer is not None
    end = record.completion[-max(80, len(record.completion) // 3) :]
    return record.answer.lstrip("-") in end.replace(",", "")


def test_the_engine_says_what_transformers_says(qwen, problems: list[Problem], answers: Evaluation):
    """Catches an engine that drifts from transformers over a whole answer, which the check of 32 tokens misses."""
    shortest = sorted((r for r in answers.greedy if r.finished), key=lambda record: record.tokens)[:3]
    questions = {problem.id: problem.question for problem in problems}
    for record in shortest:
        prompt = Prompt(encode_prompt(qwen.tokenizer, FORMAT.messages(questions[record.id]), FORMAT), 0)
        made = generate(qwen, prompt, LONGEST, repetition_penalty=1.0)
        assert qwen.tokenizer.decode(made, skip_special_tokens=True) == record.completion
        assert len(made) == record.tokens
