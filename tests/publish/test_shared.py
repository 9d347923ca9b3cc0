"""What leaves the machine: secrets hidden, of local paths the names, and nothing else changed."""

from pathlib import Path

import pytest

from tiny_math_solver.publish.shared import Shareable, is_local, name_of

UNCHANGED = (
    "rewards/format_reward/mean fell to 0.1; (1+2)/3/4 = 0.25; 60 km/h/day",
    "https://huggingface.co/openai/gsm8k and openai/gsm8k@0123456789abcdef0123456789abcdef01234567",
    "<think>a/b</think> 1/2/3 and/or",
    "raise grpo.max_completion_length, or lower it",
)


@pytest.fixture
def shareable(tmp_path: Path) -> Shareable:
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "problems:\n  source: /srv/team data/sums (1).jsonl\nrewards:\n  use: [/srv/x/own.py:near]\n"
        "model:\n  name: Qwen/Qwen2.5-0.5B-Instruct\n  revision: 0123456789abcdef0123456789abcdef01234567\n"
        "grpo:\n  output_dir: C:\\Users\\ada\\runs\\first\n  generation_kwargs: {stop_strings: [/a/b]}\n"
        "prompt:\n  system: Answer as /boxed/x\n"
    )
    return Shareable(folder, ["tok-from-the-login"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("from /data/runs/a/checkpoint-16", "from checkpoint-16"),
        ("read '/srv/team data/sums (1).jsonl': 3 rows", "read 'sums (1).jsonl': 3 rows"),
        ("in /home/ada", "in ~"),
        ("in /home/ada/x/y.jsonl:3 a row", "in y.jsonl:3 a row"),
        ("in C:\\Users\\ada\\runs\\first\\summary.json", "in first\\summary.json"),
        ("D:/work/x/y.py is", "y.py is"),
        ("~/models/qwen is", "qwen is"),
        ("tok-from-the-login and hf_abcdefghijklmnopqrst", "*** and ***"),
        ("https://a.example/x?Signature=abc&n=3", "https://a.example/x?Signature=***&n=3"),
        *((text, text) for text in UNCHANGED),
    ],
)
def test_texts(text: str, shown: str, shareable: Shareable):
    assert shareable.text(text) == shown


def test_the_run_folder_is_its_name(shareable: Shareable, tmp_path: Path):
    assert shareable.text(f"kept in {tmp_path}/my run/eval, see {tmp_path}/my run") == "kept in my run/eval, see my run"


def test_words_of_a_model_keep_their_slashes(shareable: Shareable):
    assert shareable.words("it walks /home/ada/x km") == "it walks /home/ada/x km"


def test_the_configuration_names_files_and_keeps_the_rest(shareable: Shareable):
    config = shareable.config
    assert config["problems"]["source"] == "sums (1).jsonl"
    assert config["rewards"]["use"] == ["own.py:near"]
    assert config["model"] == {
        "name": "Qwen/Qwen2.5-0.5B-Instruct", "revision": "0123456789abcdef0123456789abcdef01234567",
    }  # fmt: skip
    assert config["grpo"] == {"output_dir": "first", "generation_kwargs": {"stop_strings": ["/a/b"]}}
    assert config["prompt"]["system"] == "Answer as /boxed/x"


@pytest.mark.parametrize("name", ["embedded", "openai/gsm8k", "openai/gsm8k:main:test@abc", "package.module:function"])
def test_names_are_no_paths(name: str):
    assert not is_local(name)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b/", "b"),
        ("C:\\x\\y.py:near", "y.py:near"),
        ("./z.jsonl", "z.jsonl"),
        ("~/m", "m"),
        ("mine.csv", "mine.csv"),
    ],
)
def test_paths_are_told_by_their_last_part(path: str, name: str):
    assert is_local(path)
    assert name_of(path) == name
