"""The prompt: variables and dates of chat templates reach every one, and what would do nothing is said."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.paths import QUICKSTART
from helpers.runs import SHORT, run
from tiny_math_solver.cli import main
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.evaluation.prompt_settings import prompt_settings
from tiny_math_solver.models.load import load_model, load_tokenizer
from tiny_math_solver.playground.solver import Solver
from tiny_math_solver.preflight.check import check
from tiny_math_solver.prompts import (
    PromptFormat,
    chat_messages,
    check_variables,
    encode_prompt,
    idle_settings,
    puts_in_date,
    read_template,
    render,
    turn_end,
)
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import ReferenceRollouts
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.resume import ResumeOptions, recorded_date
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.training.plan import prepare

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
START = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SWITCH = "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
QWEN3 = TURNS + START.replace("{% endif %}", SWITCH + "{% endif %}")
SMOLLM3 = (
    "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}"
    '{%- set today = strftime_now("%d %B %Y") -%}<|im_start|>system\n{{ today }}<|im_end|>\n'
    + TURNS
    + START.replace("{% endif %}", "{% if not enable_thinking %}<think></think>{% endif %}{% endif %}")
)
LLAMA3 = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}'
    "{%- endif %}{%- endif %}\nToday: {{ date_string }}\n" + TURNS + START
)


@pytest.fixture
def tokenizer() -> Any:
    return load_tokenizer("embedded")


def made(tokenizer: Any, template: str, prompt: PromptFormat) -> str:
    tokenizer.chat_template = template
    return render(tokenizer, prompt.messages("2+2?"), prompt)


@pytest.mark.parametrize("template", [QWEN3, SMOLLM3], ids=["qwen3", "smollm3"])
def test_a_switch_of_the_template_shapes_the_prompt(tokenizer: Any, template: str):
    assert made(tokenizer, template, PromptFormat(variables={"enable_thinking": False})).endswith("<think></think>")
    assert made(tokenizer, template, PromptFormat()).endswith("assistant\n")
    ids = encode_prompt(tokenizer, [{"role": "user", "content": "2+2?"}], PromptFormat("", {"enable_thinking": False}))
    assert tokenizer.decode(ids).endswith("<think></think>")


def test_lists_and_documents_reach_the_template(tokenizer: Any):
    hints = PromptFormat(variables={"hints": ["a", "b"], "documents": [{"title": "t", "text": "x"}]})
    template = "{% for h in hints %}{{ h }};{% endfor %}{% for d in documents %}{{ d.title }}{% endfor %}"
    assert made(tokenizer, template, hints) == "a;b;t"
    check_variables(tokenizer, hints)
    assert idle_settings(tokenizer, hints, "q") == []  # without documents this template fails


def test_a_variable_that_the_template_never_mentions_is_refused(tokenizer: Any):
    tokenizer.chat_template = QWEN3
    with pytest.raises(UserError, match=r"never mentions thinking: it would change nothing; its own var.*enable_think"):
        check_variables(tokenizer, PromptFormat(variables={"thinking": False}))
    tokenizer.chat_template = "{% generation %}{{ x }}{% endgeneration %}{% for m in messages %}{% break %}{% endfor %}"
    check_variables(tokenizer, PromptFormat(variables={"x": 1}))  # transformers' own tags can be read


def test_a_value_that_changes_nothing_is_said(tokenizer: Any):
    """Catches "false" in quotes, which a template that asks for `is false` takes for true."""
    tokenizer.chat_template = QWEN3
    (note,) = idle_settings(tokenizer, PromptFormat(variables={"enable_thinking": "false"}), "q")
    assert note == "grpo.chat_template_kwargs: enable_thinking = 'false' leaves the prompt as it is without it"
    assert idle_settings(tokenizer, PromptFormat(variables={"enable_thinking": False}), "q") == []
    assert idle_settings(tokenizer, PromptFormat(date="2026-01-31"), "q") == [
        "prompt.date: the chat template puts in no date"
    ]


# -- Dates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "shown"),
    [(SMOLLM3, "<|im_start|>system\n31 January 2026<|im_end|>"), (LLAMA3, "Today: 31 Jan 2026\n")],
)
def test_todays_date_is_the_recorded_one(tokenizer: Any, template: str, shown: str):
    assert made(tokenizer, template, PromptFormat(date="2026-01-31")).startswith(shown)
    assert puts_in_date(tokenizer)
    assert not made(tokenizer, template, PromptFormat()).startswith(shown)  # really today's


def test_the_pinned_date_leaves_the_rest_of_a_template_as_it_is(tokenizer: Any):
    """Catches a line in front of the template that eats its first line end or space."""
    template = "\n  {% if true %}a{% endif %}\n {{ strftime_now('%-d|%d|%%|%H:%M|%F') }}{{ messages[0].content }}"
    pinned = made(tokenizer, template, PromptFormat(date="2026-02-03"))
    assert pinned == "\na 3|03|%|00:00|2026-02-032+2?"
    plain = template.replace("strftime_now('%-d|%d|%%|%H:%M|%F')", "'3|03|%|00:00|2026-02-03'")
    assert pinned == made(tokenizer, plain, PromptFormat())


# -- The end of a turn ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "text", "token"),
    [
        (TURNS, "<|im_end|>\n", 2),
        ("{% for m in messages %}{{ m.content }} END<|endoftext|>{% endfor %}", " END<|endoftext|>", 0),
        ("{% for m in messages %}{{ m.content }}</s>{% endfor %}", "</s>", None),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "", None),
    ],
)
def test_the_end_of_a_turn_is_read_off_the_template(tokenizer: Any, template: str, text: str, token: int | None):
    tokenizer.chat_template = template
    end = turn_end(tokenizer)
    assert end
    assert (end.text, end.token) == (text, token)


def test_a_template_that_takes_no_finished_turn_tells_nothing(tokenizer: Any):
    tokenizer.chat_template = "{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}{{ messages }}"
    assert turn_end(tokenizer) is None


# -- A run ------------------------------------------------------------------------------------------------------


def test_a_run_records_its_prompt_and_everything_after_it_asks_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """Catches a switch or a date that training uses and evaluation, solve, check or a resumed run does not."""
    model = tmp_path / "model"
    shutil.copytree(load_tokenizer("embedded").name_or_path, model)
    (model / "chat_template.jinja").write_text(SMOLLM3)
    monkeypatch.setattr("tiny_math_solver.training.plan.today", lambda: "2026-01-31")
    settings = [*SHORT, "--model.name", str(model), "--grpo.save_steps", "1", "--problems.train", "16"]
    settings += ["--grpo.chat_template_kwargs", '{"enable_thinking": false}', "--prompt.system", "Add. Answer: #### n"]
    done = run(tmp_path / "run", *settings, force=True)
    recorded = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert recorded["prompt"]["date"] == "2026-01-31"
    assert recorded["grpo"]["chat_template_kwargs"] == {"enable_thinking": False}

    prepared = prepare(load_config(done.folder / "config.yaml"))
    problem, ids = prepared.splits.train[0], prepared.prompts[0].ids
    for folder in (done.folder, done.folder / "checkpoint-1"):
        asked = prompt_settings(str(folder))
        assert asked.prompt == PromptFormat("Add. Answer: #### n", {"enable_thinking": False}, "2026-01-31")
        loaded = load_model(str(folder), dtype="float32")
        solver = Solver(loaded, ReferenceRollouts(loaded.model, loaded.tokenizer), asked, Grader())
        assert solver._prompt_ids(problem.question) == ids
    assert prepared.tokenizer.decode(ids).startswith("<|im_start|>system\n31 January 2026<|im_end|>")
    assert prepared.tokenizer.decode(ids).endswith("<think></think>")

    again, folder = load_config(QUICKSTART, [*settings, "--grpo.output_dir", str(done.folder)]), RunFolder(done.folder)
    assert recorded_date(folder, again, ResumeOptions(resume=True)) == "2026-01-31"
    assert recorded_date(folder, again, ResumeOptions()) is None  # it is finished: another one begins
    (done.folder / "summary.json").unlink()
    assert recorded_date(folder, again, ResumeOptions()) == "2026-01-31"
    monkeypatch.setattr("tiny_math_solver.training.plan.today", lambda: "2026-02-01")
    assert "its date is 2026-01-31" in next(found.text for found in check(again) if found.name == "template")
    dry = ["train", str(QUICKSTART), "--dry-run", *settings, "--grpo.output_dir", str(done.folder)]
    capsys.readouterr()
    assert main(dry) == 0
    planned = capsys.readouterr().out
    assert "date: '2026-01-31'" in planned
    assert planned.endswith(f"\nwould resume from {done.folder / 'checkpoint-1'}\n")
    assert main([*dry, "--no-resume"]) == 0
    planned = capsys.readouterr().out
    assert "date: '2026-02-01'" in planned
    assert "would resume" not in planned
    other = load_config(QUICKSTART, [*settings, "--grpo.output_dir", str(done.folder), "--grpo.beta", "0.5"])
    assert recorded_date(folder, other, ResumeOptions()) is None


def test_a_template_without_a_date_records_none():
    assert prepare(load_config(QUICKSTART, ["--problems.train", "16"])).config.prompt.date is None


# -- Templates of one's own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "prompt", "whole"),
    [
        ("plain", "S\n\nQuestion: 1 + 1?\nAnswer:", "S\n\nQuestion: 1 + 1?\nAnswer: 2<|im_end|>\n\n"),
        ("think", "User: 1 + 1?\nAssistant: <think>", "User: 1 + 1?\nAssistant: 2<|im_end|>\n\n"),
    ],
)
def test_templates_that_come_with_the_package(name: str, prompt: str, whole: str):
    tokenizer = load_tokenizer("embedded")
    tokenizer.chat_template = read_template(name)
    messages = chat_messages("1 + 1?", "S")
    assert render(tokenizer, messages, PromptFormat()).endswith(prompt)
    turn = [*messages, {"role": "assistant", "content": "2"}]
    assert render(tokenizer, turn, PromptFormat(), open_turn=False).endswith(whole)
    end = turn_end(tokenizer)
    assert end is not None
    assert end.token == tokenizer.eos_token_id


def test_a_template_that_cannot_be_used_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"prompt\.template: 'plan' is neither plain nor think nor a file"):
        read_template("plan")
    broken = tmp_path / "t.jinja"
    broken.write_text("{% for m in messages %}\n{{ m.content }", encoding="utf-8", newline="\n")
    with pytest.raises(UserError, match=r"t\.jinja:2: "):
        read_template(str(broken))


def test_a_run_with_a_template_of_its_own_is_evaluated_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A base model has no template: the adapter's folder has the one it was trained with."""
    template = ["--prompt.template", "think", "--rewards.use", "[correctness, tag]"]
    done = run(tmp_path / "run", *SHORT, *template, force=True)
    assert any("rewards: 1 × correctness, 1 × tag" in line for line in done.lines)
    assert (done.folder / "chat_template.jinja").read_text(encoding="utf-8") == read_template("think")
    assert done.summary["place"] == "in <answer>"
    settings = prompt_settings(str(done.folder))
    assert settings.template == read_template("think")
    assert settings.grader().place == "tag"
    assert main(["eval", str(done.folder), "--limit", "2", "--against", "embedded"]) == 0
    assert "strict (in <answer>)" in capsys.readouterr().out


def test_a_prompt_that_does_not_ask_for_the_rewarded_place_is_told_of(tmp_path: Path):
    config = load_config(QUICKSTART, [*SHORT, "--rewards.use", "[correctness, boxed]"])
    assert any("the prompt says nothing of \\boxed" in note for note in prepare(config).plan.notes)
    config = load_config(QUICKSTART, [*SHORT, "--rewards.use", "[correctness, tag]", "--prompt.template", "think"])
    assert not prepare(config).plan.notes
