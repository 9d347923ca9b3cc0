"""Each cause speaks where it should and is silent where it should be; sabotaged runs name theirs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.paths import QUICKSTART, ROOT
from helpers.runs import run
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.training.causes import CAUSES, Ended, causes
from tiny_math_solver.training.guards import History

CORRECT, FORMAT = "rewards/correctness_reward/mean", "rewards/format_reward/mean"
CUT, LENGTH, DEAD = "completions/clipped_ratio", "completions/mean_length", "frac_reward_zero_std"
HEALTHY = {CORRECT: 0.3, FORMAT: 0.3, CUT: 0.02, LENGTH: 100.0, DEAD: 0.3}
NO_GAIN = {"fixed": 5, "broken": 6, "p_value": 1.0}


def ended(
    first: dict[str, float] | None = None,
    last: dict[str, float] | None = None,
    overrides: tuple[str, ...] = (),
    before: float = 0.2,
    dev: tuple[float, ...] = (0.2, 0.21, 0.2),
    same: float = 0.3,
    tests: int = 500,
    paired: dict[str, float] = NO_GAIN,
    after: float = 0.2,
) -> Ended:
    rows = [HEALTHY | (first or {})] * 5 + [HEALTHY | (first or {}) | (last or {})] * 5
    config = load_config(QUICKSTART, list(overrides))
    points = [
        {"step": float(4 * i), "accuracy": share, "low": share - 0.05, "high": share + 0.05}
        for i, share in enumerate(dev)
    ]
    blocks: Any = {"before": {"accuracy": before}, "after": {"accuracy": after, "n": tests}}
    history = History([row | {"step": i + 1} for i, row in enumerate(rows)], config, torch.float32)
    return Ended(history, **blocks, paired=paired, dev=points, same_words=same)


@pytest.mark.parametrize(
    ("run_", "expected"),
    [
        (ended(), []),
        (ended(overrides=("--grpo.reward_weights", "[0.0,1.0]")), ["no_weight"]),
        (ended(overrides=("--grpo.beta", "5")), ["held"]),
        (ended(overrides=("--grpo.beta", "0.05")), []),
        (ended(before=0.95, after=0.95), ["solved"]),
        (ended(dev=(0.2, 0.5, 0.2)), ["fell_again"]),
        (ended({CUT: 0.3}), ["cut_off"]),
        (ended({CUT: 0.3}, {CUT: 0.0}), ["cut_off"]),
        (ended({DEAD: 0.9}), ["equal_rewards"]),
        (ended({CORRECT: 0.05}, overrides=("--grpo.temperature", "2.5")), ["too_hot"]),
        (ended({CORRECT: 0.19}, overrides=("--grpo.temperature", "2.5")), []),
        (ended({CORRECT: 0.01}), ["rarely_right"]),
        (ended(same=0.95), ["hardly_moved"]),
        (ended({FORMAT: 0.1}, {FORMAT: 0.4}), ["format_alone"]),
        (ended({FORMAT: 0.1}, {FORMAT: 0.4, CORRECT: 0.5}), []),
        (ended({}, {LENGTH: 20.0}), ["shrunk"]),
        (ended(dev=(0.2, 0.3, 0.4)), ["still_rising"]),
        (ended(tests=64, paired={"fixed": 9, "broken": 4, "p_value": 0.27}), ["few_tests"]),
        (ended(tests=64), []),
    ],
)  # fmt: skip
def test_each_cause_is_found_where_it_is_and_nowhere_else(run_: Ended, expected: list[str]):
    assert [cause.__name__ for cause in CAUSES if cause(run_)] == expected


def test_a_good_result_needs_no_causes():
    gain = {"fixed": 400, "broken": 0, "p_value": 1e-50}
    assert causes(ended({DEAD: 0.9}, paired=gain, after=0.95)) == []
    assert len(causes(ended({DEAD: 0.9}, paired=gain, after=0.6))) == 1


@pytest.mark.parametrize(
    ("dead", "expected"),
    [
        (ended({DEAD: 0.9}, overrides=("--grpo.temperature", "0.05")), "raise grpo.temperature (now 0.05"),
        (ended({DEAD: 0.9, CORRECT: 0.0}, overrides=("--grpo.temperature", "2")), "lower grpo.temperature (now 2"),
        (ended({DEAD: 0.9, CORRECT: 0.9}), "harder problems"),
        (ended({DEAD: 0.9, CORRECT: 0.0}), "golds belong to the questions"),
        (ended({DEAD: 0.9}), "more samples a problem (grpo.num_generations, now 8)"),
    ],
)  # fmt: skip
def test_the_advice_on_equal_rewards_fits_what_keeps_them_equal(dead: Ended, expected: str):
    (text,) = [text for text in causes(dead) if "equal rewards" in text]
    assert expected in text
    others = {"raise grpo.temperature", "lower grpo.temperature", "harder problems", "golds belong"}
    assert not [other for other in others if other in text and other not in expected]


def test_every_cause_names_its_setting_and_has_a_row_in_the_docs():
    rows = (ROOT / "docs/nothing-learned.md").read_text(encoding="utf-8").split("## The same")[0].count("\n| ") - 1
    assert rows == len(CAUSES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("--grpo.max_completion_length", "24"), "were cut off: raise grpo.max_completion_length (now 24)"),
        (("--grpo.learning_rate", "1e-6"), "hardly moved: raise grpo.learning_rate (now 1e-06)"),
        (("--grpo.temperature", "0.01", "--grpo.learning_rate", "1e-6"), "raise grpo.temperature (now 0.01"),
        (("--grpo.temperature", "2.5"), "at grpo.temperature 2.5, 8."),
        (("--grpo.reward_weights", "[0.0,1.0]"), "right answers earn nothing"),
        (("--grpo.beta", "5"), "grpo.beta 5 holds the policy"),
        (("--grpo.max_steps", "2"), "dev was still rising"),
    ],
)  # fmt: skip
def test_a_sabotaged_quickstart_names_its_cause(tmp_path: Path, overrides: tuple[str, ...], expected: str):
    result = run(tmp_path / "run", "--grpo.max_steps", "12", *overrides)
    assert any(expected in cause for cause in result.summary["causes"])
