"""The models that are shipped: small, found by name from any installation, able to work a problem out, but guessing."""

from importlib import resources

import pytest

from tiny_math_solver.config.shipped import SHIPPED_MODELS, shipped_name
from tiny_math_solver.grading.expression import parse_gold, reaches, read_expression
from tiny_math_solver.models.load import load_model
from tiny_math_solver.problems.countdown import countdown_problems
from tiny_math_solver.prompts import chat_messages, encode_prompt, group_prompts
from tiny_math_solver.rollouts import Sampling, make_rollouts

MEGABYTE = 1 << 20


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_it_is_small(name: str):
    files = resources.files("tiny_math_solver").joinpath(SHIPPED_MODELS[name].folder).iterdir()
    sizes = [len(file.read_bytes()) for file in files if file.is_file()]
    assert MEGABYTE < sum(sizes) < 5 * MEGABYTE


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("embedded", "embedded"),
        ("embedded-countdown", "embedded-countdown"),
        ("/elsewhere/site-packages/tiny_math_solver/embedded", "embedded"),
        ("/elsewhere/site-packages/tiny_math_solver/embedded/countdown", "embedded-countdown"),
        ("/elsewhere/embedded", None),
        ("/elsewhere/my_tiny_math_solver/embedded", None),
        ("countdown", None),
    ],
)
def test_an_adapter_from_another_installation_finds_its_base(base: str, name: str | None):
    assert shipped_name(base) == name


def test_the_countdown_model_guesses_greedily_but_can_search():
    """Catches a model with nothing to learn, and one from which GRPO could not learn."""
    loaded = load_model("embedded-countdown", dtype="float32", device="cpu")
    rollouts = make_rollouts(loaded.model, loaded.tokenizer, 256)
    problems = countdown_problems("test", 100)
    encoded = list(group_prompts(encode_prompt(loaded.tokenizer, chat_messages(p.question)) for p in problems))

    def answers(samples: int, temperature: float) -> list[tuple[str, bool]]:
        made = rollouts.generate(encoded, samples, Sampling(224, temperature=temperature))
        texts = [rollouts.endings.text(rollout.completion_ids) for rollout in made]
        golds = [parse_gold(problem.answer) for problem in problems for _ in range(samples)]
        return [(text, reaches(read_expression(text) or "", *gold)) for text, gold in zip(texts, golds, strict=True)]

    greedy = answers(1, 0.0)
    assert sum(right for _, right in greedy) < 20
    searched = [right for text, right in answers(4, 1.0) if " last: " in text]
    assert 40 < len(searched) < 200
    assert sum(searched) > 0.3 * len(searched)
