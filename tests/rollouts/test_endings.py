"""The end of a completion: tokens the chat template closes turns with, stop strings, and settings that are refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from helpers.paths import QUICKSTART
from helpers.runs import SHORT, rows, run
from tiny_math_solver.cli import main
from tiny_math_solver.config.generation_kwargs import HONOURED, check_generation_kwargs
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.evaluation.prompt_settings import prompt_settings
from tiny_math_solver.models.ends import added_end_line, eos_ids
from tiny_math_solver.models.load import load_model, load_tokenizer
from tiny_math_solver.playground.solver import Solver
from tiny_math_solver.preflight.check import check
from tiny_math_solver.prompts import chat_messages, encode_prompt, group_prompts
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import EngineRollouts, ReferenceRollouts, Sampling
from tiny_math_solver.rollouts.endings import Endings
from tiny_math_solver.support.errors import StoppedError, UserError

QUESTION = "Tom has 3 boxes of 12 pens. He gives away 6. How many pens are left?"
IM_END, END_OF_TEXT = 2, 0


def base_model(folder: Path, template: str | None = None, special: bool = True) -> Path:
    """The embedded model as a base whose end token is not the one in its chat template, as Qwen2.5-0.5B."""
    shutil.copytree(load_tokenizer("embedded").name_or_path, folder)
    for name, value in (("tokenizer_config", "<|endoftext|>"), ("generation_config", 0), ("config", 0)):
        path = folder / f"{name}.json"
        key = "eos_token" if name == "tokenizer_config" else "eos_token_id"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    if not special:
        tree = json.loads((folder / "tokenizer.json").read_text())
        for token in tree["added_tokens"]:
            token["special"] = token["special"] and token["id"] != IM_END
        (folder / "tokenizer.json").write_text(json.dumps(tree))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize("special", [True, False], ids=["special", "added"])
def test_a_base_model_ends_where_its_template_closes_a_turn(tmp_path: Path, special: bool):
    """Catches completions that run to their limit, and an end token that stays in the graded text."""
    model = base_model(tmp_path / "model", special=special)
    done = run(tmp_path / "run", *SHORT, "--model.name", str(model), "--grpo.generation_kwargs", "{eos_token_id: 5}")
    assert added_end_line("<|im_end|>") in done.lines
    rollouts = rows(done.folder / "rollouts.jsonl")
    assert all(row["finished"] and "<|" not in row["completion"] for row in rollouts)
    assert rows(done.folder / "metrics.jsonl")[0]["completions/clipped_ratio"] == 0
    assert all(row["finished"] and "<|" not in row["completion"] for row in rows(done.folder / "eval/after.jsonl"))

    ends = [END_OF_TEXT, IM_END, 5]
    assert GenerationConfig.from_pretrained(done.folder).eos_token_id == ends
    loaded = load_model(str(done.folder))
    assert eos_ids(loaded.model, loaded.tokenizer) == ends
    assert main(["merge", str(done.folder), str(tmp_path / "merged")]) == 0
    assert GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id == ends
    assert main(["merge", str(done.folder / "checkpoint-1"), str(tmp_path / "early")]) == 0
    assert prompt_settings(str(tmp_path / "early")) == prompt_settings(str(done.folder))


def test_a_model_whose_tokenizer_names_its_end_gets_no_file_about_it(tmp_path: Path):
    assert not (run(tmp_path / "run", *SHORT).folder / "generation_config.json").exists()


@pytest.mark.parametrize(
    ("closing", "said"),
    [
        ("</s>", "the template closes a turn with '</s>', none of '<|endoftext|>'"),
        ("", "closes a turn with '', none of"),
    ],
)
def test_a_template_that_closes_with_no_token_is_refused_by_train_as_by_check(tmp_path: Path, closing: str, said: str):
    start = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + closing + "{% endfor %}" + start
    model = base_model(tmp_path / "model", template)
    settings = ["--model.name", str(model), *SHORT, "--grpo.output_dir", str(tmp_path / "run")]
    found = {c.name: c for c in check(load_config(QUICKSTART, settings))}
    assert found["turn's end"].verdict == "fail"
    assert said in found["turn's end"].text
    with pytest.raises(StoppedError) as refusal:
        run(tmp_path / "run", *settings)
    assert found["turn's end"].text in str(refusal.value)
    assert not (tmp_path / "run").exists()
    if closing:
        settings += ["--grpo.generation_kwargs", "{stop_strings: </s>}"]
        assert {c.name: c.verdict for c in check(load_config(QUICKSTART, settings))}["turn's end"] == "ok"


# -- Stop strings -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded() -> Any:
    return load_model("embedded", dtype="float32")


def test_engine_and_transformers_end_at_the_same_stop_string(loaded: Any):
    questions = [QUESTION, "Ann has 3 pens and buys 2. How many?", "2 + 2?"]
    prompts = group_prompts(encode_prompt(loaded.tokenizer, chat_messages(q)) for q in questions)
    greedy, sampled = Sampling(48, temperature=0), Sampling(48, temperature=1.0, seed=3)
    model, tokenizer = loaded.model, loaded.tokenizer
    for texts in (["8"], ["## ", "="], ["never comes"]):
        engine = EngineRollouts(model, tokenizer, 2, stop_strings=texts)
        plain = ReferenceRollouts(model, tokenizer, 2, texts)
        for a, b in zip(engine.generate(prompts, 1, greedy), plain.generate(prompts, 1, greedy), strict=True):
            assert (a.completion_ids, a.finished) == (b.completion_ids, b.finished)
        whole = EngineRollouts(model, tokenizer, 64).generate(prompts, 6, sampled)
        for cut, full in zip(engine.generate(prompts, 6, sampled), whole, strict=True):
            end = engine.endings.at_text(full.completion_ids)
            assert cut.completion_ids == full.completion_ids[:end]  # the same draws up to the end
            assert cut.logprobs == pytest.approx(full.logprobs[:end], abs=1e-4) if full.logprobs else False
            assert cut.finished == (full.finished or end is not None)
            assert not any(text in engine.endings.text(cut.completion_ids) for text in texts)


def test_a_stream_ends_at_a_stop_string_and_never_shows_it(loaded: Any):
    settings = prompt_settings("embedded", max_new_tokens=40)
    whole = "".join(Solver(loaded, EngineRollouts(loaded.model, loaded.tokenizer), settings, Grader()).stream(QUESTION))
    stop = whole[4:7]
    for kind in (EngineRollouts, ReferenceRollouts):
        solver = Solver(loaded, kind(loaded.model, loaded.tokenizer, stop_strings=[stop]), settings, Grader())
        assert "".join(solver.stream(QUESTION)) == whole[: whole.find(stop)]


def test_a_stop_string_that_closes_a_tag_belongs_to_the_completion(loaded: Any):
    """Without it no completion that ends at </answer> would be of the form that the reward `tag` pays for."""
    ids = loaded.tokenizer("<think>1</think> <answer>18</answer> more </s>")["input_ids"]
    texts = [Endings(loaded.tokenizer, [], [stop]).text(ids) for stop in ("</answer>", "</s>", " more")]
    assert texts == [
        "<think>1</think> <answer>18</answer>",
        "<think>1</think> <answer>18</answer> more ",
        "<think>1</think> <answer>18</answer>",
    ]


def test_the_token_that_completes_a_stop_string_is_the_last(loaded: Any):
    tokenizer = loaded.tokenizer
    ids = tokenizer("So 12 pens. Question: more", add_special_tokens=False)["input_ids"]
    endings = Endings(tokenizer, [IM_END], ["Question:"])
    end = endings.at_text(ids)
    assert end
    assert "Question:" in tokenizer.decode(ids[:end])
    assert "Question:" not in tokenizer.decode(ids[: end - 1])
    assert [endings.at_text(ids[:n], n - 1) for n in range(1, end + 1)] == [None] * (end - 1) + [end]
    assert endings.text(ids[:end]) == "So 12 pens. "
    assert endings.finished(ids[:end])
    assert not endings.finished(ids[: end - 1])


def test_stop_strings_end_completions_in_every_part_of_a_run(tmp_path: Path):
    """Catches a limit that training keeps and evaluation does not, and ends that are counted as cut off."""
    done = run(
        tmp_path / "run", *SHORT, "--grpo.generation_kwargs", '{"stop_strings": ["8"], "do_sample": true}', force=True
    )
    assert not any("falling back" in line or "slower" in line for line in done.lines)
    for name in ("rollouts", "eval/before", "eval/after", "eval/dev-000000"):
        found = rows(done.folder / f"{name}.jsonl")
        assert not any("8" in row["completion"] for row in found), name
        assert any(row["finished"] and not row["completion"].endswith("\n") for row in found), name
    trained = rows(done.folder / "rollouts.jsonl")
    share = sum(not row["finished"] for row in trained) / len(trained)
    assert rows(done.folder / "metrics.jsonl")[0]["completions/clipped_ratio"] == pytest.approx(share)
    assert prompt_settings(str(done.folder)).stop_strings == ["8"]
    for option, reason in (
        ("mask_truncated_completions", "stop_strings end completions without the end token"),
        ("use_transformers_continuous_batching", "stop_strings need the rollouts of this package"),
    ):
        with pytest.raises(UserError, match=reason):
            load_config(done.folder / "config.yaml", [f"--grpo.{option}", "true"])


def test_what_vllm_takes_is_left_to_vllm(tmp_path: Path):
    (tmp_path / "c.yaml").write_text(
        "grpo:\n  use_vllm: true\n  generation_kwargs: {include_stop_str_in_output: true}\n"
    )
    assert load_config(tmp_path / "c.yaml").grpo["generation_kwargs"] == {"include_stop_str_in_output": True}


# -- Other generation_kwargs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"num_beams": 2}, "num_beams cannot be used in rollouts: a search for likely completions"),
        ({"max_time": 1.0}, "max_time cannot be used in rollouts: completions that depend on the clock"),
        ({"prompt_lookup_num_tokens": 3}, "one completion at a time"),
        ({"do_sample": False}, "do_sample cannot be used in rollouts: the completions of a problem are always sampled"),
        ({"max_new_tokens": 3}, "max_new_tokens has a field of its own: grpo.max_completion_length"),
        ({"min_p": 0.1}, "min_p has a field of its own: grpo.min_p"),
        ({"repetition_penalty": 1.1}, "a field of its own: grpo.repetition_penalty"),
        ({"num_return_sequences": 2}, "a field of its own: grpo.num_generations"),
        ({"output_scores": True}, "it changes what generate returns"),
        ({"bad_word_ids": [[3]]}, "no such setting; did you mean bad_words_ids?"),
        ({"stop_strings": ["", "a"]}, "none of them empty"),
        ({"stop_strings": [1]}, "expected a text or a list of texts"),
        ({"eos_token_id": "x"}, "eos_token_id: expected an id"),
    ],
)
def test_what_not_every_rollout_can_honour_is_refused_with_the_reason(given: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=re.escape(reason)):
        check_generation_kwargs(given)


def test_what_is_honoured_exists_in_transformers():
    known = set(vars(GenerationConfig()))
    assert set(HONOURED) <= known
    check_generation_kwargs({"suppress_tokens": [5], "stop_strings": "x", "eos_token_id": [1, 2], "do_sample": True})


def test_a_value_that_transformers_refuses_is_one_line_at_the_start(tmp_path: Path):
    with pytest.raises(UserError, match=r"grpo.generation_kwargs: .*bad_words_ids"):
        run(tmp_path / "run", *SHORT, "--grpo.generation_kwargs", "{bad_words_ids: [5]}")
    assert not (tmp_path / "run").exists()


def test_an_end_token_that_the_model_lacks_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="eos_token_id 99999: the model has 1024 tokens"):
        run(tmp_path / "run", *SHORT, "--grpo.generation_kwargs", "{eos_token_id: [3, 99999]}")
    assert not (tmp_path / "run").exists()


def test_banned_tokens_stay_out_of_a_run(tmp_path: Path, loaded: Any):
    banned = loaded.tokenizer.convert_tokens_to_ids("8")
    options = json.dumps({"bad_words_ids": [[banned]], "min_new_tokens": 4})
    short = [*SHORT, "--grpo.max_completion_length", "16"]
    done = run(tmp_path / "run", *short, "--grpo.generation_kwargs", options, force=True)
    assert not any("8" in row["completion"] for row in rows(done.folder / "rollouts.jsonl"))
