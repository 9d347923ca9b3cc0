"""Reward functions of the user: tried before a run, checked at each call, and stopped at without a loss."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.runs import SHORT, rows, run
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.markers import How
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.rewards.completion import Completion
from tiny_math_solver.rewards.own import OwnReward, run_together
from tiny_math_solver.support.errors import StoppedError, UserError
from tiny_math_solver.support.own_code import OwnCodeError

TEXTS = ("9 * 2 = 18\n#### 18", "#### 19", "twenty", "")


def reward(folder: Path, code: str, name: str = "pay") -> OwnReward:
    file = folder / f"own{len(list(folder.iterdir()))}.py"  # a file of the same name is not read again
    file.write_text(code, encoding="utf-8", newline="\n")
    return OwnReward(f"{file}:{name}")


def completions(*texts: str, **row: Any) -> list[Completion]:
    prompt = [{"role": "user", "content": "9 * 2?"}]
    return [
        Completion(prompt, {"answer": "18", "level": i, **row}, [7] * len(text), Graded(None, How.NONE, False, text))
        for i, text in enumerate(texts or TEXTS)
    ]


def paid(folder: Path, code: str) -> list[float | None]:
    return reward(folder, code).run(completions(), {})[0]


# -- What a function is given, and may return ---------------------------------------------------------------------


def test_it_is_given_what_trl_gives_and_every_column(tmp_path: Path):
    code = """
def pay(prompts, completions, completion_ids, answer, level, **kwargs):
    assert [p[0]["content"] for p in prompts] == ["9 * 2?"] * 4
    assert sorted(kwargs) == ["more", "step"]
    texts = [c[0]["content"] for c in completions]
    return [a in t and n / 2 + len(i) / 100 for t, a, n, i in zip(texts, answer, level, completion_ids)]
"""
    assert reward(tmp_path, code).run(completions(more=1), {"step": 3})[0] == [0.18, 0.0, 0.0, 0.0]


def test_without_kwargs_it_is_given_what_it_names(tmp_path: Path):
    assert paid(tmp_path, "def pay(level, missing=5): return [l + missing for l in level]") == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("[1, 0, True, False]", [1.0, 0.0, 1.0, 0.0]),
        ("(1, None, 0.5, None)", [1.0, None, 0.5, None]),
        ("__import__('numpy').arange(4)", [0.0, 1.0, 2.0, 3.0]),
        ("__import__('torch').ones(4)", [1.0] * 4),
        ("[__import__('numpy').float32(0.5)] * 4", [0.5] * 4),
    ],
)
def test_numbers_of_any_kind_are_rewards(returned: str, expected: list[float | None], tmp_path: Path):
    values = paid(tmp_path, f"def pay(completions): return {returned}")
    assert values == expected
    assert all(type(value) in (float, type(None)) for value in values)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[1.0] * 3", "returned 3 rewards for 4 completions"),
        ("None", "returned NoneType; a list of 4 numbers is expected"),
        ("{}", "returned dict; a list of 4 numbers is expected"),
        ("0.5", "returned float; a list of 4 numbers is expected"),
        ("'1111'", "returned str; a list of 4 numbers is expected"),
        ("[1, 1, '1', 1]", "returned '1' for the completion 'twenty'; a number is expected, or None"),
        ("[1, float('nan'), 1, 1]", "returned nan for the completion '#### 19'; return None where it does not apply"),
        ("[1, 1, 1, 1e400]", "returned inf for the completion ''; return None where it does not apply"),
    ],
)
def test_anything_else_is_named(returned: str, message: str, tmp_path: Path):
    with pytest.raises(OwnCodeError, match=r"own0\.py:pay returned") as error:
        paid(tmp_path, f"def pay(completions): return {returned}")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "code",
    [
        "def pay(completions):\n    return [int(c[0]['content'][5:]) for c in completions]",
        "def pay(completions):\n    for c in completions:\n        text = c[0]['content']\n        del c\n"
        "        int(text[5:])",
    ],
)
def test_an_exception_names_file_line_and_completion(code: str, tmp_path: Path):
    with pytest.raises(OwnCodeError) as error:
        reward(tmp_path, code).run(completions("#### 19", "#### 20", "twenty-one"), {})
    line = 1 + code[: code.index("int(")].count("\n")
    assert f"own0.py:{line}: ValueError: invalid literal for int() with base 10: 'y-one'" in str(error.value)
    assert "on the completion 'twenty-one'" in str(error.value)


def test_async_functions_run_at_the_same_time(tmp_path: Path):
    code = (
        "import asyncio\nasync def pay(completions):\n    await asyncio.sleep(0.3)\n    return [0.5] * len(completions)"
    )
    functions = {str(i): reward(tmp_path, code) for i in range(4)}
    functions["not async"] = reward(
        tmp_path, "import time\ndef pay(completions):\n    time.sleep(0.3)\n    return [1] * 4"
    )
    started = time.perf_counter()
    found = run_together(functions, completions(), {})
    assert time.perf_counter() - started < 0.9  # one after the other: 1.5 s
    assert {name: values for name, (values, _) in found.items()} == {
        **{str(i): [0.5] * 4 for i in range(4)},
        "not async": [1.0] * 4,
    }
    assert all(0.3 <= seconds < 0.9 for _, seconds in found.values())


def test_an_async_functions_exception_is_named_too(tmp_path: Path):
    with pytest.raises(OwnCodeError, match=r"own0\.py:2: KeyError: 'x', on the completion"):
        run_together({"own": reward(tmp_path, "async def pay(completions):\n    return {}['x']")}, completions(), {})


# -- What cannot be loaded ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("def pay(completions): pass", "payy", "no function payy in "),
        ("def pay(completions) return 1", "pay", "own0.py:1: SyntaxError: "),
        ("x = 1\ny = 1 / 0", "pay", "own0.py:2: ZeroDivisionError: division by zero"),
        ("pay = 3", "pay", "no function pay in "),
        ("def pay(*completions): pass", "pay", "everything is passed by name, so completions gets nothing"),
    ],
)
def test_what_cannot_be_loaded_is_named(code: str, name: str, message: str, tmp_path: Path):
    with pytest.raises(UserError) as error:
        reward(tmp_path, code, name)
    assert message in str(error.value)
    assert str(error.value).startswith("rewards.use: ")


def test_a_function_of_a_package_is_found_by_its_name():
    assert OwnReward("tiny_math_solver.grading.rewards:format_reward").run(completions(), {})[0] == [0.5, 0.5, 0, 0]
    with pytest.raises(UserError, match="ModuleNotFoundError: No module named 'no_such'"):
        OwnReward("no_such:thing")
    with pytest.raises(UserError, match=r"no such file: nowhere\.py"):
        OwnReward("nowhere.py:thing")


# -- Runs ---------------------------------------------------------------------------------------------------------

LINES = "def pay(completions, level, **kwargs):\n    return [{} for c, l in zip(completions, level)]\n"
RUN = [*SHORT, "--evaluation.every", "100", "--grpo.save_steps", "100"]


def problems(folder: Path) -> Path:
    file = folder / "problems.jsonl"
    made = [
        {"question": p.question, "answer": p.worked_answer, "level": i % 3}
        for i, p in enumerate(embedded_problems("train", 80))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8", newline="\n")
    return file


def trained(folder: Path, code: str, *overrides: str, out: str = "run", use: str = "correctness, format") -> Any:
    """A run with the reward `pay` of a file; a second one of the same name needs a process of its own."""
    file = folder / f"{out}.py"
    file.write_text(code, encoding="utf-8", newline="\n")
    names = f"[{use}, '{file}:pay']" if use else f"['{file}:pay']"
    source = ["--problems.source", str(problems(folder)), "--problems.train", "64"]
    return run(folder / out, *RUN, *source, "--rewards.use", names, *overrides)


def test_a_run_pays_what_the_function_says_of_the_columns(tmp_path: Path):
    done = trained(tmp_path, LINES.format("l / 4 if l else None"), "--grpo.max_steps", "4")
    assert any("tried on 16 completions, pays 0.25 to 0.5; " in line and "times None" in line for line in done.lines)
    found = rows(done.folder / "rollouts.jsonl")
    level = {row["question"]: row["level"] for row in rows(tmp_path / "problems.jsonl")}
    assert all(list(row["rewards"]) == ["correctness_reward", "format_reward", "pay"] for row in found)
    assert {(level[row["question"]], row["rewards"]["pay"]) for row in found} == {(0, None), (1, 0.25), (2, 0.5)}
    metrics = rows(done.folder / "metrics.jsonl")
    assert all(row["rewards/pay/mean"] > 0 and row["rewards/pay/seconds"] > 0 for row in metrics)


def test_a_reward_may_be_the_measure_of_success(tmp_path: Path):
    """Right is what the reward says: accuracy, the guards' share and the page follow it, not the gold."""
    code = "def pay(completions, **kwargs):\n    return [float(len(c[0]['content']) % 2) for c in completions]"
    done = trained(tmp_path, code, use="")
    for row in [*rows(done.folder / "rollouts.jsonl"), *rows(done.folder / "eval" / "before.jsonl")]:
        assert row["correct"] is bool(len(row["completion"]) % 2)
        assert row["rewards"] == {"pay": float(row["correct"])}
    (metrics,) = rows(done.folder / "metrics.jsonl")
    made = rows(done.folder / "rollouts.jsonl")
    assert metrics["right"] == pytest.approx(sum(row["correct"] for row in made) / len(made))
    assert any("right is what" in line and "pays 1 and more" in line for line in done.lines)


RAISES = """
def pay(completions, trainer_state, **kwargs):
    if trainer_state.global_step == 2 and {broken}:
        return [1 / len(c[0]["content"][:0]) for c in completions]
    return [len(c[0]["content"]) / 1000 for c in completions]
"""


def test_an_exception_at_a_step_stops_the_run_and_nothing_is_lost(tmp_path: Path):
    """Mended and started again, the run ends with the same bytes as one in which nothing went wrong."""
    four = ["--grpo.max_steps", "4", "--lora.lora_dropout", "0.1"]
    with pytest.raises(StoppedError, match=r"stopped in step 3 by .*ZeroDivisionError.*on the completion") as error:
        trained(tmp_path, RAISES.format(broken="kwargs['log_metric']('x', 1.0) is None"), *four)
    assert error.value.exit_code == 2
    assert "it goes on with step 3" in str(error.value)
    folder = tmp_path / "run"
    assert [row["step"] for row in rows(folder / "metrics.jsonl")] == [1, 2]
    assert [(row["step"], row["name"]) for row in rows(folder / "events.jsonl")] == [(3, "own code failed")]
    assert {row["step"] for row in rows(folder / "rollouts.jsonl")} == {1, 2}
    _reload(tmp_path / "run.py")
    trained(tmp_path, RAISES.format(broken="False"), *four)
    assert [row["step"] for row in rows(folder / "metrics.jsonl")] == [1, 2, 3, 4]
    whole = trained(tmp_path, RAISES.format(broken="False"), *four, out="whole")
    for name in ("adapter_model.safetensors", "rollouts.jsonl"):
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()


def _reload(file: Path) -> None:
    """Have the file read again, as another process would."""
    from tiny_math_solver.support import own_code

    own_code._from_file.cache_clear()
    file.touch()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (LINES.format("c.missing"), "AttributeError: 'list' object has no attribute 'missing'"),
        (LINES.format("'a'"), "returned 'a' for the completion"),
        ("def pay(difficulty): return difficulty", "wants 'difficulty', which is not in the columns of the problems"),
    ],
)
def test_a_function_that_fails_is_refused_before_the_model_is_loaded(code: str, message: str, tmp_path: Path):
    with pytest.raises(UserError) as error:
        trained(tmp_path, code)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_slow_and_random_functions_are_told_of(tmp_path: Path):
    code = "import random, time\ndef pay(prompts):\n    time.sleep(1)\n    return [random.random() for p in prompts]"
    lines = [line for line in trained(tmp_path, code).lines if line.startswith("reward ")]
    assert len(lines) == 1
    assert "not the same when asked again" in lines[0]
    assert "about 1 s of each step" in lines[0]
