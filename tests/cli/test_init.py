"""`tiny-math init`: from a file of one's own problems to a configuration that trains."""

import json
from pathlib import Path

import pytest

from helpers.runs import SHORT, run
from tiny_math_solver.cli import main
from tiny_math_solver.config.loading import load_config


def shells(count: int) -> list[dict[str, str]]:
    return [
        {"question": f"Kim has {n} shells and finds 2 more. How many?", "answer": f"#### {n + 2}"} for n in range(count)
    ]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_file_is_described_and_the_two_next_commands_are_printed(capsys):
    rows = [*shells(80), shells(1)[0], {"question": "Who?", "answer": "nobody"}, {"question": "Half?", "answer": ".5"}]
    write(Path("my problems.jsonl"), rows)
    assert main(["init", "my problems.jsonl", "--model", "embedded"]) == 0
    out = capsys.readouterr().out
    for part in (
        "my problems.jsonl: 83 rows, 81 problems; GSM8K layout, question from question, answer from answer",
        "dropped as unreadable: 1: my problems.jsonl:82: cannot read a gold number from the answer 'nobody'",
        "1 repeated train problems dropped", "golds from 0.5 to 81, 1 of them not whole", "the longest prompt has ",
        "next: tiny-math check 'my problems.yaml'\n", "then: tiny-math train 'my problems.yaml'\n",
    ):  # fmt: skip
        assert part in out
    assert main(["train", "my problems.yaml", "--dry-run"]) == 0
    assert "57 train, 8 dev, 16 test" in capsys.readouterr().out


def test_the_configuration_trains(tmp_path: Path, capsys):
    write(Path("mine.jsonl"), shells(60))
    assert main(["init", "mine.jsonl", "--model", "embedded"]) == 0
    done = run(tmp_path / "run", *SHORT, config=Path("mine.yaml"))
    assert done.summary["steps"] == 1
    assert done.summary["before"]["n"] == 4


def test_columns_that_are_named_stand_in_the_configuration(capsys):
    Path("own.csv").write_text("ask;gold\n" + "".join(f"What is {n}+1?;{n + 1}\n" for n in range(40)))
    assert main(["init", "own.csv", "--question", "ask", "--answer", "gold", "--model", "embedded"]) == 0
    config = load_config(Path("own.yaml"))
    assert (config.problems.question, config.problems.answer) == ("ask", "gold")
    assert (config.problems.source, str(config.output_dir)) == ("own.csv", "checkpoint/own")


def test_a_model_that_is_not_here_has_its_prompts_estimated(capsys):
    write(Path("mine.jsonl"), shells(60))
    assert main(["init", "mine.jsonl", "--model", "someone/model"]) == 0
    assert "the longest prompt has about " in capsys.readouterr().out
    config = load_config(Path("mine.yaml"))
    assert config.model.name == "someone/model"
    assert config.prompt.max_tokens >= 128


@pytest.mark.parametrize("count", [24, 60, 700, 9000])
def test_a_step_has_no_more_problems_than_there_are(count: int, capsys):
    write(Path("mine.jsonl"), shells(count))
    assert main(["init", "mine.jsonl", "--model", "embedded"]) == 0
    capsys.readouterr()
    assert main(["train", "mine.yaml", "--dry-run"]) == 0
    assert "problems × 8 samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "no such problem file: nowhere.jsonl"),
        (["few.jsonl"], "few.jsonl: 5 different problems, and at least 24 are needed"),
        (["many.jsonl"], "many.yaml exists; --force overwrites it, --out names another"),
        (["many.jsonl", "--out", "many.json"], "--out many.json: a configuration ends in .yaml"),
        (["many.jsonl", "--out", "x.yaml", "--question", "ask"], "no column 'ask', which --question names"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], message: str, capsys):
    write(Path("few.jsonl"), shells(5))
    write(Path("many.jsonl"), shells(60))
    Path("many.yaml").write_text("mine\n")
    assert main(["init", *arguments, "--model", "embedded"]) == 2
    assert message in capsys.readouterr().err
    assert Path("many.yaml").read_text() == "mine\n"
