"""The rewards that come with the package: what each pays, and what does not earn more."""

import re
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import QUICKSTART, ROOT
from helpers.runs import SHORT, rows, run
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.rewards import SHIPPED, RewardNames, reward_names
from tiny_math_solver.rewards.completion import Completion
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rewards.own import OwnReward
from tiny_math_solver.support.errors import UserError

DOC = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")


def paid(text: str, *used: str, tokens: int = 10, limit: int = 100, gold: str = "18") -> tuple[float | None, ...]:
    grader = Grader("number", RewardNames(used, (1.0,) * len(used), 0), limit=limit)
    completion = Completion([], {}, [7] * tokens, grader.grade(None, text, gold))
    return tuple(grader.rewards([completion])[0].values())


@pytest.mark.parametrize(
    ("text", "rewards"),
    [
        ("9*2=18\n#### 18", (1.0, 0.5, 0.0)),
        ("9*2=18\n#### 19", (0.0, 0.5, 0.0)),
        ("So \\boxed{18}", (1.0, 0.0, 0.5)),
        ("So \\boxed{18 or 19}", (0.0, 0.0, 0.0)),
        ("The answer is 18.", (1.0, 0.0, 0.0)),
        ("####", (0.0, 0.0, 0.0)),
        ("", (0.0, 0.0, 0.0)),
    ],
)
def test_correctness_format_and_boxed(text: str, rewards: tuple[float, ...]):
    assert paid(text, "correctness", "format", "boxed") == rewards


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>9*2=18</think> <answer>18</answer>", 0.5),
        ("9*2=18</think>\n<answer>19</answer>\n", 0.5),
        ("<think></think><answer></answer>", 0.0),
        ("<think>a</think> <answer>18</answer> and more", 0.0),
        ("<answer>18</answer>", 0.0),
        ("<think>a</think> <answer>18</answer> <answer>18</answer>", 0.0),
        ("<think>a</think> <think>b</think> <answer>18</answer>", 0.0),
        ("<think>a</think> <answer>18 or 20</answer>", 0.0),
    ],
)
def test_tag_pays_for_the_whole_form(text: str, reward: float):
    assert paid(text, "correctness", "tag")[1] == reward


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("9*2=18, so 18+1=<<18+1=19>>19", 0.5),
        ("9*2=18, so 18+1=20", 0.25),
        ("9*2=19", 0.0),
        ("1=1 and 18", 0.0),
        ("no equation", 0.0),
        ("1+1=2 " * 50, 0.5),  # many of them earn no more than one
    ],
)
def test_steps_pays_for_equations_that_hold(text: str, reward: float):
    assert paid(text, "steps") == (reward,)


@pytest.mark.parametrize(("tokens", "reward"), [(1, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (120, -1.0)])
def test_length_punishes_the_last_fifth(tokens: int, reward: float):
    assert paid("x", "length", tokens=tokens) == (pytest.approx(reward),)


def test_every_shipped_reward_is_in_the_documentation_and_can_be_used_at_once(tmp_path: Path):
    table = re.findall(r"^\| `(\w+)` \|", DOC.partition("| shipped | pays |")[2].partition("\n\n")[0], re.MULTILINE)
    assert sorted(table) == sorted(SHIPPED)
    done = run(tmp_path / "run", *SHORT, "--rewards.use", f"[{', '.join(SHIPPED)}]")
    (row,) = rows(done.folder / "metrics.jsonl")
    found = rows(done.folder / "rollouts.jsonl")
    for name in reward_names(SHIPPED):
        values = [each["rewards"][name] for each in found]
        assert row[f"rewards/{name}/mean"] == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_the_examples_of_the_documentation_run(tmp_path: Path):
    own, kind = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    file = tmp_path / "doc.py"
    file.write_text(own + "\n\n" + kind, encoding="utf-8", newline="\n")
    assert own.count("\n") <= 10, "a reward of ten lines is promised"
    grader = Grader()
    made = [
        Completion([], {"difficulty": level}, [7], grader.grade(None, "a few words", None)) for level in (None, 0, 1)
    ]
    assert OwnReward(f"{file}:concise").run(made, {})[0] == [None, 1.0, 1.0]
    judge = Grader(f"{file}:is_right")
    assert [judge.grade(None, f"#### {n}", "1000").correct for n in (1000, 1009, 1020, "many")] == [
        True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--rewards.use", "[corectness]"], "no reward is called 'corectness'; did you mean correctness?"),
        (["--rewards.use", "[]"], "nothing would be learned without a reward"),
        (["--rewards.use", "[format, format]"], "format is there twice"),
        (["--rewards.measure", "steps"], "rewards.measure 'steps' is not among the rewards (correctness, format)"),
        (["--grpo.reward_weights", "[1, 1, 1]"], "grpo.reward_weights has 3 numbers for the 2 rewards"),
        (["--problems.answer_kind", "numbers"], "problems.answer_kind = 'numbers': did you mean number?"),
        (["--rewards.use", "[nowhere.py:pay]", "--grpo.reward_weights", "[1]"], ""),
    ],
)
def test_rewards_that_do_not_go_together_are_refused(overrides: list[str], message: str):
    if not message:
        load_config(QUICKSTART, overrides)  # the function is looked for when it is needed
        return
    with pytest.raises(UserError) as error:
        load_config(QUICKSTART, overrides)
    assert message in str(error.value)


def test_the_short_form_is_that_of_use(tmp_path: Path):
    config = tmp_path / "c.yaml"
    config.write_text("rewards: [correctness, steps]\n", encoding="utf-8", newline="\n")
    names = load_config(config).reward_names
    assert names.names == ("correctness_reward", "steps_reward")
    assert (names.right, names.marked, names.weights) == ("rewards/correctness_reward/mean", None, (1.0, 1.0))


def test_equal_names_are_told_apart():
    used: Any = ("a.py:pay", "b.py:pay", "c.py:other", "steps")
    assert reward_names(used) == ("a.py:pay", "b.py:pay", "other", "steps_reward")
