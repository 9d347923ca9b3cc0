"""Preparing a run: which problems it keeps, and what it says it will do."""

import json
from pathlib import Path

import pytest

from helpers.paths import QUICKSTART
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.models.load import load_tokenizer
from tiny_math_solver.problems.splits import load_splits
from tiny_math_solver.prompts import chat_messages, encode_prompt
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.training.plan import prepare

FEW = ["--problems.train", "60", "--problems.dev", "4", "--problems.test", "4"]


def test_train_problems_with_too_long_a_prompt_are_dropped_and_counted():
    config = load_config(QUICKSTART, FEW)
    tokenizer = load_tokenizer("embedded")
    sizes = [len(encode_prompt(tokenizer, chat_messages(p.question))) for p in load_splits(config.problems).train]
    limit = sorted(sizes)[40]
    too_long = sum(size > limit for size in sizes)
    prepared = prepare(load_config(QUICKSTART, [*FEW, "--prompt.max_tokens", str(limit)]))
    assert 0 < too_long == prepared.plan.dropped
    assert len(prepared.splits.train) == len(prepared.prompts) == len(sizes) - too_long
    assert f"{too_long} train problems dropped: their prompt has over {limit} tokens" in prepared.plan.lines


@pytest.mark.parametrize(
    ("overrides", "is_still"),
    [
        ("--grpo.max_steps 1 --grpo.warmup_steps 1 --grpo.lr_scheduler_type linear", True),
        ("--grpo.max_steps 1 --grpo.warmup_steps 0.05 --grpo.lr_scheduler_type cosine", True),
        ("--grpo.max_steps 1 --grpo.lr_scheduler_type linear", False),
        ("--grpo.max_steps 2 --grpo.warmup_steps 5 --grpo.lr_scheduler_type linear", False),
        ("--grpo.max_steps 1 --grpo.warmup_steps 1 --grpo.lr_scheduler_type constant", False),
    ],
)
def test_a_run_that_ends_before_it_has_warmed_up_is_said_to_learn_nothing(overrides: str, is_still: bool):
    plan = prepare(load_config(QUICKSTART, [*FEW, *overrides.split()])).plan
    warning = "nothing will be learned: a warm-up begins at learning rate 0, and there is one step; set warmup_steps 0"
    assert (warning in plan.lines) == is_still


def test_dropped_rows_and_prompts_are_in_the_plan_and_in_the_record_of_the_run(tmp_path: Path):
    rows = [{"Body": f"Ann has {n} pens", "Question": "and buys 2. How many?", "Answer": n + 2.0} for n in range(60)]
    rows[7]["Answer"] = rows[9]["Answer"] = "many"
    rows[20]["Body"] = "Ann has a pen, " * 40
    path = tmp_path / "own.json"
    path.write_text(json.dumps(rows))
    own = ["--problems.source", str(path), "--problems.dev", "4", "--problems.test", "6"]
    plan = prepare(load_config(QUICKSTART, own)).plan
    assert plan.dropped_line in plan.lines
    assert {line for line in plan.lines if "own.json" in line} == {
        f"problems: {path}: {len(plan.splits.train)} train, 4 dev, 6 test",
        f"{path}: SVAMP layout, question from Body + Question, answer from Answer",
        f"{path}: 2 of 60 rows dropped as unreadable: {path} row 8: cannot read a gold number from the answer 'many'; "
        f"{path} row 10: cannot read a gold number from the answer 'many'",
    }
    counts = {"train": 47, "dev": 4, "test": 6, "unseen": 0, "tested": 6, "unreadable": 2, "too_long": 1}
    assert plan.record == {**counts, "notes": plan.splits.notes}
    assert "6 test problems carved from train; problems.test_source names others" in plan.splits.notes


def test_too_few_problems_for_a_step_are_refused():
    with pytest.raises(UserError, match=r"every prompt has over 5 tokens; raise prompt\.max_tokens"):
        prepare(load_config(QUICKSTART, [*FEW, "--prompt.max_tokens", "5"]))
    with pytest.raises(UserError, match="8 train problems are fewer than a generation batch"):
        prepare(load_config(QUICKSTART, [*FEW, "--problems.train", "8"]))


def test_the_plan_says_what_is_chosen():
    """Catches a setting that is on without a word, and a share that is said before it is rounded."""
    assert prepare(load_config(QUICKSTART, FEW)).plan.choice_line == ""
    chosen = ["--problems.sampling", "adaptive", "--rollouts.replace_dead", "2", "--update.share", "0.45"]
    plan = prepare(load_config(QUICKSTART, [*FEW, *chosen])).plan
    assert plan.choice_line in plan.lines
    assert plan.choice_line == (
        "problems that were all right or all wrong lately are asked less often; groups of equal rewards give way to "
        "further problems, in up to 2 rounds a batch; 4 of the 8 completions of a problem are learned from"
    )
