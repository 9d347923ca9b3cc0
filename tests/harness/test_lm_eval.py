"""lm-evaluation-harness beside our evaluation: its prompts, completions and scores, and what differs from ours."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import datasets
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM

from helpers.hub import DATASET, HubStandin, build_gsm8k, gsm8k_rows, publish
from tiny_math_solver.cli import main
from tiny_math_solver.evaluation.evaluate import Evaluation, EvaluationRecord
from tiny_math_solver.harness.comparison import LENIENT, STRICT, Comparison, ask, compare
from tiny_math_solver.harness.lines import Asked, comparison_lines, comparison_summary
from tiny_math_solver.harness.model import RolloutsLM, settings_of_its_own
from tiny_math_solver.harness.tasks import HarnessTask, find_task, quiet, read_test, read_train
from tiny_math_solver.hub.snapshots import PINNED_REVISIONS
from tiny_math_solver.models.load import LoadedModel, load_model
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.problems.layouts import ReadOptions
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.sources import read_file
from tiny_math_solver.prompts import PromptFormat
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.support.errors import UserError


@pytest.fixture(scope="module")
def gsm8k() -> HarnessTask:
    quiet()
    return find_task("gsm8k")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("embedded")


def embedded_task(gsm8k: HarnessTask, count: int, examples: int) -> Task:
    return gsm8k.build(embedded_problems("test", count), embedded_problems("train", 50), examples)


# -- Prompts --------------------------------------------------------------------------------------------------


def test_the_prompts_are_those_of_the_harness_itself(
    gsm8k: HarnessTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Catches: rows that come out otherwise after we have read them, and another draw of the few-shot examples."""
    raw = {split: gsm8k_rows("main", split) for split in ("train", "test")}
    for split, rows in raw.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8", newline="\n")
    test, train = (read_file(tmp_path / f"{split}.jsonl") for split in ("test", "train"))
    ours = gsm8k.build(test, train, 5)

    tables = {split: datasets.Dataset.from_list(rows) for split, rows in raw.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: tables)
    stock = gsm8k.manager.load("gsm8k")["tasks"]["gsm8k"]
    stock.set_fewshot_seed(1234)
    for task in (ours, stock):
        task.build_all_requests()
    assert [each.args for each in ours.instances] == [each.args for each in stock.instances]
    assert len({each.args[0] for each in ours.instances}) == 16
    assert ours.instances[0].args[0].count("Question:") == 6


def test_the_real_gsm8k_reads_as_it_is_written(gsm8k: HarnessTask, gsm8k_folder: Path):
    for split in ("train", "test"):
        lines = (gsm8k_folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        written = [(row["question"], row["answer"]) for row in map(json.loads, lines)]
        read = read_file(gsm8k_folder / f"{split}.jsonl")
        assert [(problem.question, problem.worked_answer) for problem in read] == written


# -- Completions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat_template", [False, True])
def test_completions_and_scores_are_those_of_the_harness_with_transformers(
    gsm8k: HarnessTask, loaded: LoadedModel, chat_template: bool
):
    """Catches: another encoding, limit, stop or trimming than that of HFLM, and a score that is not the harness's."""
    ours, stock = (embedded_task(gsm8k, 12, examples=2) for _ in range(2))
    model = RolloutsLM(loaded.model, loaded.tokenizer, PromptFormat())
    scores, _ = ask(ours, model, chat_template)
    found = evaluator.evaluate(
        HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=6),
        {"tasks": {"gsm8k": stock}, "groups": {}},
        bootstrap_iters=0,
        apply_chat_template=chat_template,
        fewshot_as_multiturn=chat_template,
    )
    assert [each.args[0] for each in ours.instances] == [each.args[0] for each in stock.instances]
    assert ("<|im_start|>" in ours.instances[0].args[0]) == chat_template
    assert [each.resps for each in ours.instances] == [each.resps for each in stock.instances]
    wanted = found["results"]["gsm8k"]
    assert scores == {name: wanted[f"exact_match,{name}"] for name in ("strict-match", "flexible-extract")}
    assert model.done == 12


def test_stops_limits_and_long_prompts_are_those_of_the_harness(loaded: LoadedModel):
    """Catches: a stop that stays in the text, a limit that is not the request's, a long prompt cut at the wrong end."""
    story = "Question: Ann has 3 pens and buys 12 more. How many pens does Ann have now?\nAnswer:"
    settings: list[dict[str, Any]] = [
        {"until": ["\n"], "max_gen_toks": 40},
        {"until": [" 1", "pen"], "max_gen_toks": 40},
        {"until": "=", "max_gen_toks": 40, "do_sample": False, "temperature": 0.0},
        {"until": [], "max_gen_toks": 7},
    ]
    asked = [Instance("generate_until", {}, (story, each), 0) for each in settings]
    long = "Many words. " * 700 + story
    asked += [Instance("generate_until", {}, (long, settings[0]), 0)]
    model = RolloutsLM(loaded.model, loaded.tokenizer, PromptFormat())
    ours = model.generate_until(asked)
    assert ours == HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=1).generate_until(asked)
    assert (model.shortened, model.limits) == (1, {7, 40})
    assert 3 in model.cut  # the only one that nothing else ends after seven tokens
    assert len(set(ours)) == 5
    assert not any(stop in text for stop, text in zip((" 1", "="), ours[1:3], strict=True))


def test_a_model_without_room_and_a_request_to_sample_are_refused(loaded: LoadedModel):
    model = RolloutsLM(loaded.model, loaded.tokenizer, PromptFormat())
    for settings, message in (
        ({"until": [], "max_gen_toks": 1024}, "up to 1024 tokens, and the model has room for 1024 with the prompt"),
        ({"until": [], "do_sample": True, "temperature": 0.5}, "samples its completions"),
    ):
        with pytest.raises(UserError, match=message):
            model.generate_until([Instance("generate_until", {}, ("1 + 1?", settings), 0)])


def test_settings_with_which_the_harness_would_decode_otherwise_are_named(loaded: LoadedModel, tiny_model_folder: Path):
    """Catches: Qwen's own repetition penalty, which HFLM applies to greedy decoding, passed over in silence."""
    assert settings_of_its_own(loaded.model) == {}
    assert settings_of_its_own(load_model(str(tiny_model_folder)).model) == {"repetition_penalty": 1.1}


# -- The comparison -------------------------------------------------------------------------------------------

PROBLEMS = [Problem(f"test-{n}", f"How many are {n} and 10?", f"{n}+10", str(n + 10)) for n in range(1, 6)]
THEIRS = ["#### 11", "It is 12, not 3", "It is 13 for 4 people", "#### 14 or 15", "Nothing"]
OURS = ["#### 11", "#### 12", "So the answer is 13.", "#### 99", "#### 15."]


@pytest.fixture(scope="module")
def comparison(gsm8k: HarnessTask) -> Comparison:
    """Completions that were made up, as if the harness had asked for THEIRS and we for OURS."""
    task = gsm8k.build(PROBLEMS, embedded_problems("train", 5), 0)
    task.build_all_requests()
    for instance, text in zip(task.instances, THEIRS, strict=True):
        instance.resps = [text]
    task.apply_filters()
    grader = Grader()
    records = []
    for problem, text in zip(PROBLEMS, OURS, strict=True):
        graded = grader.grade(problem.question, text, problem.answer)
        record = EvaluationRecord(
            problem.id, problem.question, problem.answer, text, graded.answer, graded.how.value, graded.correct,
            graded.strict, 5, True,
        )  # fmt: skip
        records.append(record)
    return compare(task, PROBLEMS, Evaluation(records), grader)


def test_completions_of_both_prompts_are_read_by_both(comparison: Comparison):
    """Catches: readings that belong to the other prompt's completions, or to the other grader."""

    def right(completions: list[Any], reader: str) -> str:
        return "".join("+" if each.readings[reader].right else "-" for each in completions)

    theirs, ours = comparison.theirs, comparison.ours
    assert [each.completion for each in theirs] == THEIRS
    assert [each.completion for each in ours] == OURS
    assert right(theirs, "strict-match") == "+--+-"
    assert right(theirs, "flexible-extract") == "+----"  # the last number of the text
    assert right(theirs, STRICT) == "+----"  # a hedge is no answer
    assert right(theirs, LENIENT) == "+++--"
    assert right(ours, "strict-match") == "++--+"
    assert right(ours, "flexible-extract") == "+++-+"
    assert right(ours, STRICT) == "++--+"
    assert right(ours, LENIENT) == "+++-+"
    assert theirs[3].readings["strict-match"].answer == "14"
    assert theirs[3].readings["flexible-extract"].answer == "15"
    assert theirs[4].readings["strict-match"].answer == "[invalid]"


def test_the_two_steps_add_up_to_the_difference_of_the_scores(comparison: Comparison):
    for theirs, ours in comparison.pairs:
        before, after = comparison.right(comparison.theirs, theirs), comparison.right(comparison.ours, ours)
        assert sum(step.gain for step in comparison.steps(theirs, ours)) == after - before
    extraction, prompt = comparison.steps("strict-match", STRICT)
    assert (extraction.paired.fixed, extraction.paired.broken) == (0, 1)
    assert (prompt.paired.fixed, prompt.paired.broken) == (2, 0)


def test_each_kind_of_difference_is_counted_and_shown(comparison: Comparison):
    theirs, ours = (Asked(shots, False, False, [256], ["Question:"], 3, 2, 0, 1.5) for shots in (5, 0))
    lines = comparison_lines(comparison, theirs, replace(ours, system=True, chat_template=True))
    table = [line.split() for line in lines[1:3]]
    assert table == [
        ["lm-eval's", "40.0%", "20.0%", "20.0%", "60.0%"],
        ["ours", "60.0%", "80.0%", "60.0%", "80.0%"],
    ]
    text = "\n".join(lines)
    decoding = "greedy, max 256 tokens (3 truncated, 2 of them wrong), stop at 'Question:'"
    assert f"  lm-eval's prompt: 5-shot, no chat template; {decoding}; " in text
    assert f"  our prompt: 0-shot, system prompt, chat template; {decoding}; " in text
    assert "from lm-eval's strict-match 40.0% to our strict 60.0%: +1 of 5 problems, of which" in text
    assert "1 of lm-eval's completions right by strict-match, not by strict: such as test-4, gold 14" in text
    assert "    strict-match took 14, strict nothing: #### 14 or 15" in text
    assert "2 of lm-eval's completions right by lenient, not by flexible-extract: such as test-2, gold 12" in text
    assert lines[-6:] == [
        "  1 right with our prompt alone (lenient): such as test-5, gold 15",
        "    with it took 15: #### 15.",
        "    without nothing: Nothing",
        "  1 right with both prompts, but strictly with our prompt alone: such as test-2, gold 12",
        "    with it took 12: #### 12",
        "    without took 12: It is 12, not 3",
    ]
    for count, said in ((1, "1 prompt"), (3, "3 prompts")):
        line = replace(theirs, shortened=count).line("x")
        assert f"; {said} truncated on the left to fit the context; " in line
    summary = comparison_summary(comparison, theirs, ours)
    assert summary["accuracy"]["lm-eval"]["strict-match"] == 0.4
    assert summary["accuracy"]["ours"][LENIENT] == 0.8
    assert [step["prompt"]["fixed"] for step in summary["steps"]] == [2, 1]
    assert len(list(comparison.rows())) == 10


# -- Tasks and problems ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("asdiv", r"scores given answers by their likelihood \(loglikelihood\); only tasks in which the model writes"),
        ("gsm8k_plat", "lm-eval has no task of this name; did you mean gsm8k_platinum"),
        ("gsm8k_cot_self_consistency", "this task samples its completions"),
        ("math_word_problems", "is a group of tasks: name one of them"),
        ("mmlu", "a group of tasks; name one of them"),
    ],
)
@pytest.mark.slow  # all tasks of the harness take five seconds to list
def test_a_task_that_is_not_compared_is_refused(name: str, message: str):
    with pytest.raises(UserError, match=message):
        find_task(name)


def test_worked_examples_come_from_beside_the_test_problems(gsm8k: HarnessTask, tmp_path: Path):
    row = '{"question": "Ann has %d pens and buys 2. How many?", "answer": "%d+2=%d\\n#### %d"}\n'
    for name, first in (("train", 50), ("test", 1)):
        rows = [row % (n, n, n + 2, n + 2) for n in range(first, first + 3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8", newline="\n")
    folder, file = str(tmp_path), str(tmp_path / "test.jsonl")
    options = ReadOptions()
    assert [p.answer for p in read_test(gsm8k, folder, options).problems] == ["3", "4", "5"]
    assert [p.answer for p in read_train(gsm8k, folder, None, options).problems] == ["52", "53", "54"]
    named = read_train(gsm8k, file, str(tmp_path / "train.jsonl"), options)
    assert [p.answer for p in named.problems] == ["52", "53", "54"]
    assert len(read_train(gsm8k, "embedded:unseen", None, options).problems) == 2000
    with pytest.raises(UserError, match=r"is a single file: name them with --lm-eval-train, or ask without"):
        read_train(gsm8k, file, None, options)
    with pytest.raises(UserError, match=r"--num-fewshot 5: there are 3 worked examples for gsm8k"):
        gsm8k.build(read_file(file), named.problems, 5)


def test_a_task_whose_template_needs_other_columns_is_one_line(gsm8k: HarnessTask):
    """Catches: an exception of the harness's templates that ends the command with a traceback."""
    config = {**gsm8k.config, "doc_to_text": "{{nothing_of_this_name}}"}
    spec = {"task": "gsm8k", "doc_to_text": config["doc_to_text"]}
    changed = replace(gsm8k, config=config, manager=_Overriding(gsm8k.manager, spec))
    with pytest.raises(UserError, match=r"cannot be asked about these problems \(UndefinedError"):
        changed.build(embedded_problems("test", 2), [], 0)
    with pytest.raises(UserError, match="asks gsm8k without examples in any case"):
        replace(gsm8k, config={**gsm8k.config, "num_fewshot": 0}).build(embedded_problems("test", 2), [], 3)


class _Overriding:
    """A TaskManager whose tasks have another template."""

    def __init__(self, manager: Any, spec: dict[str, Any]):
        self.manager, self.spec = manager, spec

    def load(self, group: dict[str, Any]) -> Any:
        return self.manager.load({**group, "task": [{**group["task"][0], **self.spec}]})


# -- The command ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--num-fewshot 3", "--num-fewshot, --apply-chat-template and --lm-eval-train go with --lm-eval TASK"),
        ("--apply_chat_template", "go with --lm-eval TASK"),
        ("--lm-eval gsm8k --samples 4 --against embedded", "of one model: leave out --samples and --against"),
        ("--lm-eval gsm8k --problems embedded --problems countdown", "--lm-eval takes one --problems"),
        ("--lm-eval gsm8k --problems embedded --num-fewshot -1", "'-1' is not a whole number of 0 or more"),
        ("--lm-eval gsm8k --problems nowhere.jsonl", "no such problem file: nowhere.jsonl"),
        ("--lm-eval gsm8k --problems countdown", "countdown"),
    ],
)
def test_arguments_that_do_not_go_together(arguments: str, message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", "embedded", *arguments.split()]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("tiny_math_solver.cli.lm_eval.find_spec", lambda name: None)
    assert main(["eval", "embedded", "--lm-eval", "gsm8k"]) == 2
    assert "pip install 'tiny-math-solver[lm-eval]'" in capsys.readouterr().err


def test_eval_prints_both_scores_and_writes_all_completions(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "read.jsonl"
    typed = ["eval", "embedded", "--lm-eval", "gsm8k", "--problems", "embedded", "--limit", "6", "--out", str(out)]
    assert main([*typed, "--num-fewshot", "1", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    theirs = summary["lm_eval"]
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == ["lm-eval"] * 6 + ["ours"] * 6
    for name in ("strict-match", "flexible-extract"):
        right = sum(row["read"][name]["right"] for row in rows[:6])
        assert theirs["scores"][name] == theirs["accuracy"]["lm-eval"][name] == right / 6
    assert summary["correct"] == sum(row["read"]["lenient"]["right"] for row in rows[6:])
    assert summary["accuracy"] == theirs["accuracy"]["ours"]["lenient"]
    assert theirs["asked"]["lm-eval"]["examples"] == 1


@pytest.mark.slow
def test_both_sides_ask_the_pinned_gsm8k(tmp_path: Path):
    """Catches: a harness that downloads the data set itself, at the commit that the Hub has today."""
    root = tmp_path / "hub"
    publish(root, "datasets", DATASET, PINNED_REVISIONS[DATASET], build_gsm8k)
    publish(root, "datasets", DATASET, "f" * 40, lambda folder: build_gsm8k(folder, offset=1000), main=True)
    command = [sys.executable, "-m", "tiny_math_solver.cli", "eval", "embedded", "--lm-eval", "gsm8k", "--json"]
    with HubStandin(root) as hub:
        env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | hub.env(tmp_path / "home")
        out = tmp_path / "read.jsonl"
        done = subprocess.run(
            [*command, "--out", str(out)], env=env, capture_output=True, text=True, encoding="utf-8", timeout=200
        )
        assert done.returncode == 0, done.stderr
        assert hub.revisions(DATASET) == {PINNED_REVISIONS[DATASET]}
        assert not hub.foreign
    summary = json.loads(done.stdout)
    assert summary["problems"] == {"source": f"{DATASET}:main:test", "n": 16, "of": 16}
    questions = [row["question"] for row in gsm8k_rows("main", "test")]
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["question"] for row in rows] == [*questions, *questions]
