"""A batch on its way through TRL: graded once, while it is made or, if a backend of TRL's own made it, afterwards."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.paths import QUICKSTART
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.prompts import Prompt, chat_messages
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import Rollout, Sampling
from tiny_math_solver.training.build import default_tokens
from tiny_math_solver.training.generation import Generation
from tiny_math_solver.training.step_metrics import StepMetrics

TEXTS = {7: "#### 4", 8: "#### 5", 9: "4"}
ROWS: list[dict[str, Any]] = [
    {"prompt": chat_messages("2 + 2?"), "answer": "4", "question": "2 + 2?", "id": str(i), "group": 0, "columns": {}}
    for i in range(3)
]


class Made:
    """Rollouts of one token each, the last first, whose text is that of `TEXTS`."""

    endings: Any = SimpleNamespace(text=lambda ids: TEXTS[ids[0]], finished=lambda ids: True)

    def generate(self, prompts: Any, samples: int, sampling: Sampling, on_done: Any) -> list[Rollout]:
        made = [Rollout([1], [7 + index], True, [0.0]) for index in range(len(prompts))]
        for index in reversed(range(len(made))):
            on_done(index, made[index])
        return made


def generation() -> Generation:
    made = Generation([Prompt([1], 0)], Sampling(4), StepMetrics(), Grader())
    made.rollouts = Made()  # type: ignore[assignment]
    made.begin(ROWS)
    return made


@pytest.mark.parametrize("is_own_backend", [False, True])
def test_each_row_has_the_rewards_of_its_completion(is_own_backend: bool):
    """TRL's vLLM, for one, never asks for our rollouts."""
    made = generation()
    ids = [[7], [8], [9]]
    if not is_own_backend:
        made.hold(made.make(ROWS, range(len(ROWS)), seed=0))
        assert made.rollout_func([row["prompt"] for row in ROWS], None)["completion_ids"] == ids
    correctness, form = made.reward_functions()
    assert correctness(prompts=[], completions=[], completion_ids=ids) == [1.0, 0.0, 1.0]
    assert form(prompts=[], completions=[], completion_ids=ids) == [0.5, 0.5, 0.0]
    assert made.ended() == [(1, True)] * 3
    assert [(row["id"], row["completion"]) for row in made.records(1, [0.0] * 3)] == [
        (str(i), text) for i, text in enumerate(TEXTS.values())
    ]


def test_time_within_another_part_counts_once():
    metrics = StepMetrics()
    with metrics.timed("rollout"):
        time.sleep(0.02)
        with metrics.timed("reward"):
            time.sleep(0.05)
    taken = metrics.take(1)
    assert taken["time/reward"] >= 0.05
    assert 0.02 <= taken["time/rollout"] < 0.05


@pytest.mark.parametrize(
    ("overrides", "on_a_cpu", "on_a_gpu"),
    [
        (["--grpo.per_device_train_batch_size", "512"], 4096, 65536),
        # 8 completions of at most 128 + 72 tokens
        (["--grpo.per_device_train_batch_size", "8", "--grpo.max_completion_length", "72"], 1600, 1600),
    ],
)
def test_a_pass_has_no_more_tokens_than_a_step(overrides: list[str], on_a_cpu: int, on_a_gpu: int):
    config = load_config(QUICKSTART, ["--grpo.gradient_accumulation_steps", "1", *overrides])
    assert default_tokens(config, "cpu") == on_a_cpu
    assert default_tokens(config, "cuda") == on_a_gpu
