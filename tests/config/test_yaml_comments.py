"""Comments in a YAML file that may have been meant as text are pointed out, ordinary ones are not."""

from pathlib import Path

import pytest

from tiny_math_solver.config.loading import load_config
from tiny_math_solver.support.console import CollectingConsole
from tiny_math_solver.support.errors import UserError


class Notes(CollectingConsole):
    def note(self, text: str) -> None:
        self.lines.append(text)


def notes(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    console = Notes()
    load_config(tmp_path / "c.yaml", console=console)
    return [line.removeprefix(f"{tmp_path}/") for line in console.lines]


SWALLOWED = [
    ("prompt:\n  system: Think, then #### <number>\n", "c.yaml:2: the text of prompt.system ends before '#### <n"),
    ("prompt:\n  system: Think,\n    then write #### <number>\n", "c.yaml:3: the text of prompt.system ends before '#"),
    ("prompt:\n  system:\n    Think # it over\n", "c.yaml:3: the text of prompt.system ends before '# it over'"),
    ("prompt:\n  max_tokens: 9\n  system: Use #1\n", "c.yaml:3: the text of prompt.system ends before '#1'"),
    ("grpo:\n  run_name: try #3\n", "c.yaml:2: the text of grpo.run_name ends before '#3'"),
    (
        "grpo:\n  chat_template_kwargs:\n    note: end with #### n\n",
        "c.yaml:3: the text of grpo.chat_template_kwargs.n",
    ),
    ("model:\n  name: ./models #2\n", "c.yaml:2: the text of model.name ends before '#2'"),
]


@pytest.mark.parametrize(("text", "message"), SWALLOWED)
def test_a_comment_that_cuts_a_text_is_pointed_out(tmp_path: Path, text: str, message: str):
    (note,) = notes(tmp_path, text)
    assert note.startswith(message)
    assert note.endswith("which YAML takes for a comment; to keep it, put the whole value in quotes")


GENUINE = [
    'prompt:\n  system: "Think, then #### <number>" # paid\n',
    "prompt:\n  system: 'Think #### n'  #paid\n",
    'prompt:\n  system: "" # the shipped model was trained without one\n',
    "prompt:\n  system: |  # block\n    Think, then #### <number>\n    # 2\n",
    "prompt:\n  system: >-\n    Think, then #### <number>\n",
    "prompt:\n  system: Think a#b\n  max_tokens: 128 #longer are dropped\n",
    "model:\n  name: embedded  # the shipped model\n",
    "grpo:\n  lr_scheduler_type: cosine #5 % warm-up\n  max_steps: 4 ## four\n  loss_type: grpo #x\n",
    "problems: #1\n  source: embedded # 1\n",
    "lora:\n  target_modules: [q_proj, v_proj] # both\n",
    "prompt:\n  system: Think.\n  # a line of its own\n  max_tokens: 128\n",
]


@pytest.mark.parametrize("text", GENUINE)
def test_ordinary_comments_pass_without_a_word(tmp_path: Path, text: str):
    assert notes(tmp_path, text) == []


SIGNS = ("- think", "* think", "& think", "@think", "%think", "`think`", "*think")
BROKEN = [
    ("prompt:\n  system: Think, then #### <number>\n    and stop\n", "a number sign after a space begins a comment"),
    ("prompt:\n  system: Reason first. Answer: <number>\n", "put a text with a colon in it in quotes"),
    *((f"prompt:\n  system: {text}\n", "put a text that begins with a sign in quotes") for text in SIGNS),
]


def test_an_ordinary_comment_above_another_mistake_is_not_blamed(tmp_path: Path):
    with pytest.raises(UserError, match=r"c.yaml:3: not valid YAML: the key dev is repeated$"):
        notes(tmp_path, "problems:\n  dev: 200 # carved from train\n  dev: 100\n")


@pytest.mark.parametrize(("text", "hint"), BROKEN)
def test_a_text_that_makes_the_file_invalid_comes_with_the_remedy(tmp_path: Path, text: str, hint: str):
    with pytest.raises(UserError, match="not valid YAML") as refusal:
        notes(tmp_path, text)
    assert hint in str(refusal.value)


@pytest.mark.parametrize(("text", "message"), [
    ("model:\n  revision: 1234567\n", "model.revision = 1234567: expected a text; put it in quotes"),
    ("prompt:\n  system: [think]\n", "prompt.system: expected a text; put it in quotes"),
    ("prompt:\n  system: #### <number>\n", 'prompt.system = None: expected a text; "" is the empty one'),
    ("grpo:\n  scale_rewards: 0\n", "choose group or batch or none"),
])  # fmt: skip
def test_what_yaml_makes_of_an_unquoted_text_is_named_with_the_remedy(tmp_path: Path, text: str, message: str):
    with pytest.raises(UserError) as refusal:
        notes(tmp_path, text)
    assert message in str(refusal.value)


def test_a_comment_in_place_of_a_text_is_pointed_out(tmp_path: Path):
    """Catches a name that is a comment to YAML, and so is dropped without a word."""
    (note,) = notes(tmp_path, "grpo:\n  run_name: #1\n")
    assert "the text of grpo.run_name ends before '#1'" in note
