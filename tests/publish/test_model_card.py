"""The model card: its figures are those of the records, its YAML is the Hub's, its Markdown shows text as text."""

import json
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult
from huggingface_hub import ModelCard as HubCard
from markdown_it import MarkdownIt

from helpers.runs import SHORT, rows, run
from publish.conftest import TOKEN, make_up
from tiny_math_solver.cli import main
from tiny_math_solver.hub.snapshots import PINNED_REVISIONS
from tiny_math_solver.publish.metadata import Published, eval_results
from tiny_math_solver.publish.model_card import ModelCard
from tiny_math_solver.publish.shared import Shareable
from tiny_math_solver.report.records import RunRecords

GSM8K, QWEN = "openai/gsm8k", "Qwen/Qwen2.5-0.5B-Instruct"


def card_of(folder: Path, **published: bool) -> ModelCard:
    return ModelCard(RunRecords(folder), Shareable(folder), Published("ada/sums", **published))


def html_of(text: str) -> str:
    """The Markdown below the metadata as HTML, which text of others could be part of."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])


def cells(text: str) -> dict[str, list[str]]:
    """The rows of the tables of a card, by their first cell."""
    found = re.findall(r"<tr>(.*?)</tr>", html_of(text), re.DOTALL)
    table = [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", row, re.DOTALL)] for row in found]
    return {row[0]: row[1:] for row in table if row}


# -- Metadata ---------------------------------------------------------------------------------------------------


def test_the_metadata_reads_back_as_what_was_measured(finished: Path):
    """Through huggingface_hub's own card, as every reader of the Hub takes it."""
    card = card_of(finished)
    data: Any = HubCard(card.text).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("peft", "text-generation", "apache-2.0")
    assert {"grpo", "lora"} <= set(data.tags)
    assert data.base_model is None  # the shipped model is not on the Hub, which would refuse its name
    assert data.model_name == "sums"
    assert data.eval_results == eval_results(card.summary, card.test_set)
    assert all(isinstance(result, EvalResult) for result in data.eval_results)
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert values == {
        "greedy accuracy on 4 problems": 0.75, "strict greedy accuracy (after ####)": 0.75,
        "pass@1, sampled": 0.75, "pass@8, sampled": 0.8, "maj@1, sampled": 0.75, "maj@8, sampled": 0.75,
    }  # fmt: skip
    assert yaml.safe_load(card.text.split("---\n")[1])["model-index"][0]["results"][0]["dataset"]["split"] == "test"


def test_base_and_data_of_the_hub_are_named_with_commit_and_licence(tmp_path: Path):
    config = f"model:\n  name: {QWEN}\nproblems:\n  source: {GSM8K}\n  subset: main\n"
    text = card_of(make_up(tmp_path / "run", config=config, base=QWEN)).text
    data: Any = HubCard(text).data
    assert (data.base_model, data.datasets, data.license) == (QWEN, [GSM8K], "apache-2.0")
    assert data.base_model_relation == "adapter"
    assert {result.dataset_revision for result in data.eval_results} == {PINNED_REVISIONS[GSM8K]}
    table = cells(text)
    assert PINNED_REVISIONS[QWEN] in table["base model"][0]
    assert PINNED_REVISIONS[GSM8K] in table["problems"][0]
    assert f'from_pretrained("{QWEN}", revision="{PINNED_REVISIONS[QWEN]}"' in text
    assert "(https://huggingface.co/datasets/openai/gsm8k): mit" in text


def test_what_is_not_known_is_said_to_be_so(tmp_path: Path):
    """Catches: a commit, a licence or a Hub name that no record holds."""
    config = "model:\n  name: ../models/my base\nproblems:\n  source: mine/sums.jsonl\n  test_source: some/set@abc\n"
    text = card_of(make_up(tmp_path / "run", config=config, base="../models/my base")).text
    data: Any = HubCard(text).data
    assert (data.base_model, data.datasets, data.license) == (None, ["some/set"], "unknown")
    assert "models/" not in text
    assert "A LoRA adapter for `my base`, a local model folder." in text
    assert "`sums.jsonl`, a local file: not stated in what was at hand" in text
    assert "this repository: not stated: it is bound by the base model's licence" in text
    other = card_of(make_up(tmp_path / "other", config="model:\n  name: some/base\n", base="some/base")).text
    assert cells(other)["base model"] == ["some/base, main branch (commit not recorded)"]


def test_a_licence_is_taken_from_the_card_of_a_local_base(tmp_path: Path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Base\n")
    folder = make_up(tmp_path / "run", config=f"model:\n  name: {base}\n", base=str(base))
    data: Any = HubCard(card_of(folder).text).data
    assert data.license == "cc-by-4.0"


# -- What is said -----------------------------------------------------------------------------------------------


def test_the_tables_hold_the_figures_of_the_summary(finished: Path):
    environment = {
        "cpu_count": 2, "gpu": "NVIDIA H100", "processes": 1, "completions_per_step": 128, "python": "3.11.7",
        "versions": {"torch": "2.13.0", "peft": "0.21"}, "seed": 7,
    }  # fmt: skip
    (finished / "environment.json").write_text(json.dumps(environment))
    (finished / "config.yaml").write_text(
        "model:\n  name: embedded\ngrpo:\n  num_generations: 8\n  learning_rate: 0.001\n  reward_weights: [1.0, 0.5]\n"
    )
    summary = json.loads((finished / "summary.json").read_text())
    summary["problems"] = {"train": 2000, "dev": 200, "test": 9, "unseen": 200}
    (finished / "summary.json").write_text(json.dumps(summary))
    text = card_of(finished).text
    table = cells(text)
    assert table["accuracy"] == [
        "25.0%, 1 of 4 (95 % interval 10.0%–90.0%)", "75.0%, 3 of 4 (95 % interval 10.0%–90.0%)",
    ]  # fmt: skip
    assert table["strict: the answer stands after ####"] == ["25.0%", "75.0%"]
    assert "| strict: the answer stands after `####` |" in text
    assert "*strict* only after `####`." in text
    assert table["pass@8"] == ["40.0%", "80.0%"]
    assert table["maj@8"] == ["25.0%", "75.0%"]
    assert table["200 problems of kinds not trained on"] == ["0.0%", "2.0%"]
    assert table["a step"] == ["16 problems × 8 samples = 128 completions"]
    assert table["length"] == ["5 steps, 40 completions, 900 tokens"]
    assert table["hardware"] == ["NVIDIA H100, 2 CPU cores"]
    assert table["versions"] == ["Python 3.11.7, torch 2.13.0, peft 0.21"]
    assert table["rewards"] == ["1 × correctness, 0.5 × format"]
    assert table["split"] == ["2,000 train, 200 dev, 9 test"]
    assert (table["time"], table["seed"]) == (["6 s"], ["7"])
    assert "4 test problems of its 9, chosen by a hash of the question" in text
    assert "2 fixed, 0 broken; McNemar's exact test gives p = 0.5" in text
    assert "the weights are those of step 4" in text.lower()
    assert "[report.html](report.html)" in text
    assert "report.html" not in card_of(finished, has_page=False).text


def test_further_test_sets_have_a_row_each(finished: Path):
    summary = json.loads((finished / "summary.json").read_text())
    block = {name: summary[name] for name in ("before", "after", "paired")}
    summary["also"] = {"hard|ones": block}
    (finished / "summary.json").write_text(json.dumps(summary))
    text = card_of(finished).text
    assert cells(text)["hard|ones"] == ["4", "25.0%", "75.0%", "2", "0", "0.5"]
    data: Any = HubCard(text).data
    assert data.eval_results[-1].dataset_name == "hard|ones"


@pytest.mark.parametrize(
    ("paired", "best_step", "said", "limit"),
    [
        ((442, 0, 1e-9), 16, "A significant gain.", ""),
        ((3, 2, 1.0), 16, "No significant gain: the change may be chance.", "no better than its base"),
        ((0, 40, 1e-9), 16, "It became significantly worse.", "no better than its base"),
        ((0, 0, 1.0), 0, "Nothing was gained: no step was better on dev", "no better than its base"),
    ],
)
def test_a_run_that_gained_nothing_says_so(
    paired: tuple[int, int, float], best_step: int, said: str, limit: str, finished: Path
):
    summary = json.loads((finished / "summary.json").read_text())
    summary["paired"] = dict(zip(("fixed", "broken", "p_value"), paired, strict=True))
    summary |= {"best_step": best_step, "causes": ["the learning rate is 0"], "rescues": [{"step": 3}]}
    (finished / "summary.json").write_text(json.dumps(summary))
    card = card_of(finished)
    assert f"**{said}" in card.text
    assert ("It is no better than its base" in card.text) == bool(limit)
    assert "- the learning rate is 0" in card.text
    header = "What the records show:" if limit else "What limited the gain, according to the run's records:"
    assert f"{header}\n\n- the learning rate is 0" in card.text
    assert "- Training collapsed and was rolled back 1 time.\n" in card.text
    assert ("a significant gain" in card.message) == (not limit)


def test_prompt_decoding_and_answers_are_told(tmp_path: Path):
    config = (
        "model:\n  name: embedded\n"
        "prompt:\n  system: |-\n    Work it out.\n    ```\n    Then ####.\n  date: 2026-01-31\n"
        "problems:\n  source: embedded\n  answer_kind: math\nrewards:\n  use: [correctness, boxed]\n"
        "grpo:\n  temperature: 0.7\n  max_completion_length: 77\n  generation_kwargs: {stop_strings: ['Q:']}\n"
        "  chat_template_kwargs: {enable_thinking: false}\n"
    )
    text = card_of(make_up(tmp_path / "run", config=config)).text
    assert "````text\nWork it out.\n```\nThen ####.\n````" in text
    assert "at most 77 new tokens; a completion ends where the model ends its turn, and at `Q:`; for pass@k" in text
    assert "8 samples at temperature 0.7." in text
    assert "of the kind `math`, compared exactly" in text
    assert "2026-01-31 was put in" in text
    assert "enable_thinking=False" in text
    assert "stop_strings=['Q:'], tokenizer=tokenizer" in text


ANSWERS_ALONE = "rewards that only check the answer, no reward model"


@pytest.mark.parametrize(
    ("rewards", "rewarded", "checked"),
    [
        ("", ANSWERS_ALONE, "Only the answer was rewarded and checked"),
        ("use: [correctness, boxed]", ANSWERS_ALONE, "Only the answer was rewarded and checked"),
        ("use: [correctness, steps]", "the rewards listed below", "Accuracy checks only the answer"),
        ("use: [correctness, length]", "the rewards listed below", "Accuracy checks only the answer"),
        ("use: [correctness, 'judge.py:judge']", "the rewards listed below", "Accuracy checks only the answer"),
        ("use: ['judge.py:judge']", "the rewards listed below", "Accuracy is what `judge.py:judge` counts as right"),
    ],
)
def test_rewards_for_more_than_the_answer_are_not_passed_over(
    rewards: str, rewarded: str, checked: str, tmp_path: Path
):
    """Catches: a card that says "no reward model" of a run whose own function asked one."""
    config = f"model:\n  name: embedded\nrewards: {{{rewards}}}\n"
    text = card_of(make_up(tmp_path / "run", config=config)).text
    assert f", with\n{rewarded}. All figures" in text
    assert f"\n- {checked}" in text
    assert ("no reward model" in text) == (rewarded == ANSWERS_ALONE)
    assert ("Only the answer was rewarded" in text) == (rewarded == ANSWERS_ALONE)


def test_whatever_a_record_holds_is_shown_as_text(finished: Path):
    """The causes of the made-up run hold a script; catches: HTML, links and tables that a text ends up as."""
    text = card_of(finished).text
    assert "</script>" in json.loads((finished / "summary.json").read_text())["causes"][0]
    html = html_of(text)
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;/script&gt;&lt;script&gt;document.title" in html


# -- The code ---------------------------------------------------------------------------------------------------


def test_the_code_on_the_card_answers_as_the_run_did(tmp_path: Path, capsys):
    """The card's Python as it stands, with the folder for the repository: the recorded answer, to the character."""
    trained = run(tmp_path / "run", *SHORT, "--prompt.system", "Be 'brief'.", force=True).folder
    out = tmp_path / "out"
    assert main(["push", str(trained), "ada/sums", "--dry-run", "--out", str(out)]) == 0
    first = rows(trained / "eval" / "after.jsonl")[0]
    text = (out / "README.md").read_text()
    code, merging = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    asked = re.search(r'"role": "user", "content": (".*")}', code)
    assert asked
    code = code.replace('"ada/sums"', repr(str(out))).replace(asked[1], repr(first["question"]))
    with redirect_stdout(StringIO()) as printed:
        exec(code + merging.replace('"merged"', repr(str(tmp_path / "merged"))), {})
    assert printed.getvalue().strip() == first["completion"].strip()
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert TOKEN not in text
