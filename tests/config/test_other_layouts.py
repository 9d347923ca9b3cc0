"""Configurations of TRL's scripts and open-r1: each foreign key is answered with what does the same here."""

from pathlib import Path

import pytest

from helpers.paths import QUICKSTART
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.other_layouts import LEFT_OUT, RENAMED
from tiny_math_solver.support.errors import UserError

FLAT = """\
model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
torch_dtype: bfloat16
attn_implementation: sdpa
dataset_name: openai/gsm8k
system_prompt: "Reason."
reward_funcs:
- accuracy
learning_rate: 1.0e-6
lora_r: 16
max_prompt_length: 512
use_vllm: true
made_up: 1
"""


def refusal(tmp_path: Path, text: str) -> str:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "c.yaml")
    return str(error.value)


def test_a_flat_recipe_is_answered_once_with_the_place_of_every_key(tmp_path: Path):
    """Catches a hint for the first key only, after which the next start finds the second."""
    text = refusal(tmp_path, FLAT)
    assert "c.yaml:1: settings stand in sections (model, problems, prompt, " in text
    for moved in (
        "model_name_or_path → model.name", "torch_dtype → model.dtype", "dataset_name → problems.source",
        "system_prompt → prompt.system", "learning_rate → grpo.learning_rate", "lora_r → lora.r",
        "max_prompt_length → prompt.max_tokens",
    ):  # fmt: skip
        assert moved in text
    for left in ("attn_implementation (the engine", "reward_funcs (the rewards", "use_vllm (the engine makes"):
        assert left in text.partition("leave out ")[2]
    assert text.endswith("unknown: made_up")


AXOLOTL = """\
base_model: Qwen/Qwen2.5-0.5B
adapter: lora
lora_target_linear: true
micro_batch_size: 2
num_epochs: 1
rl: grpo
"""


def test_a_recipe_of_axolotl_is_answered_too(tmp_path: Path):
    """Catches `adapter: lora`, a switch, taken for model.adapter, a folder."""
    text = refusal(tmp_path, AXOLOTL)
    assert (
        "write base_model → model.name, lora_target_linear → lora.target_modules (all-linear), "
        "micro_batch_size → grpo.per_device_train_batch_size, num_epochs → grpo.num_train_epochs; "
        "leave out rl (every run is GRPO); unknown: adapter"
    ) in text


SECTIONS = [
    ("grpo:\n  max_prompt_length: 512\n", "c.yaml:2: unknown key grpo.max_prompt_length; prompt.max_tokens does the"),
    ("grpo:\n  warmup_ratio: 0.1\n", "grpo.warmup_steps does the same (a number below 1 is a ratio)"),
    ("model:\n  torch_dtype: bfloat16\n", "unknown key model.torch_dtype; model.dtype does the same"),
    ("grpo:\n  system_prompt: x\n", "unknown key grpo.system_prompt; prompt.system does the same"),
    ("model:\n  attn_implementation: sdpa\n", "model.attn_implementation; leave it out: the engine"),
    ("prompt:\n  temperature: 1\n", "unknown key prompt.temperature; grpo.temperature does the same"),
    ("grpo:\n  batch_size: 4\n", "unknown key grpo.batch_size; grpo.per_device_train_batch_size does the same"),
    ("grpo:\n  max_tokens: 64\n", "unknown key grpo.max_tokens; grpo.max_completion_length does the same"),
    ("problems:\n  name: openai/gsm8k\n", "unknown key problems.name; known keys: tiny-math fields problems"),
    ("lora:\n  rank: 8\n", "unknown key lora.rank; lora.r does the same"),
    ("peft_config:\n  r: 8\n", "unknown key peft_config; did you mean lora?"),
    ("GRPO:\n  beta: 0\n", "unknown key GRPO; did you mean grpo?"),
    ("model:\n  max_seq_length: 9\n", "grpo.max_completion_length does the same (prompt.max_tokens limits the prompt)"),
    ("grpo:\n  learning_rat: 1\n", "unknown key grpo.learning_rat; did you mean grpo.learning_rate?"),
]


@pytest.mark.parametrize(("text", "message"), SECTIONS)
def test_an_unknown_key_is_answered_with_what_does_the_same(tmp_path: Path, text: str, message: str):
    assert message in refusal(tmp_path, text)


def test_all_unknown_keys_of_a_file_are_named_at_once(tmp_path: Path):
    text = refusal(
        tmp_path, "model:\n  torch_dtype: bfloat16\n  attn_implementation: sdpa\ngrpo:\n  warmup_ratio: 0.1\n"
    )
    assert [part.partition("c.yaml:")[2].partition(";")[0] for part in text.split(" · ")] == [
        "2: unknown key model.torch_dtype",
        "3: unknown key model.attn_implementation",
        "5: unknown key grpo.warmup_ratio",
    ]


@pytest.mark.parametrize(
    ("given", "taken"),
    [("false", "none"), ("true", "group"), ("False", "none"), ("none", "none"), ("batch", "batch")],
)
def test_scale_rewards_takes_the_booleans_that_trl_takes(tmp_path: Path, given: str, taken: str):
    (tmp_path / "c.yaml").write_text(f"grpo:\n  scale_rewards: {given}\n")
    config = load_config(tmp_path / "c.yaml")
    assert (config.grpo["scale_rewards"], config.grpo_config.scale_rewards) == (taken, taken)
    assert load_config(QUICKSTART, ["--grpo.scale_rewards", given]).grpo["scale_rewards"] == taken


def test_no_key_has_two_answers():
    assert not set(RENAMED) & set(LEFT_OUT)
