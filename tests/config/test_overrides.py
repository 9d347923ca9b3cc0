"""Values on the command line: texts as they are typed, everything else as YAML reads it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.paths import QUICKSTART
from tiny_math_solver.cli import parse
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.overrides import parse_overrides
from tiny_math_solver.support.errors import UserError

TEXTS = [
    "Think step by step, then write the answer as #### <number>",
    "Reason first. Answer: #### <number>",
    "#### first",
    "'quoted' and \"quoted\"",
    '"all of it"',
    "@file", "{braces}", "[brackets", "*star &and !bang", "%percent", "| pipe", "> more", "- dash", "--dashes",
    "? x: y",
    "yes", "no", "true", "null", "~", "007", "1e3", "2026-11-26", "", " ", "trailing  ", "two\nlines\n", "a\tb",
    "=", "\\n",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_taken_literally_and_recorded_so(text: str, tmp_path: Path):
    """Catches a system prompt that YAML cuts at `#`, turns into a mapping, a number or null, or unquotes."""
    args = parse(["train", "--prompt.system", text, str(QUICKSTART)])
    assert args.config == QUICKSTART
    config = load_config(QUICKSTART, args.overrides)
    assert config.prompt.system == text
    assert load_config(QUICKSTART, [f"--prompt.system={text}"]).prompt.system == text
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml").prompt.system == text


OTHERS: list[tuple[str, str, Any]] = [
    ("model.name", "123", "123"),
    ("model.revision", "null", None),
    ("model.revision", "1234567", "1234567"),
    ("grpo.run_name", "run #3", "run #3"),
    ("grpo.run_name", "null", None),
    ("grpo.report_to", "[wandb, trackio]", ["wandb", "trackio"]),
    ("lora.target_modules", "[q_proj, v_proj]", ["q_proj", "v_proj"]),
    ("lora.target_modules", r".*\.(q|v)_proj #1", r".*\.(q|v)_proj #1"),
    ("lora.target_modules", "(?x: q)_proj", "(?x: q)_proj"),
    ("lora.target_modules", "'q_proj'", "q_proj"),
    ("grpo.chat_template_kwargs", '{"enable_thinking": false}', {"enable_thinking": False}),
    ("grpo.pad_to_multiple_of", "8", 8),
    ("grpo.max_steps", "7", 7),
    ("problems.test", "null", None),
]


@pytest.mark.parametrize(("key", "text", "value"), OTHERS)
def test_other_values_keep_their_types(key: str, text: str, value: Any):
    assert parse_overrides([f"--{key}", text]) == [(key, value)]


def test_overrides_may_stand_before_the_file_and_between_options():
    """Catches a value that argparse takes for the file or for an option of its own."""
    args = parse(["train", "--prompt.system", "--dry-run", "--quiet", "--grpo.max_steps", "2", "c.yaml", "--lora.r=4"])
    assert (args.config, args.quiet, args.dry_run) == (Path("c.yaml"), True, False)
    assert args.overrides == ["--prompt.system", "--dry-run", "--grpo.max_steps", "2", "--lora.r=4"]


def test_texts_of_other_options_may_begin_with_a_dash():
    """Catches `--system -x`, which argparse refuses as an option without a value."""
    assert parse(["solve", "embedded", "--system", "-x y", "--samples", "4", "q"]).system == "-x y"
    with pytest.raises(UserError, match="--system: expected one argument"):
        parse(["solve", "embedded", "--system", "--samples", "4"])
    with pytest.raises(UserError, match="a question that begins with a dash goes behind --"):
        parse(["solve", "embedded", "-5+3"])


def test_a_key_within_a_mapping_is_added_to_those_of_the_file():
    """Catches an override of three parts whose value argparse takes for the file."""
    args = parse(["train", "--grpo.chat_template_kwargs.my-key", "false", str(QUICKSTART)])
    more = ["--grpo.chat-template-kwargs", "{a: 1}", *args.overrides, "--grpo.chat_template_kwargs.b=[2]"]
    assert args.config == QUICKSTART
    assert load_config(QUICKSTART, more).grpo["chat_template_kwargs"] == {"a": 1, "my-key": False, "b": [2]}
    with pytest.raises(UserError, match=r"--grpo.max_steps.x: grpo.max_steps is no section of keys"):
        load_config(QUICKSTART, ["--grpo.max_steps", "2", "--grpo.max_steps.x", "1"])


def test_the_record_of_a_mapping_is_a_mapping():
    """Catches JSON in quotes that is recorded as text, of which nobody can read a value."""
    config = load_config(QUICKSTART, ["--grpo.chat_template_kwargs", "'{\"a\": [1, 2]}'"])
    assert yaml.safe_load(config.to_yaml())["grpo"]["chat_template_kwargs"] == {"a": [1, 2]}
